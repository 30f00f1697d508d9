"""Feature maps of two views of an image, place against place: which places belong together, and how far they are apart.

VICRegL: Bardes et al. 2022, "VICRegL: self-supervised learning of local visual features", section 3. DenseCL: Wang et al. 2021, "Dense contrastive learning for
self-supervised visual pre-training", section 3.4.

A map is [B, N, K]: images, places row by row from the top left of a square, dimensions; any float type, computed in float32.
"""
import math

import jax
import jax.numpy as jnp

from jaxssl.losses import redundancy
from jaxssl.losses.unit import EXACT, normalised


def places(box, flip, side):
    """Centres of the side × side places of a view in its canvas, pixels times 2 · side, so that they are whole numbers: [B, side², 2] f32 (down, right).

        right = left + (column + 1/2) * width / side, the columns from right to left where the view is mirrored

    Args: box: {"top", "left", "height", "width"}, int [B] each. flip: [B] bool.
    """
    steps = 2 * jnp.arange(side) + 1                                                               # [side]
    down = 2 * side * box["top"][:, None] + steps * box["height"][:, None]                         # [B, side]
    right = 2 * side * box["left"][:, None] + jnp.where(flip[:, None], steps[::-1], steps) * box["width"][:, None]
    grid = jnp.stack([jnp.repeat(down, side, 1), jnp.tile(right, (1, side))], -1)                  # [B, side²] each
    return grid.astype(jnp.float32)


def apart(a, b):
    """Squared distance of each vector of a [B, N, K] from each of b [B, M, K]: [B, N, M] f32, by differences where K is 2, else by products of what is left of the mean."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    if a.shape[-1] == 2:
        return jnp.square(a[:, :, None] - b[:, None]).sum(-1)
    mean = a.mean(1, keepdims=True)
    a, b = a - mean, b - mean
    return jnp.square(a).sum(-1)[:, :, None] + jnp.square(b).sum(-1)[:, None] - 2 * jnp.einsum("bnk,bmk->bnm", a, b, precision=EXACT)


def corresponding(a, b, values):
    """DenseCL's key of each place: what is said of the place of b most like it.

        for each image:
            found[n] = values[m], m the first of those of largest cosine between a[n] and b[m]

    Args: a: [B, N, D], b: [B, M, D], what is compared; values: [B, M, K]. Returns: [B, N, K]. No gradient flows to any of them.
    """
    alike = jnp.einsum("bnd,bmd->bnm", normalised(a), normalised(b), precision=EXACT)
    return jax.lax.stop_gradient(jnp.take_along_axis(values.astype(jnp.float32), alike.argmax(-1)[..., None], 1))


def matched(a, b, distance, count):
    """The places of a whose nearest place of b is closest, and those nearest places.

        for each image:
            nearest[n] = the m of smallest distance[n, m]                              # the first of equal ones
            kept = the `count` places n of smallest distance[n, nearest[n]], in their order in the map
            pairs = a[kept], b[nearest[kept]]

    Args: distance: [B, N, M], no gradient. count: at least 1; N where it is larger. Returns: two arrays [B, count, K].
    """
    distance = jax.lax.stop_gradient(distance)
    kept = jnp.sort(jax.lax.top_k(-distance.min(-1), min(count, a.shape[1]))[1], -1)               # [B, count]
    nearest = jnp.take_along_axis(distance.argmin(-1), kept, 1)
    return jnp.take_along_axis(a, kept[..., None], 1), jnp.take_along_axis(b, nearest[..., None], 1)


def vicreg(a, b, *, sim, std, cov):
    """VICReg's terms of pairs [B, P, K]: variance and covariance are over images, at each of the P places by itself; covariance is the mean over both sides.

    Returns: scalar f32.
    """
    both = jnp.concatenate([a, b], 1)                                                              # [B, 2 P, K]
    covariance = jax.vmap(lambda place: redundancy.covariance(place[:, None]), 1)(both).mean() / 2
    return sim * redundancy.invariance(jnp.stack([a, b], 1).reshape(len(a), 2, -1)) + std * redundancy.variance(both) + cov * covariance


def vicregl(maps, boxes, flips, whole, *, matches, sim, std, cov):
    """VICRegL's local term: places of two views that lie closest in the image, and places whose embeddings are closest, agree; mean over pairs of a whole view and any other.

        for i in whole views, j in other views:
            for distance in (of places in the image, of embeddings):
                loss += (vicreg(matched(maps[i], maps[j], distance, matches[i])) + vicreg(matched(maps[j], maps[i], distance.T, matches[j]))) / 2
        loss /= number of pairs

    Args: maps: a map a view, the whole ones first. boxes, flips: of each view, as in `places`. whole: their number. matches: of each view.
    Returns: scalar f32. Raises: ValueError for a map that is not square.
    """
    sides = [math.isqrt(m.shape[1]) for m in maps]
    if any(side**2 != m.shape[1] for side, m in zip(sides, maps)):
        raise ValueError(f"maps have {[m.shape[1] for m in maps]} places; expected squares")
    value, pairs = 0.0, 0
    for i in range(whole):
        for j in range(i + 1, len(maps)):
            n = 2 if j < whole else 1                                                              # both orders of two whole views are the same
            places_i, places_j = (places(boxes[v], flips[v], sides[v]) * sides[w] for v, w in ((i, j), (j, i)))
            for distance in (apart(places_i, places_j), apart(maps[i], maps[j])):
                there = vicreg(*matched(maps[i], maps[j], distance, matches[i]), sim=sim, std=std, cov=cov)
                back = vicreg(*matched(maps[j], maps[i], jnp.swapaxes(distance, 1, 2), matches[j]), sim=sim, std=std, cov=cov)
                value = value + n * (there + back) / 2
            pairs += n
    return value / pairs
