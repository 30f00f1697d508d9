"""The decoder of a masked autoencoder: tokens of the visible patches in, pixels of all patches out."""
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.errors import UserError
from jaxssl.models import transformer
from jaxssl.models.positions import sincos


class Decoder(nn.Module):
    """MAE's (arXiv:2111.06377, §3 and appendix A.1): narrower and shallower than the encoder, used in training only.

    values: numbers that it predicts for a patch. cls: a class token stands before the patches; it goes along and gives nothing.
    The other fields are those of `vit.make`. Everything but layer norms, softmax and output is computed in `dtype`.
    """
    width: int
    depth: int
    heads: int
    values: int
    cls: bool
    kernel_init: str = "normal"
    scan: bool = True
    remat: str = "none"
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """The encoder's tokens `[B, cls + n, D]`, of patches in their order, to predictions `[B, N, values]`, float32.

        mask: `[B, N]` bool, True for the N - n patches that a learned token stands for; None where all N = n are there. Images are square.
        """
        init = transformer.INITS[self.kernel_init]
        token = self.param("mask", transformer.NORMAL, (1, 1, self.width), jnp.float32)
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="embed")(x)
        first, x = x[:, :self.cls], x[:, self.cls:]                                 # [B, cls, D], [B, n, D]
        if mask is not None:
            place = jnp.maximum(jnp.cumsum(~mask, 1) - 1, 0)                        # [B, N]: which visible patch each is
            x = jnp.where(mask[..., None], token.astype(x.dtype), jnp.take_along_axis(x, place[..., None], 1))        # [B, N, D]
        x = jnp.concatenate([first, x + sincos(_square(x.shape[1]), self.width)], 1)                                  # [B, cls + N, D]
        block = {"width": self.width, "heads": self.heads, "kernel_init": self.kernel_init, "eps": self.eps, "dtype": self.dtype}
        x = transformer.run(block, x.astype(self.dtype), np.zeros(self.depth), None, None, subset=False, scan=self.scan, remat=self.remat)
        x = transformer.layer_norm(x[:, self.cls:], self.eps, "norm")
        return nn.Dense(self.values, dtype=self.dtype, kernel_init=init, name="pixels")(x).astype(jnp.float32)


def _square(n):
    side = math.isqrt(n)
    if side**2 != n:
        raise UserError(f"images of {n} patches are not square; the decoder knows the places of a square alone")
    return side, side
