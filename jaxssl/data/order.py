"""Which sample stands where: a pure function of (seed, step, position), the same for any number of processes.

Within an epoch the order is a permutation of `range(n)` computed element by element (a Feistel network on the next
even power of two, with cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), so it costs
no memory, resumes at any step, and depends on nothing but the integer arithmetic below: no random generator whose
stream a library may change.
"""
import functools
from collections.abc import Callable

import numpy as np

# Which samples make a batch: order(number of the batch, rows of it or None) -> ids int64. Pure, so that every process and every resume agree.
Order = Callable[..., np.ndarray]
ROUNDS = 8
_TINY, _FEW = 64, 2**13         # a domain of 6 bits, and how many elements of such are looked up at a time
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x):
    """The splitmix64 output function: a bijection of uint64 in which every input bit changes every output bit."""
    x = np.asarray(x, np.uint64)
    return _mixed(x) if x.ndim else _mixed(x[None])[0]


def _mixed(x):
    """`mix` of an array, which wraps around without a warning."""
    x = x + _GOLDEN
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def evenly(n: int, most: int) -> np.ndarray:
    """At most `most` indices int64 spread evenly over range(n); all of them if `most` is 0."""
    return np.arange(n) if not most or most >= n else np.linspace(0, n - 1, most).round().astype(np.int64)


def permute(x, n, key):
    """The image of each `x` in [0, n) under the permutation of `range(n)` chosen by `key`.

    `x` int64, `n` int, `key` uint64, each one number or an array that broadcasts with the others (a key an element, so that a batch may straddle
    epochs; an n an element, so that each class has its own). -> int64.
    """
    if np.min(n, initial=1) < 1:
        raise ValueError(f"a permutation needs n ≥ 1, got {np.min(n)}")
    x, n, key = np.broadcast_arrays(np.asarray(x, np.int64), np.asarray(n, np.int64), np.asarray(key, np.uint64))
    if x.size and not (0 <= x.min() and (x < n).all()):
        raise ValueError(f"positions must lie in [0, {n.max()})")
    # Halves of at least 3 bits: a 1-bit Feistel network reaches only part of the permutations of a tiny set. frexp gives the bit length, exactly below 2^53.
    half = np.maximum(3, (np.frexp((n - 1).ravel().astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    y, most, open_ = x.astype(np.uint64).ravel(), n.ravel().astype(np.uint64), np.arange(x.size)
    keys = [mix(key.ravel() ^ mix(np.uint64(r))) for r in range(ROUNDS)]
    tiny = np.flatnonzero(most <= _TINY)
    if 0 < len(tiny) <= _FEW:                           # cycles through most of the domain: one pass over all of it, and the walk is a look-up
        table = _feistel(np.arange(_TINY, dtype=np.uint64), np.uint64(3), [k[tiny, None] for k in keys])
        rows, walk = np.arange(len(tiny)), y[tiny]
        while rows.size:
            walk[rows] = table[rows, walk[rows]]
            rows = rows[walk[rows] >= most[tiny[rows]]]
        y[tiny], open_ = walk, np.flatnonzero(most > _TINY)
    while open_.size:                                   # walk on along the cycle until every value is back in range(n)
        y[open_] = _feistel(y[open_], half[open_], [k[open_] for k in keys])
        open_ = open_[y[open_] >= most[open_]]
    return y.astype(np.int64).reshape(x.shape)


def _feistel(x, half, keys):
    """One pass of the network over 2·half bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def shuffled(seed: int, batch_size: int, n: int) -> Order:
    """The order of training: `ids`, every epoch a permutation of its own."""
    return functools.partial(_shuffled, seed, batch_size, n)


def _shuffled(seed, batch_size, n, number, rows=None):
    return ids(seed, number, batch_size, n, rows)


def ids(seed: int, step: int, batch_size: int, n: int, rows: slice | None = None) -> np.ndarray:
    """The samples of batch number `step`: int64 [B], or the rows `rows` of them.

    Global position p = step·batch_size + row lies in epoch p // n, at place p % n of that epoch's permutation: every
    epoch holds each of the `n` samples exactly once, and a batch may straddle epochs.
    """
    if n < 1 or batch_size < 1 or step < 0:
        raise ValueError(f"need n ≥ 1, batch_size ≥ 1, step ≥ 0; got n={n}, batch_size={batch_size}, step={step}")
    row = np.arange(batch_size, dtype=np.int64)[rows if rows is not None else slice(None)]
    position = np.int64(step) * np.int64(batch_size) + row
    seed_key = mix(np.uint64(seed % 2**64))
    return permute(position % n, n, mix(seed_key ^ (position // n).astype(np.uint64)))


def batch_number(step: int, skipped=()) -> int:
    """The number of the batch that `step` trains on when the batches in `skipped` are left out (a rolled-back run)."""
    number = step
    for s in sorted(set(skipped)):
        if s <= number:
            number += 1
    return number
