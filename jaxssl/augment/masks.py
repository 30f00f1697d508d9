"""Which patches of an image are hidden: exact counts, so that every shape is static.

Image i draws from `fold_in(key, rows[i])` only: its mask does not depend on the other images, on the batch size, or on how many devices share the batch.
Views draw from the same numbers of the key that they are given: a mask needs a key of its own, or it is tied to the crop of its image.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def random(key, n_images, n_patches, ratio, rows=None):
    """Hides a share of the patches, each set of that size equally likely (MAE, He et al. 2021, section 3, "Masking").

    For each image: a random number for every patch, and the `n_keep` smallest stay.

    Args:
      key: of the step's masks.
      n_images, n_patches: B and N.
      ratio: share that is hidden, in [0, 1): n_keep = floor(N (1 - ratio)), as in the official code; .75 in MAE, .6 in SimMIM.
      rows: int32 [B], the images' places in the global batch; None says that these are all of it, 0 to B - 1. Images of one row have one mask: zeros are MSN's one
        permutation for the whole batch.

    Returns:
      keep: int32 [B, n_keep], the visible patches, ascending. The official code leaves them in the order of the random numbers and returns the inverse;
        ascending, visible patch n is number cumsum(~mask)[n] - 1 of `keep`, and nothing has to be returned.
      mask: bool [B, N], True where hidden.

    Raises:
      ValueError: a ratio that hides all or is out of its range.
    """
    n_keep = visible(n_patches, ratio)
    return jax.vmap(lambda key: _first(jnp.argsort(jax.random.bits(key, (n_patches,))), n_keep))(_keys(key, n_images, rows))


def block(key, n_images, grid, ratio, rows=None, *, smallest=4, aspect=.3, tries=32):
    """Hides rectangles (BEiT, Bao et al. 2021, algorithm 1), then single patches at random up to the exact count.

    For each image:

        mask, n_mask = {}, N - n_keep
        for _ in range(tries):
            area = U(smallest, n_mask - |mask|)                             # smallest, where less is missing
            shape = exp(U(log(aspect), log(1 / aspect)))                    # height / width
            height, width = round(sqrt(area * shape)), round(sqrt(area / shape))
            place it anywhere inside the grid, where it fits
            if 0 < its patches that are not yet hidden <= n_mask - |mask|:
                mask |= rectangle
        mask |= n_mask - |mask| patches drawn from the visible ones

    The official codes go on until ten tries in a row fail and leave what is missing (BEiT, DINOv2) or fill it as here (DINOv3); a number of tries of its
    own makes the cost of every image the same.

    Args:
      key, n_images, ratio, rows: as in `random`; BEiT hides 75 / 196.
      grid: (height, width) in patches; N is their product.
      smallest: area of the smallest rectangle, in patches: 16 in BEiT, 4 in DINOv2.
      aspect: the most elongated rectangle, in (0, 1].
      tries: rectangles drawn. On a 14 × 14 grid at .4, 32 leave .1 % of the hidden patches to be drawn one by one, .6 % where `smallest` is 16.

    Returns and raises: as `random`.
    """
    height, width = grid
    n_keep = visible(height * width, ratio)
    if not (0 < aspect <= 1 and smallest >= 1 and tries >= 1):
        raise ValueError(f"aspect, smallest and tries are {aspect}, {smallest} and {tries}; expected an aspect in (0, 1] and at least 1 of the others")

    def one(key):
        draws, rest = jax.random.split(key)
        mask = rectangles(draws, height * width - n_keep, grid, smallest=smallest, aspect=aspect, tries=tries)
        # What is in no rectangle comes first, in random order, so the exact count is reached from it.
        return _first(jnp.lexsort((jax.random.bits(rest, (height * width,)), mask.reshape(-1))), n_keep)

    return jax.vmap(one)(_keys(key, n_images, rows))


def rectangles(key, count, grid, *, smallest, aspect, tries):
    """bool [height, width]: the rectangles of one image as `block` draws them, of together at most `count` patches, which may be traced."""
    height, width = grid

    def attempt(mask, u):
        missing = count - mask.sum()
        area = smallest + u[0] * jnp.maximum(missing - smallest, 0)
        shape = jnp.exp((2 * u[1] - 1) * -math.log(aspect))
        h, w = jnp.round(jnp.sqrt(area * shape)), jnp.round(jnp.sqrt(area / shape))
        top, left = jnp.floor(u[2] * (height - h + 1)), jnp.floor(u[3] * (width - w + 1))
        i, j = jnp.arange(height)[:, None], jnp.arange(width)
        more = mask | ((i >= top) & (i < top + h) & (j >= left) & (j < left + w))
        new = more.sum() - mask.sum()
        return jnp.where((h <= height) & (w <= width) & (0 < new) & (new <= missing), more, mask), None

    return jax.lax.scan(attempt, jnp.zeros(grid, bool), jax.random.uniform(key, (tries, 4)))[0]


def inverse_block(key, n_images, grid, ratio, rows=None, *, side=3):
    """Keeps squares and hides the rest (data2vec 2.0, Baevski et al. 2022, section 3.3).

    For each image:

        visible = {}
        for square in squares of `side` patches in random order:            # cut off at the border, every patch lies in side² of them
            for patch in the square in random order:
                if |visible| < n_keep: visible |= {patch}

    so the last square is the only one that may be cut short. The official code draws squares with replacement until enough is visible and then adds or takes
    away single patches anywhere.

    Args: as in `block`; side: of a square, 3 in the paper, with a ratio of .8.
    Returns and raises: as `random`.
    """
    height, width = grid
    n_keep = visible(height * width, ratio)
    if not 1 <= side <= min(grid):
        raise ValueError(f"side is {side}; expected 1 to {min(grid)}, the shorter side of the grid")
    squares = (height + side - 1, width + side - 1)

    def one(key):
        order, rest = jax.random.split(key)
        turn = jax.random.permutation(order, squares[0] * squares[1]).reshape(squares)
        # A patch becomes visible at the first turn of the squares it lies in.
        first = jax.lax.reduce_window(turn, jnp.iinfo(turn.dtype).max, jax.lax.min, (side, side), (1, 1), "valid")      # [height, width]
        return _first(jnp.lexsort((jax.random.bits(rest, (height * width,)), first.reshape(-1))), n_keep)

    return jax.vmap(one)(_keys(key, n_images, rows))


class Blocks(NamedTuple):
    """I-JEPA's masks. keep int32 [B, n], ascending, and there bool [B, n]: the patches that are shown, and which of them are meant, the others being fillers.
    targets int32 [B, T, M] and valid bool [M]: the patches of each block, row by row, and how many there are, the same for all."""
    keep: jax.Array
    there: jax.Array
    targets: jax.Array
    valid: jax.Array


def multi_block(key, n_images, grid, visible, rows=None, *, targets=4, scale=(.15, .2), aspect=(.75, 1.5), context=(.85, 1.)):
    """Several rectangles to predict, and a large one less these to predict them from (I-JEPA, Assran et al. 2023, section 3 and appendix A.1).

    Once for all images, u and v uniform in [0, 1):

        area, shape = floor(N (scale[0] + u (scale[1] - scale[0]))), aspect[0] + u (aspect[1] - aspect[0])        # one draw, as in the official code
        height, width = round(sqrt(area * shape)), round(sqrt(area / shape))                                    # less than the grid's
        side = round(sqrt(floor(N (context[0] + v (context[1] - context[0])))))                                  # of the square that is shown

    For each image: `targets` rectangles anywhere; a square of `side` anywhere; shown are n_keep patches of the square that lie in no rectangle, drawn at random,
    or all of them where there are fewer. Every shape is static: `there` and `valid` say what counts.

    Differs from the official code: it cuts all images of a device to the fewest patches that one of them shows, the topmost, and the places that it draws never
    reach the last row and column. Here no image depends on another.

    Args:
      key, n_images, grid, rows: as in `block`.
      visible: share of the patches that are shown at most, in (0, 1]; n_keep = floor(N visible). In a grid of 14 × 14 a square of 13 less four rectangles
        has 81 patches in the mean, and one image in a hundred less than 50.
      scale, aspect, context: ranges of areas, as shares of the grid's, and of height / width.

    Returns: `Blocks`.
    Raises: ValueError: ranges out of order, nothing shown, or rectangles that together might cover the square.
    """
    height, width = grid
    n = height * width
    n_keep = int(n * visible + 1e-6)
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < context[0] <= context[1] <= 1 and 0 < aspect[0] <= aspect[1] and targets >= 1 and 1 <= n_keep <= n):
        raise ValueError(f"targets, scale, aspect, context and visible are {targets}, {scale}, {aspect}, {context} and {visible}; expected at least 1, three ranges above 0 and "
                         f"shares of at most 1, of which visible gives at least one of {n} patches")

    def sides(low, high, first, last):
        """int [256, 2]: height and width for 256 values of the draw."""
        u = (np.arange(256) + .5) / 256
        area, shape = np.floor(n * (low + u * (high - low))), first + u * (last - first)
        found = np.round(np.sqrt(np.stack([area * shape, area / shape], 1)))
        return np.clip(found, 1, np.maximum(np.array(grid) - 1, 1)).astype(int)
    sizes, squares = sides(*scale, *aspect), sides(*context, 1., 1.)
    most, least = int(sizes.prod(1).max()), int(squares.prod(1).min())
    if least <= targets * most:
        raise ValueError(f"{targets} blocks of up to {most} patches may hide all {least} of those that are shown, of {height} × {width}; "
                         "lower targets or scale, or take smaller patches")
    (h, w), (tall, wide) = (jnp.asarray(table)[jax.random.randint(jax.random.fold_in(key, i), (), 0, 256)] for i, table in enumerate((sizes, squares)))
    i, j = jnp.arange(height)[:, None], jnp.arange(width)

    def one(key):
        draws, rest = jax.random.split(key)
        u = jax.random.uniform(draws, (targets + 1, 2))

        def place(u, h, w):
            return jnp.floor(u * jnp.stack([height - h + 1, width - w + 1])).astype(jnp.int32)
        top, left = place(u[1:], h, w).T[..., None]                                         # [T, 1] each
        m = jnp.arange(most)
        patches = jnp.where(m < h * w, (top + m // w) * width + left + m % w, 0)            # [T, M]
        inside = jnp.zeros(n, bool).at[jnp.where(m < h * w, patches, n)].set(True, mode="drop")
        first, begin = place(u[0], tall, wide)
        free = ((i >= first) & (i < first + tall) & (j >= begin) & (j < begin + wide)).reshape(-1) & ~inside
        keep = _first(jnp.lexsort((jax.random.bits(rest, (n,)), ~free)), n_keep)[0]
        return keep, free[keep], patches
    return Blocks(*jax.vmap(one)(_keys(jax.random.fold_in(key, 2), n_images, rows)), jnp.arange(most) < h * w)


def units(mask, size):
    """A mask of the units of a grid for the patches that they are made of, `size` × `size` each: bool [B, h, w] → [B, h · size, w · size] (SimMIM)."""
    return jnp.repeat(jnp.repeat(mask, size, 1), size, 2)


def visible(n_patches, ratio):
    """How many of `n_patches` patches stay: floor(N (1 - ratio)), where 10 (1 - .9) is 1 and not .9999999999999998. ValueError for a ratio out of range."""
    n_keep = int(n_patches * (1 - ratio) + 1e-6) if 0 <= ratio < 1 else 0
    if n_keep < 1:
        raise ValueError(f"a ratio of {ratio} hides all of {n_patches} patches or is out of range; expected 0 ≤ ratio ≤ {1 - 1 / n_patches:.4g}")
    return n_keep


def _keys(key, n_images, rows):
    """One key an image."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n_images) if rows is None else rows)


def _first(order, n_keep):
    """One image's patches in the order in which they stay, [N] → those that do, ascending, [n_keep], and where the others are, [N]."""
    keep = jnp.sort(order[:n_keep]).astype(jnp.int32)
    return keep, jnp.ones(order.shape, bool).at[keep].set(False)
