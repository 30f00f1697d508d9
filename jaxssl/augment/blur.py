"""Gaussian blur of planes [..., H, W], separable, one sigma an image."""
import math

import jax
import jax.numpy as jnp

DRAWS = 2  # apply, sigma


def sample(u, probability, *, sigma=(0.1, 2.0)):
    """[..., 2] uniform numbers -> sigma [...] uniform in `sigma`, 0 where the image stays sharp."""
    drawn = sigma[0] + u[..., 1] * (sigma[1] - sigma[0])
    return jnp.where(u[..., 0] < probability, drawn, 0.0)


def radius(kernel, sigma_max):
    """Taps on each side: the kernel's, but none beyond four sigma, where a Gaussian holds less than 1e-4 of its mass."""
    return min(kernel // 2, math.ceil(4 * sigma_max))


def blur(planes, sigma, *, radius, form="auto", precision="highest"):
    """Blurs with a Gaussian of 2·radius + 1 taps, reflected at the border, as torchvision's `gaussian_blur`.

    Args:
      planes: [..., 3, n, n].
      sigma: [...] in pixels; 0 leaves the image exactly as it was.
      radius: taps on each side, smaller than n.
      form: "dense" (two banded matrix products), "taps" (sums of shifted slices) or "auto": taps on a CPU, where products with mostly
        zeros cost n / (2·radius + 1) times the arithmetic; dense elsewhere, where the slices cost more memory traffic (compiled for
        TPU v5e, 16 images of 224 px: .52 GB moved against .05).
      precision: of the matrix products, as in `crop.crop`.

    Returns:
      the same shape and dtype; sums in float32.
    """

    def dense(planes, sigma):
        band = _band(sigma, radius, planes.shape[-1])
        dtype, planes = planes.dtype, planes.astype(jnp.float32)
        planes = jnp.einsum("...cyx,...zx->...cyz", planes, band, precision=precision).astype(dtype)
        return jnp.einsum("...cyx,...zy->...czx", planes.astype(jnp.float32), band, precision=precision).astype(dtype)

    def taps(planes, sigma):
        at = jnp.arange(-radius, radius + 1)
        weights = _gaussian(at, sigma[..., None], radius)
        weights = weights / jnp.sum(weights, -1, keepdims=True)
        weights = jnp.where(sigma[..., None] > 0, weights, at == 0)  # [..., 2·radius + 1]
        return _shifted(_shifted(planes, weights, radius, -1), weights, radius, -2)

    if form == "auto":
        return jax.lax.platform_dependent(planes, sigma, cpu=taps, default=dense)
    return {"dense": dense, "taps": taps}[form](planes, sigma)


def _gaussian(distance, sigma, radius):
    """Unnormalised weight at `distance` pixels, 0 beyond the radius."""
    spread = jnp.where(sigma > 0, sigma, 1.0)
    return jnp.where(jnp.abs(distance) <= radius, jnp.exp(-0.5 * jnp.square(distance / spread)), 0.0)


def _band(sigma, radius, n):
    """[...] -> [..., n, n]: output pixel i from input pixel j, which also stands for its two mirror images beyond the borders."""
    i, j = jnp.arange(n)[:, None], jnp.arange(n)[None, :]
    sigma = sigma[..., None, None]
    band = _gaussian(j - i, sigma, radius)
    band += jnp.where(j > 0, _gaussian(-j - i, sigma, radius), 0.0)  # the border pixel itself is not repeated
    band += jnp.where(j < n - 1, _gaussian(2 * (n - 1) - j - i, sigma, radius), 0.0)
    band = band / jnp.sum(band, -1, keepdims=True)
    return jnp.where(sigma > 0, band, (i == j).astype(band.dtype))


def _shifted(planes, weights, radius, axis):
    """A sum of shifted slices. The barrier keeps XLA from padding anew for every tap (measured 16 times slower)."""
    pad = [(0, 0)] * planes.ndim
    pad[axis] = (radius, radius)
    padded = jax.lax.optimization_barrier(jnp.pad(planes, pad, mode="reflect"))
    total = 0.0
    for k in range(2 * radius + 1):
        part = jax.lax.slice_in_dim(padded, k, k + planes.shape[axis], axis=planes.ndim + axis)
        total += part.astype(jnp.float32) * weights[..., k][..., None, None, None]
    return total.astype(planes.dtype)
