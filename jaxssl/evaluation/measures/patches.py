"""What the vectors of places show by themselves: principal components as colours, what stands out from its surroundings, and which places of two images belong together.

The pictures of DINOv2 (arXiv 2304.07193, section 7.5 and figure 1): a first PCA over all places, whose first component parts what stands out from the rest at a
threshold; a second one over what stands out, whose three components are red, green and blue. Places are matched between images by an assignment on distances.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_FEW = 3        # places that are too few to tell apart


class Coloured(NamedTuple):
    """Of each image: rgb f32 [h, w, 3] in [0, 1], 0 where nothing stands out; front bool [h, w], what stands out."""
    rgb: list[np.ndarray]
    front: list[np.ndarray]


class Match(NamedTuple):
    """A place (row, column) of one image and its partner in the other, and their cosine."""
    first: tuple[int, int]
    second: tuple[int, int]
    cosine: float


def coloured(maps: Sequence[np.ndarray], *, threshold: float | None = 0.) -> Coloured:
    """maps: [h, w, D] of images that share their colours. threshold: on the first component, in deviations; None shows every place.

    The sign of a component means nothing, so the side with the smaller share of its places at the images' edges stands out.
    """
    flat, edges = np.concatenate([m.reshape(-1, m.shape[-1]) for m in maps]).astype(np.float64), np.concatenate([_edge(m.shape[:2]).ravel() for m in maps])
    front = np.ones(len(flat), bool)
    if threshold is not None:
        first = components(flat, 1)[:, 0]
        first /= max(first.std(), 1e-12)
        sides = [side for side in (first > threshold, -first > threshold) if _FEW < side.sum()]
        if sides:
            front = min(sides, key=lambda side: edges[side].mean())
    rgb = np.zeros((len(flat), 3))
    if front.sum() > _FEW:
        shown = components(flat[front], 3)
        low, high = np.quantile(shown, [.01, .99], axis=0)                          # a few odd places do not take the colours of all
        rgb[front] = np.clip((shown - low) / np.maximum(high - low, 1e-12), 0, 1)
    ends = np.cumsum([m.shape[0] * m.shape[1] for m in maps])[:-1]
    return Coloured([part.reshape(*m.shape[:2], 3).astype(np.float32) for part, m in zip(np.split(rgb, ends), maps)],
                    [part.reshape(m.shape[:2]) for part, m in zip(np.split(front, ends), maps)])


def components(x: np.ndarray, count: int) -> np.ndarray:
    """f64 [N, count]: the rows of x [N, D] along the directions in which they vary most; each direction's largest entry is positive. Columns of zeros where there are fewer."""
    centred = x - x.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False) if len(x) <= 4 * x.shape[1] else np.linalg.svd(np.linalg.cholesky(_gram(centred)).T)
    directions = directions[:count]
    directions = directions * np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])[:, None]
    found = centred @ directions.T
    return np.pad(found, ((0, 0), (0, count - found.shape[1])))


def _gram(x):
    gram = x.T @ x
    return gram + np.eye(len(gram)) * (1e-9 * max(np.trace(gram) / len(gram), 1e-12))


def _edge(shape):
    edge = np.ones(shape, bool)
    edge[1:-1, 1:-1] = False
    return edge


def matched(first: np.ndarray, second: np.ndarray, fronts: tuple[np.ndarray, np.ndarray], *, most: int = 20, apart: int = 2) -> list[Match]:
    """The surest pairs of places of two maps [h, w, D] and [h', w', D] that stand out (bool [h, w], [h', w']), each place at most once.

    An assignment of least total Euclidean distance between unit vectors; then the most alike first, none within `apart` places of another in the first image.
    """
    from scipy.optimize import linear_sum_assignment
    at = [np.argwhere(front) for front in fronts]
    if not (len(at[0]) and len(at[1])):
        return []
    a, b = (_unit(m[tuple(places.T)].astype(np.float64)) for m, places in zip((first, second), at))
    cosine = a @ b.T
    rows, columns = linear_sum_assignment(np.sqrt(np.maximum(2 - 2 * cosine, 0)))
    kept: list[Match] = []
    for i in np.argsort(-cosine[rows, columns], kind="stable"):
        place = at[0][rows[i]]
        if len(kept) < most and all(np.abs(place - np.array(m.first)).max() >= apart for m in kept):
            kept.append(Match(tuple(map(int, place)), tuple(map(int, at[1][columns[i]])), float(cosine[rows[i], columns[i]])))
    return kept


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
