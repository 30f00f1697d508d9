"""Batch normalisation of a matrix product that is never stored: y = BN(x W), with x and y in memory but not x W.

A bottleneck's last 1×1 convolution makes its widest activation, which plain batch norm writes once and reads five times in a training step
(statistics aside: normalise; then in the backward pass twice each for two gradients). Mean and variance of x W follow from the mean and covariance of x,
and so do all gradients, so that the product can be normalised as it is computed:

    mean = μ W,  var = diag(Wᵀ Σ W),  y = a ⊙ (x W − mean) + bias,  a = scale / √(var + eps)
    with s = Σ_n dy,  C = Σ_n (x − μ)ᵀ dy,  t = Σ_n dy ⊙ x̂ = diag(Wᵀ C) / √(var + eps):
    dW = a ⊙ (C − Σ W ⊙ t / √(var + eps)),  dscale = t,  dbias = s,
    dx = (a ⊙ dy) Wᵀ − (x − μ) M − (a ⊙ s / n) Wᵀ,  M = W diag(a ⊙ t / (n √(var + eps))) Wᵀ

The identities are exact; in bfloat16 the product is not rounded before it is normalised. The price is the covariance and x M: for a
bottleneck, where x is four times narrower than y, half of the product's own arithmetic.
"""
import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def product_norm(x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`x [G, …, I]` times `kernel [I, O]`, normalised over all but the first and last axis; statistics are float32.

    Returns y `[G, …, O]` in the dtype of x, and mean and biased variance `[G, O]` of the product. No gradient flows into the last two.
    """
    return _forward(x, kernel, scale, bias, eps)[0]


def _forward(x, kernel, scale, bias, eps):
    weight = kernel.astype(x.dtype)
    exact = weight.astype(jnp.float32)                                              # the weights that the product sees
    count = x.size // (x.shape[0] * x.shape[-1])
    centre = x.astype(jnp.float32).mean(_middle(x))                                 # [G, I]
    covariance = _einsum("g...i,g...j->gij", x, x) / count - centre[:, :, None] * centre[:, None, :]
    mean = _einsum("gi,io->go", centre, exact)
    var = jnp.maximum((_einsum("gij,jo->gio", covariance, exact) * exact).sum(1), 0.0)
    inverse = jax.lax.rsqrt(var + eps)
    factor = inverse * scale
    y = _einsum("g...i,io->g...o", x, weight) * _wide(factor, x) + _wide(bias - mean * factor, x)
    return (y.astype(x.dtype), mean, var), (x, kernel, scale, centre, covariance, inverse)


def _backward(eps, saved, cotangents):
    del eps
    x, kernel, scale, centre, covariance, inverse = saved
    dy = cotangents[0]                                                              # [G, …, O]
    weight = kernel.astype(x.dtype)
    exact = weight.astype(jnp.float32)
    count = x.size // (x.shape[0] * x.shape[-1])
    total = dy.astype(jnp.float32).sum(_middle(dy))                                 # [G, O]
    cross = _einsum("g...i,g...o->gio", x, dy) - centre[:, :, None] * total[:, None, :]
    aligned = inverse * (cross * exact).sum(1)                                      # Σ dy ⊙ x̂  [G, O]
    factor = scale * inverse
    spread = _einsum("gij,jo->gio", covariance, exact)
    dkernel = (factor[:, None] * (cross - (inverse * aligned)[:, None] * spread)).sum(0)
    mixing = _einsum("gio,jo->gij", exact * (factor * inverse * aligned / count)[:, None], exact)
    constant = _einsum("gi,gij->gj", centre, mixing) - _einsum("go,io->gi", factor * total / count, exact)
    # The first product is rounded to the dtype of x before the second is subtracted: in float32 it would be the widest thing that is written here.
    dx = (_einsum("g...o,gio->g...i", dy, (exact * factor[:, None]).astype(x.dtype)).astype(x.dtype)
          - _einsum("g...i,gij->g...j", x, mixing.astype(x.dtype)) + _wide(constant, x))
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype), aligned.sum(0), total.sum(0)


product_norm.defvjp(_forward, _backward)


def _einsum(spec, a, b):
    """In float32, exactly where an operand is float32: a TPU would otherwise round it to bfloat16."""
    precision = jax.lax.Precision.HIGHEST if jnp.float32 in (a.dtype, b.dtype) else None
    return jnp.einsum(spec, a, b, precision=precision, preferred_element_type=jnp.float32)


def _middle(x):
    return tuple(range(1, x.ndim - 1))


def _wide(t, x):
    return t.reshape(t.shape[0], *(1,) * (x.ndim - 2), t.shape[-1])
