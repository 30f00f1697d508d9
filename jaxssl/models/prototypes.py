"""Prototypes: directions that a head compares its unit vectors with, and DINO's head, which ends in them."""
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.models.norm import BatchNorm

TRUNCATED = nn.initializers.truncated_normal(0.02)


class Prototypes(nn.Module):
    """Cosines with K directions: unit vectors `[..., D]` in, logits `[..., K]` float32 out; columns of kernel `[D, K]` count by their direction alone.

    gain: each logit is multiplied by a learned number that starts at 1 (weight normalisation, arXiv:1602.07868; `norm_last_layer=False` in DINO's code).
    """
    count: int
    gain: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        bound = x.shape[-1] ** -0.5
        kernel = self.param("kernel", lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound), (x.shape[-1], self.count))
        logits = x.astype(jnp.float32) @ unit(kernel, 0)                             # [..., D] @ [D, K]
        return logits * self.param("gain", nn.initializers.ones, (self.count,), jnp.float32) if self.gain else logits


class Clusters(nn.Module):
    """Linear logits of clusters: `[..., D]` in, `[..., K]` float32 out, kernel N(0, 1) and a bias (CAPI, arXiv:2502.08769, for vectors of unit length)."""
    count: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return nn.Dense(self.count, kernel_init=nn.initializers.normal(1.0), name="linear")(x.astype(jnp.float32))


class PrototypeHead(nn.Module):
    """DINO's head (arXiv:2104.14294, appendix C): perceptron with GELU, bottleneck, unit length, prototypes; `[B, D]` in, logits `[B, dims[-1]]` in [-1, 1] out.

    Linear layers begin as in the official code, N(0, .02²) cut at two deviations, biases at zero: meant for hidden layers of 2048, in narrow ones the bottleneck is
    tiny before it gets its length, and gradients are large. The gain, a matrix there, has weight decay there; of rank 1, here, it has none unless a rule says so.

    dims: widths of the hidden layers, of the bottleneck, and the number of prototypes.
    prototypes: without them dims and the head end at the bottleneck, and unit vectors come out.
    norm: batch norm before every activation, for convolutional encoders that have it too; the layers before it have no bias.
    gain: see `Prototypes`.
    relu: ReLU in place of GELU. kernel_init: how linear layers begin.
    depth: stop behind this layer (from 1), its norm and activation, for the bottleneck its unit length; 0 is all of them.
    """
    dims: tuple[int, ...]
    norm: bool = False
    gain: bool = False
    relu: bool = False
    kernel_init: nn.initializers.Initializer = TRUNCATED
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_eps: float = 1e-5
    depth: int = 0
    prototypes: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.astype(jnp.float32)
        *hidden, bottleneck, count = self.dims if self.prototypes else (*self.dims, 0)
        for i, width in enumerate(hidden, 1):
            x = nn.Dense(width, use_bias=not self.norm, kernel_init=self.kernel_init, name=f"linear{i}")(x)
            if self.norm:
                x = BatchNorm(self.bn_momentum, self.bn_eps, self.bn_groups, name=f"norm{i}")(x, train)
            x = nn.relu(x) if self.relu else nn.gelu(x, approximate=False)
            if i == self.depth:
                return x
        x = unit(nn.Dense(bottleneck, kernel_init=self.kernel_init, name=f"linear{len(hidden) + 1}")(x), -1)
        return x if not count or self.depth == len(hidden) + 1 else Prototypes(count, self.gain, name="prototypes")(x)


def unit(x: jax.Array, axis: int) -> jax.Array:
    """x divided by its length along `axis`; zero stays zero, and its gradient is finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis, keepdims=True), 1e-12))
