"""The order of metric learning: M images of each of B/M classes in every batch, a pure function of (seed, number of the batch), as `order` is.

A round holds every class once, so every class comes equally often, whatever it holds. An epoch is as many rounds as the largest class needs to
show each of its images, M at a time; smaller classes show theirs again within it, each equally often but for one. Within a batch no class comes twice, and no image
unless its class has fewer than M. Nothing is kept between batches: any number of processes agrees, and resuming needs the number alone.
"""
import numpy as np

from jaxssl.data.order import Order, mix, permute
from jaxssl.errors import UserError

_OF_CLASSES, _OF_IMAGES = np.uint64(1), np.uint64(2)       # what a key is for
_TOGETHER = 4096                # images that are drawn at a time: most of a draw's cost is the same for one batch and for many


def check(batch_size: int, m: int, classes: int) -> None:
    """Raises: UserError when no batch can hold `m` images of each of batch_size / m different classes."""
    if m < 1:
        raise UserError(f"data.per_class is {m}; it is the number of images of each class in a batch, at least 1")
    if batch_size % m:
        below = max(batch_size // m, 1) * m
        raise UserError(f"batch_size is {batch_size}, which is not a multiple of data.per_class={m} images of each of the {classes} classes; use {below} or {below + m}")
    if m * classes < batch_size:
        raise UserError(f"batch_size is {batch_size}, but {classes} classes with data.per_class={m} images of each fill {m * classes}; use a batch_size of at most "
                        f"{m * classes}, or data.per_class={-(-batch_size // max(classes, 1))} or more")


def m_per_class(seed: int, batch_size: int, labels: np.ndarray, m: int) -> Order:
    """The order of training with `m` images of each of batch_size / m classes: row i of a batch is of its class i mod (batch_size / m), so that parts of a batch
    (devices, micro-batches, ghost groups of batch norm) hold as many classes as they can.

    labels: int [N] of the training images; one below 0 has no class and is not drawn. Raises: UserError (`check`).
    """
    labels = np.asarray(labels)
    known = np.flatnonzero(labels >= 0)
    members = known[np.argsort(labels[known], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[members], prepend=-1))           # of each class that has images
    check(batch_size, m, len(starts))
    return _Drawn(seed, batch_size // m, m, members, starts, np.diff(starts, append=len(members)))


def epoch(order: Order) -> int:
    """The images of an epoch of an `m_per_class` order: after so many, every one was seen."""
    return int(-(-order.counts.max() // order.m)) * order.m * len(order.counts)


class _Drawn:
    """An `Order`. members int [N]: the images, class after class; starts, counts int [C]: where each class begins among them, and how many it has. The batches of two
    blocks are kept, since each is asked for by the stream and by the digest of its ids."""

    def __init__(self, seed, groups, m, members, starts, counts):
        self.seed, self.groups, self.m, self.members, self.starts, self.counts = seed, groups, m, members, starts, counts
        self.blocks, self.size = {}, max(1, _TOGETHER // (groups * m))

    def __call__(self, number, rows=None):
        block, place = divmod(int(number), self.size)
        found = self.blocks.get(block)
        if found is None:
            found = self._block(np.arange(block * self.size, (block + 1) * self.size))
            self.blocks = {**dict(list(self.blocks.items())[-1:]), block: found}
        return (found[place] if rows is None else found[place][rows]).copy()

    def _block(self, numbers):
        """int64 [X, B] of the batches with these numbers."""
        classes, key = len(self.starts), mix(np.uint64(self.seed % 2**64))
        drawn = windows(numbers, self.groups, np.full(len(numbers), classes), mix(key ^ _OF_CLASSES)).reshape(-1)                  # [X · G]
        round_ = (numbers[:, None] * self.groups + np.arange(self.groups)).reshape(-1) // classes
        rounds = -(-self.counts.max() // self.m)                            # of an epoch
        keys = mix(mix(mix(key ^ _OF_IMAGES) ^ (round_ // rounds).astype(np.uint64)) ^ drawn.astype(np.uint64))
        place = windows(round_ % rounds, self.m, self.counts[drawn], keys)  # [X · G, M]
        ids = self.members[self.starts[drawn][:, None] + place]
        return ids.reshape(len(numbers), self.groups, self.m).swapaxes(1, 2).reshape(len(numbers), -1)


def windows(number: np.ndarray, size: int, n: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The window `number` of `size` elements of an endless sequence that holds each of range(n) once in every n: int64 [X, size] of number, n, key [X].

    No window holds an element twice where n ≥ size, also one that straddles two permutations. From 2·size on, each permutation is drawn anew, and its first
    `size` places are reordered: what the straddling window has already had comes last among them. Below, one permutation goes round until window and permutation end
    together, and then another one is drawn.
    """
    number, n, key = np.asarray(number, np.int64)[:, None], np.asarray(n, np.int64)[:, None], np.broadcast_to(key, np.shape(number))[:, None]
    at = number * size + np.arange(size)                                    # [X, size]
    small = n < 2 * size
    turn = np.where(small, np.lcm(n, size), n)
    out = permute(at % turn % n, n, mix(key ^ (at // turn).astype(np.uint64)))
    for cycle in (at[:, :1] // turn, at[:, -1:] // turn):                   # the same, but for a window that straddles
        had = cycle * n % size                                              # elements of the window that the cycle before gave
        rows = np.flatnonzero(~small[:, 0] & (had > 0)[:, 0] & (at[:, :1] - cycle * n < size)[:, 0])
        if not len(rows):
            continue
        c, count, k = cycle[rows], n[rows], key[rows]
        places = np.arange(size)
        first = permute(places, count, mix(k ^ c.astype(np.uint64)))
        before = permute(count - size + places, count, mix(k ^ (c - 1).astype(np.uint64)))
        apart = np.arange(len(rows))[:, None] * np.int64(count.max())       # rows do not meet one another's elements
        clash = np.isin(first + apart, (before + apart)[places >= size - had[rows]])
        first = np.take_along_axis(first, np.argsort(clash, axis=1, kind="stable"), axis=1)
        place = at[rows] - c * count
        inside = (0 <= place) & (place < size)
        out[rows] = np.where(inside, np.take_along_axis(first, np.clip(place, 0, size - 1), axis=1), out[rows])
    return out
