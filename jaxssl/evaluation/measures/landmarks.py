"""Retrieval with lists of easy, hard and junk images, as Oxford and Paris have them (Radenović et al., arXiv 1803.11285, section 3.3).

    easy: only easy images count, hard and junk are ignored       medium: easy and hard count, junk is ignored       hard: only hard count, easy and junk are ignored

What is ignored is taken from the ranking before ranks are counted. The average precision of a query is the area under its precision-recall curve by trapezoids:
for its positives at ranks r_0 < r_1 < … (from 0), the mean over j of (j / r_j + (j + 1) / (r_j + 1)) / 2, the first term 1 at rank 0. Queries without a positive do not count.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SETUPS = {"easy": (("easy",), ("junk", "hard")), "medium": (("easy", "hard"), ("junk",)), "hard": (("hard",), ("junk", "easy"))}


class Lists(NamedTuple):
    """Of a query: places of images in the gallery, int [n] each."""
    easy: np.ndarray
    hard: np.ndarray
    junk: np.ndarray


class Result(NamedTuple):
    """ap f64 [n] of the n queries that have a positive, and precision {k: f64 [n]} at k; queries int [n]: which they are."""
    ap: np.ndarray
    precision: dict[int, np.ndarray]
    queries: np.ndarray


def average_precision(ranks: np.ndarray) -> float:
    """Of the ranks of all positives, int [P], from 0, rising, P > 0."""
    j, r = np.arange(len(ranks)), np.asarray(ranks, np.float64)
    before = np.where(r > 0, j / np.maximum(r, 1), 1.)
    return float(np.mean((before + (j + 1) / (r + 1)) / 2))


def evaluate(ranking: np.ndarray, lists: Sequence[Lists], setup: str, *, ks: Sequence[int] = (1, 5, 10)) -> Result:
    """ranking int [Q, M]: for each query all gallery images, the most similar first. setup: of `SETUPS`. Precision at k counts at most as many ranks as there are up to
    the last positive, as the official measure does."""
    counted, ignored = SETUPS[setup]
    ap, precision, queries = [], {k: [] for k in ks}, []
    for query, (order, own) in enumerate(zip(ranking, lists)):
        positive = np.concatenate([getattr(own, name) for name in counted])
        if not len(positive):
            continue
        kept = order[~np.isin(order, np.concatenate([getattr(own, name) for name in ignored]))]
        ranks = np.flatnonzero(np.isin(kept, positive))
        ap.append(average_precision(ranks))
        for k in ks:
            reach = min(ranks[-1] + 1, k)
            precision[k].append(np.sum(ranks < reach) / reach)
        queries.append(query)
    return Result(np.array(ap), {k: np.array(v) for k, v in precision.items()}, np.array(queries, np.int64))
