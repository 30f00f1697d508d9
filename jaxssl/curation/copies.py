"""Which cosine means "the same image" for these features: copies of the user's own images are planted, and what each threshold finds is counted."""
import functools
import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from jaxssl.curation import book as books, features
from jaxssl.curation.book import Book
from jaxssl.data.decode import Broken, pixel_limit
from jaxssl.errors import UserError
from jaxssl.evaluation.features.search import neighbours
from jaxssl.gallery import images

GRID = np.arange(100) / 100     # thresholds that are looked at: above 1 there is rounding alone
_HELD = 2**24                   # similarities held at a time
_NEAR, _THUMB, _SAME = 8, 32, .95       # see `twins`
_POOR = .5                      # recall below which it is said


def _resize(image, rng):
    factor = rng.uniform(.4, .8)
    return image.resize(tuple(max(1, round(side * factor)) for side in image.size), Image.BICUBIC)


def _jpeg(image, rng):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(20, 60)))
    return Image.open(file).convert("RGB")


def _crop(image, rng):
    share = rng.uniform(.7, .9)
    width, height = (max(1, round(side * share)) for side in image.size)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _colour(image, rng):
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(rng.uniform(.6, 1.4))
    return image


def _blur(image, rng):
    return image.filter(ImageFilter.GaussianBlur(max(image.size) * rng.uniform(.01, .02)))


def _flip(image, rng):
    return image.transpose(Image.FLIP_LEFT_RIGHT)


# What is done to an image, and how strongly: resize to .4 to .8 of its sides, JPEG of quality 20 to 59, a crop of .7 to .9 of each side, brightness, contrast and saturation times
# .6 to 1.4, a Gaussian blur of 1 to 2 % of the longer side, mirrored.
KINDS = {"resize": _resize, "jpeg": _jpeg, "crop": _crop, "colour": _colour, "blur": _blur, "flip": _flip}


