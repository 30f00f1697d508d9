"""A small vector-quantised autoencoder of patches: which of K codes a patch's pixels are nearest to (van den Oord et al. 2017, arXiv:1711.00937).

z and codes have unit length, as in ViT-VQGAN (arXiv:2110.04627)."""
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.models.prototypes import unit


class Tokens(NamedTuple):
    """labels int32 [B, N]: the code of each patch. z, codes [B, N, dim]: what the patch was said to be and the code it got. 
    pixels [B, N, P]: what is made of the codes."""
    labels: jax.Array
    z: jax.Array
    codes: jax.Array
    pixels: jax.Array


class Tokenizer(nn.Module):
    """count: codes. dim: width of a code, of unit length. width: of the hidden layer on both sides."""
    count: int
    dim: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Tokens:
        """Pixels of patches [B, N, P] to `Tokens`; the decoder's gradient goes around the quantisation to z (straight through)."""
        init = nn.initializers.xavier_uniform()
        x = x.astype(jnp.float32)
        z = unit(nn.Dense(self.dim, kernel_init=init, name="code")(nn.gelu(nn.Dense(self.width, kernel_init=init, name="linear1")(x), approximate=False)), -1)
        codes = unit(self.param("codebook", nn.initializers.normal(1.0), (self.count, self.dim), jnp.float32), -1)
        labels = jnp.argmax(jnp.einsum("bnd,kd->bnk", z, codes, precision=jax.lax.Precision.HIGHEST), -1).astype(jnp.int32)
        chosen = codes[labels]
        y = nn.gelu(nn.Dense(self.width, kernel_init=init, name="linear2")(z + jax.lax.stop_gradient(chosen - z)), approximate=False)
        return Tokens(labels, z, chosen, nn.Dense(x.shape[-1], kernel_init=init, name="pixels")(y))
