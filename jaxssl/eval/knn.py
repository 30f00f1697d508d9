"""Weighted k-nearest-neighbour classification on frozen features: votes exp(s/T) (NPID, arXiv 1805.01978; DINO's eval_knn.py).

Exact: true top-k of the cosine similarities in f32, equal ones by index; computed in blocks, so no N x M matrix exists.
"""
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_QUERIES = 1000  # rows in one block
_REFERENCE = 50_000  # columns in one block: 200 MB of similarities with the rows above


class Result(NamedTuple):
    accuracy: float  # in [0, 1]
    predictions: np.ndarray  # int64 [N]


@partial(jax.jit, static_argnames="k")
def _block(best, q, q_ids, r, r_ids, start, *, k):
    """Best (similarity, index) [n, k] so far, merged with the columns of one reference block; ids are None when nothing is excluded."""
    sim = jnp.matmul(q, r.T, precision=jax.lax.Precision.HIGHEST)  # [n, m]
    if r_ids is not None:
        sim = jnp.where(q_ids[:, None] == r_ids[None], -jnp.inf, sim)
    values, at = jax.lax.top_k(sim, min(k, len(r)))
    # top_k puts the lower position first among equals, and earlier blocks come first: ties stay in index order
    values = jnp.concatenate([best[0], values], axis=1)  # [n, 2k]
    index = jnp.concatenate([best[1], at + start], axis=1)
    values, at = jax.lax.top_k(values, k)
    return values, jnp.take_along_axis(index, at, axis=1)


def _normalised(x: np.ndarray, what: str) -> np.ndarray:
    x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2 or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"kNN needs finite {what} features [N, D] with N >= 1, got shape {x.shape}")
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def neighbours(queries: np.ndarray, reference: np.ndarray, *, k: int, query_ids: np.ndarray | None = None,
               reference_ids: np.ndarray | None = None, block: tuple[int, int] = (_QUERIES, _REFERENCE)) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar reference rows of each query: cosine f32 [N, k] in falling order, and index int64 [N, k].

    queries [N, D], reference [M, D], normalised here. Ties by index. With both id arrays (int, [N] and [M]) a reference row is
    never a neighbour of a query with the same id (exclude_self); where that leaves fewer than k, the rest has similarity -inf.
    block: rows and columns at a time. ValueError when k is not in [1, M] or an array is not finite.
    """
    queries, reference = _normalised(queries, "query"), _normalised(reference, "reference")
    if not 1 <= k <= len(reference):
        raise ValueError(f"k must lie in [1, {len(reference)}] (the reference rows), got {k}")
    if (query_ids is None) != (reference_ids is None):
        raise ValueError("exclusion by id needs both query_ids and reference_ids")
    n, rows = len(queries), min(block[0], len(queries))
    asked = []
    for at in range(0, n, rows):  # the last block is filled up with zeros, so that one size compiles
        short = max(at + rows - n, 0)
        ids = None if query_ids is None else jnp.asarray(np.pad(np.asarray(query_ids[at:at + rows], np.int32), (0, short)))
        asked.append((jnp.asarray(np.pad(queries[at:at + rows], ((0, short), (0, 0)))), ids))
    best = [(jnp.full((rows, k), -jnp.inf), jnp.zeros((rows, k), jnp.int32)) for _ in asked]
    # the reference is the long side: each of its blocks travels to the device once
    for start in range(0, len(reference), block[1]):
        r = jnp.asarray(reference[start:start + block[1]])
        ids = None if reference_ids is None else jnp.asarray(np.asarray(reference_ids[start:start + block[1]], np.int32))
        best = [_block(so_far, *these, r, ids, start, k=k) for so_far, these in zip(best, asked)]
    similarity, index = (np.concatenate([np.asarray(part) for part in parts])[:n] for parts in zip(*best))
    return similarity, index.astype(np.int64)


def vote(similarity: np.ndarray, labels: np.ndarray, *, temperature: float, classes: int) -> np.ndarray:
    """Predicted class int64 [N]: argmax over classes of the sum of exp(s/T) over neighbours of that class, in f64; ties to the lower class.

    similarity [N, k] (-inf counts nothing), labels of the neighbours int [N, k] in [0, classes).
    """
    if not temperature > 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    similarity = np.asarray(similarity, np.float64)
    top = similarity.max(axis=1, keepdims=True)
    # against the row's best, so that a small temperature cannot overflow; a row with no neighbour at all votes for class 0
    weight = np.exp((similarity - np.where(np.isfinite(top), top, 0)) / temperature)
    rows = np.arange(len(labels))[:, None]
    votes = np.bincount((rows * classes + labels).ravel(), weight.ravel(), minlength=len(labels) * classes)
    return votes.reshape(len(labels), classes).argmax(axis=1)


def evaluate(queries: np.ndarray, labels: np.ndarray, reference: np.ndarray, reference_labels: np.ndarray, *,
             settings: Sequence[tuple[int, float]] = ((200, 0.1), (20, 0.07)), query_ids: np.ndarray | None = None,
             reference_ids: np.ndarray | None = None) -> tuple[Result, ...]:
    """One Result for each (k, temperature) of `settings`, from a single search.

    Features [N, D] and [M, D]; labels int [N] and [M]. A k above what is there (M, or M - 1 with ids) is lowered to it, so that
    small sets work with the usual settings. Ids: see `neighbours`. ValueError for a negative reference label (unlabelled).
    """
    labels, reference_labels = np.asarray(labels), np.asarray(reference_labels)
    if len(labels) != len(queries) or len(reference_labels) != len(reference):
        raise ValueError(f"features and labels differ in number: {len(queries)} and {len(labels)}, {len(reference)} and {len(reference_labels)}")
    if reference_labels.min() < 0:
        raise ValueError("a reference row is unlabelled (label below 0): select the labelled rows first")
    most = max(len(reference) - (query_ids is not None), 1)
    similarity, index = neighbours(queries, reference, k=min(max(k for k, _ in settings), most), query_ids=query_ids,
                                   reference_ids=reference_ids)
    near, classes = reference_labels[index], int(reference_labels.max()) + 1
    results = []
    for k, temperature in settings:
        predictions = vote(similarity[:, :k], near[:, :k], temperature=temperature, classes=classes)
        results.append(Result(float(np.mean(predictions == labels)), predictions))
    return tuple(results)
