"""What is known of the files of a set without decoding one: names, sizes, when they were written, and bytes as far as they are read."""
import functools
import hashlib
import itertools
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxssl.data.decode import MAX_BYTES
from jaxssl.data.order import evenly
from jaxssl.errors import shown

SIZED, SMALL = 50_000, (10_000, 2**28)      # files whose sizes are in `contents`; files and bytes of a set that is read whole for it
SAMPLES, SAMPLE_BYTES = 256, 2**20          # files of a larger set that are read, and the most that is read of each
_READERS = 16       # threads: what they wait for is a disk or a server
_SLOW, _TRIED, _TOGETHER = 1e-4, 64, 500    # seconds a look at a file from which threads pay, files to learn that, and files that a thread looks at in one go


class Files:
    """The files `names` below `root`. read(path, most) -> bytes, or OSError."""

    def __init__(self, root: str, names: Sequence[str], read):
        self.root, self.names, self.read = root, names, read

    @functools.cached_property
    def facts(self) -> np.ndarray:
        """int64 [N, 2]: size, and nanoseconds since 1970 at which the file was last written; -1 for one that cannot be looked at, as reading it will say."""
        start, names = time.perf_counter(), iter(self.names)
        found = [self._looked(list(itertools.islice(names, _TRIED)))]
        if len(self.names) > _TRIED:
            if time.perf_counter() - start < _SLOW * _TRIED:
                found.append(self._looked(names))
            else:
                with ThreadPoolExecutor(_READERS) as pool:
                    found += pool.map(self._looked, iter(lambda: list(itertools.islice(names, _TOGETHER)), []))
        return np.concatenate(found)

    def _looked(self, names: Iterable[str]) -> np.ndarray:
        root, stat = self.root, os.stat

        def facts():
            for name in names:
                try:
                    seen = stat(f"{root}/{name}")
                except OSError:
                    yield -1
                    yield -1
                else:
                    yield seen.st_size
                    yield seen.st_mtime_ns
        return np.fromiter(facts(), np.int64).reshape(-1, 2)

    @property
    def small(self) -> bool:
        """Whether the set is read whole to tell it."""
        return len(self.names) <= SMALL[0] and int(self.facts[:, 0].sum()) <= SMALL[1]

    def contents(self) -> str:
        """A digest of every name; of the sizes of `SIZED` files spread evenly; and of the bytes of a set of at most `SMALL` files and bytes."""
        digest = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.facts[evenly(len(self.names), SIZED), 0], "<i8").tobytes())
        if self.small:
            digest.update(self._checksums(range(len(self.names)), MAX_BYTES))
        return digest.hexdigest()

    def sampled(self) -> str:
        """Of a set too large to be read: a digest of the sizes of all files, and of up to `SAMPLE_BYTES` of each of `SAMPLES` files spread evenly; else ""."""
        if self.small:
            return ""
        digest = hashlib.sha256(np.ascontiguousarray(self.facts[:, 0], "<i8").tobytes())
        digest.update(self._checksums(evenly(len(self.names), SAMPLES), SAMPLE_BYTES))
        return digest.hexdigest()

    def written(self) -> np.ndarray | None:
        """int64 [N] nanoseconds at which each file was written, of a set too large to be read; else None."""
        return None if self.small else self.facts[:, 1]

    def _checksums(self, places: Iterable[int], most: int) -> bytes:
        def one(place):
            try:
                return zlib.crc32(self.read(f"{self.root}/{self.names[place]}", most))
            except OSError:
                return -1
        with ThreadPoolExecutor(_READERS) as pool:
            return np.array(list(pool.map(one, places)), "<i8").tobytes()


class OnDisk:
    """A source that is told by its `files`; see `sources.Source` for these."""
    files: Files

    def sampled(self) -> str:
        return self.files.sampled()

    def written(self) -> np.ndarray | None:
        return self.files.written()

    def changed(self, places: np.ndarray) -> str:
        """The name of the first of those files."""
        return shown(self.files.names[places[0]])
