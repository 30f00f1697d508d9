"""A memory bank: a row or several for every training image, by the id of the sample, that carries no gradient.

A bank lies with its rows over all devices (`places`: "rows"), so it has a multiple of `ROWS` of them; a row of zeros is one that was never written.
"""
import jax.numpy as jnp
from jax import lax

ROWS = 1024     # the number of rows is a multiple of this, so that any usual number of devices shares it equally and a checkpoint fits all of them
PART = 65536    # and of this where there are more: a bank is gone through in parts of so many


def rows(examples):
    """The rows of a bank for so many images."""
    step = ROWS if examples <= PART else PART
    return -(-examples // step) * step


def parts(*arrays):
    """Arrays [N, …] of a bank as [parts, n, …], float32: part i takes the rows i, i + parts, …, so that each lies on all devices."""
    count = max(len(arrays[0]) // PART, 1) if len(arrays[0]) % PART == 0 else 1
    return tuple(jnp.swapaxes(a.astype(jnp.float32).reshape(len(a) // count, count, *a.shape[1:]), 0, 1) for a in arrays)


def read(bank, ids):
    """bank [N, …], ids [B] int → [B, …]."""
    return lax.stop_gradient(bank[ids])


def write(bank, ids, new):
    """bank [N, …] with rows `ids` [B] replaced by `new` [B, …]; of an id that occurs more than once the last one counts, on any number of devices."""
    order = jnp.arange(len(ids))
    again = jnp.any((ids[:, None] == ids) & (order[:, None] < order), 1)                # [B]: the id comes again behind
    return bank.at[jnp.where(again, len(bank), ids)].set(lax.stop_gradient(new).astype(bank.dtype), mode="drop")


def written(bank):
    """[N] bool: which rows [N, …] hold something."""
    return jnp.any(bank != 0, tuple(range(1, bank.ndim)))
