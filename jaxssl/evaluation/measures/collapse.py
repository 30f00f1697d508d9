"""Collapse monitor: two numbers cheap enough for every training step, and what to change when they are bad."""
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

REMEDY = "lower the learning rate, lengthen the warm-up"


def metrics(z: jax.Array) -> dict[str, jax.Array]:
    """Spread of L2-normalised embeddings; pure, for use inside the step (the caller detaches).

    z: [B, D] or [B, V, D], unnormalised, V views an image. Returns f32 scalars
    collapse_std     std over all rows (population), mean over D; 1/sqrt(D) when spread evenly, 0 when collapsed
                     (SimSiam, arXiv 2011.10566, section 4.1)
    collapse_cosine  mean cosine between different images, in [-1, 1]; about 0 when healthy, 1 when collapsed.
    Naive cosine:  mean over images a != b, views v, w of z[a,v] @ z[b,w]; here from |sum of all|^2 - sum over images |sum of views|^2,
    so no B x B matrix is made. With one image the cosine is 0.
    """
    z = z.astype(jnp.float32).reshape(z.shape[0], -1, z.shape[-1])  # [B, V, D]
    z = z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
    images, views, _ = z.shape
    per_image = z.sum(axis=1)  # [B, D]
    cross = jnp.sum(per_image.sum(axis=0) ** 2) - jnp.sum(per_image ** 2)
    return {"collapse_std": jnp.std(z, axis=(0, 1)).mean(), "collapse_cosine": cross / float(max(images * (images - 1) * views * views, 1))}


def warnings(metrics: Mapping[str, Any], dim: int) -> list[str]:
    """One sentence for each bad sign in `metrics` (collapse_std, collapse_cosine, rankme; those present), each naming what to change.

    dim: width D of the embeddings the numbers were computed on. Thresholds: std under a fifth of 1/sqrt(D), cosine above .9, RankMe
    under a twentieth of D; a number that is not finite counts as bad.
    """
    found = []
    healthy = 1 / math.sqrt(dim)
    std, cosine, rank = (float(metrics[key]) if key in metrics else None for key in ("collapse_std", "collapse_cosine", "rankme"))
    if std is not None and not std >= 0.2 * healthy:
        found.append(f"embeddings are collapsing: std {std:.2g}, {healthy:.2g} (1/√{dim}) is healthy; {REMEDY}, and check the method's "
                     "guard against collapse (negatives and temperature, stop-gradient, predictor, centering, variance term)")
    if cosine is not None and not cosine <= 0.9:
        found.append(f"different images point the same way: mean cosine {cosine:.2g}, near 0 is healthy; {REMEDY}, and check that the "
                     "images differ and that batch norm sees the global batch")
    if rank is not None and not rank >= 0.05 * dim:
        found.append(f"few dimensions are used: RankMe {rank:.3g} of {dim}; strengthen the augmentation (colour jitter, crops) or the "
                     "decorrelation term, lower the weight decay, or make the projector narrower")
    return found
