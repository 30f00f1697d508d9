"""RandAugment (Cubuk et al., arXiv:1909.13719): a few operations one after another, each drawn from fourteen, all of one magnitude, with torchvision's operations and magnitudes.

Arithmetic is Pillow's on 256 levels, also between two operations: planes come and go as k/255. Outside the image is black; what is moved is interpolated linearly.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE = range(14)
NAMES = ("identity", "shear x", "shear y", "translate x", "translate y", "rotate", "brightness", "color", "contrast", "sharpness", "posterize", "solarize",
         "autocontrast", "equalize")
BINS = 31                   # magnitudes, from 0, which changes nothing
DRAWS = 2                   # uniform numbers of an operation: which, and its sign
SMOOTH = np.float32([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13                # Pillow's
WHOLE = 1e-3                # what a sum of floats may fall short of a whole number before it is rounded down


def sample(u, ops):
    """u: [..., ops, 2] uniform numbers in [0, 1) -> op int32 [..., ops], numbers of `NAMES`, and sign [..., ops], 1 or -1."""
    return {"op": jnp.floor(u[..., 0] * len(NAMES)).astype(jnp.int32), "sign": jnp.where(u[..., 1] < .5, 1., -1.)}


class Strengths(NamedTuple):
    """What a magnitude means, for square images of a side: torchvision's table."""
    shear: float             # pixels a pixel
    shift: int               # pixels
    angle: float             # degrees, counterclockwise
    factor: float            # above or below 1
    bits: int                # that are kept
    threshold: float         # of 255


def strengths(magnitude, side):
    """magnitude: from 0 to 30."""
    share = magnitude / (BINS - 1)
    return Strengths(.3 * share, int(150 / 331 * side * share), 30 * share, .9 * share, 8 - int(np.round(magnitude / ((BINS - 1) / 4))), 255 * (1 - share))


def apply(planes, params, *, magnitude):
    """planes [..., 3, n, n] in [0, 1] and what `sample` drew -> the same shape and dtype.

    Images differ in their operations, so each turn does the work of all and selects; turns are a scan, as those of `color.jitter`.
    """
    told = strengths(magnitude, planes.shape[-1])

    def turn(x, drawn):
        op, sign = (each[..., None, None, None] for each in drawn)
        return _done(x, op, sign, told), None

    levels = jnp.round(jnp.clip(planes.astype(jnp.float32), 0, 1) * 255)
    steps = tuple(jnp.moveaxis(params[name], -1, 0) for name in ("op", "sign"))
    return (jax.lax.scan(turn, levels, steps)[0] / 255).astype(planes.dtype)


def _done(x, op, sign, told):
    """One operation of each image; x: whole levels 0 to 255 [..., 3, n, n]; op, sign: [..., 1, 1, 1]."""
    blended = jnp.select([op == CONTRAST, op == COLOR, op == SHARPNESS], [_mean(x), _grey(x), _smooth(x)], jnp.zeros_like(x))
    blended = jnp.clip(jnp.floor(blended + (1 + sign * told.factor) * (x - blended) + WHOLE), 0, 255)
    kept = np.float32(2 ** (8 - told.bits))
    return jnp.select(
        [op == IDENTITY, op <= ROTATE, op <= SHARPNESS, op == POSTERIZE, op == SOLARIZE, op == AUTOCONTRAST],
        [x, _moved(x, _matrix(op[..., 0, 0, 0], sign[..., 0, 0, 0], told, x.shape[-1])), blended, jnp.floor(x / kept) * kept,
         jnp.where(x < told.threshold, x, 255 - x), _stretched(x)],
        _equalized(x))


def _grey(x):
    """[..., 3, n, n] -> [..., 1, n, n]: Pillow's mode L, of whole numbers below 2^24, which float32 holds."""
    r, g, b = (x[..., c:c + 1, :, :] for c in range(3))
    return jnp.floor((19595 * r + 38470 * g + 7471 * b + 32768) / 65536)


def _mean(x):
    """Mean grey of each image, rounded: [..., 1, 1, 1]."""
    return jnp.floor(_grey(x).mean((-2, -1), keepdims=True) + .5)


