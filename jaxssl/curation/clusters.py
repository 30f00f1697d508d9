"""k-means of features on the mesh, spherical or Euclidean, and its hierarchy with resampling (Vo et al., arXiv 2405.15613, section 3)."""
import dataclasses
import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxssl.curation import book as books, features
from jaxssl.curation.book import Book
from jaxssl.errors import UserError, nearest
from jaxssl.parallel import mesh as sharding

METRICS, INITS = ("spherical", "euclidean"), ("plus_plus", "sample")
ITERATIONS = 50         # of Lloyd, unless no row changes its cluster before (arXiv 2405.15613)
_SEEN = 100             # rows a cluster that k-means++ draws from
_PRODUCT = 2**25        # similarities held at a time
_EVERY = 30             # seconds between the notes of an unfinished k-means


@dataclasses.dataclass(frozen=True)
class Clusters:
    """centroids: f32 [K, D]. own: int32 [N], the nearest centroid of each row, of equal ones the first. distance: f32 [N], squared, to it. iterations: of Lloyd."""
    centroids: np.ndarray
    own: np.ndarray
    distance: np.ndarray
    iterations: int

    @property
    def inertia(self) -> float:
        """Sum of the squared distances."""
        return float(self.distance.astype(np.float64).sum())


def k_means(x: np.ndarray, count: int, *, spherical: bool, init: str = "plus_plus", iterations: int = ITERATIONS, rng: np.random.Generator, mesh: Any = None,
            note: "Note | None" = None) -> Clusters:
    """Lloyd's algorithm on x [N, D]; spherical wants unit rows and keeps unit centroids.

        for _ in range(iterations):
            own = [argmin(|row - c|^2 for c in centroids) for row in x]
            if own == former: break
            centroids = [mean(x[own == c]) for c in range(count)]       # spherical: at length 1
            # a cluster without rows takes the row that is farthest from its own centroid, each another one

    The result is of the last centroids. note: where what is done is kept. ValueError for fewer rows than clusters.
    """
    if not 1 <= count <= len(x):
        raise ValueError(f"k-means needs 1 to {len(x)} clusters (the rows), got {count}")
    held = Rows(x, count, mesh)
    begun = note.read(count, x.shape[1], len(x)) if note else None
    if begun:
        at, centroids, former = begun
    else:
        at, centroids, former = 0, x[rng.permutation(len(x))[:count]] if init == "sample" else plus_plus(x, count, rng), None
    while True:
        own, distance, sums = held.assign(centroids)
        if at == iterations or former is not None and np.array_equal(own, former):
            return Clusters(np.asarray(centroids, np.float32), own, distance, at)
        centroids, former, at = _moved(x, centroids, own, distance, sums, spherical), own, at + 1
        if note:
            note.write(at, centroids, former)


def _moved(x, centroids, own, distance, sums, spherical):
    """The next centroids [K, D]."""
    size = np.bincount(own, minlength=len(centroids))
    moved = sums / np.maximum(size, 1)[:, None]
    empty = np.flatnonzero(size == 0)
    moved[empty] = x[np.argsort(-distance, kind="stable")[:len(empty)]]
    if spherical:
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        moved = np.where(length > 1e-12, moved / np.maximum(length, 1e-12), centroids)
    return moved.astype(np.float32)


def plus_plus(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """First centroids f32 [count, D] by k-means++ (Arthur and Vassilvitskii 2007): each next row with a chance in proportion to its squared distance from those chosen.

    Drawn from at most `_SEEN` rows a cluster, chosen at random; where no distance is left, from the rows that were not chosen.
    """
    if len(x) > _SEEN * count:
        x = x[np.sort(rng.permutation(len(x))[:_SEEN * count])]
    square = np.einsum("nd,nd->n", x, x)
    places = [int(rng.integers(len(x)))]
    least = np.full(len(x), np.inf, np.float32)
    for _ in range(count - 1):
        last = x[places[-1]]
        least = np.minimum(least, np.maximum(square - 2 * (x @ last) + last @ last, 0))
        least[places[-1]] = 0
        total = np.cumsum(least, dtype=np.float64)
        if total[-1] > 0:
            place = min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(x) - 1)
        else:
            left = np.setdiff1d(np.arange(len(x)), places)
            place = int(left[rng.integers(len(left))])
        places.append(place)
    return x[places].astype(np.float32)


