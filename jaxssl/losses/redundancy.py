"""Redundancy reduction: views agree, and the dimensions of an embedding each say something else; no negatives and no teacher.

VICReg: Bardes et al. 2022, "VICReg: variance-invariance-covariance regularization for self-supervised learning", eq. 1 to 6. Barlow Twins: Zbontar et al.
2021, "Barlow Twins: self-supervised learning via redundancy reduction", eq. 1 and 2. VIbCReg: Lee and Aune 2021, "VIbCReg: variance-invariance-better-covariance
regularization for self-supervised learning on time series". TiCo: Zhu et al. 2022, "TiCo: transformation invariance and covariance contrast for
self-supervised visual representation learning", section 3. SIGReg: Balestriero and LeCun 2025, "LeJEPA: provable and scalable self-supervised learning without
the heuristics", sections 4 to 6. VISReg: Wu, Balestriero and Levine 2026, "VISReg: variance-invariance-sketching regularization for JEPA training", section 3.

z is [B, V, K]: images, views, dimensions; any float type, computed in float32. Every mean is over the global batch.
"""
import functools
import itertools
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.losses.distillation import cosine_regression
from jaxssl.losses.rows import mapped, summed
from jaxssl.losses.unit import EXACT, normalised

EPSILON = 1e-4                                                               # under VICReg's square root (official code)
# The integral over frequencies: 17 knots on [0, 3], twice the trapezium since the integrand is even, times the normal's characteristic function.
KNOTS = np.linspace(0, 3, 17)
NORMAL = np.exp(-KNOTS**2 / 2)
WEIGHTS = np.where((KNOTS == 0) | (KNOTS == 3), 1, 2) * (KNOTS[1] - KNOTS[0]) * NORMAL
FLOOR = float(WEIGHTS @ (1 - NORMAL**2))                                     # `sigreg` of many standard normal rows: 1.05


def invariance(z, whole=0):
    """Squared distance of two views of an image, mean over dimensions, images and pairs of views (VICReg, eq. 5).

        loss = 0
        for v, w in pairs of views:
            loss += mean((z[b, v, k] - z[b, w, k])² over b and k)
        loss /= number of pairs

    Args: whole: where it is not 0, pairs are of one of so many first views and any other, in either order (VICRegL with local views).
    Returns: scalar f32. Raises: ValueError for another rank, integers, fewer than two images or views.
    """
    z = _checked(z, views=2)
    pairs = [(v, w) for v in range(whole) for w in range(z.shape[1]) if v != w] if whole else _pairs(z)
    return sum(jnp.square(z[:, v] - z[:, w]).mean() for v, w in pairs) / len(pairs)


def distance(z, whole):
    """(z[b, v, k] - mean(z[b, w, k] over the first `whole` views w))², mean over dimensions, views and images: LeJEPA's and VISReg's invariance. Raises: as `variance`."""
    z = _checked(z)
    return jnp.square(z - z[:, :whole].mean(1, keepdims=True)).mean()


def variance(z):
    """How far the deviation of a dimension falls short of 1, mean over dimensions and views (VICReg, eq. 1 and 2).

        loss = mean(max(0, 1 - sqrt(var(z[:, v, k]) + 1e-4)) over v and k)           # the unbiased variance

    Returns: scalar f32 in [0, .99]: .99 where all images are equal. Raises: as `invariance`, but one view is enough.
    """
    z = _checked(z)
    centred = z - z.mean(0)
    return jax.nn.relu(1 - jnp.sqrt(jnp.square(centred).sum(0) / (len(z) - 1) + EPSILON)).mean()


def covariance(z):
    """Squared covariances of different dimensions, over the number of dimensions, and twice the mean over views (VICReg, eq. 3 and 4).

        for v in views:
            C = (z[:, v] - mean).T @ (z[:, v] - mean) / (B - 1)
            loss += sum(C[i, j]² for i != j) / K
        loss *= 2 / V

    With two views it is their sum, as in the paper. Returns: scalar f32. Raises: as `variance`.
    """
    z = _checked(z)
    B, V, K = z.shape
    centred = z - z.mean(0)
    return 2 * sum(_off_diagonal(_product(centred[:, v], centred[:, v]) / (B - 1)) for v in range(V)) / (K * V)


