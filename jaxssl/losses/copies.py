"""Copy detection: views of an image attract, and every image keeps its distance from the nearest other one.

Pizzi et al. 2022, "A self-supervised descriptor for image copy detection" (SSCD), section 3; its entropy is that of Sablayrolles et al. 2018, "Spreading vectors for
similarity search", over the views of all other images.

A view may show two images (`augment.mix`): it is then a copy of both. Everything is computed in float32 over the global batch, [B·V, B·V] at once.
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.dictionary import LOWEST
from jaxssl.losses.unit import EXACT, normalised

CLOSEST = 1e-3          # distances below it count as it, and have no gradient


def copies(z, shows, *, temperature):
    """InfoNCE over all views that share no image, and the estimate of the embeddings' entropy, negative.

        for i in rows:                                     # z flattened to [B·V, K], each row over its length
            others = [k for k in rows if not shows[k] & shows[i]]
            matches = [j for j in rows if j != i and shows[j] & shows[i]]
            repelled = sum(exp(z[i] @ z[k] / temperature) for k in others)
            contrast += mean(log(1 + repelled / exp(z[i] @ z[j] / temperature)) for j in matches)
            entropy -= log(max(1e-3, min(|z[i] - z[k]| for k in others)))
        both are divided by B * V

    With two views and nothing mixed, the first is `contrastive.nt_xent`.
    Args: z: [B, V, K], any scale and float type. shows: [B, V, 2] int, the ids of the images that a view shows, the same id twice where it shows one. temperature: > 0.
    Returns: (contrast, entropy, metrics), scalars f32; a row without matches adds nothing to the first, one without others nothing to the second. metrics, without
      gradient: nearest_other, the mean cosine with the nearest view of another image; contrast_accuracy, the share of rows whose nearest row is a match.
    Raises: ValueError for shapes that do not fit.
    """
    if z.ndim != 3 or shows.shape != (*z.shape[:2], 2):
        raise ValueError(f"z has shape {z.shape} and shows {shows.shape}; expected [B, V, K] and [B, V, 2]")
    rows, of = normalised(z).reshape(-1, z.shape[-1]), shows.reshape(-1, 2)                           # [B, V, …] -> [B·V, …]
    cosines = jnp.einsum("ik,jk->ij", rows, rows, precision=EXACT)
    shared = (of[:, None, :, None] == of[None, :, None, :]).any((-1, -2))                             # [B·V, B·V]
    match, alone = shared & ~jnp.eye(len(rows), dtype=bool), shared.all(-1)
    repelled = jax.nn.logsumexp(jnp.where(shared, LOWEST, cosines) / temperature, -1, keepdims=True)
    each = jax.nn.softplus(repelled - cosines / temperature)
    contrast = jnp.where(match, each, 0.).sum(-1) / jnp.maximum(match.sum(-1), 1)
    seen = lax.stop_gradient(cosines)
    nearest = jnp.where(shared, -2., seen)
    square = jnp.square(rows - rows[nearest.argmax(-1)]).sum(-1)                                      # by differences: near ones keep their digits
    entropy = jnp.where(alone, 0., -jnp.log(jnp.maximum(square, CLOSEST**2)) / 2)
    accuracy = jnp.mean(jnp.where(match, seen, -2.).max(-1) > nearest.max(-1), dtype=jnp.float32)
    return contrast.mean(), entropy.mean(), {"nearest_other": jnp.where(alone, 0., nearest.max(-1)).mean(), "contrast_accuracy": accuracy}
