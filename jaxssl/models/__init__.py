"""Encoders and heads; the only package that imports flax.linen.

A family of encoders is a module of this package with `NAMES`, the encoders it makes, and `make`, whose keywords are its keys.
"""
import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxssl.errors import UserError, nearest
from jaxssl.models import heads, resnet
from jaxssl.models.features import Features
from jaxssl.models.net import Net
from jaxssl.models.precision import DTYPES

__all__ = ["DTYPES", "Features", "Net", "families", "heads", "make", "resnet"]


def make(*, name: str = "resnet50", precision: str = "bf16", **own: Any) -> nn.Module:
    """Makes an encoder: `encoder.apply(variables, images [B, H, W, 3], train)` gives `Features`, pooled [B, encoder.features] and tokens, in float32.

    name: one of `families()`, whose `make` says what its further keys are.
    precision: "bf16" or "f32" arithmetic; parameters, statistics and features are float32 in both.
    """
    if name not in families():
        raise UserError(f"model.name is {name!r}{nearest(name, families())}; choose one of {', '.join(families())}.")
    return families()[name](name=name, precision=precision, **own)


@functools.cache
def families() -> dict[str, Callable[..., nn.Module]]:
    """{name of an encoder: the `make` of its family}."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {name: module.make for module in modules for name in getattr(module, "NAMES", ())}
