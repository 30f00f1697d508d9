"""Encoders and heads; the only package that imports flax.linen."""
import flax.linen as nn
import jax.numpy as jnp

from jaxssl.errors import UserError, nearest
from jaxssl.models import heads, resnet
from jaxssl.models.features import Features
from jaxssl.models.net import Net

__all__ = ["DTYPES", "Features", "Net", "heads", "make", "resnet"]

DTYPES = {"bf16": jnp.bfloat16, "f32": jnp.float32}


def make(*, name: str = "resnet50", width: float = 1.0, stem: str = "imagenet", zero_init: bool = True, bn_groups: int = 1,
         bn_momentum: float = 0.9, bn_eps: float = 1e-5, remat: bool = False, precision: str = "bf16") -> nn.Module:
    """Makes an encoder: `encoder.apply(variables, images [B, H, W, 3], train)` gives `Features`: pooled [B, encoder.features] and tokens, in float32.

    name: resnet10, 18, 34, 50, 101 or 152.
    width: multiplies every channel count (64 in the first stage at 1).
    stem: "imagenet" (7×7 of stride 2, max pool), "cifar" (3×3 of stride 1, no pool) or "tensorflow" (imagenet's with TensorFlow's padding of the pool).
    zero_init: the last norm scale of each block starts at zero, so that blocks start as identities (arXiv:1706.02677, §5.1).
    bn_groups: ghost batch norm; the forward batch is cut into so many contiguous groups. One is the global batch.
    bn_momentum: share of the old running average kept (.9 is torch's .1; SimCLR's .9).
    remat: recompute blocks in the backward pass; less memory for about a third more arithmetic.
    precision: "bf16" or "f32" arithmetic; parameters, statistics and features are float32 in both.
    """
    if name not in resnet.LAYERS:
        raise UserError(f"model.name is '{name}'{nearest(name, resnet.LAYERS)}; choose one of {', '.join(resnet.LAYERS)}.")
    if stem not in resnet.STEMS:
        raise UserError(f"model.stem is '{stem}'{nearest(stem, resnet.STEMS)}; choose one of {', '.join(resnet.STEMS)}.")
    if precision not in DTYPES:
        raise UserError(f"precision is '{precision}'{nearest(precision, DTYPES)}; choose one of {', '.join(DTYPES)}.")
    first = round(64 * width)
    if first < 1:
        raise UserError(f"model.width is {width}, which leaves no channel; choose at least {1 / 64:.4f}.")
    if bn_groups < 1:
        raise UserError(f"model.bn_groups is {bn_groups}; choose 1 for the global batch, or the number of ghost groups.")
    kind, depths = resnet.LAYERS[name]
    return resnet.ResNet(kind, depths, first, stem, zero_init, bn_groups, bn_momentum, bn_eps, remat, DTYPES[precision])
