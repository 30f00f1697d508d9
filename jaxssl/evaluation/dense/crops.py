"""Random windows to train dense heads on, as mmsegmentation's pipeline draws them: a scale, a place, left to right or not, and colour.

A crop is drawn ten times at most until no class fills more than three quarters of it. Deterministic in the seed and the number of the batch.
"""
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxssl import data as datas
from jaxssl.evaluation.dense import windows
from jaxssl.evaluation.features.rows import order

_TRIES, _MOST = 10, .75


def batches(source: Any, rows: np.ndarray, view: windows.View, *, ratio: tuple[float, float], batch_size: int, seed: int, colour: bool = True) -> Iterator[tuple]:
    """Endless (uint8 [B, S, S, 3], targets [B, S, S]) of the images `rows`. ratio: range of the short side, as a multiple of the window's; what a small one leaves
    empty is black and without target."""
    number = 0
    with ThreadPoolExecutor(datas.cores()) as pool:
        while True:
            own = rows[order(seed, number * batch_size, batch_size, len(rows))]
            seeds = [(seed, number, place) for place in range(batch_size)]
            broken: list[str] = []
            pictures = list(windows.pictures(source, own, broken))
            if pictures:
                drawn = list(pool.map(lambda pair: crop(pair[0], view, ratio, np.random.default_rng(pair[1]), colour), zip(pictures, seeds)))
                pixels, targets = (np.stack(part) for part in zip(*drawn))
                yield pixels, targets
            number += 1


def crop(picture: windows.Picture, view: windows.View, ratio: tuple[float, float], rng: np.random.Generator, colour: bool) -> tuple[np.ndarray, np.ndarray]:
    """One window uint8 [S, S, 3] of an image and its target [S, S]."""
    height, width = picture.pixels.shape[:2]
    factor = view.side * rng.uniform(*ratio) / min(height, width)
    size = tuple(max(round(n * factor), 1) for n in (height, width))
    pixels, target = windows.resized(picture.pixels, size, view.interpolation), windows.nearest(picture.target, size)
    nothing = 0 if target.dtype.kind == "f" else -1
    for _ in range(_TRIES):
        y, x = (int(rng.integers(0, max(n - view.side, 0) + 1)) for n in size)
        own = target[y:y + view.side, x:x + view.side]
        counts = np.unique(own[own >= 0], return_counts=True)[1]
        if nothing == 0 or len(counts) > 1 and counts.max() < _MOST * counts.sum():
            break
    out, answer = np.zeros((view.side, view.side, 3), np.uint8), np.full((view.side, view.side), nothing, target.dtype)
    patch = pixels[y:y + view.side, x:x + view.side]
    out[:patch.shape[0], :patch.shape[1]], answer[:patch.shape[0], :patch.shape[1]] = patch, own
    if rng.random() < .5:
        out, answer = out[:, ::-1], answer[:, ::-1]
    return coloured(out, rng) if colour else np.ascontiguousarray(out), np.ascontiguousarray(answer)


def coloured(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness ±32, contrast and saturation × .5 to 1.5, each for half of the images (mmsegmentation's photometric distortion, which turns hues too)."""
    x = pixels.astype(np.float32)
    if rng.random() < .5:
        x = x + rng.uniform(-32, 32)
    if rng.random() < .5:
        x = x * rng.uniform(.5, 1.5)
    if rng.random() < .5:
        grey = x @ np.array([.299, .587, .114], np.float32)
        x = grey[..., None] + (x - grey[..., None]) * rng.uniform(.5, 1.5)
    return np.clip(x, 0, 255).astype(np.uint8)