def _smooth(x):
    """Each plane by `SMOOTH`; the border stays."""
    n = x.shape[-1]
    if n < 3:
        return x
    inner = sum(SMOOTH[i, j] * x[..., i:n - 2 + i, j:n - 2 + j] for i in range(3) for j in range(3))
    return x.at[..., 1:-1, 1:-1].set(jnp.floor(inner + .5 + WHOLE / 10))


def _matrix(op, sign, told, n):
    """Where each image's pixels come from: [..., 6] of x' = a x + b y + c and y' = d x + e y + f, of pixel centres at halves."""
    angle = jnp.radians(sign * told.angle)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    one, zero, middle = jnp.ones_like(sign), jnp.zeros_like(sign), n / 2
    shear, shift = sign * told.shear, sign * told.shift
    rows = {SHEAR_X: (one, shear, zero, zero, one, zero), SHEAR_Y: (one, zero, zero, shear, one, zero), TRANSLATE_X: (one, zero, -shift, zero, one, zero),
            TRANSLATE_Y: (one, zero, zero, zero, one, -shift), ROTATE: (cos, -sin, middle - (cos - sin) * middle, sin, cos, middle - (cos + sin) * middle)}
    none = jnp.stack([one, zero, zero, zero, one, zero], -1)
    return jnp.select([(op == each)[..., None] for each in rows], [jnp.stack(row, -1) for row in rows.values()], none)


def _moved(x, matrix):
    """Each plane at the places of `matrix` [..., 6], linearly between its pixels' centres, 0 outside."""
    n = x.shape[-1]
    at = jnp.arange(n) + .5
    a, b, c, d, e, f = (matrix[..., i, None, None] for i in range(6))
    column, row = a * at + b * at[:, None] + c, d * at + e * at[:, None] + f                      # [..., n, n]
    inside = (0 <= column) & (column < n) & (0 <= row) & (row < n)
    left, top = jnp.floor(column - .5), jnp.floor(row - .5)
    over, down = (part[..., None, :, :] for part in (column - .5 - left, row - .5 - top))
    flat = x.reshape(*x.shape[:-2], n * n)

    def corner(i, j):
        place = jnp.clip(top + i, 0, n - 1) * n + jnp.clip(left + j, 0, n - 1)
        place = jnp.broadcast_to(place.astype(jnp.int32).reshape(*place.shape[:-2], 1, n * n), flat.shape)
        return jnp.take_along_axis(flat, place, -1).reshape(x.shape)

    above, below = (left_ + (corner(i, 1) - left_) * over for i, left_ in ((i, corner(i, 0)) for i in (0, 1)))
    return jnp.where(inside[..., None, :, :], jnp.floor(above + (below - above) * down + WHOLE / 10), 0)          # Pillow rounds down


def _stretched(x):
    """Each channel from its smallest and largest level to 0 and 255."""
    low, high = x.min((-2, -1), keepdims=True), x.max((-2, -1), keepdims=True)
    scale = 255 / jnp.where(high > low, high - low, 255)
    return jnp.where(high > low, jnp.clip(jnp.floor((x - low) * scale + WHOLE), 0, 255), x)


def _equalized(x):
    """Each channel with levels about equally often, by Pillow's table."""
    flat = x.astype(jnp.int32).reshape(-1, x.shape[-2] * x.shape[-1])
    count = jax.lax.platform_dependent(flat, cpu=jax.vmap(lambda row: jnp.zeros(256, jnp.int32).at[row].add(1)),
                                       default=lambda flat: (flat[:, None, :] == jnp.arange(256)[:, None]).sum(-1, dtype=jnp.int32))      # [X, 256]
    last = jnp.take_along_axis(count, flat.max(-1, keepdims=True), 1)                             # of the highest level that there is
    step = (flat.shape[-1] - last) // 255                                                         # 0 for a channel of one level, too
    table = jnp.clip((step // 2 + jnp.cumsum(count, 1) - count) // jnp.maximum(step, 1), 0, 255)
    found = jnp.take_along_axis(table, flat, 1)
    return jnp.where(step > 0, found, flat).astype(x.dtype).reshape(x.shape)
