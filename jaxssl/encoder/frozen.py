"""Trained encoders that a run asks and never trains, such as the teacher of a distillation: what `methods.base.Frozen` tells of weights by their path."""
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxssl import models
from jaxssl.encoder import load as loading
from jaxssl.errors import UserError
from jaxssl.models import dense
from jaxssl.methods.base import Frozen

STAMPED = ("", "config.json", "model.safetensors", "checkpoints")        # whose times say that a folder of weights is still the one that was looked at


def opener(encoder: models.Net, *, mean: tuple, std: tuple, precision: str) -> Callable[[str], Frozen]:
    """`frozen` of a method's context, for a run whose `encoder` sees pixels less `mean` over `std`: path -> Frozen. "" is a stand-in like that encoder.

    Raises: UserError for a path at which `jaxssl.load` finds no encoder; it names method.teacher, since that is where paths come from.
    """
    def frozen(path: str) -> Frozen:
        if not path:
            return Frozen(encoder)
        place = path if "://" in path else os.path.expanduser(path)
        try:
            config, heads, shapes, preprocessing = _looked(place, _stamp(place))
        except UserError as error:
            raise UserError(f"method.teacher: {error}") from error
        module = models.make(**config["model"], precision=precision)
        return Frozen(models.Net(module), {name: models.Net(head) for name, (head, below) in heads.items() if below == "encoder"}, shapes,
                      functools.partial(seen, ours=(mean, std), theirs=preprocessing, multiple=dense.patch(module)))
    return frozen


def seen(views: jax.Array, side: int, *, ours: tuple, theirs: dict, multiple: int = 1) -> jax.Array:
    """Views [..., H, W, C] by the mean and deviation `ours` -> [..., side, side, C] f32 by those of the preprocessing `theirs`, enlarged or shrunk by its filter, antialiased.

    side: 0 is the side that it states. Raises: UserError for one that is no `multiple`.
    """
    if side % multiple:
        near = max(side // multiple, 1) * multiple
        raise UserError(f"method.teacher_size is {side}; the teacher's patches have {multiple} pixels a side, so choose a multiple of that, such as {near}")
    (mean, std), (their_mean, their_std) = ((jnp.asarray(m, jnp.float32), jnp.asarray(s, jnp.float32)) for m, s in (ours, (theirs["mean"], theirs["std"])))
    pixels, side = views.astype(jnp.float32) * std + mean, side or theirs["size"]                   # in [0, 1]
    if pixels.shape[-3:-1] != (side, side):
        kind = {"bilinear": "linear", "bicubic": "cubic"}[theirs["interpolation"]]
        pixels = jax.image.resize(pixels, (*pixels.shape[:-3], side, side, pixels.shape[-1]), kind, precision="highest")
        pixels = jnp.clip(pixels, 0, 1)                                                             # a cubic filter reaches beyond, and views are cut there
    return (pixels - their_mean) / their_std


def _stamp(path):
    """Times of what lies at a path; () in a bucket."""
    places = (os.path.join(path, name) if name else path for name in STAMPED)
    return () if "://" in path else tuple(os.stat(place).st_mtime_ns if os.path.exists(place) else 0 for place in places)


@functools.lru_cache(maxsize=4)
def _looked(path: str, stamp: tuple) -> tuple[dict, dict, Any, dict]:
    """Config, heads, shapes and preprocessing of the weights at `path`: read whole, since that is what finds them sound, and let go; a job asks several times."""
    source = loading.load(path)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), source.variables)
    return source.config, source.heads, shapes, source.preprocessing
