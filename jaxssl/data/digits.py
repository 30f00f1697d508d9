"""scikit-learn's digits: 1,797 real hand-written 8×8 glyphs, clean, or cluttered.

Cluttered: the glyph at a random place, size and angle, a random grey on a random grey (either may be the darker), over
a gradient, under noise. Raw pixels say little about the class there. Grey only: a random pair of *colours* would
identify the image by itself, contrastive learning would match the pair and never look at the glyph (feature
suppression). Nothing here draws from a library's random generator: the images are the same with every version.

Each image has a mask: where at least half of a pixel is ink, the digit's class; elsewhere paper.
"""
import functools
import threading

import numpy as np

from jaxssl.data.order import mix

CLASSES = tuple("0123456789")
SIZE = 32           # of a cluttered image
TRAIN_RENDERS, TEST_RENDERS = 4, 4
_FINE = 32          # glyphs are enlarged to this once, smoothly; placing samples from there
_DRAWING = threading.Lock()
_VALUES = 8         # random numbers an image takes besides its noise


@functools.cache
def _glyphs():
    """float32 [1797, 8, 8] in [0, 1], int32 [1797], bool [1797]: which glyphs are test glyphs (a fifth)."""
    from sklearn.datasets import load_digits
    data = load_digits()
    test = mix(np.arange(len(data.target))) % np.uint64(5) == 0
    return (data.images / 16).astype(np.float32), data.target.astype(np.int32), test


def _enlarge(size: int):
    """float32 [size, 8]: Catmull-Rom interpolation from 8 samples to `size`, edges continued."""
    at = (np.arange(size) + .5) * 8 / size - .5
    base = np.floor(at).astype(int)
    t = at - base
    weights = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -t**2 + t**3], 1) / 2
    matrix = np.zeros((size, 8), np.float32)
    for tap in range(4):
        np.add.at(matrix, (np.arange(size), np.clip(base + tap - 1, 0, 7)), weights[:, tap])
    return matrix


def _uniform(counter):
    """float64 in [0, 1) from integer counters."""
    return (mix(counter) >> np.uint64(11)).astype(np.float64) / 2**53


def clean(glyphs, size: int):
    """[n, 8, 8] -> uint8 [n, size, size]."""
    matrix = _enlarge(size)
    return (np.clip(np.einsum("yi,nij,xj->nyx", matrix, glyphs, matrix, optimize=True), 0, 1) * 255 + .5).astype(np.uint8)


def cluttered(glyphs, numbers):
    """[n, 8, 8] and the n image numbers that seed place, size, angle, greys, gradient and noise -> uint8 [n, 32, 32], and the share of ink float32 [n, 32, 32]."""
    n = len(glyphs)
    u = _uniform(np.asarray(numbers, np.uint64)[:, None] * np.uint64(2**20) + np.arange(_VALUES, dtype=np.uint64)).astype(np.float32)
    extent = 14 + 13 * u[:, 0]                                             # side of the glyph's box, pixels
    angle = np.deg2rad(30 * u[:, 1] - 15)
    place = (SIZE - extent)[:, None] * u[:, 2:4] + extent[:, None] / 2     # centre (y, x)
    # Two greys at least half the range apart: paper anywhere it leaves room, ink on a side that has room.
    gap = .5 + .5 * u[:, 4]
    low = (1 - gap) * u[:, 5]
    dark_on_light = u[:, 6] < .5
    ink, paper = np.where(dark_on_light, low, low + gap), np.where(dark_on_light, low + gap, low)
    axis = np.arange(SIZE, dtype=np.float32) + .5
    dy, dx = axis[None, :, None] - place[:, 0, None, None], axis[None, None, :] - place[:, 1, None, None]
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    scale = (_FINE / extent)[:, None, None]
    fine = clean(glyphs, _FINE).astype(np.float32) / 255
    alpha = _bilinear(fine, (cos * dy - sin * dx) * scale + _FINE / 2 - .5, (sin * dy + cos * dx) * scale + _FINE / 2 - .5)
    turn = (2 * np.pi * u[:, 7])[:, None, None]
    slope = (.2 * _uniform(np.asarray(numbers, np.uint64) * np.uint64(2**20) + np.uint64(_VALUES)) - .1).astype(np.float32)[:, None, None]
    centred = axis / SIZE - .5
    gradient = (centred[None, :, None] * np.sin(turn) + centred[None, None, :] * np.cos(turn)) * slope
    grey = alpha * ink[:, None, None] + (1 - alpha) * (paper[:, None, None] + gradient)
    return (np.clip(grey + .04 * _noise(numbers, n), 0, 1) * 255).astype(np.uint8), alpha


