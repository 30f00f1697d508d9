"""Batch normalisation over the global batch, or over ghost groups of it, with float32 statistics."""
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.models.product_norm import product_norm


class BatchNorm(nn.Module):
    """Batch normalisation of the last axis (Ioffe & Szegedy, arXiv:1502.03167).

    Under `jit` the batch is the global one, so this is synchronised batch norm on any number of devices. With `groups` > 1 the
    batch is cut into that many groups of equal size, each normalised by its own statistics (ghost batch norm, arXiv:1705.08741):
    group i holds the rows i, i + groups, …, as a micro-batch does (`models.net`). Groups are a property of the batch, never of the devices.
    Of views flattened batch-major, a number of groups that the views divide puts each view of an image in another group.

    Statistics are float32 whatever the input, taken in one pass around the running mean, so that a mean much larger than the
    deviation does not cancel. The running variance is the unbiased one, as in torch and in TensorFlow's fused op. The running
    averages keep `momentum` of the old value (torch's momentum is one minus this); ghost groups contribute their mean.

    `[..., C]` of any float dtype in, the same shape and dtype out.
    """
    momentum: float = 0.9
    eps: float = 1e-5
    groups: int = 1
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, kernel: jax.Array | None = None) -> jax.Array:
        """With a `kernel [I, O]`, normalises x times it; in training the product is then never stored (`product_norm`)."""
        width = x.shape[-1] if kernel is None else kernel.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        scale = self.param("scale", self.scale_init, (width,), jnp.float32) if self.use_scale else jnp.ones(width)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32) if self.use_bias else jnp.zeros(width)
        if not train:
            x = x if kernel is None else x @ kernel.astype(x.dtype)
            return normalise(x[None], running_mean.value[None], running_var.value[None], scale, bias, self.eps)[0]
        grouped = split(x, self.groups)                                           # [G, B/G, ..., I]
        if kernel is None:
            mean, var = moments(grouped, running_mean.value)                       # [G, C]
            y = normalise(grouped, mean, var, scale, bias, self.eps)
        else:
            y, mean, var = product_norm(grouped, kernel, scale, bias, self.eps)
        if not self.is_initializing():
            count = y.size // (self.groups * width)
            unbiased = var * (count / max(count - 1, 1))
            running_mean.value = decay(running_mean.value, mean.mean(0), self.momentum)
            running_var.value = decay(running_var.value, unbiased.mean(0), self.momentum)
        return jnp.swapaxes(y, 0, 1).reshape(*x.shape[:-1], width)


def normalise(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """`x [G, ..., C]` with statistics `[G, C]`, scale and bias `[C]`; computed in float32, in the dtype of x."""
    factor = jax.lax.rsqrt(var + eps) * scale
    shift = bias - mean * factor
    factor, shift = (t.reshape(t.shape[0], *(1,) * (x.ndim - 2), t.shape[-1]) for t in (factor, shift))
    return (x.astype(jnp.float32) * factor + shift).astype(x.dtype)


def moments(x: jax.Array, origin: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance `[G, C]` of `x [G, ..., C]` over the middle axes, in one pass around `origin [C]`."""
    axes = tuple(range(1, x.ndim - 1))
    offset = jax.lax.stop_gradient(origin)
    centred = x.astype(jnp.float32) - offset
    first, second = centred.mean(axes), jnp.square(centred).mean(axes)
    return first + offset, jnp.maximum(second - jnp.square(first), 0.0)


def split(x: jax.Array, groups: int) -> jax.Array:
    """Rows `[B, …, C]` dealt to ghost groups `[G, B/G, …, C]`, row i to group i mod G. Raises: UserError."""
    if x.shape[0] % groups:
        raise UserError(f"model.bn_groups={groups} does not divide the {x.shape[0]} images of a forward pass (images × views); "
                        f"choose a divisor of it.")
    return jnp.swapaxes(x.reshape(x.shape[0] // groups, groups, *x.shape[1:]), 0, 1)   # [B, ..., C] -> [G, B/G, ..., C]


def decay(old: jax.Array, new: jax.Array, momentum: float) -> jax.Array:
    """A running average that keeps `momentum` of what it was."""
    return momentum * old + (1.0 - momentum) * jax.lax.stop_gradient(new)
