"""Digests of a train state's arrays: made where they are written, compared wherever they are read.

A digest is the sha256 of one part of a global array, and a part is what one device held when it was saved. So every process hashes what lies with it, and a run
that resumes on other devices, or a reader of the encoder alone, finds the same parts in its own arrays.
"""
import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np

from jaxssl import tree


def record(state: Any) -> dict[str, dict]:
    """name → {"shape": [64, 3], "dtype": "float32", "parts": {"0:32,0:3": sha256 in hex, …}} of every array, the same in every process.

    Where arrays span processes, every process must call this at the same point. Nothing is gathered, and no array leaves its process.
    """
    named = tree.names(state)
    own = [(name, place, content) for name, leaf in named.items() for place, content in _parts(leaf, saved=True).items()]
    parts: dict[str, dict[str, str]] = {name: {} for name in named}
    for (name, place, _), digest in zip(own, _sha256(content for *_, content in own)):
        parts[name][place] = digest
    for other in told(parts):
        for name, found in other.items():
            parts[name].update(found)
    return {name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "parts": parts[name]} for name, leaf in named.items()}


def changed(state: Any, recorded: Mapping[str, dict]) -> list[str]:
    """Names of the arrays that are not, to the bit, what `record` saw; of those in `recorded` that are missing too. [] says that all is as it was.

    Looks at what lies with this process where the arrays are cut as they were, else at all of it: every process must call this at the same point.
    """
    named, bad = tree.names(state), set()
    bad.update(named.keys() ^ recorded.keys())
    alike = {name: leaf for name, leaf in named.items() if name not in bad and _is(leaf, recorded[name])}
    bad.update(named.keys() - bad - alike.keys())
    wanted = [(name, digest, content) for name, leaf in alike.items() for content, digest in _pairs(leaf, recorded[name]["parts"])]
    bad.update(name for (name, digest, _), found in zip(wanted, _sha256(content for *_, content in wanted)) if found != digest)
    return sorted(bad)


def told(message: dict) -> list[dict]:
    """The `message` (JSON) of every process, in their order."""
    if jax.process_count() == 1:
        return [message]
    from jaxssl.parallel import agreement           # here, so that reading a run's folder goes without ml_collections
    return agreement.exchange(message)


def _is(leaf: Any, said: dict) -> bool:
    return list(leaf.shape) == said["shape"] and str(leaf.dtype) == said["dtype"]


def _parts(leaf: Any, *, saved: bool = False) -> dict[str, Any]:
    """place → content of the parts of an array that lie with this process. saved: of several copies the one that is written."""
    if not isinstance(leaf, jax.Array):
        return {_place(tuple(slice(None) for _ in leaf.shape), leaf.shape): leaf}
    return {_place(shard.index, leaf.shape): shard.data for shard in leaf.addressable_shards if not saved or shard.replica_id == 0}


def _pairs(leaf: Any, wanted: Mapping[str, str]) -> list[tuple[Any, str]]:
    """(content, digest that it should have) of the parts to look at here."""
    cut = leaf.sharding.devices_indices_map(leaf.shape).values() if isinstance(leaf, jax.Array) else []
    if wanted.keys() == {_place(index, leaf.shape) for index in cut}:
        return [(content, wanted[place]) for place, content in _parts(leaf).items()]
    whole = tree.fetched(leaf)[1]
    return [(whole[_slices(place)], digest) for place, digest in wanted.items()]


def _place(index: tuple, shape: tuple) -> str:
    """(slice(0, 32), slice(None)) of an array [64, 3] as "0:32,0:3"."""
    return ",".join("{}:{}".format(*one.indices(size)[:2]) for one, size in zip(index, shape))


def _slices(place: str) -> tuple:
    return tuple(slice(*map(int, part.split(":"))) for part in place.split(",")) if place else ()


def _sha256(contents: Iterable[Any]) -> list[str]:
    """Of each array's bytes; several at once, since hashing lets other threads run."""
    def one(content):
        return hashlib.sha256(np.ascontiguousarray(np.asarray(content)).reshape(-1).view(np.uint8).data).hexdigest()
    with futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, contents))