def vicreg(z, block=0):
    """`invariance`, `variance` and `covariance` of one z, in one pass over the images: what is held beside z is `block` images' share and the covariances, [V, K, K].

    Args: block: images at a time, on one device (`losses.rows`); 0 for all. Returns: {"invariance", "variance", "covariance"}: scalars f32. Raises: as `invariance`.
    """
    z = _checked(z, views=2)
    B, V, K = z.shape
    mean = jax.lax.stop_gradient(z.mean(0))                   # the deviations from it sum up to 0, and with them all that its gradient would be

    def sums(rows):
        centred = rows - mean
        apart = sum(jnp.square(rows[:, v] - rows[:, w]).sum() for v, w in _pairs(z))
        return apart, jnp.square(centred).sum(0), [_product(centred[:, v], centred[:, v]) for v in range(V)]
    apart, square, products = summed(sums, z, block)
    return {"invariance": apart / (B * K * len(_pairs(z))), "variance": jax.nn.relu(1 - jnp.sqrt(square / (B - 1) + EPSILON)).mean(),
            "covariance": 2 * sum(_off_diagonal(c / (B - 1)) for c in products) / (K * V)}


def correlation(z):
    """Squared correlations of different dimensions, mean over all pairs of dimensions, itself counted as 0, and twice the mean over views (VIbCReg).

        for v in views:
            N = z[:, v] - mean, each column over its length
            loss += sum((N[:, i] @ N[:, j])² for i != j) / K²
        loss *= 2 / V

    With two views it is their sum, as in the paper. Unlike `covariance` it has no scale, so that the variance cannot buy it off.
    Returns: scalar f32 in [0, 2). Raises: as `variance`.
    """
    z = _checked(z)
    _, V, K = z.shape
    centred = z - z.mean(0)
    unit = centred * jax.lax.rsqrt(jnp.maximum(jnp.square(centred).sum(0), 1e-12))
    return 2 * sum(_off_diagonal(_product(unit[:, v], unit[:, v])) for v in range(V)) / (K * K * V)


def tico(p, z, covariance, *, contrast, decay):
    """TiCo: views agree with what a teacher says of other views, and keep out of the directions that recent embeddings share (section 3).

        p, z = each vector over its length
        C = decay * covariance + (1 - decay) * mean(outer(p[b, v], p[b, v]) over b and v)
        loss = mean(1 - p[b, s] @ z[b, t] over b and s != t) + contrast * mean(p[b, v] @ C @ p[b, v] over b and v)

    Args: p: [B, V, K] of the student. z: [B, T, K] of the teacher, T ≤ V, no gradient. covariance: [K, K], zeros at first. contrast: ρ, 8 in the paper. decay: β, .9.
    Returns: (loss, C), f32; C is a constant for the gradient, this batch's part too.
    Raises: ValueError for shapes or types that do not fit.
    """
    _checked(p, views=2)
    u = normalised(p)
    rows = u.reshape(-1, u.shape[-1])                                                              # [B·V, K]
    newest = jax.lax.stop_gradient(_product(rows, rows) / len(rows))
    average = decay * jax.lax.stop_gradient(covariance.astype(jnp.float32)) + (1 - decay) * newest
    spread = jnp.einsum("ni,ij,nj->n", rows, average, rows, precision=EXACT).mean()
    return cosine_regression(p, z) / 2 + contrast * spread, average


def directions_used(z):
    """How many directions embeddings [..., K] lie along: 1 / sum(λ²) of the eigenvalues λ of mean(u uᵀ), u of unit length; 1 for a line, K for a ball,
    0 where they are zero; no gradient."""
    u = jax.lax.stop_gradient(normalised(z).reshape(-1, z.shape[-1]))
    gram = _product(u, u) if len(u) > u.shape[-1] else _product(u.T, u.T)
    return jnp.square(u).sum() ** 2 / jnp.maximum(jnp.square(gram).sum(), 1e-30)       # lengths below one: embeddings so short that they are not normalised


