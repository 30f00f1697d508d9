"""Retrieval and clustering of embeddings: precision@1, recall@k, R-precision, MAP@R, MRR, NMI and AMI.

Definitions as in Musgrave et al. (arXiv 2003.08505, section 3.2), with R = all other images of the query's class among the references:

    recall@k     whether one of the k nearest is relevant          precision@1   the same with k = 1
    R-precision  r / R, r = relevant ones among the R nearest       MAP@R         1/R sum over i = 1..R of rel(i) (relevant ones among the i nearest) / i
    MRR          1 / rank of the first relevant one, over the whole ranking, however far down

Exact and deterministic: cosine in f32, equal ones by index. A query is never its own neighbour, which is decided by its id and not by its value: an
exact duplicate under another id is a neighbour like any other. Queries without a relevant reference (a class with a single image) cannot be
answered; they are left out and counted. Labels are integers of any size. Memory is bounded by blocks of queries.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxssl.evaluation.features.search import neighbours

_HELD = 2**22           # neighbours, or similarities, held at a time


class Result(NamedTuple):
    """outcomes: by metric name, f64 [n] of the n answerable queries; `means` are the metrics. queries int64 [n]: which they are.
    lone: queries left out. most: the largest R."""
    outcomes: dict[str, np.ndarray]
    queries: np.ndarray
    lone: int
    most: int

    @property
    def means(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self.outcomes.items()}


def evaluate(queries: np.ndarray, labels: np.ndarray, reference: np.ndarray, reference_labels: np.ndarray, *, query_ids: np.ndarray | None = None,
             reference_ids: np.ndarray | None = None, recall: Sequence[int] = (1, 2, 4, 8), mesh: Any = None) -> Result:
    """Retrieval of the images of a query's class, f32 features [N, D] and [M, D], labels int [N] and [M].

    One set against itself: pass it twice with its ids twice, and every image is a query against all others. Separate sets: without ids, or with ids
    that tell which images lie in both. recall: the k of recall@k. ValueError when no query has a relevant reference.
    """
    queries, reference = np.asarray(queries, np.float32), np.asarray(reference, np.float32)
    labels, reference_labels = np.asarray(labels, np.int64), np.asarray(reference_labels, np.int64)
    if len(labels) != len(queries) or len(reference_labels) != len(reference):
        raise ValueError(f"features and labels differ in number: {len(queries)} and {len(labels)}, {len(reference)} and {len(reference_labels)}")
    relevant = _relevant(labels, reference_labels, query_ids, reference_ids)
    asked = np.flatnonzero(relevant)
    if not len(asked):
        raise ValueError("no query has another image of its class among the references, so there is nothing to retrieve")
    most = int(relevant.max())
    k = min(max(most, 1, *recall), len(reference))
    parts, rows = [], max(1, _HELD // k)
    for at in range(0, len(asked), rows):
        own = asked[at:at + rows]
        x = queries if len(own) == len(queries) else queries[own]
        ids = {} if query_ids is None else dict(query_ids=np.asarray(query_ids)[own], reference_ids=np.asarray(reference_ids))
        similarity, index = neighbours(x, reference, k=k, mesh=mesh, **ids)
        hits = (reference_labels[index] == labels[own, None]) & (similarity > -np.inf)      # [n, k]; what is excluded counts nothing
        found = _measure(hits, relevant[own], recall)
        missed = np.flatnonzero(found["MRR"] == 0)
        if len(missed):
            ids = {name: i[missed] if name == "query_ids" else i for name, i in ids.items()}
            found["MRR"][missed] = _far(x[missed], labels[own][missed], reference, reference_labels, **ids)
        parts.append(found)
    return Result({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, asked, len(labels) - len(asked), most)


def clustering(x: np.ndarray, labels: np.ndarray, *, seed: int = 0, iterations: int = 100) -> dict[str, float]:
    """NMI (arithmetic mean) and AMI between the classes and k-means clusters of the normalised features x f32 [N, D], as many as there are classes.

    One k-means by scikit-learn, from k-means++ up to 256 classes and from random images above. The values depend on its start, so they are known
    to about a point; AMI corrects for chance, NMI grows with the number of clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
    labels, x = np.asarray(labels), np.asarray(x, np.float32)
    classes = len(np.unique(labels))
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    means = KMeans(classes, init="k-means++" if classes <= 256 else "random", n_init=1, max_iter=iterations, random_state=seed)
    found = means.fit_predict(x)
    return {"NMI": float(normalized_mutual_info_score(labels, found)), "AMI": float(adjusted_mutual_info_score(labels, found))}


def _relevant(labels, reference_labels, query_ids, reference_ids):
    """R of each query int64 [N]: references of its class, without those of its id."""
    if (query_ids is None) != (reference_ids is None):
        raise ValueError("exclusion by id needs both query_ids and reference_ids")
    count = _count(reference_labels[:, None], labels[:, None])
    if query_ids is None:
        return count
    return count - _count(np.stack([reference_labels, reference_ids], 1), np.stack([labels, query_ids], 1))


def _count(rows, wanted):
    """How many of `rows` [M, c] equal each of `wanted` [N, c]."""
    _, of = np.unique(np.concatenate([rows, wanted]), axis=0, return_inverse=True)
    of = of.reshape(-1)
    return np.bincount(of[:len(rows)], minlength=of.max() + 1)[of[len(rows):]]


def _measure(hits, relevant, recall):
    """The outcomes of queries whose neighbours' relevance is hits bool [n, k], of `relevant` int [n] <= k in all."""
    place = np.arange(1, hits.shape[1] + 1)
    inside = hits & (place <= relevant[:, None])                                            # among the R nearest
    precision = np.cumsum(hits, axis=1, dtype=np.int32) / place.astype(np.float64)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
    return {"precision@1": hits[:, 0].astype(np.float64), **{f"recall@{k}": hits[:, :k].any(axis=1).astype(np.float64) for k in recall if k > 1},
            "R-precision": inside.sum(axis=1) / relevant, "MAP@R": (precision * inside).sum(axis=1) / relevant,
            "MRR": np.divide(1., first, out=np.zeros(len(first)), where=first > 0)}


def _far(x, labels, reference, reference_labels, query_ids=None, reference_ids=None):
    """1 / rank of the first relevant reference, by counting those that come before it."""
    out, rows = np.empty(len(x)), max(1, _HELD // len(reference))
    length = np.maximum(np.sqrt(np.einsum("nd,nd->n", reference, reference)), 1e-12)
    for at in range(0, len(x), rows):
        own = slice(at, at + rows)
        similarity = x[own] @ reference.T                                                   # [n, M], up to the query's length
        similarity /= length
        if query_ids is not None:
            similarity[query_ids[own, None] == reference_ids] = -np.inf
        target = np.where(labels[own, None] == reference_labels, similarity, -np.inf)
        best = target.argmax(axis=1)[:, None]                                               # the lowest index among equals
        value = np.take_along_axis(target, best, axis=1)
        ahead = (similarity > value) | (similarity == value) & (np.arange(len(reference)) < best)
        out[own] = 1 / (1 + ahead.sum(axis=1))
    return out