class Copies:
    """Copies of images of a source as a source: of each of `rows` one of each of `kinds`, row after row. Drawn by the seed and the row alone."""

    def __init__(self, source: Any, rows: np.ndarray, kinds: tuple[str, ...], seed: int):
        self.source, self.rows, self.kinds, self.seed = source, rows, kinds, seed
        self.name, self.classes, self.max_pixels = "copies", (), pixel_limit(source)

    def __len__(self):
        return len(self.rows) * len(self.kinds)

    def read(self, index):
        row, kind = int(self.rows[index // len(self.kinds)]), self.kinds[index % len(self.kinds)]
        return np.asarray(KINDS[kind](features.image(self.source, row), np.random.default_rng([self.seed, row, list(KINDS).index(kind)]))), -1, self.id(index)

    def entry(self, index):
        return -1, self.id(index)

    def id(self, index):
        return f"{self.kinds[index % len(self.kinds)]} of {self.source.id(int(self.rows[index // len(self.kinds)]))}"


def twins(source: Any, rows: np.ndarray, pool: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    """For each of `places` in the pool of unit rows [N, D] the places of those of its `_NEAR` nearest others that show the same pixels: true duplicates, whatever the features say.

    The same pixels: a correlation above `_SAME` of the grey images at `_THUMB` pixels a side. rows: int [N], of the pool's images in `source`.
    """
    if len(pool) < 2:
        return [np.zeros(0, np.int64)] * len(places)
    near = neighbours(pool[places], pool, k=min(_NEAR, len(pool) - 1), query_ids=places, reference_ids=np.arange(len(pool)))[1]
    thumb = functools.lru_cache(4 * _NEAR)(lambda place: _thumb(source, int(rows[place])))
    return [np.array([other for other in others if float(thumb(int(place)) @ thumb(int(other))) > _SAME], np.int64) for place, others in zip(places, near)]


def _thumb(source, row):
    """f64 [n] of mean 0 and length 1; of length 0 for an image that is even, or broken."""
    try:
        image = features.image(source, row)
    except Broken:
        return np.zeros(_THUMB**2)
    grey = np.asarray(image.convert("L").resize((_THUMB, _THUMB), Image.BOX), np.float64).reshape(-1)
    grey -= grey.mean()
    return grey / max(np.linalg.norm(grey), 1e-9)


def counted(copies: np.ndarray, pool: np.ndarray, original: np.ndarray, aside: Sequence[np.ndarray], grid: np.ndarray = GRID) -> tuple[np.ndarray, np.ndarray]:
    """(cosine f32 [M] of each copy with its original, int64 [T]: pairs of a copy and another image whose cosine is above each threshold).

        for t in grid:
            others[t] = sum(c @ p > t for i, c in enumerate(copies) for j, p in enumerate(pool) if j not in (original[i], *aside[i]))

    copies: [M, D] and pool [N, D], unit rows; original: int [M], places in the pool; aside: for each copy places that are not counted.
    """
    own, above = np.zeros(len(copies), np.float32), np.zeros(len(grid) + 1, np.int64)
    step = max(1, _HELD // len(pool))
    for at in range(0, len(copies), step):
        cosine = copies[at:at + step] @ pool.T
        rows = np.arange(len(cosine))
        own[at:at + step] = cosine[rows, original[at:at + step]]
        cosine[rows, original[at:at + step]] = -2
        for row, places in enumerate(aside[at:at + step]):
            cosine[row, places] = -2
        above += np.bincount(np.searchsorted(grid, cosine.reshape(-1).astype(np.float64), side="left"), minlength=len(grid) + 1)
    return own, np.cumsum(above[::-1])[::-1][1:]


def calibrate(book: Book, encoder: Any, *, space: str, layer: str = "backbone", count: int = 500, precision: float = .95, seed: int = 0, among: str = "",
              kinds: tuple[str, ...] = tuple(KINDS), mesh: Any = None) -> None:
    """Plants copies of `count` images of a selection and counts what each threshold of `GRID` finds among all of it: the step "calibrate SPACE".

    Precision is the share of pairs above a threshold that are a copy and its original. True duplicates among the images are left out where their pixels say so (`twins`); others
    count as mistakes, so it is a lower bound. Recommended is the lowest threshold whose precision, and that of all above it that find anything, is at least `precision`.
    Raises: UserError.
    """
    start, name = time.monotonic(), f"calibrate {space}"
    among = book.selection(among, name)
    pool = features.demand(book, features.POOL, space)
    if book.steps[pool]["params"]["encoder"] != encoder.digest:
        raise UserError(f"the features {space!r} are of {book.steps[pool]['params']['name']}, and --weights is another encoder; features of two encoders cannot be compared")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"--kinds {unknown[0]} is not known; choose of {', '.join(KINDS)}")
    if count < 1 or not 0 < precision <= 1 or seed < 0:
        raise UserError(f"--count is {count}, --precision {precision:g} and --seed {seed}; give at least 1 image, a share of at most 1, and a seed from 0")
    inputs, params = book.inputs(pool, among), {"count": count, "precision": precision, "seed": seed, "kinds": list(kinds)}
    if book.made(name, params, inputs):
        return
    rows, source = book.table(among)["rows"], features.source(book, features.POOL)
    places = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    planted = Copies(source, rows[places], kinds, seed)
    told = features.about(book, features.POOL)
    data = features.opened(told["path"], told["keys"], told["part"], told["resize"])[0]
    found = list(images.embedded(encoder, data, planted, layer))
    x, kept = np.concatenate([x for x, _ in found]), np.concatenate([kept for _, kept in found])
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    pool_x = features.load(book, features.POOL, space).x[rows]
    same = twins(source, rows, pool_x, places)
    of = np.repeat(np.arange(len(places)), len(kinds))[kept]
    own, others = counted(x[kept], pool_x, places[of], [same[i] for i in of])
    kind = np.tile(np.arange(len(kinds)), len(places))[kept]
    recall = np.array([[(own[kind == i] > t).mean() for t in GRID] for i in range(len(kinds))])
    hits = (own[None] > GRID[:, None]).sum(1)
    share = hits / np.maximum(hits + others, 1)
    at = recommended(hits, others, precision)
    counts: dict[str, Any] = {"images": len(rows), "copies": len(own), "cannot_be_made": int((~kept).sum()), "twins_left_out": sum(map(len, same)), "precision_asked": precision}
    if at is None:
        book.log(f"note: no threshold has a precision of {precision:g}; these features do not tell copies from other images")
    else:
        counts |= {"threshold": float(GRID[at]), "precision": float(share[at]), "recall": float(hits[at] / len(own)), "recall_by_kind": dict(zip(kinds, recall[:, at].tolist()))}
        if counts["recall"] < _POOR:
            book.log(f"note: at the recommended threshold {100 * counts['recall']:.1f} % of the copies are found; these features hardly tell copies from other images")
    book.keep(name, books.TABLE, params, inputs, counts, {"threshold": GRID, "hits": hits, "others": others, "precision": share, "recall": recall}, start)


def recommended(hits: np.ndarray, others: np.ndarray, precision: float) -> int | None:
    """The place of the lowest threshold from which on all that find a copy are so precise; None where there is none. hits, others: int [T], pairs above each threshold."""
    fine = hits >= precision * (hits + others)
    last = np.flatnonzero(~fine)
    at = int(last[-1]) + 1 if len(last) else 0
    return at if at < len(hits) and hits[at] else None


def calibrated(book: Book, space: str) -> float:
    """The threshold that `calibrate` recommended. Raises: UserError where there is none."""
    counts = book.entry(f"calibrate {space}", "measure a threshold with `calibrate --weights W`, or give --threshold a number")["counts"]
    if "threshold" not in counts:
        raise UserError(f"no threshold had a precision of {counts['precision_asked']:g} when these features were calibrated; give --threshold a number, or other features")
    return counts["threshold"]

