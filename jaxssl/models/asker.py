"""A predictor that asks: what stands at some places is read off the tokens of others by attention alone (CAPI, arXiv:2502.08769, section 3)."""
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.models import transformer
from jaxssl.models.positions import sincos


class Asker(nn.Module):
    """Blocks of cross-attention and a perceptron; a question sees the tokens and no other question, so that any number of them may be asked.

    width: of the tokens and of what is given. depth, heads: of the blocks, each with parameters of its own. The other fields are those of `vit.make`.
    """
    width: int
    depth: int
    heads: int
    kernel_init: str = "normal"
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, ask: jax.Array, places: jax.Array) -> jax.Array:
        """x `[B, n, width]`, the encoder's tokens, which know their places; ask `[B, m]` int32, the places that are asked for; gives `[B, m, width]` float32.

        places: `[B, N]`, whose length alone is read: the square grid that ask counts in.
        """
        init, side = transformer.INITS[self.kernel_init], round(places.shape[1] ** 0.5)
        token = self.param("mask", transformer.NORMAL, (1, 1, self.width), jnp.float32)
        table = jnp.asarray(sincos((side, places.shape[1] // side), self.width))
        y, x = (token + table[ask]).astype(self.dtype), x.astype(self.dtype)                        # [B, m, D], [B, n, D]

        def dense(width, name):
            return nn.Dense(width, dtype=self.dtype, kernel_init=init, name=name)

        def heads(a):
            return a.reshape(*a.shape[:2], self.heads, -1)                                          # [B, n, D] -> [B, n, heads, D/heads]

        for i in range(self.depth):
            k, v = jnp.split(dense(2 * self.width, f"kv{i}")(x), 2, -1)
            q = dense(self.width, f"q{i}")(transformer.layer_norm(y, self.eps, f"norm{i}"))
            y = y + dense(self.width, f"proj{i}")(jax.nn.dot_product_attention(heads(q), heads(k), heads(v)).reshape(y.shape))
            inner = dense(4 * self.width, f"fc1_{i}")(transformer.layer_norm(y, self.eps, f"mlp_norm{i}"))
            y = y + dense(self.width, f"fc2_{i}")(nn.gelu(inner, approximate=False))
        return transformer.layer_norm(y.astype(jnp.float32), self.eps, "norm")
