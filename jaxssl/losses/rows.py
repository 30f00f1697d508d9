"""Sums over the images of a batch, some rows at a time, so that what is computed of them is never held for all: forward, and again in the backward pass."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def summed(f: Callable, x: Any, block: int, *, add: Callable = jnp.add, start: float = 0.) -> Any:
    """f(x) of a function that is a sum over the rows of x, an array [B, …] or a tree of them; in parts of `block` rows, 0 or at least B for all at once.

        total = start
        for part in parts of x:
            total = add(total, f(part))

    Meant for one device: where the rows lie on several, these would come together at every part.
    """
    size = len(jax.tree.leaves(x)[0])
    if not 0 < block < size:
        return f(x)
    whole = size // block * block
    part = jax.checkpoint(f, prevent_cse=False)                       # inside a scan nothing is merged with the forward pass anyway

    def one(total, rows):
        return jax.tree.map(add, total, part(rows)), None

    def cut(first, last):                                             # a slice that is all would be a copy
        return jax.tree.map(lambda a: a if last - first == size else a[first:last], x)
    shapes = jax.eval_shape(f, jax.tree.map(lambda a: jax.ShapeDtypeStruct((block, *a.shape[1:]), a.dtype), x))
    total = jax.tree.map(lambda a: jnp.full(a.shape, start, a.dtype), shapes)
    total, _ = lax.scan(one, total, jax.tree.map(lambda a: a.reshape(-1, block, *a.shape[1:]), cut(0, whole)))
    return total if whole == size else one(total, cut(whole, size))[0]


def mapped(f: Callable, x: jax.Array, block: int) -> jax.Array:
    """f(x) of a function of each row of x [B, …] by itself, in parts as in `summed`."""
    if not 0 < block < len(x):
        return f(x)
    whole = len(x) // block * block
    rows = x if whole == len(x) else x[:whole]
    found = lax.map(f, rows.reshape(-1, block, *x.shape[1:]))
    found = found.reshape(whole, *found.shape[2:])
    return found if whole == len(x) else jnp.concatenate([found, f(x[whole:])])
