"""Rows of cached features: their mean and deviation, a held-out part of every class, and shuffled batches that travel to the devices while the last ones are in use."""
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxssl.parallel import mesh as sharding

_PART = 1024                # rows summed at a time, in a buffer that stays in the cache
_CHUNK_BYTES = 2**25        # of one transfer: large against its overhead, small against memory


def held_out(labels: np.ndarray, every: int) -> np.ndarray:
    """bool [N]: one row in `every`, counted through the classes of labels int [N] one after another, so that each class gives its share."""
    held = np.zeros(len(labels), bool)
    held[np.argsort(labels, kind="stable")[::every]] = True
    return held


def fitting(batch_size: int, rows: int, mesh: Any = None) -> int:
    """The largest batch of at most `batch_size` that `rows` can fill and the devices of `mesh` share equally (at least one row a device)."""
    devices = mesh.size if mesh is not None else 1
    return max(min(batch_size, rows) // devices, 1) * devices


def standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation f32 [D] of the rows of x [N, D], summed in f64 over parts of them, without a copy of all; a feature that never varies has deviation 1."""
    parts = [x[at:at + _PART] for at in range(0, len(x), _PART)]
    mean = sum(p.sum(0, dtype=np.float64) for p in parts) / len(x)
    squares = (np.subtract(p, mean, dtype=np.float64) for p in parts)
    std = np.sqrt(sum(np.einsum("nd,nd->d", d, d) for d in squares) / len(x))
    return mean.astype(np.float32), np.where(std > 1e-8, std, 1).astype(np.float32)


def order(seed: int, start: int, count: int, n: int) -> np.ndarray:
    """Rows int64 [count] at the positions from `start` of an endless stream: epoch e is one permutation of range(n), drawn from (seed, e)."""
    parts = []
    while count:
        epoch, place = divmod(start, n)
        # the one generator whose stream numpy promises never to change
        shuffled = np.random.RandomState([seed % 2**32, epoch]).permutation(n)
        parts.append(shuffled[place:place + count])
        start, count = start + len(parts[-1]), count - len(parts[-1])
    return np.concatenate(parts)


def batches(arrays: Mapping[str, np.ndarray], rows: np.ndarray, *, start: int, stop: int, batch_size: int, seed: int, mesh: Any = None) -> Iterator[tuple]:
    """The batches of the steps [start, stop), several to a transfer: yields (first step, steps in it, {name: [K, B, …] on the devices}).

    arrays: of the same length, memory-mapped or not; `rows` of them take part, every epoch in another order. K is the same for every transfer,
    so that one size compiles; steps past the last are zeros. Step t takes the positions [t B, (t + 1) B) of `order`, whatever the start and the mesh.
    """
    width = batch_size * sum(a[:1].nbytes for a in arrays.values())
    chunk = max(1, min(stop - start, _CHUNK_BYTES // width))
    place, mine = _placement(mesh, batch_size)

    def load(first):
        count = min(chunk, stop - first)
        index = rows[order(seed, first * batch_size, count * batch_size, len(rows))].reshape(count, batch_size)[:, mine]
        out = {name: np.zeros((chunk, *index.shape[1:], *a.shape[1:]), a.dtype) for name, a in arrays.items()}
        for name, a in arrays.items():
            np.take(a, index, axis=0, out=out[name][:count], mode="clip")       # clip: straight into place, without a buffer
        return first, count, place(out)

    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(load, start)
        for following in range(start + chunk, stop + chunk, chunk):
            ready = waiting.result()
            if following < stop:
                waiting = reader.submit(load, following)
            yield ready


def _placement(mesh, batch_size):
    """How [K, B, …] arrays get to the devices, and the rows of a batch that belong to this process."""
    if mesh is None:
        return jax.device_put, slice(None)
    index, count = sharding.share(mesh)
    part = batch_size // count
    split = NamedSharding(mesh, PartitionSpec(None, sharding.AXES))
    return lambda tree: sharding.put(tree, split), slice(index * part, (index + 1) * part)