class Rows:
    """Rows [N, D] split over the devices of a mesh in blocks, of which `assign` finds the nearest of `count` centroids."""

    def __init__(self, x: np.ndarray, count: int, mesh: Any = None):
        self.mesh = mesh or sharding.make_mesh(devices=jax.local_devices()[:1])
        most = max(1, min(_PRODUCT // max(count, 1), len(x), 2**16))
        self.size = -(-most // self.mesh.size) * self.mesh.size
        self.count, self.square = len(x), np.einsum("nd,nd->n", x, x)
        place = sharding.batch(self.mesh)
        self.blocks = [jax.device_put(np.pad(x[at:at + self.size], ((0, max(0, at + self.size - len(x))), (0, 0))).astype(np.float32), place)
                       for at in range(0, len(x), self.size)]

    def assign(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(nearest int32 [N], squared distance f32 [N], sum f32 [K, D] of each cluster's rows)."""
        centroids = jax.device_put(np.asarray(centroids, np.float32), sharding.replicated(self.mesh))
        sums, found = jnp.zeros(centroids.shape), []
        for number, block in enumerate(self.blocks):
            own, value, sums = _pass(block, centroids, sums, min(self.size, self.count - number * self.size), mesh=self.mesh)
            found.append((own, value))
        own, value = (np.concatenate([np.asarray(part) for part in parts])[:self.count] for parts in zip(*found))
        return own, np.maximum(self.square - 2 * value, 0).astype(np.float32), np.asarray(sums)


@partial(jax.jit, static_argnames="mesh")
def _pass(rows, centroids, sums, count, *, mesh):
    """Nearest centroid [n], x·c - |c|²/2 of it [n], and `sums` with the rows before `count` added to their clusters."""
    clusters = len(centroids)

    def own(rows, centroids, at):
        score = jnp.matmul(rows, centroids.T, precision=lax.Precision.HIGHEST) - jnp.sum(centroids**2, -1) / 2      # [n, K]
        best = jnp.argmax(score, -1).astype(jnp.int32)
        added = jax.ops.segment_sum(rows, jnp.where(at < count, best, clusters), clusters + 1)[:clusters]
        return best, jnp.max(score, -1), lax.psum(added, sharding.AXES)
    split, none = PartitionSpec(sharding.AXES), PartitionSpec()
    best, value, added = jax.shard_map(own, mesh=mesh, in_specs=(split, none, split), out_specs=(split, split, none), check_vma=False)(
        rows, centroids, jnp.arange(len(rows), dtype=jnp.int32))
    return best, value, sums + added


class Note:
    """A file that keeps an unfinished k-means."""

    def __init__(self, file: Any, every: float = _EVERY):
        self.file, self.every, self.last = file, every, time.monotonic()

    def read(self, count: int, width: int, rows: int) -> tuple | None:
        """(iterations, centroids, clusters of the rows), or None."""
        try:
            found = books.read(self.file, "")
        except UserError:
            return None
        fits = found["centroids"].shape == (count, width) and found["own"].shape == (rows,)
        return (int(found["at"]), found["centroids"], found["own"]) if fits else None

    def write(self, at: int, centroids: np.ndarray, own: np.ndarray) -> None:
        """Keeps them, when enough time has passed since."""
        if time.monotonic() - self.last >= self.every:
            books.write(self.file, at=np.array(at), centroids=centroids, own=own)
            self.last = time.monotonic()


def closest(own: np.ndarray, distance: np.ndarray, most: int) -> np.ndarray:
    """Rows int64, rising: of each cluster the `most` that are closest to its centroid, of equal ones the first."""
    order = np.lexsort((np.arange(len(own)), distance, own))
    start = np.searchsorted(own[order], own[order], side="left")
    return np.sort(order[np.arange(len(order)) - start < most])


def level(x: np.ndarray, count: int, *, rounds: int, sample: int, seed: tuple[int, ...], note: Callable[[int], Note | None] = lambda number: None, **how: Any) -> Clusters:
    """k-means of x, then `rounds` times: k-means of the `sample` rows of each cluster that are closest to its centroid, and every row to the nearest of the new centroids.

    A round is a step towards clusters that do not follow the density of the rows (arXiv 2405.15613, section 3.3). seed: of the draws. note(round): where it is kept.
    """
    found = k_means(x, count, rng=np.random.default_rng([*seed, 0]), note=note(0), **how)
    for number in range(1, rounds + 1):
        picked = closest(found.own, found.distance, sample)
        if len(picked) < count:
            break
        again = k_means(x[picked], count, rng=np.random.default_rng([*seed, number]), note=note(number), **how)
        own, distance, _ = Rows(x, count, how.get("mesh")).assign(again.centroids)
        found = Clusters(again.centroids, own, distance, again.iterations)
    return found


def kmeans(book: Book, *, space: str, among: str, levels: tuple[int, ...], rounds: int = 0, sample: int = 10, metric: str = "spherical", init: str = "plus_plus",
           iterations: int = ITERATIONS, seed: int = 0, mesh: Any = None) -> None:
    """Clusters the selection `among`, then the centroids, for as many levels as there are numbers: the step "kmeans". Raises: UserError."""
    start, name = time.monotonic(), "kmeans"
    for flag, word, known in (("--metric", metric, METRICS), ("--init", init, INITS)):
        if word not in known:
            raise UserError(f"{flag} is {word!r}; choose one of {', '.join(known)}{nearest(word, known)}")
    among = book.selection(among, name)
    inputs = book.inputs(features.demand(book, features.POOL, space), among)
    rows = book.table(among)["rows"]
    if not levels or min(levels) < 1 or any(b >= a for a, b in zip(levels, levels[1:])) or rounds < 0 or sample < 1 or iterations < 1 or seed < 0:
        raise UserError(f"--clusters and --levels are {levels}, --rounds {rounds}, --sample {sample}, --iterations {iterations}, --seed {seed}; give falling numbers of clusters, "
                        "at least one image a cluster and one iteration, and no number below 0")
    if levels[0] > len(rows):
        raise UserError(f"--clusters is {levels[0]:,}, and {len(rows):,} images are left of {among!r}; ask for at most as many clusters as images")
    params = {"levels": list(levels), "rounds": rounds, "sample": sample, "metric": metric, "init": init, "iterations": iterations, "seed": seed, "space": space}
    if book.made(name, params, inputs):
        return
    found = features.load(book, features.POOL, space)
    x = found.x[rows] if metric == "spherical" else found.x[rows] * found.length[rows, None]
    notes, table = book.folder / "kmeans" / books.digest({"what": np.array(repr((sorted(params.items()), sorted(inputs.items()))))})[:16], {"rows": rows}
    counts: dict[str, Any] = {"images": len(rows)}
    for number, count in enumerate(levels, 1):
        file = notes / f"level{number}.npz"
        if not file.exists():
            own = level(x, count, rounds=rounds, sample=sample, seed=(seed, number), note=lambda r: Note(notes / f"level{number}-{r}.npz"), spherical=metric == "spherical",
                        init=init, iterations=iterations, mesh=mesh)
            books.write(file, centroids=own.centroids, own=own.own, distance=own.distance)
            book.log(f"level {number}: {count:,} clusters, inertia {own.inertia:.6g}")
        part = books.read(file, "delete it, and the same command makes it again")
        sizes = np.bincount(part["own"], minlength=count)
        table |= {f"{key}_{number}": part[key] for key in part}
        counts |= {f"clusters_{number}": count, f"inertia_{number}": float(part["distance"].astype(np.float64).sum()), f"empty_{number}": int((sizes == 0).sum())}
        x = part["centroids"]
    book.keep(name, books.TABLE, params, inputs, counts, table, start)
    shutil.rmtree(notes, ignore_errors=True)
