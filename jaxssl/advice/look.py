"""What a set of images is like, as far as a recipe asks: number, sizes, channels, depth, copies, images that show nothing. A function of the images alone."""
import collections
import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxssl import data as datas
from jaxssl.data import open as opening
from jaxssl.data.decode import Broken, look as decoded, pixel_limit
from jaxssl.data.order import evenly
from jaxssl.data.pipeline import ahead, cores
from jaxssl.errors import UserError, shown

DECODED = 2_000         # images at most, evenly spread, that are looked at
HASHED = 20_000         # images at most whose bytes are compared
LEAST = 16              # images that a recipe needs
FAINT = 2.              # deviation of the grey values of an image, of 255, below which it shows nothing
_TINT = 4.              # of 255 between the channels, below which an image is grey: JPEG tints grey a little
_SIDE = 64              # pixels that a mean is taken over, about


class Facts(NamedTuple):
    """source, path: as `data` takes them. images: to train on; held_out: None where nothing is. classes: 0 without labels. looked: images that were decoded; short, long:
    (smallest, median, largest) of their sides in pixels; kinds: of files, the most frequent first; the counts of broken, grey, deep (16 bits, `peak` the largest value), clear
    (see-through), faint images and of those that look like another (`alike`) are out of `looked`. hashed, copies: images whose bytes were compared, and how many repeat another's.
    mean, std: of each channel, on the [0, 1] scale. said: how the folders were read."""
    source: str
    path: str
    images: int
    held_out: int | None
    classes: int
    looked: int
    short: tuple[int, float, int]
    long: tuple[int, float, int]
    kinds: tuple[tuple[str, int], ...]
    broken: int
    grey: int
    deep: int
    peak: int
    clear: int
    faint: int
    alike: int
    hashed: int
    copies: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    said: tuple[str, ...]

    @property
    def whole(self) -> int:
        """Images that were decoded."""
        return self.looked - self.broken


class _One(NamedTuple):
    kind: str
    size: tuple[int, int]
    grey: bool
    peak: int | None
    clear: bool
    deviation: float
    hash: int
    sums: np.ndarray            # [2, 3]: mean, and mean of squares, on [0, 1]


def look(path: str) -> Facts:
    """The facts of a folder, a zip, a prepared TFDS directory or a packed set. Raises: UserError: nothing there, unreadable, or fewer than `LEAST` images that can be decoded."""
    kind = opening.detect(path)
    if kind == "digits":
        raise UserError("the digits are built in and have configs of their own (configs/digits); give a folder of images")
    path = os.path.abspath(os.path.expanduser(path))
    data = datas.make(source=kind, path=path)
    source, n = data.train, len(data.train)
    places = evenly(n, DECODED)
    with ThreadPoolExecutor(cores()) as pool, contextlib.closing(ahead(pool, lambda i: _one(source, int(places[i])), len(places))) as found:
        seen = list(found)
    stored = evenly(n, HASHED)
    with ThreadPoolExecutor(cores()) as pool, contextlib.closing(ahead(pool, lambda i: _digest(source, int(stored[i])), len(stored))) as found:
        digests = [digest for digest in found if digest]
    good = [one for one in seen if one is not None]
    if n < LEAST or len(good) < min(LEAST, len(seen)):
        raise UserError(f"{shown(path)} has {n:,} training images, of which {len(good):,} of {len(seen):,} that were looked at can be decoded; a recipe needs at least {LEAST}")
    sizes, sums = np.array([one.size for one in good]), np.mean([one.sums for one in good], axis=0)
    mean, std = sums[0], np.sqrt(np.maximum(sums[1] - sums[0] ** 2, 0))
    hashes = collections.Counter(one.hash for one in good if one.deviation >= FAINT)
    return Facts(kind, path, n, None if data.test is None else len(data.test), len(data.classes), len(seen), _three(sizes.min(axis=1)), _three(sizes.max(axis=1)),
                 tuple(collections.Counter(one.kind for one in good).most_common()), len(seen) - len(good), sum(one.grey for one in good),
                 sum(one.peak is not None for one in good), max((one.peak or 0 for one in good), default=0), sum(one.clear for one in good),
                 sum(one.deviation < FAINT for one in good), sum(count - 1 for count in hashes.values()), len(digests), len(digests) - len(set(digests)),
                 tuple(round(float(v), 3) for v in mean), tuple(max(round(float(v), 3), .01) for v in std), tuple(data.said))


def _one(source: Any, index: int) -> _One | None:
    try:
        image = source.read(index)[0]
        if isinstance(image, np.ndarray):
            from PIL import Image
            picture, kind, peak, clear = Image.fromarray(image), "array RGB", None, False
        else:
            picture, said = decoded(image, pixel_limit(source))
            kind, peak, clear = f"{said.format} {said.mode}", said.peak, said.alpha
    except Broken:
        return None
    small = np.asarray(picture.reduce(max(1, min(picture.size) // _SIDE)), np.float64)          # [h, w, 3]
    light = small.mean(axis=-1)
    pixels = small.reshape(-1, 3) / 255
    return _One(kind, picture.size[::-1], bool(np.ptp(small, axis=-1).max() < _TINT), peak, clear, float(light.std()), _hash(picture),
                np.stack([pixels.mean(axis=0), (pixels ** 2).mean(axis=0)]))


def _hash(picture) -> int:
    """Difference hash of 64 bits: whether each of 8 × 8 patches is lighter than its neighbour to the right. Copies in other sizes and qualities mostly share it."""
    grey = np.asarray(picture.convert("L").resize((9, 8)), np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def _digest(source: Any, index: int) -> bytes:
    """Of what is stored of an image; b"" where it cannot be read."""
    try:
        image = source.read(index)[0]
    except Broken:
        return b""
    return hashlib.sha256(image.tobytes() if isinstance(image, np.ndarray) else image).digest()


def _three(values: np.ndarray) -> tuple[int, float, int]:
    return int(values.min()), float(np.median(values)), int(values.max())
