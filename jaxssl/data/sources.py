"""What a source is, and how one is split."""
import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxssl.data.decode import pixel_limit, pixels_of
from jaxssl.errors import UserError, shown

UNLABELLED = -1


class Source(Protocol):
    """Random access to images. Must survive pickling: files are opened where they are read."""
    name: str                       # for messages: the path
    classes: tuple[str, ...]        # () = no labels; harmless on a terminal, as ids are
    # said: tuple[str, ...] on a training set: how its files and folders were read. max_pixels: int and pixels: `decode.Pixels`, where not the default.

    def __len__(self) -> int: ...

    def read(self, index: int):
        """-> (encoded bytes or uint8 [h,w,3], label, id); label -1 = unlabelled. Raises `decode.Broken`."""

    def entry(self, index: int) -> tuple[int, str]:
        """-> (label, id), without reading the image where the source can."""

    def id(self, index: int) -> str:
        """The id alone; reads no image."""

    # Where there is an answer for each place, targets: str, "masks" or "depth", and target(index) -> array [h, w] of the whole image: int32 classes of masks, -1 where
    # nothing is said, with places: tuple[str, ...], their names (() = numbers); or float32 depth as the file has it, 0 where nothing is said.

    # contents() -> str, where it can tell: a digest of every name, and of the contents as far as they can be had cheaply, for `identity`.
    # sampled() -> str: one of samples, where that is not all of the contents, else "". written() -> int64 [files] or None: the times in ns at which the files of such a set
    # were written, and changed(places) -> str: the name of the first of some of them.


def targets(source: Source) -> str:
    """What a source says of each place: "masks", "depth", or "" for nothing."""
    return getattr(source, "targets", "")


class Subset:
    """The samples `indices` of a source; with labels int [N] and classes of its own where they are given."""

    def __init__(self, source: Source, indices: Sequence[int], labels: Sequence[int] | None = None, classes: tuple[str, ...] | None = None):
        self.source, self.indices = source, np.asarray(indices, np.int64)
        self.labels = None if labels is None else np.asarray(labels, np.int32)
        self.name, self.classes = source.name, source.classes if classes is None else classes

    @property
    def max_pixels(self):
        return pixel_limit(self.source)

    @property
    def pixels(self):
        return pixels_of(self.source)

    def target(self, index):
        return self.source.target(int(self.indices[index]))

    @property
    def targets(self):
        return targets(self.source)

    @property
    def places(self):
        return getattr(self.source, "places", ())

    def __len__(self):
        return len(self.indices)

    def read(self, index):
        data, label, name = self.source.read(int(self.indices[index]))
        return data, label if self.labels is None else int(self.labels[index]), name

    def entry(self, index):
        if self.labels is not None:
            return int(self.labels[index]), self.id(index)
        return self.source.entry(int(self.indices[index]))

    def id(self, index):
        return self.source.id(int(self.indices[index]))


class Declared:
    """Stands for a set that is not on this machine: it has a size and classes, and nothing to read."""

    def __init__(self, name: str, examples: int, classes: tuple[str, ...]):
        self.name, self.examples, self.classes = name, examples, classes

    def __len__(self):
        return self.examples

    def read(self, index):
        raise UserError(f"{shown(self.name)} is not on this machine: data.examples only declares its size, for planning.")

    entry = id = read


def held_out(name: str, share: float) -> bool:
    """Whether the sample of this id belongs to the held-out `share`: a property of the id alone."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()) < share * 2**64


def hold_out(source: Source, share: float) -> tuple[Source, Source | None]:
    """`source` split by the hash of each id; unsplit without labels or targets, or when a part would be empty."""
    dense = bool(targets(source))
    if not (source.classes or dense) or share <= 0:
        return source, None
    entries = [source.entry(i) for i in range(len(source))]
    test = np.array([(dense or label != UNLABELLED) and held_out(name, share) for label, name in entries])
    if not test.any() or test.all():
        return source, None
    return Subset(source, np.flatnonzero(~test)), Subset(source, np.flatnonzero(test))
