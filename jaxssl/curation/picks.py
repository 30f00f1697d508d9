"""Which images are taken: those near curated seeds (arXiv 2304.07193, appendix A), or as many of every concept as there are (arXiv 2405.15613, section 3.4)."""
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxssl.curation import book as books, features
from jaxssl.curation.book import Book
from jaxssl.curation.clusters import Rows
from jaxssl.errors import UserError, nearest
from jaxssl.evaluation.features.search import neighbours

PICKS = ("random", "closest")


def allot(sizes: np.ndarray, target: int, rng: np.random.Generator) -> np.ndarray:
    """How many of each part: int64 [K], as equal as their sizes allow, `target` in all.

        cut = max(c for c in range(max(sizes) + 1) if sum(min(c, size) for size in sizes) <= target)
        taken = [min(cut, size) for size in sizes]          # what is left: one more of as many parts, drawn from those that have more

    ValueError for a target above the sum of sizes.
    """
    sizes = np.asarray(sizes, np.int64)
    if not 0 <= target <= sizes.sum():
        raise ValueError(f"cannot take {target} of {sizes.sum()}")
    low, high = 0, int(sizes.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= target else (low, middle - 1)
    taken = np.minimum(sizes, low)
    more = np.flatnonzero(sizes > low)
    taken[rng.permutation(more)[:target - taken.sum()]] += 1
    return taken


def balanced(owns: Sequence[np.ndarray], distance: np.ndarray, target: int, *, pick: str = "random", seed: int = 0, draw: Callable | None = None) -> np.ndarray:
    """Rows int64 [target], rising: top-down, every cluster gives as equal a share of the target as its size allows, and so do the clusters below it.

    owns: of each level the cluster of each row or centroid below, [N], [K1], …; distance: f32 [N] of the rows to their centroid. pick: which rows of a cluster of the lowest level.
    draw: `drawn`, or what gives the same.
    """
    sizes = [np.bincount(owns[0], minlength=len(owns[1]) if len(owns) > 1 else 0)]
    for number, own in enumerate(owns[1:], 1):
        sizes.append(np.bincount(own, weights=sizes[-1], minlength=len(owns[number + 1]) if number + 1 < len(owns) else 0).astype(np.int64))
    taken = allot(sizes[-1], target, np.random.default_rng([seed, len(owns)]))
    for number in range(len(owns) - 1, 0, -1):
        below = np.zeros(len(owns[number]), np.int64)
        for cluster, children in parts(owns[number], len(taken)):
            if taken[cluster]:
                below[children] = allot(sizes[number - 1][children], int(taken[cluster]), np.random.default_rng([seed, number, cluster]))
        taken = below
    return (draw or drawn)(owns[0], distance, taken, pick, seed)


def drawn(own: np.ndarray, distance: np.ndarray, taken: np.ndarray, pick: str, seed: int) -> np.ndarray:
    """Rows int64, rising: of the rows of each cluster at most `taken` [K]. own: [N], the cluster of each; distance: f32 [N], of each to its centroid."""
    chosen = [members(rows, distance, int(taken[cluster]), pick, stream(seed, cluster)) for cluster, rows in parts(own, len(taken)) if taken[cluster]]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def stream(seed: int, cluster: int) -> np.random.Generator:
    """What the rows of a cluster are drawn by."""
    return np.random.default_rng([seed, 0, cluster])


def parts(own: np.ndarray, count: int) -> list[tuple[int, np.ndarray]]:
    """(cluster, its rows, rising) of every cluster."""
    order = np.argsort(own, kind="stable")
    return list(enumerate(np.split(order, np.cumsum(np.bincount(own, minlength=count))[:-1])))


def members(rows: np.ndarray, distance: np.ndarray, most: int, pick: str, rng: np.random.Generator) -> np.ndarray:
    """At most so many of the rows of a cluster: drawn at random, or those closest to its centroid, of equal ones the first."""
    return (rng.permutation(rows) if pick == "random" else rows[np.argsort(distance[rows], kind="stable")])[:most]


def sample(book: Book, *, target: int, pick: str = "random", seed: int = 0, beam: Any = None) -> None:
    """Balanced sampling from the clusters of the step "kmeans": the step "sample". beam: pipelines that draw (`curation.beam.Beam`). Raises: UserError."""
    start, inputs = time.monotonic(), _clusters(book)
    params = {"target": target, "pick": _checked(pick), "seed": seed}
    table, levels = book.table("kmeans"), book.steps["kmeans"]["params"]["levels"]
    if not 1 <= target <= len(table["rows"]) or seed < 0:
        raise UserError(f"--target is {target:,} and --seed {seed}; {len(table['rows']):,} images were clustered, so give 1 to {len(table['rows']):,} and a seed from 0")
    if book.made("sample", params, inputs):
        return
    owns = [table[f"own_{number}"] for number in range(1, len(levels) + 1)]
    chosen = balanced(owns, table["distance_1"], target, pick=pick, seed=seed, draw=beam.drawn if beam else drawn)
    sizes, top = np.bincount(owns[0][chosen], minlength=levels[0]), owns[0][chosen]
    for own in owns[1:]:
        top = own[top]
    tops = np.bincount(top, minlength=levels[-1])
    counts = {"images": len(table["rows"]), "taken": len(chosen), "clusters_used": int((sizes > 0).sum()), "of_clusters": levels[0], "fewest_of_a_top_cluster": int(tops.min()),
              "most_of_a_top_cluster": int(tops.max())}
    book.keep("sample", books.PICK, params, inputs, counts, {"rows": table["rows"][chosen], "hits": np.ones(len(chosen), np.int64)}, start)


def retrieve_samples(book: Book, seeds: str, *, space: str, among: str, n: int = 4, mesh: Any = None) -> None:
    """The n images of the selection that are most similar to each image of the set `seeds`: the step "retrieve samples SEEDS". One may be found by several: `hits` counts them.

    Raises: UserError.
    """
    start, name = time.monotonic(), f"retrieve samples {seeds}"
    among, of_seeds = book.selection(among, name), features.demand(book, seeds, space)
    inputs, rows = book.inputs(features.demand(book, features.POOL, space), of_seeds, among), book.table(among)["rows"]
    if not 1 <= n <= len(rows):
        raise UserError(f"--n is {n:,}, and {len(rows):,} images are left of {among!r}; give 1 to {len(rows):,}")
    if book.made(name, {"n": n}, inputs):
        return
    wanted = features.load(book, seeds, space)
    score, place = neighbours(wanted.x[wanted.kept], features.load(book, features.POOL, space).x[rows], k=n, mesh=mesh)
    hits = np.bincount(place.reshape(-1), minlength=len(rows))
    taken = np.flatnonzero(hits)
    counts = {"seeds": len(score), "found": int(hits.sum()), "taken": len(taken), "mean_cosine_of_the_nearest": float(score[:, 0].mean()),
              "mean_cosine_of_the_last": float(score[:, -1].mean())}
    book.keep(name, books.PICK, {"n": n}, inputs, counts, {"rows": rows[taken], "hits": hits[taken], "seed_nearest": score[:, 0]}, start)


def retrieve_clusters(book: Book, seeds: str, *, space: str, min_hits: int = 4, per_cluster: int = 10_000, cap: int = 1_000_000, pick: str = "random", seed: int = 0,
                      mesh: Any = None, beam: Any = None) -> None:
    """Of every cluster of the lowest level that holds at least `min_hits` images of the set `seeds`, at most `per_cluster` images, at most `cap` in all: "retrieve clusters SEEDS".

    Above the cap, which of them is drawn at random. Raises: UserError.
    """
    start, name, of_seeds = time.monotonic(), f"retrieve clusters {seeds}", features.demand(book, seeds, space)
    inputs = {**_clusters(book), **book.inputs(of_seeds)}
    how = book.steps["kmeans"]["params"]
    if how["space"] != space:
        raise UserError(f"the clusters are of the features {how['space']!r}, and --features is {space!r}; features of two encoders cannot be compared: "
                        f"give --features {how['space']}")
    if min(min_hits, per_cluster, cap) < 1 or seed < 0:
        raise UserError(f"--min_hits is {min_hits}, --per_cluster {per_cluster}, --cap {cap} and --seed {seed}; give at least 1 each, and a seed from 0")
    params = {"min_hits": min_hits, "per_cluster": per_cluster, "cap": cap, "pick": _checked(pick), "seed": seed}
    if book.made(name, params, inputs):
        return
    table, wanted = book.table("kmeans"), features.load(book, seeds, space)
    x = wanted.x[wanted.kept] * (1 if how["metric"] == "spherical" else wanted.length[wanted.kept, None])
    count = how["levels"][0]
    hits = np.bincount(Rows(x, count, mesh).assign(table["centroids_1"])[0], minlength=count)
    enough = hits >= min_hits
    found = (beam.drawn if beam else drawn)(table["own_1"], table["distance_1"], np.where(enough, per_cluster, 0), pick, seed)
    if not len(found):
        raise UserError(f"no cluster holds {min_hits} images of {seeds!r} (the most is {hits.max()}); lower --min_hits, or make fewer clusters")
    taken = np.sort(np.random.default_rng([seed, 1]).permutation(found)[:cap])
    counts = {"seeds": len(x), "clusters_used": int(enough.sum()), "of_clusters": count, "seeds_in_them": int(hits[enough].sum()), "found": len(found), "taken": len(taken)}
    book.keep(name, books.PICK, params, inputs, counts, {"rows": table["rows"][taken], "hits": np.ones(len(taken), np.int64), "cluster_seeds": hits}, start)


def _checked(pick):
    if pick not in PICKS:
        raise UserError(f"--pick is {pick!r}; choose one of {', '.join(PICKS)}{nearest(pick, PICKS)}")
    return pick


def _clusters(book):
    book.entry("kmeans", "make clusters with `kmeans --clusters K` first")
    return book.inputs("kmeans")
