"""Which patches of an image are hidden: exact counts, so that every shape is static.

Image i draws from `fold_in(key, rows[i])` only: its mask does not depend on the other images, on the batch size, or on how many devices share the batch.
Views draw from the same numbers of the key that they are given: a mask needs a key of its own, or it is tied to the crop of its image.
"""
import jax
import jax.numpy as jnp


def random(key, n_images, n_patches, ratio, rows=None):
    """Hides a share of the patches, each set of that size equally likely (MAE, He et al. 2021, section 3, "Masking").

    For each image: a random number for every patch, and the `n_keep` smallest stay.

    Args:
      key: of the step's masks.
      n_images, n_patches: B and N.
      ratio: share that is hidden, in [0, 1): n_keep = floor(N (1 - ratio)), as in the official code; .75 in MAE, .6 in SimMIM.
      rows: int32 [B], the images' places in the global batch; None says that these are all of it, 0 to B - 1.

    Returns:
      keep: int32 [B, n_keep], the visible patches, ascending. The official code leaves them in the order of the random numbers and returns the inverse;
        ascending, visible patch n is number cumsum(~mask)[n] - 1 of `keep`, and nothing has to be returned.
      mask: bool [B, N], True where hidden.

    Raises:
      ValueError: a ratio that hides all or is out of its range.
    """
    n_keep = visible(n_patches, ratio)
    return jax.vmap(lambda key: _first(jnp.argsort(jax.random.bits(key, (n_patches,))), n_keep))(_keys(key, n_images, rows))


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