def _bilinear(images, y, x):
    """`images` [n, s, s] at the points `y`, `x` [n, h, w]; zero outside."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    side = padded.shape[1]
    y, x = np.clip(y + 1, 0, side - 1.001), np.clip(x + 1, 0, side - 1.001)
    row, column = y.astype(np.int32), x.astype(np.int32)
    fy, fx = y - row, x - column
    corner = (np.arange(len(images), dtype=np.int32)[:, None, None] * side + row) * side + column
    flat = padded.ravel()
    top = flat[corner] * (1 - fx) + flat[corner + 1] * fx
    bottom = flat[corner + side] * (1 - fx) + flat[corner + side + 1] * fx
    return top * (1 - fy) + bottom * fy


def _noise(numbers, n):
    """float32 [n, 32, 32], mean 0, variance 1: the sum of the four 16-bit parts of one hash a pixel."""
    counter = np.asarray(numbers, np.uint64)[:, None] * np.uint64(2**20) + np.uint64(2**16) + np.arange(SIZE * SIZE, dtype=np.uint64)
    parts = mix(counter).view(np.uint16).reshape(n, SIZE, SIZE, 4)
    return ((parts.sum(-1, dtype=np.float32) + 2) / 65536 - 2) * np.float32(3**.5)


def _which(variant, test):
    """The glyph and the number of the render of each image, int64 [n] both."""
    glyph = np.flatnonzero(_glyphs()[2] == test)
    renders = 1 if variant == "clean" else TEST_RENDERS if test else TRAIN_RENDERS
    return np.repeat(glyph, renders), np.tile(np.arange(renders), len(glyph))


@functools.lru_cache(4)
def _draw(variant, size, test):
    glyph, render = _which(variant, test)
    glyphs = _glyphs()[0][glyph]
    if variant == "clean":
        images = clean(glyphs, size)
        return images, images >= 128
    numbers = glyph * 16 + render
    images, ink = zip(*(cluttered(glyphs[i:i + 512], numbers[i:i + 512]) for i in range(0, len(glyph), 512)))
    return np.concatenate(images), np.concatenate([part >= .5 for part in ink])


def _drawn(variant, size, test):
    """uint8 [n, s, s] and bool [n, s, s], where there is ink; drawn once a process, by whichever thread comes first."""
    with _DRAWING:
        return _draw(variant, size, test)


class Digits:
    """The digits as a source. Train and test glyphs are disjoint; cluttered, every glyph is rendered several times."""
    classes = CLASSES
    targets, places = "masks", ("paper", *CLASSES)

    def __init__(self, variant: str, size: int, test: bool):
        """`variant` "cluttered" (always 32×32) or "clean" (`size`×`size`, one image a glyph)."""
        self.variant, self.size, self.test = variant, size, test
        self.name = f"digits ({variant}, {'test' if test else 'train'})"
        self.said = ("the embedded digits, 10 classes; held out: a fifth of the glyphs",)
        self.glyph, self.render = _which(variant, test)
        self.labels = _glyphs()[1][self.glyph]

    def __len__(self):
        return len(self.glyph)

    @property
    def images(self):
        """uint8 [n, s, s]; drawn at the first use, never pickled."""
        return _drawn(self.variant, self.size, self.test)[0]

    def target(self, index):
        """int32 [s, s]: 0 is paper, 1 + d the digit d."""
        ink = _drawn(self.variant, self.size, self.test)[1][index]
        return np.where(ink, self.labels[index] + 1, 0).astype(np.int32)

    def read(self, index):
        label, name = self.entry(index)
        return np.repeat(self.images[index][..., None], 3, 2), label, name

    def entry(self, index):
        return int(self.labels[index]), self.id(index)

    def id(self, index):
        return f"{self.glyph[index]:04d}/{self.render[index]}"
