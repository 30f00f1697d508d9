"""k-nearest-neighbour classification on frozen features: votes exp(s/T) (NPID, arXiv 1805.01978; DINO's eval_knn.py), or one vote each.

The neighbours are exact and their ties deterministic: see `search`.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxssl.evaluation.features.search import neighbours

__all__ = ["Result", "evaluate", "neighbours", "vote"]


class Result(NamedTuple):
    accuracy: float  # in [0, 1]
    predictions: np.ndarray  # int64 [N]


def vote(similarity: np.ndarray, labels: np.ndarray, *, temperature: float | None, classes: int) -> np.ndarray:
    """Predicted class int64 [N]: argmax over classes of the sum of exp(s/T) over neighbours of that class, in f64; ties to the lower class.

    similarity [N, k] (-inf counts nothing), labels of the neighbours int [N, k] in [0, classes). temperature: T > 0, or None for majority:
    every neighbour counts one.
    """
    if temperature is not None and not temperature > 0:
        raise ValueError(f"the temperature must be above 0, or None for majority, got {temperature}")
    similarity = np.asarray(similarity, np.float64)
    top = similarity.max(axis=1, keepdims=True)
    # against the row's best, so that a small temperature cannot overflow; a row with no neighbour at all votes for class 0
    weight = np.isfinite(similarity) if temperature is None else np.exp((similarity - np.where(np.isfinite(top), top, 0)) / temperature)
    rows = np.arange(len(labels))[:, None]
    votes = np.bincount((rows * classes + labels).ravel(), weight.ravel(), minlength=len(labels) * classes)
    return votes.reshape(len(labels), classes).argmax(axis=1)


def evaluate(queries: np.ndarray, labels: np.ndarray, reference: np.ndarray, reference_labels: np.ndarray, *,
             settings: Sequence[tuple[int, float | None]] = ((200, 0.1), (20, 0.07)), query_ids: np.ndarray | None = None,
             reference_ids: np.ndarray | None = None, mesh: Any = None) -> tuple[Result, ...]:
    """One Result for each (k, temperature) of `settings`, from a single search; a temperature of None is a majority vote.

    Features [N, D] and [M, D]; labels int [N] and [M]. A k above what is there (M, or M - 1 with ids) is lowered to it, so that
    small sets work with the usual settings. Ids and mesh: see `neighbours`. ValueError for a negative reference label (unlabelled).
    """
    labels, reference_labels = np.asarray(labels), np.asarray(reference_labels)
    if len(labels) != len(queries) or len(reference_labels) != len(reference):
        raise ValueError(f"features and labels differ in number: {len(queries)} and {len(labels)}, {len(reference)} and {len(reference_labels)}")
    if reference_labels.min() < 0:
        raise ValueError("a reference row is unlabelled (label below 0): select the labelled rows first")
    most = max(len(reference) - (query_ids is not None), 1)
    similarity, index = neighbours(queries, reference, k=min(max(k for k, _ in settings), most), query_ids=query_ids,
                                   reference_ids=reference_ids, mesh=mesh)
    near, classes = reference_labels[index], int(reference_labels.max()) + 1
    results = []
    for k, temperature in settings:
        predictions = vote(similarity[:, :k], near[:, :k], temperature=temperature, classes=classes)
        results.append(Result(float(np.mean(predictions == labels)), predictions))
    return tuple(results)
