"""One vector a place: maps of an encoder's features, of its last blocks, and what class token and registers attend to."""
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.models import transformer


class Maps(NamedTuple):
    """Of images [B, H, W, C], all float32; P is the number of class tokens and registers.

    pooled: [B, D]. patches: [B, h, w, D] for each block that was asked for. prefix: [B, P, D] for each of them, the class token first.
    attention: [B, heads, P, h, w] of the last block, from each of these tokens to the patches: the softmax over all tokens, so that a map sums to at
    most 1; None unless it was asked for.
    """
    pooled: jax.Array
    patches: tuple[jax.Array, ...]
    prefix: tuple[jax.Array, ...]
    attention: jax.Array | None


def maps(module: Any, params: dict, stats: dict, x: jax.Array, *, blocks: Sequence[int] = (-1,), norm: bool = True, attention: bool = False) -> Maps:
    """What an encoder says of each place of normalised images, in inference mode. Pure.

    blocks: which of a transformer's, from 0, or from -1 backwards; another network has its last map (-1) alone. norm: behind the final norm, as DINOv2's
    linear segmentation takes all four (its depth does not). Raises: UserError for what this network has not.
    """
    if not hasattr(module, "patch"):
        if attention or tuple(blocks) != (-1,):
            raise UserError(f"this network has no transformer blocks{' whose attention could be shown' if attention else ''}; its last map is what there is (blocks -1)")
        found = module.apply({"params": params, "batch_stats": stats}, x, train=False)
        return Maps(found.pooled, (found.tokens.reshape(len(x), *grid(module, x.shape[1:3], found.tokens.shape[1]), -1),), (jnp.zeros((len(x), 0, found.tokens.shape[2])),), None)
    if wrong := [block for block in blocks if not -module.depth <= block < module.depth]:
        raise UserError(f"block {wrong[0]} is not one of the {module.depth} of this network; count from 0, or from -1 backwards")
    found, shown = module.apply({"params": params, "batch_stats": stats}, x, train=False, mutable=[transformer.SEEN])
    shown = _stacked(shown[transformer.SEEN])                                           # name -> [depth, B, P + N, …]
    height, width = grid(module, x.shape[1:3], found.tokens.shape[1])
    before = module.cls + module.registers
    outputs = [shown["output"][block].astype(jnp.float32) for block in blocks]
    outputs = [_layer_norm(y, params["norm"], module.eps) for y in outputs] if norm else outputs
    weights = None
    if attention:
        q, k = (shown[name][-1].astype(jnp.float32) for name in ("query", "key"))       # [B, P + N, heads, D/heads]
        scores = jnp.einsum("bphd,bnhd->bhpn", q[:, :before], k, precision=jax.lax.Precision.HIGHEST) / q.shape[-1]**.5
        weights = jax.nn.softmax(scores)[..., before:].reshape(len(x), module.heads, before, height, width)
    return Maps(found.pooled, tuple(y[:, before:].reshape(len(x), height, width, -1) for y in outputs), tuple(y[:, :before] for y in outputs), weights)


def grid(module: Any, shape: Sequence[int], tokens: int) -> tuple[int, int]:
    """Rows and columns of the `tokens` that a network gives for images of `shape` (height, width)."""
    if hasattr(module, "patch"):
        return shape[0] // module.patch, shape[1] // module.patch
    sizes = ((-(-shape[0] // step), -(-shape[1] // step)) for step in range(1, max(shape) + 1))
    return next(size for size in sizes if size[0] * size[1] == tokens)                  # as many rows, whichever stride gives this number


def patch(module: Any) -> int:
    """What sides of images must be multiples of; 1 where any side will do."""
    return getattr(module, "patch", 1)


def spread(depth: int, count: int = 4) -> tuple[int, ...]:
    """Blocks spread over the depth as DINOv2's depth heads take them: 2, 5, 8, 11 of 12 and 9, 19, 29, 39 of 40; of 24 its 4, 11, 17, 23, where even steps
    would be 5, 11, 17, 23."""
    even = tuple(max((i + 1) * depth // count - 1, 0) for i in range(count))
    return (4, *even[1:]) if (depth, count) == (24, 4) else tuple(dict.fromkeys(even))


def _stacked(shown):
    if "blocks" in shown:
        return shown["blocks"]
    each = [shown[f"block{i}"] for i in range(len(shown))]
    return {name: [own[name] for own in each] for name in each[0]}


def _layer_norm(x, params, eps):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps) * params["scale"] + params["bias"]
