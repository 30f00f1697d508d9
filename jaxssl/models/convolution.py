"""Convolutions whose gradients are as fast in the body of a loop as outside it.

XLA's fast code for convolutions on CPUs wants batch, space and channels in the order of a forward pass. It brings gradients into that order in the main
program but not in the body of a loop (jax issue 12868), and a micro-batch is one: a step took 18 times as long there. So on CPUs the two gradients are
written as convolutions in that order. Elsewhere they are JAX's own.
"""
import functools

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    """`x [B, H, W, I]` and `kernel [k, k, I / groups, O]` to `[B, H/s, W/s, O]` in the dtype of x; padded by half the kernel on both sides as in torch (SAME would pad
    strided ones unevenly)."""
    return _convolve(x, kernel.astype(x.dtype), stride, groups)


def _conv(x, kernel, stride, padding, **dilation):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **dilation)


def _padded(x, kernel, stride, groups):
    return _conv(x, kernel, stride, [(size // 2, size // 2) for size in kernel.shape[:2]], feature_group_count=groups)


_convolve = jax.custom_vjp(_padded, nondiff_argnums=(2, 3))


def _forward(x, kernel, stride, groups):
    return _padded(x.value, kernel.value, stride, groups), (x.value, kernel.value, jnp.zeros(()) if x.perturbed else None)


def _gradients(stride, groups, seen, dy):
    x, kernel, wanted = seen                                                         # nobody wants the gradient of images
    wanted = wanted is not None
    return jax.lax.platform_dependent(x, kernel, dy, cpu=functools.partial(_by_groups, stride, groups, wanted),
                                        default=functools.partial(_plain, stride, groups, wanted))


def _plain(stride, groups, wanted, x, kernel, dy):
    dk, = jax.linear_transpose(lambda kernel: _padded(x, kernel, stride, groups), kernel)(dy)
    return jax.linear_transpose(lambda x: _padded(x, kernel, stride, groups), x)(dy)[0] if wanted else jnp.zeros_like(x), dk


def _by_groups(stride, groups, wanted, x, kernel, dy):
    if groups == 1:
        return _ordered(stride, wanted, x, kernel, dy)
    dx, dk = zip(*map(functools.partial(_ordered, stride, wanted), jnp.split(x, groups, 3), jnp.split(kernel, groups, 3), jnp.split(dy, groups, 3)))
    return jnp.concatenate(dx, 3), jnp.concatenate(dk, 3)


def _ordered(stride, wanted, x, kernel, dy):
    within, around = [], []                                                          # padding of x for dk, and of dy for dx
    for side, size, out in zip(x.shape[1:3], kernel.shape[:2], dy.shape[1:3]):
        half, rest = size // 2, (out - 1) * stride + size - side                     # rest: of both sides' padding, what the strides reach
        within.append((half, rest - half))
        around.append((size - 1 - half, size - 1 - (rest - half)))
    dk = _conv(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), 1, within, rhs_dilation=(stride, stride)).transpose(1, 2, 0, 3)     # [I, k, k, O] to [k, k, I, O]
    dx = _conv(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, around, lhs_dilation=(stride, stride)) if wanted else jnp.zeros_like(x)
    return dx, dk


_convolve.defvjp(_forward, _gradients, symbolic_zeros=True)


def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Each channel by itself: `x [B, H, W, C]` and `kernel [k, k, 1, C]` to `[B, ⌈H/s⌉, ⌈W/s⌉, C]` in the dtype of x, padded as SAME: where a stride leaves an odd number, once
    more behind than before.

    XLA's convolution of groups is slow on CPUs: there the forward pass is a sum of shifted products, 15 to 40 times as fast for an EfficientNet's. Gradients are JAX's own: as
    such sums they would run in a third of the time and take six times as long to compile.
    """
    return _depthwise(x, kernel.astype(x.dtype), stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x, kernel, stride):
    return jax.lax.platform_dependent(x, kernel, cpu=functools.partial(_shifted, stride=stride), default=functools.partial(_each, stride=stride))


def _depthwise_gradients(stride, seen, dy):
    return jax.vjp(functools.partial(_each, stride=stride), *seen)[1](dy)


_depthwise.defvjp(lambda x, kernel, stride: (_depthwise(x, kernel, stride), (x, kernel)), _depthwise_gradients)


def _each(x, kernel, stride):
    return _conv(x, kernel, stride, "SAME", feature_group_count=x.shape[-1])


def _shifted(x, kernel, stride):
    size, sides = kernel.shape[0], [-(-side // stride) for side in x.shape[1:3]]
    over = [max((out - 1) * stride + size - side, 0) for out, side in zip(sides, x.shape[1:3])]
    padded = jnp.pad(x, ((0, 0), *((total // 2, total - total // 2) for total in over), (0, 0)))
    reach, y = [(out - 1) * stride + 1 for out in sides], 0.0
    for a in range(size):
        for b in range(size):
            part = jax.lax.slice(padded, (0, a, b, 0), (len(x), a + reach[0], b + reach[1], x.shape[-1]), (1, stride, stride, 1))
            y = y + part.astype(jnp.float32) * kernel[a, b, 0].astype(jnp.float32)
    return y.astype(x.dtype)
