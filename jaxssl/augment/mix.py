"""Views that show two images: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), as SSCD has them."""
import jax
import jax.numpy as jnp


def mixed(key, views, *, chance):
    """[B, V, H, W, C] → (views of which some show another image too, bool [B, V]: which).

        for b, v in views:
            if uniform() < chance:
                other, share = views[B - 1 - b, V - 1 - v], beta(2, 2)
                one half:    views[b, v] = share * views[b, v] + (1 - share) * other
                the other:   a box of √(1 - share) of both sides, around a place drawn, is that of `other`

    What is drawn depends on the key and on a view's place in the batch alone, whatever the devices. chance: in [0, 1].
    """
    B, V, H, W, _ = views.shape
    chosen, half, place, thirds = jax.random.split(key, 4)
    share = jnp.median(jax.random.uniform(thirds, (B, V, 3)), -1)                                     # the middle of three is beta(2, 2)
    centre, side = jax.random.uniform(place, (B, V, 2)), jnp.sqrt(1 - share)
    inside = [jnp.abs((jnp.arange(n) + .5) / n - centre[..., i, None]) <= side[..., None] / 2 for i, n in enumerate((H, W))]      # [B, V, H], [B, V, W]
    cut = (inside[0][..., :, None] & inside[1][..., None, :])[..., None]
    flat = (jax.random.uniform(half, (B, V)) < .5)[..., None, None, None]
    own = jnp.where(flat, share[..., None, None, None], jnp.where(cut, 0., 1.)).astype(views.dtype)
    which = jax.random.uniform(chosen, (B, V)) < chance
    return jnp.where(which[..., None, None, None], own * views + (1 - own) * views[::-1, ::-1], views), which
