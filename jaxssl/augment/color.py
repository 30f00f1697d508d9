"""Colour: jitter in random order, grey, solarize, invert, normalise. Planes [..., 3, H, W] in [0, 1], as torchvision's tensors.

Every operation takes explicit parameters of shape [...]; its sampler maps uniform numbers to them. Parameters that change nothing
(factor 1, hue 0, False) leave an image exactly as it was.
"""
import itertools

import jax
import jax.numpy as jnp
import numpy as np

JITTER_DRAWS = 6  # apply, order, and one factor each
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbers, used in `order`
NAMES = ("brightness", "contrast", "saturation", "hue")


def sample_jitter(u, probability, *, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2):
    """Draws the parameters of torchvision's `RandomApply([ColorJitter(...)], p)`.

    Args:
      u: [..., 6] uniform numbers in [0, 1).
      probability: broadcastable to [...].
      brightness, contrast, saturation: strength s, the factor is uniform in [max(0, 1 - s), 1 + s].
      hue: strength in [0, .5], the shift is uniform in [-hue, hue] turns.

    Returns:
      dict with `order` int32 [..., k], the operations (0 brightness, 1 contrast, 2 saturation, 3 hue) by stage, and one float32
      array [...] for each of the k operations of non-zero strength; 1 (hue: 0) where the jitter is not applied.
    """
    strengths = dict(zip(NAMES, (brightness, contrast, saturation, hue)))
    used = [i for i, name in enumerate(NAMES) if strengths[name] > 0]
    orders = np.array(list(itertools.permutations(used)), np.int32)  # [k!, k]
    apply = u[..., 0] < probability
    params = {"order": jnp.asarray(orders)[jnp.floor(u[..., 1] * len(orders)).astype(jnp.int32)]}
    for i in used:
        s = strengths[NAMES[i]]
        low, high, neutral = (-s, s, 0.0) if i == HUE else (max(0.0, 1.0 - s), 1.0 + s, 1.0)
        params[NAMES[i]] = jnp.where(apply, low + u[..., 2 + i] * (high - low), neutral)
    return params


def jitter(planes, params):
    """Applies the operations of `params` (see `sample_jitter`) in their order, clamping to [0, 1] after each.

    Images differ in their order, so each stage does the work of all: brightness, contrast and saturation are one blend
    x·f + base·(1 - f) with base 0, the mean grey or the grey, and a select picks the hue shift where it is due. The stages are a
    scan because XLA would otherwise recompute earlier stages for every channel of later ones (measured: 1.6 to 2 times slower).

    Args:
      planes: [..., 3, H, W] in [0, 1].

    Returns:
      the same shape and dtype; computed in float32.
    """
    order = jnp.moveaxis(params["order"], -1, 0)  # [k, ...]
    factors = jnp.ones(order.shape)
    for op in (BRIGHTNESS, CONTRAST, SATURATION):
        if NAMES[op] in params:
            factors = jnp.where(order == op, params[NAMES[op]], factors)

    def stage(x, step):
        op, factor = step  # [...]
        grey = luminance(x)  # [..., H, W]
        mean = jnp.mean(grey, (-2, -1)) if "contrast" in params else 0.0
        base = _image(jnp.where(op == CONTRAST, (1.0 - factor) * mean, 0.0))
        base += _image(jnp.where(op == SATURATION, 1.0 - factor, 0.0)) * grey
        out = jnp.clip(x * _image(factor)[..., None, :, :] + base[..., None, :, :], 0.0, 1.0)
        if "hue" in params:
            due = (op == HUE) & (params["hue"] != 0.0)
            out = jnp.where(_image(due)[..., None, :, :], shift_hue(x, params["hue"]), out)
        return out, None

    return jax.lax.scan(stage, planes.astype(jnp.float32), (order, factors))[0].astype(planes.dtype)


def shift_hue(planes, shift):
    """Turns the hue of [..., 3, H, W] by `shift` [...] turns in HSV, without branches: a channel is min + chroma·tent(hue)."""
    r, g, b = (planes[..., c, :, :] for c in range(3))
    top, bottom = jnp.maximum(jnp.maximum(r, g), b), jnp.minimum(jnp.minimum(r, g), b)
    chroma = top - bottom
    red, green = r == top, g == top
    ahead = jnp.where(red, g - b, jnp.where(green, b - r, r - g)) / jnp.maximum(chroma, 1e-12)  # 0 for grey
    hue = ahead + jnp.where(red, 0.0, jnp.where(green, 2.0, 4.0)) + 6.0 * _image(shift)  # in sixths of a turn
    hue = (hue - 6.0 * jnp.floor(hue * (1.0 / 6.0)))[..., None, :, :]  # [..., 1, H, W], in [0, 6]
    # Red is full around 0 (and 6) and absent around 3; green is full around 2 and blue around 4.
    center, slope, height = (np.array(v, np.float32)[:, None, None] for v in ((3, 2, 4), (1, -1, -1), (-1, 2, 2)))
    tent = jnp.clip(height + slope * jnp.abs(hue - center), 0.0, 1.0)  # [..., 3, H, W]
    return bottom[..., None, :, :] + chroma[..., None, :, :] * tent


def luminance(planes):
    """[..., 3, H, W] -> [..., H, W]: ITU-R 601 weights with torchvision's digits."""
    return 0.2989 * planes[..., 0, :, :] + 0.587 * planes[..., 1, :, :] + 0.114 * planes[..., 2, :, :]


def _image(x):
    """[...] -> [..., 1, 1]: one number an image against its pixels."""
    return x[..., None, None]


def gray(planes, apply):
    """Replaces the channels by their luminance where `apply` [...] is true."""
    grey = luminance(planes.astype(jnp.float32))[..., None, :, :].astype(planes.dtype)
    return jnp.where(apply[..., None, None, None], grey, planes)


def solarize(planes, apply, *, threshold=0.5):
    """Inverts the values at or above `threshold` where `apply` [...] is true."""
    return jnp.where(apply[..., None, None, None] & (planes >= threshold), 1 - planes, planes)


def invert(planes, apply):
    """Inverts all values where `apply` [...] is true."""
    return jnp.where(apply[..., None, None, None], 1 - planes, planes)


def normalize(planes, mean, std):
    """(x - mean) / std for each channel; `mean` and `std` are one number a channel on the [0, 1] scale."""
    scale = 1.0 / np.asarray(std, np.float32)
    shift = -np.asarray(mean, np.float32) * scale
    return planes * scale[:, None, None].astype(planes.dtype) + shift[:, None, None].astype(planes.dtype)
