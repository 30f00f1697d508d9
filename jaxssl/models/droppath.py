"""Stochastic depth (Huang et al., arXiv:1603.09382): a residual branch is left out for some rows of a batch, and what is kept is scaled up."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = ("linear", "uniform")


def rates(depth: int, most: float, shape: str) -> np.ndarray:
    """The chance `[depth]` float32 that a block's branch is left out: "linear" grows from 0 to `most` (DeiT, timm), "uniform" is `most` (DINOv2)."""
    return (np.linspace(0.0, most, depth) if shape == "linear" else np.full(depth, most)).astype(np.float32)


def by_row(branch: Callable, x: jax.Array, key: jax.Array, rate: jax.Array, rows: jax.Array) -> jax.Array:
    """x `[B, …]` plus branch(x), `kept` for some rows."""
    return x + kept(branch(x), key, rate, rows)


def kept(y: jax.Array, key: jax.Array, rate: jax.Array, rows: jax.Array) -> jax.Array:
    """A branch's output `[B, …]`, kept for each row with chance 1 - rate and then divided by it, else zero.

    What is drawn for a row depends on the key and on its place in the global batch, `rows [B]` int32, and on nothing else: a part of a batch draws
    what the whole batch would.
    """
    chosen = jax.vmap(lambda row: jax.random.bernoulli(jax.random.fold_in(key, row), 1 - rate))(rows)
    scale = (chosen / (1 - rate)).reshape(-1, *(1,) * (y.ndim - 1))                 # [B, 1, …]
    return (y.astype(jnp.float32) * scale).astype(y.dtype)


def on_subset(branch: Callable, x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """x `[B, N, D]` plus branch(x) of k = max(int(B · (1 - rate)), 1) rows drawn without replacement, times B / k (DINOv2, arXiv:2304.07193, §5).

    Left-out rows are not computed. The draw is over the rows of this call: parts of a batch do not draw what the whole batch would.
    """
    size = len(x)
    count = max(int(size * (1 - rate)), 1)
    if count == size:
        return x + branch(x)
    chosen = jax.random.permutation(key, size)[:count]                              # [k]
    return x.at[chosen].add((branch(x[chosen]).astype(jnp.float32) * (size / count)).astype(x.dtype))
