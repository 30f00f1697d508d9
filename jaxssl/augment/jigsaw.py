"""Jigsaw puzzles: an image cut into cells, a patch of each, in an order drawn for each image (Noroozi and Favaro 2016; as a view, Misra and van der Maaten 2020, PIRL)."""
import jax
import jax.numpy as jnp


def side(size, grid, share):
    """Pixels of a patch's side: `share` of a cell's, rounded down, at least 1. Raises: ValueError where the image has fewer pixels than cells."""
    if size < grid:
        raise ValueError(f"an image of {size} pixels a side cannot be cut into {grid} × {grid} cells")
    return max(int(size // grid * share + 1e-6), 1)


def patches(key, images, *, grid=3, share=64 / 85):
    """[B, L, S, S, C] → [B, L, grid², p, p, C]: of each cell of S // grid pixels a patch of p = `side(S, grid, share)` at a place of its own, the patches in a random order.

    What the edge leaves over after `grid` whole cells is not seen. Places and order depend on the key and on an image's place in the batch alone, whatever the devices.
    Raises: ValueError as `side`.
    """
    B, L, S, _, C = images.shape
    p, cell, n = side(S, grid, share), S // grid, grid * grid
    where, order = jax.random.split(key)
    corner = jax.random.randint(where, (B, L, n, 2), 0, cell - p + 1)                                       # within the cell
    number = jnp.argsort(jax.random.uniform(order, (B, L, n)), -1)                                          # which cell stands at each place
    top, left = number // grid * cell + corner[..., 0], number % grid * cell + corner[..., 1]               # [B, L, n]

    def cut(image, top, left):                                                                              # [S, S, C], [], []
        return jax.lax.dynamic_slice(image, (top, left, 0), (p, p, C))
    of_image = jax.vmap(cut, (None, 0, 0))
    return jax.vmap(jax.vmap(of_image))(images, top, left)
