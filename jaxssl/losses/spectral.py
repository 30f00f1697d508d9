"""Losses of a matrix as a whole: centroids that fill their space (MMCR), and embeddings compared once they are white (W-MSE).

MMCR: Yerxa et al. 2023, "Learning efficient coding of natural images with maximum manifold capacity representations". W-MSE: Ermolov et al. 2021,
"Whitening for self-supervised representation learning", section 3.

z is [B, V, K]: images, views, dimensions; any float type, computed in float32 over the global batch.
"""
import itertools

import jax
import jax.numpy as jnp

from jaxssl.losses.unit import EXACT, normalised


@jax.custom_vjp
def nuclear_norm(x):
    """Sum of the singular values of x [..., n, m] → [...].

    They are those of x itself, not roots of its Gram matrix's eigenvalues, which would have half the digits. The gradient is U Vᵀ over the singular values above
    rounding, max(n, m) · 1.2e-7 of the largest: of all subgradients the smallest, and the same whatever basis the null space was given.
    """
    return _nuclear_norm(x)[0]


def _nuclear_norm(x):
    u, s, v = jnp.linalg.svd(x, full_matrices=False)
    kept = s > max(x.shape[-2:]) * jnp.finfo(x.dtype).eps * s.max(-1, keepdims=True)
    return s.sum(-1), jnp.einsum("...nk,...k,...km->...nm", u, kept.astype(x.dtype), v, precision=EXACT)


nuclear_norm.defvjp(_nuclear_norm, lambda polar, g: (g[..., None, None] * polar,))


def mmcr(z, teacher=None, *, weight=0.0):
    """MMCR: the mean embeddings of images span as much as they can; with a weight, the views of an image as little.

        z, teacher = each vector over its length
        c[b] = mean(z[b, v] over v), and with a teacher the mean of that and of mean(teacher[b, t] over t)
        loss = -sum(singular values of c) + weight * mean(sum(singular values of z[b]) over b)

    Args: teacher: [B, T, K], no gradient. weight: 0 leaves the second term out, as the official code does by default.
    Returns: (loss, capacity), scalars f32. capacity: the first sum over its largest possible value, √(B · min(B, K)); 1 / √min(B, K) where all images are equal; no gradient.
    Raises: ValueError for shapes or types that do not fit.
    """
    _check(z)
    if teacher is not None and (teacher.ndim != 3 or teacher.shape[::2] != z.shape[::2]):
        raise ValueError(f"teacher has shape {teacher.shape} and z {z.shape}; expected the same images and width")
    u = normalised(z)
    centroids = u.mean(1) if teacher is None else (u.mean(1) + jax.lax.stop_gradient(normalised(teacher).mean(1))) / 2       # [B, K]
    filled = nuclear_norm(centroids)
    within = weight * nuclear_norm(u).mean() if weight else 0.0
    return within - filled, jax.lax.stop_gradient(filled / (len(z) * min(centroids.shape)) ** 0.5)


def whiten(z, group, *, groups, shrink=0.0):
    """z [B, V, K] less its mean, turned and scaled by the inverse Cholesky factor of its covariance, for each view and each group of images by itself.

        for g in range(groups):
            for v in views:
                x = z[group == g, v] - mean                                          # [n, K]
                C = (1 - shrink) * x.T @ x / (n - 1) + shrink * identity
                y[group == g, v] = x @ inverse(cholesky(C)).T

    n must exceed K, or C is singular (unless shrunk) and y is not finite. The gradient goes through mean and factor. Images stay where they are: what travels
    between devices is sums over groups.
    Args: group: [B] int, of each image, every group equally often.
    """
    member = jax.nn.one_hot(group, groups, dtype=jnp.float32)                                                               # [B, G]
    size = len(z) / groups
    mean = jnp.einsum("bg,bvk->gvk", member, z, precision=EXACT) / size
    centred = z - jnp.einsum("bg,gvk->bvk", member, mean, precision=EXACT)
    parted = member[:, :, None, None] * centred[:, None]                                                                    # [B, G, V, K]
    covariance = jnp.einsum("bgvi,bvj->gvij", parted, centred, precision=EXACT) / (size - 1)
    identity = jnp.eye(z.shape[-1], dtype=z.dtype)
    factor = jnp.linalg.cholesky((1 - shrink) * covariance + shrink * identity)
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.broadcast_to(identity, factor.shape), lower=True)
    return jnp.einsum("bgvj,gvij->bvi", parted, inverse, precision=EXACT)


def wmse(z, group, *, size, shrink=0.0):
    """W-MSE: 2 - 2 cos of every two views of an image, after each view's embeddings were whitened in sub-batches of images; mean over images and pairs of views.

        y = whiten(z, group)
        loss = mean(2 - 2 * cos(y[b, v], y[b, w]) over b and v < w)

    Args: group: [B] int, the sub-batch that an image is in, drawn anew every step. size: images of a sub-batch, a divisor of B and more than K; twice K in the paper.
      shrink: see `whiten`.
    Returns: scalar f32 in [0, 4]. Raises: ValueError for shapes, types or a size that do not fit.
    """
    _check(z)
    B, V, K = z.shape
    if B % size or size <= K or V < 2 or group.shape != (B,):
        raise ValueError(f"z has shape {z.shape}, group {group.shape} and size is {size}; expected at least 2 views, [B], and a divisor of {B} above {K}")
    y = normalised(whiten(z.astype(jnp.float32), group, groups=B // size, shrink=shrink))
    pairs = list(itertools.combinations(range(V), 2))
    return sum(jnp.square(y[:, v] - y[:, w]).sum(-1).mean() for v, w in pairs) / len(pairs)


def _check(z):
    if z.ndim != 3 or not jnp.issubdtype(z.dtype, jnp.floating) or len(z) < 2:
        raise ValueError(f"z has shape {z.shape} and dtype {z.dtype}; expected [B, V, K] of a floating type, of at least 2 images")
