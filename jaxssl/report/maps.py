"""Features in two dimensions: PCA, and t-SNE or UMAP, which keep neighbourhoods."""
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxssl.errors import UserError, nearest

METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
_FIRST = 50     # principal components that t-SNE starts from
_EQUAL = 1e-12  # variance of unit vectors that is rounding


class Map(NamedTuple):
    """xy: [N, 2] in [0, 1], both axes to the same scale. reading: what distances in it mean."""
    xy: np.ndarray
    reading: str


def installed() -> tuple[str, ...]:
    return tuple(name for name in METHODS if name != "umap" or importlib.util.find_spec("umap"))


def check(methods: Sequence[str]) -> None:
    """Raises: UserError for a method that is unknown or not installed."""
    for name in methods:
        if name not in METHODS:
            raise UserError(f"map {name!r} is not one of {', '.join(METHODS)}{nearest(name, METHODS)}")
        if name not in installed():
            raise UserError("the map 'umap' needs one more package; run: pip install umap-learn, or leave it out of --maps")


def make(features: np.ndarray, methods: Sequence[str]) -> dict[str, Map]:
    """A map of features [N, D], N ≥ 3, by each of `methods`. Rows are L2-normalised first, since kNN compares directions.

    When all rows are equal they lie in the middle. Deterministic for a version of scikit-learn and umap-learn. Raises: UserError.
    """
    check(methods)
    x = np.asarray(features, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    if x.var(axis=0).sum() < _EQUAL:
        return dict.fromkeys(methods, Map(np.full((len(x), 2), 0.5), "All images have the same features, so every mark lies in the middle."))
    scores, share = pca(x)
    return {name: Map(_fit(scores[:, :2] if name == "pca" else _neighbourly(name, x, scores)), _reading(name, share)) for name in methods}


def pca(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Scores [N, K] of the first min(50, N, D, at least 2) principal components of x [N, D], and the share of the variance in the first two.

    Signs are fixed: the largest loading of a component is positive.
    """
    centred = x - x.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    sign = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(axis=1)])
    scores = (u * s * np.where(sign == 0, 1, sign))[:, :_FIRST]
    if scores.shape[1] < 2:
        scores = np.pad(scores, ((0, 0), (0, 2 - scores.shape[1])))
    total = float(np.sum(s ** 2))
    return scores, float(np.sum(s[:2] ** 2)) / total


def _neighbourly(name, x, scores):
    if name == "tsne":
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
        with threadpool_limits(1, "openmp"):      # so few points are no work for threads that wait for one another at every iteration
            return TSNE(perplexity=min(30, (len(x) - 1) / 3), init="pca", max_iter=500, random_state=0).fit_transform(scores)
    import umap
    return umap.UMAP(n_neighbors=min(15, len(x) - 1), metric="cosine", random_state=0, n_jobs=1).fit_transform(x)


def _reading(name, share):
    if name == "pca":
        return (f"PCA: these two directions hold {100 * share:.0f}\u00a0% of the variance of the normalised features; "
                "what lies apart here is apart, what lies together may not be.")
    return f"{METHODS[name]} keeps who is near whom; sizes of clusters and distances between them mean little."


def _fit(xy):
    """Shifted and scaled into the unit square, centred, with one scale for both axes. Rows that are not finite go to the middle."""
    xy = np.where(np.isfinite(xy), xy, np.nan)
    low, high = np.nanmin(xy, axis=0), np.nanmax(xy, axis=0)
    scale = max(float((high - low).max()), 1e-12)
    return np.nan_to_num((xy - (low + high) / 2) / scale + 0.5, nan=0.5)
