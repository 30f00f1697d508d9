"""Exact nearest neighbours by cosine: true top-k in f32, equal similarities by index, in blocks, so that no N x M matrix exists.

Two ways to the same answer. On a processor one product per tile, and a threshold below which nothing can be among the k best: almost everything is
discarded by one comparison, and the few left are sorted as integers that order like (similarity, index). On accelerators, and wherever several devices
share the work, the reference rows are split over the mesh, each device takes its own top-k, and the merged lists are cut to k.
"""
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxssl.parallel import mesh as sharding

_TILE = (2048, 8192)        # rows and columns of a product on the processor: 64 MB of similarities
_SPAN, _HELD = 8192, 2**21  # queries whose candidates are held at a time: so many, or fewer when k times their number is above this
_BLOCK = (1000, 50_000)     # rows, and columns a device, elsewhere: 200 MB of similarities
_GROUPS = 4                 # times k: into so many groups the first tile is cut to find the threshold
_CROWD = 1.5                # times k: when a row holds more candidates, they are cut to k before the next tile
_NONE = np.uint64(2**64 - 1)
_EXCLUDED = -2.             # below every cosine, and above the -inf of what is no reference row at all


def neighbours(queries: np.ndarray, reference: np.ndarray, *, k: int, query_ids: np.ndarray | None = None, reference_ids: np.ndarray | None = None,
               block: tuple[int, int] | None = None, mesh: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar reference rows of each query: cosine f32 [N, k] in falling order, and index int64 [N, k].

    queries [N, D], reference [M, D], normalised here. Ties by index: of equal f32 similarities, which copies of
    one row need not have, since a product's last columns may be rounded otherwise. With both id arrays (int, [N] and [M]) a reference row is
    never a neighbour of a query with the same id (exclude_self); where that leaves fewer than k, the rest has similarity -inf, by index.
    block: rows and columns at a time. mesh: devices that share the reference; None is the processor, or the default accelerator.
    ValueError when k is not in [1, M] or an array is not finite.
    """
    queries, reference = _Rows(queries, "query"), _Rows(reference, "reference")
    if not 1 <= k <= len(reference):
        raise ValueError(f"k must lie in [1, {len(reference)}] (the reference rows), got {k}")
    if (query_ids is None) != (reference_ids is None):
        raise ValueError("exclusion by id needs both query_ids and reference_ids")
    ids = None if query_ids is None else (np.asarray(query_ids, np.int64), np.asarray(reference_ids, np.int64))
    if jax.default_backend() == "cpu" and (mesh is None or mesh.size == 1):
        return _on_processor(queries, reference, k, ids, block or _TILE)
    return _on_devices(queries, reference, k, ids, block or _BLOCK, mesh or sharding.make_mesh(devices=jax.local_devices()[:1]))


class _Rows:
    """Features [N, D] that are normalised a part at a time, so that no second copy of them all is made."""

    def __init__(self, x: np.ndarray, what: str):
        self.x = np.asarray(x, np.float32)
        if self.x.ndim != 2 or not len(self.x):
            raise ValueError(f"kNN needs finite {what} features [N, D] with N >= 1, got shape {self.x.shape}")
        square = np.einsum("nd,nd->n", self.x, self.x)
        if not np.isfinite(square).all():
            raise ValueError(f"kNN needs finite {what} features, and {np.count_nonzero(~np.isfinite(square))} rows of {self.x.shape} are not")
        self.length = np.maximum(np.sqrt(square), np.float32(1e-12))[:, None]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.x[part] / self.length[part]


def _on_processor(queries, reference, k, ids, block):
    rows, tiles = block[0], max(1, len(reference) // max(block[1], k))
    span = max(rows, min(_SPAN, _HELD // k))
    # Tile b is every tiles-th row from b: each is a fair sample, also of rows sorted by class, so the first one's threshold serves them all.
    width = -(-len(reference) // tiles)
    twins = None if ids is None else _twins(*ids)
    out = np.empty((len(queries), k), np.uint64)
    product = np.empty(min(rows, len(queries)) * width, np.float32)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(queries), span):
            q = queries[start:start + span]
            best = [[_Best(start + low, start + high, k) for low, high in _shares(at, min(at + rows, len(q)), threads)] for at in range(0, len(q), rows)]
            for b in range(tiles):
                r = reference[b::tiles].T
                for at, parts in zip(range(0, len(q), rows), best):
                    these = q[at:at + rows]
                    similarity = np.matmul(these, r, out=product[:len(these) * r.shape[1]].reshape(len(these), -1))
                    list(pool.map(lambda part: part.add(similarity[part.low - start - at:part.high - start - at], b, tiles, twins), parts))
            list(pool.map(lambda part: part.finish(out), (part for parts in best for part in parts)))
    return _value(out), (out & np.uint64(2**32 - 1)).astype(np.int64)


def _shares(low, high, count):
    """[low, high) in `count` parts, empty ones left out."""
    cuts = np.linspace(low, high, count + 1).astype(int)
    return [(int(a), int(b)) for a, b in zip(cuts, cuts[1:]) if b > a]


def _twins(query_ids, reference_ids):
    """(query rows, reference rows) of equal id, sorted by query row."""
    order = np.argsort(reference_ids, kind="stable")
    low, high = (np.searchsorted(reference_ids[order], query_ids, side) for side in ("left", "right"))
    count = high - low
    of = np.repeat(np.arange(len(query_ids)), count)
    return of, order[np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count) + low[of]]


class _Best:
    """The best so far of the queries [low, high)."""

    def __init__(self, low, high, k):
        self.low, self.high, self.k = low, high, k
        self.least = None                                               # f32 [n, 1]: at least k reference rows are that similar
        self.keys = np.full((high - low, 4 * k), _NONE)                 # of a row, `fill` are in use
        self.fill = np.zeros(high - low, np.int64)

    def add(self, similarity, b, tiles, twins):
        """Takes what may be among the k best of a tile [n, m] whose column j is the reference row b + tiles · j."""
        n, m = similarity.shape
        if twins is not None:
            low, high = np.searchsorted(twins[0], (self.low, self.high))
            of, at = twins[0][low:high] - self.low, twins[1][low:high]
            here = at % tiles == b
            similarity[of[here], at[here] // tiles] = -np.inf
        if self.least is None:
            self.least = _threshold(similarity, self.k)
        elif self.fill.max() > _CROWD * self.k:                         # what is held now knows a better threshold
            self._cut()
        flat, row = np.flatnonzero(similarity >= self.least), np.arange(n)
        starts = np.searchsorted(flat, np.arange(n + 1) * m)
        count = np.diff(starts)
        wide = int((self.fill + count).max())
        if wide > self.keys.shape[1]:
            self.keys = np.pad(self.keys, ((0, 0), (0, wide - self.keys.shape[1])), constant_values=_NONE)
        index = tiles * flat + np.repeat(b - tiles * m * row, count)
        place = np.arange(len(flat)) + np.repeat(row * self.keys.shape[1] + self.fill - starts[:-1], count)
        self.keys.reshape(-1)[place] = _key(similarity.reshape(-1)[flat], index)
        self.fill += count

    def finish(self, out):
        self._cut()
        out[self.low:self.high] = np.sort(self.keys[:, :self.k], axis=1)
        self.keys = None

    def _cut(self):
        """Keeps the k smallest keys of each row; the largest of them is the new threshold."""
        used = self.keys[:, :self.fill.max()]
        used.partition(self.k - 1, axis=1)
        used[:, self.k:] = _NONE
        self.least, self.fill[:] = _value(used[:, self.k - 1:self.k]), self.k


def _threshold(similarity, k):
    """f32 [n, 1], not above the k-th best of each row: the k-th best of the maxima of many groups of columns."""
    n, m = similarity.shape
    size = max(1, m // (_GROUPS * k))
    groups = m // size
    most = similarity[:, :groups * size].reshape(n, size, groups).max(axis=1)
    return np.partition(most, groups - k, axis=1)[:, groups - k, None]


def _key(similarity, index):
    """uint64 that sort like (falling similarity, rising index): the bits of the f32, turned so that they order like integers, above the index."""
    bits = (similarity + np.float32(0)).view(np.uint32)         # + 0 makes -0 the same as 0
    ordered = np.where(bits >> 31, bits, ~bits & np.uint32(2**31 - 1))
    return ordered.astype(np.uint64) << np.uint64(32) | index.astype(np.uint64)


def _value(key):
    """The similarity in a key."""
    ordered = (key >> np.uint64(32)).astype(np.uint32)
    return np.where(ordered >> 31, ordered, ~ordered & np.uint32(2**31 - 1)).astype(np.uint32).view(np.float32)


def _on_devices(queries, reference, k, ids, block, mesh):
    n, rows = len(queries), min(block[0], len(queries))
    wide = min(block[1], -(-len(reference) // mesh.size)) * mesh.size
    whole, split = sharding.replicated(mesh), sharding.batch(mesh)

    def padded(x, at, size, place):     # every block is filled up with zeros, so that one size compiles
        part = x[at:at + size]
        return jax.device_put(np.pad(part, ((0, size - len(part)),) + ((0, 0),) * (part.ndim - 1)), place)
    q_ids, r_ids = (None, None) if ids is None else (_small(ids[0], ids), _small(ids[1], ids))
    asked = [(padded(queries, at, rows, whole), None if ids is None else padded(q_ids, at, rows, whole)) for at in range(0, n, rows)]
    best = [(jnp.full((rows, k), -jnp.inf), jnp.full((rows, k), len(reference), jnp.int32)) for _ in asked]
    running = ()
    # the reference is the long side: each of its blocks travels to the devices once
    for start in range(0, len(reference), wide):
        r, own = padded(reference, start, wide, split), None if ids is None else padded(r_ids, start, wide, split)
        for i, these in enumerate(asked):
            best[i] = _merge(best[i], *these, r, own, start, len(reference), k=k, mesh=mesh)
            jax.block_until_ready(running)      # one runs while the next is prepared: further ahead, blocks of the reference would pile up on the devices
            running = best[i]
    similarity, index = (np.concatenate([np.asarray(part) for part in parts])[:n] for parts in zip(*best))
    return np.where(similarity == _EXCLUDED, -np.inf, similarity).astype(np.float32), index.astype(np.int64)


def _small(own, ids):
    """Ids of any size as int32 ranks: devices have no int64."""
    return np.searchsorted(np.unique(np.concatenate(ids)), own).astype(np.int32)


@partial(jax.jit, static_argnames=("k", "mesh"))
def _merge(best, q, q_ids, r, r_ids, start, count, *, k, mesh):
    """Best (similarity, index) [n, k] so far, merged with the columns of one reference block; ids are None when nothing is excluded."""
    rows = len(r) // mesh.size

    def own(q, q_ids, r, r_ids, at):
        sim = jnp.matmul(q, r.T, precision=jax.lax.Precision.HIGHEST)  # [n, m]
        if r_ids is not None:
            sim = jnp.where(q_ids[:, None] == r_ids[None], _EXCLUDED, sim)
        values, place = jax.lax.top_k(jnp.where(at < count, sim, -jnp.inf), min(k, rows))
        return values, at[place]
    column, none = PartitionSpec(sharding.AXES), PartitionSpec()
    found = jax.shard_map(own, mesh=mesh, in_specs=(none, none, column, column, column), out_specs=PartitionSpec(None, sharding.AXES), check_vma=False)
    values, at = found(q, q_ids, r, r_ids, start + jnp.arange(len(r), dtype=jnp.int32))
    # top_k puts the lower position first among equals; earlier blocks and devices come first: ties stay in index order
    values, index = jnp.concatenate([best[0], values], axis=1), jnp.concatenate([best[1], at], axis=1)
    values, place = jax.lax.top_k(values, k)
    return jax.lax.with_sharding_constraint((values, jnp.take_along_axis(index, place, axis=1)), sharding.replicated(mesh))