def barlow_twins(z, *, redundancy, block=0):
    """The cross-correlation of two views should be the identity (Barlow Twins, eq. 1); mean over pairs of views.

        for v, w in pairs of views:
            C = normed(z[:, v]).T @ normed(z[:, w]) / B                              # normed: over the batch, biased variance, epsilon 1e-5
            loss += sum((1 - C[i, i])²) + redundancy * sum(C[i, j]² for i != j)
        loss /= number of pairs

    Args: redundancy: weight of the second sum, .0051 in the official code. block: images at a time, on one device (`losses.rows`), whose share is held beside the
      correlations [K, K]; 0 for all.
    Returns: (loss, metrics): scalar f32, at least 0 and at most (4 + redundancy · (K - 1)) · K; {"on_diagonal": mean of C[i, i], "off_diagonal": root mean square of
      C[i, j]}, scalars without gradient.
    Raises: as `invariance`.
    """
    z = _checked(z, views=2)
    K = z.shape[-1]
    value, on, off = 0., 0., 0.
    for c in _correlations(z, block):
        diagonal, rest = jnp.diagonal(c), _off_diagonal(c)
        value, on, off = value + jnp.square(1 - diagonal).sum() + redundancy * rest, on + diagonal.mean(), off + rest
    n = len(_pairs(z))
    off = jnp.sqrt(off / (n * max(K * (K - 1), 1)))
    return value / n, jax.lax.stop_gradient({"on_diagonal": on / n, "off_diagonal": off})


def sigreg(z, directions, block=0):
    """SIGReg: how far each view's embeddings, seen along random directions, are from a standard normal (LeJEPA, section 4; the Epps-Pulley statistic).

        for v in views:
            for a in directions:                                                     # of unit length
                x = z[:, v] @ a
                for t, weight, normal in knots:                                      # t in [0, 3], normal = exp(-t² / 2)
                    statistic += weight * ((mean(cos(t x)) - normal)² + mean(sin(t x))²)
        loss = B * statistic / (V * number of directions)

    Args: directions: [K, M], any length, not 0; new ones every step. block: images at a time, on one device (`losses.rows`); 0 for all, [B, V, M, 17].
    Returns: scalar f32: of standard normal rows about `FLOOR`, whatever B and K; of rows that are all equal up to .402 · B, with no gradient at 0.
    Raises: as `variance`.
    """
    z = _checked(z)
    unit = directions.astype(jnp.float32)
    unit = unit / jnp.linalg.norm(unit, axis=0)

    def waves(rows):
        x = jnp.einsum("bvk,km->bvm", rows, unit, precision=EXACT)[..., None] * jnp.asarray(KNOTS, jnp.float32)     # [b, V, M, 17]
        return jnp.cos(x).sum(0), jnp.sin(x).sum(0)
    cosine, sine = (total / len(z) for total in summed(waves, z, block))                                            # [V, M, 17]
    error = jnp.square(cosine - jnp.asarray(NORMAL, jnp.float32)) + jnp.square(sine)
    return len(z) * (error @ jnp.asarray(WEIGHTS, jnp.float32)).mean()


