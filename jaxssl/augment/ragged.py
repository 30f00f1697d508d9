"""Masks of unequal size, as iBOT and DINOv2 draw them for the crops of a batch: some crops whole, the others hidden to shares that lie evenly in a range.

Shapes are static all the same: a mask is a row of booleans, and the hidden patches of a group of crops stand in a buffer that holds the most that could be hidden.

Oquab et al. 2023, "DINOv2: learning robust visual features without supervision"; its code dinov2/data/collate.py and masking.py. Zhou et al. 2021, "iBOT: image BERT
pre-training with online tokenizer", section 4.1.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.augment import masks

SHAPES = ("block", "random")


class Hidden(NamedTuple):
    """What is hidden of R crops of N patches, which lie in G groups of R / G neighbours.

    mask: bool [R, N]. place: int32 [G, M], where the hidden patches stand in a group's R / G · N, in order; behind them 0.
    weight: f32 [G, M], one over the number of patches hidden in the same crop; 0 where the buffer is not used.
    """
    mask: jax.Array
    place: jax.Array
    weight: jax.Array

    def taken(self, tokens: jax.Array) -> jax.Array:
        """Of tokens [R, N, D] those of hidden patches, [G · M, D]; unused places hold the first token of their group. No token leaves its group."""
        groups, most = self.place.shape
        tokens = tokens.reshape(groups, -1, tokens.shape[-1])                                       # [R, N, D] -> [G, R/G·N, D]
        return jnp.take_along_axis(tokens, self.place[..., None], 1).reshape(groups * most, -1)


def draw(key, crops, grid, *, share, ratios, groups=1, exact=True, shape="block", smallest=4, aspect=.3, tries=32, multiple=1):
    """Hides patches of some crops. In each group, with n = int(crops / groups · share):

        edges = linspace(*ratios, n + 1)
        for i in range(n):                                                      # exact: DINOv3's count, which no draw changes
            count = int(N * edges[i + 1]) if exact else int(N * U(edges[i], edges[i + 1]))
            hide rectangles of together at most `count` patches; exact: then single patches at random, up to `count`
        deal these masks and crops / groups - n empty ones to the crops at random

    Rectangles are those of `masks.block`; the official code goes on until ten tries in a row fail, where a number of tries of its own makes all crops cost the same.

    Args:
      crops: R. grid: (height, width) in patches. share: of the crops that lose patches, in [0, 1]; .5.
      ratios: (low, high), of the patches that are hidden in such a crop; (.1, .5).
      groups: divides R; of neighbouring crops, so that where the devices divide the groups no patch leaves its device. The official code has one a GPU, of 128 crops.
      shape: "block", or "random" patches one by one, which are always as many as drawn.
      smallest, aspect, tries: of the rectangles: the smallest area, the longest shape, how many are tried.
      multiple: of which G · M is one.
    Returns: Hidden.
    Raises: ValueError for what is out of range, or hides nothing.
    """
    counts = bounds(crops, grid, share, ratios, groups)                                             # [n], the most of each
    size, n_patches = crops // groups, math.prod(grid)
    step = multiple // math.gcd(multiple, groups)
    most = -(-int(counts.sum()) // step) * step
    edges = np.linspace(*ratios, len(counts) + 1)

    def group(key):
        deal, amount, places = jax.random.split(key, 3)
        u = jax.random.uniform(amount, (len(counts),))
        drawn = jnp.asarray(counts) if exact else jnp.floor(n_patches * (edges[:-1] + u * np.diff(edges)) + 1e-6).astype(jnp.int32)
        count = jax.random.permutation(deal, jnp.concatenate([drawn, jnp.zeros(size - len(counts), jnp.int32)]))                # [R/G]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(places, jnp.arange(size))
        if shape == "block":
            mask = jax.vmap(lambda key, count: _rectangles(key, count, grid, smallest, aspect, tries, exact))(keys, count)      # [R/G, N]
        else:
            mask = jax.vmap(lambda key, count: _least(jax.random.bits(key, (n_patches,)), count))(keys, count)
        flat = mask.reshape(-1)
        place = jnp.nonzero(flat, size=most, fill_value=0)[0].astype(jnp.int32)                     # [M]
        used = jnp.arange(most) < flat.sum()
        each = jnp.repeat(1 / jnp.maximum(mask.sum(-1), 1), n_patches)
        return mask, place, jnp.where(used, each[place], 0.)

    mask, place, weight = jax.vmap(group)(jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(groups)))
    return Hidden(mask.reshape(crops, -1), place, weight)


def bounds(crops, grid, share, ratios, groups):
    """[n] int, ascending: the most patches that are hidden in each masked crop of a group. ValueError for what is out of range, or hides nothing."""
    low, high = ratios
    if not (0 <= low <= high < 1 and 0 <= share <= 1):
        raise ValueError(f"the shares are {ratios} of the patches in {share} of the crops; expected 0 ≤ low ≤ high < 1, and 0 to 1")
    if groups < 1 or crops % groups:
        raise ValueError(f"groups is {groups}; expected a divisor of the {crops} crops")
    masked = int(crops // groups * share + 1e-6)
    counts = np.floor(math.prod(grid) * np.linspace(low, high, masked + 1)[1:] + 1e-6).astype(np.int32)
    if not masked or counts[-1] < 1:
        raise ValueError(f"{share} of {crops // groups} crops in a group, to at most {high} of {math.prod(grid)} patches, leaves nothing hidden; raise the share of crops, "
                         "the ratios, or the crops in a group (a larger batch, fewer groups)")
    return counts


def _least(x, count):
    """bool [N]: the `count` least of x uint32, drawn; equal ones at the border, one time in millions, are all in."""
    return x < jnp.append(jnp.sort(x), np.uint32(2**32 - 1))[count]


def _rectangles(key, count, grid, smallest, aspect, tries, complete):
    """bool [N] of `count` hidden patches, or of a few less unless `complete`."""
    draws, rest = jax.random.split(key)
    mask = masks.rectangles(draws, count, grid, smallest=smallest, aspect=aspect, tries=tries).reshape(-1)
    # What is in no rectangle comes behind, in random order, so that the exact count is reached from it.
    return mask | _least(jnp.where(mask, 0, jax.random.bits(rest, mask.shape)), count) if complete else mask
