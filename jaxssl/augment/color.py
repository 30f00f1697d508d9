"""Colour: jitter in random order, grey, solarize, invert, normalise. Planes [..., 3, H, W] in [0, 1], as torchvision's tensors.

Every operation takes explicit parameters of shape [...]; its sampler maps uniform numbers to them. Parameters that change nothing
(factor 1, hue 0, False) leave an image exactly as it was.
"""
import itertools

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
    x·f + base·(1 - f) with base 0, the mean grey or the grey, and a select picks the hue shift where it is due.

    Args:
      planes: [..., 3, H, W] in [0, 1].

    Returns:
      the same shape and dtype; computed in float32.
    """
    rgb = tuple(planes[..., c, :, :].astype(jnp.float32) for c in range(3))
    pixel = {k: v[..., None, None] for k, v in params.items() if k != "order"}
    for stage in range(params["order"].shape[-1]):
        op = params["order"][..., stage][..., None, None]  # [..., 1, 1]
        factor, base = 1.0, 0.0
        grey = luminance(*rgb)
        if "brightness" in pixel:
            factor = jnp.where(op == BRIGHTNESS, pixel["brightness"], factor)
        if "saturation" in pixel:
            factor = jnp.where(op == SATURATION, pixel["saturation"], factor)
            base = jnp.where(op == SATURATION, grey, base)
        if "contrast" in pixel:
            factor = jnp.where(op == CONTRAST, pixel["contrast"], factor)
            base = jnp.where(op == CONTRAST, jnp.mean(grey, (-2, -1), keepdims=True), base)
        blended = tuple(jnp.clip(x * factor + base * (1.0 - factor), 0.0, 1.0) for x in rgb)
        if "hue" in pixel:
            turned = shift_hue(*rgb, jnp.where(op == HUE, pixel["hue"], 0.0))
            blended = tuple(jnp.where(op == HUE, t, x) for t, x in zip(turned, blended))
        rgb = blended
    return jnp.stack(rgb, -3).astype(planes.dtype)


def shift_hue(r, g, b, shift):
    """Turns the hue by `shift` turns in HSV, without branches: each channel is max - chroma·tent(hue)."""
    top, bottom = jnp.maximum(jnp.maximum(r, g), b), jnp.minimum(jnp.minimum(r, g), b)
    chroma = top - bottom
    inverse = 1.0 / jnp.where(chroma > 0, chroma, 1.0)
    sector = jnp.where(
        r == top, (g - b) * inverse, jnp.where(g == top, 2.0 + (b - r) * inverse, 4.0 + (r - g) * inverse)
    )  # hue in sixths of a turn, [-1, 5]
    hue = sector + 6.0 * shift
    hue = hue - 6.0 * jnp.floor(hue * (1.0 / 6.0))  # [0, 6]
    out = (
        bottom + chroma * jnp.clip(jnp.abs(hue - 3.0) - 1.0, 0.0, 1.0),
        bottom + chroma * jnp.clip(2.0 - jnp.abs(hue - 2.0), 0.0, 1.0),
        bottom + chroma * jnp.clip(2.0 - jnp.abs(hue - 4.0), 0.0, 1.0),
    )
    return tuple(jnp.where(shift == 0.0, old, new) for old, new in zip((r, g, b), out))


def luminance(r, g, b):
    """ITU-R 601 weights with torchvision's digits."""
    return 0.2989 * r + 0.587 * g + 0.114 * b


def gray(planes, apply):
    """Replaces the channels by their luminance where `apply` [...] is true."""
    rgb = tuple(planes[..., c, :, :].astype(jnp.float32) for c in range(3))
    grey = luminance(*rgb)[..., None, :, :].astype(planes.dtype)
    return jnp.where(apply[..., None, None, None], grey, planes)


def solarize(planes, apply, *, threshold=0.5):
    """Inverts the values at or above `threshold` where `apply` [...] is true."""
    return jnp.where(apply[..., None, None, None] & (planes >= threshold), 1 - planes, planes)


def invert(planes, apply):
    """Inverts all values where `apply` [...] is true."""
    return jnp.where(apply[..., None, None, None], 1 - planes, planes)


def normalize(planes, mean, std):
    """(x - mean) / std for each channel; `mean` and `std` are three numbers on the [0, 1] scale."""
    scale = 1.0 / np.asarray(std, np.float32)
    shift = -np.asarray(mean, np.float32) * scale
    return planes * scale[:, None, None].astype(planes.dtype) + shift[:, None, None].astype(planes.dtype)