def visreg(z, directions):
    """VISReg's three terms, which a standard normal has at about 0: where each view's embeddings lie, how far they spread, and how each direction is distributed (section 3).

        for v in views:
            mean, std = of z[:, v] over images                                       # the biased variance
            center += mean(mean²)
            scale += mean((1 - std)²)
            y = (z[:, v] - mean) / (std + 1e-4)                                      # this std is a constant for the gradient
            for a in directions:                                                     # of unit length
                shape += mean((sorted(y @ a)[i] - quantile((i + 1) / (B + 1)))² over i) / number of directions
        each /= V

    The images of the whole batch are sorted together; where they lie on several devices, XLA deals the directions to them for it. quantile: the standard normal's.
    Args: directions: [K, M], any length, not 0; new ones every step.
    Returns: {"center", "scale", "shape"}: scalars f32, at least 0. Where all images are equal, scale is 1 and shape the mean square of the quantiles, just below 1.
    Raises: as `variance`.
    """
    z = _checked(z)
    mean = z.mean(0)
    centred = z - mean
    std = jnp.sqrt(jnp.square(centred).mean(0) + 1e-12)                                            # [V, K]; the root's slope at 0 is infinite
    unit = directions.astype(jnp.float32)
    unit = unit / jnp.linalg.norm(unit, axis=0)
    x = jnp.einsum("bvk,km->bvm", centred / jax.lax.stop_gradient(std + EPSILON), unit, precision=EXACT)
    normal = statistics.NormalDist()
    quantiles = jnp.asarray([normal.inv_cdf((i + 1) / (len(z) + 1)) for i in range(len(z))], jnp.float32)[:, None, None]
    return {"center": jnp.square(mean).mean(), "scale": jnp.square(1 - std).mean(), "shape": jnp.square(jnp.sort(x, 0) - quantiles).mean()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _correlations(z, block):
    """[B, V, K] → of each pair of views the correlations [K, K] of their dimensions. The gradient goes through the images once more and holds none of them normed."""
    return _correlated(z, block)[0]


def _correlated(z, block):
    mean = z.mean(0)
    scale = jax.lax.rsqrt(summed(lambda rows: jnp.square(rows - mean).sum(0), z, block) / len(z) + 1e-5)

    def products(rows):
        normed = (rows - mean) * scale
        return [_product(normed[:, v], normed[:, w]) for v, w in _pairs(z)]
    found = [c / len(z) for c in summed(products, z, block)]
    return found, (z, mean, scale, found)


def _uncorrelated(block, kept, slopes):
    """Of n = (z - mean) · scale and C = nᵥᵀ n_w / B with the slope G: dnᵥ = n_w Gᵀ / B, dn_w = nᵥ G / B, and dz = scale · (dn - n · mean(dn · n)), since dn has the
    mean 0 as n has. That mean is what G and C share in a row (of v) or a column (of w), over B."""
    z, mean, scale, found = kept
    B, V, _ = z.shape
    shared = [0.] * V
    for (v, w), c, g in zip(_pairs(z), found, slopes):
        shared[v], shared[w] = shared[v] + (g * c).sum(1), shared[w] + (g * c).sum(0)

    def of_rows(rows):
        n, dn = (rows - mean) * scale, [0.] * V
        for (v, w), g in zip(_pairs(z), slopes):
            dn[v] = dn[v] + jnp.einsum("bj,ij->bi", n[:, w], g, precision=EXACT)
            dn[w] = dn[w] + jnp.einsum("bi,ij->bj", n[:, v], g, precision=EXACT)
        return jnp.stack([scale[v] * (dn[v] - n[:, v] * shared[v]) for v in range(V)], 1) / B
    return (mapped(of_rows, z, block),)


_correlations.defvjp(_correlated, _uncorrelated)


def _product(a, b):
    """[B, K], [B, K] → [K, K], summed over the images."""
    return jnp.einsum("bi,bj->ij", a, b, precision=EXACT)


def _off_diagonal(c):
    """Sum of squares off the diagonal; the diagonal is left out before, since it may be thousands of times as large."""
    return jnp.square(jnp.where(jnp.eye(len(c), dtype=bool), 0., c)).sum()


def _pairs(z):
    return list(itertools.combinations(range(z.shape[1]), 2))


def _checked(z, views=1):
    if z.ndim != 3 or not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(f"z has shape {z.shape} and dtype {z.dtype}; expected [B, V, K] of a floating type")
    if z.shape[0] < 2 or z.shape[1] < views:
        raise ValueError(f"z has {z.shape[0]} images of {z.shape[1]} views; expected at least 2 images{f' and {views} views' if views > 1 else ''}")
    return z.astype(jnp.float32)
