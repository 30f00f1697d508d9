"""What an encoder gives for a batch of images."""
from typing import NamedTuple

import jax


class Features(NamedTuple):
    """One vector an image and one vector a place, both float32.

    pooled: `[B, D]`, the whole image: what probes, kNN and image-level losses see.
    tokens: `[B, N, D]`, the patches of a transformer (or places of a last map), row by row from the top left; with visible patches alone, in their order.
    """
    pooled: jax.Array
    tokens: jax.Array
