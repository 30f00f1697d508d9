"""Heads on top of an encoder: the projector that the loss sees, and the linear probe."""
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.models.norm import BatchNorm
from jaxssl.models.whitening import IterNorm

TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")         # of torch's linear layers: uniform within ±1/√fan_in


class Projector(nn.Module):
    """Multi-layer perceptron of the given output widths, ReLU between layers; `[B, D]` in, `[B, dims[-1]]` float32 out.

    The defaults are SimCLR's head as its authors' TensorFlow 2 code has it: linear layers drawn from N(0, .01²) without bias,
    each followed by batch norm, the last norm without a centre ("neither bias nor ReLU"). The paper (arXiv:2002.05709, §4.2)
    has two layers, the released code three.

    norm: batch norm after every hidden layer; without it the hidden layers have a bias.
    last_norm: batch norm after the last layer too.
    last_scale: that norm has a scale.
    last_bias: the last layer is centred, by its norm's bias where it has a norm and by its own bias otherwise.
    gelu: GELU in place of ReLU.
    whiten: groups of channels of iterative normalisation behind the last layer; 0 for none.
    kernel_init: initialiser of the kernels.
    depth: stop behind the norm and activation of this layer (from 1); 0 is all of them.
    """
    dims: tuple[int, ...]
    norm: bool = True
    last_norm: bool = True
    last_scale: bool = True
    last_bias: bool = False
    gelu: bool = False
    whiten: int = 0
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.01)
    depth: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, width in enumerate(self.dims, 1):
            last = i == len(self.dims)
            norm = self.last_norm if last else self.norm
            bias = self.last_bias if last else True
            x = nn.Dense(width, use_bias=bias and not norm, dtype=self.dtype, kernel_init=self.kernel_init, name=f"linear{i}")(x)
            if norm:
                x = BatchNorm(self.bn_momentum, self.bn_eps, self.bn_groups, use_scale=self.last_scale or not last, use_bias=bias, name=f"norm{i}")(x, train)
            if not last:
                x = nn.gelu(x, approximate=False) if self.gelu else nn.relu(x)
            if last and self.whiten:
                x = IterNorm(self.whiten, momentum=self.bn_momentum, bn_groups=self.bn_groups, name="whitening")(x, train)
            if i == self.depth:
                break
        return x.astype(jnp.float32)


class Linear(nn.Module):
    """A linear classifier on features, `[B, D]` in, `[B, classes]` float32 logits out, initialised at zero.

    Zero is where a convex problem may as well start; the first logits are then the same for every class.
    """
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name="linear")(x.astype(jnp.float32))
