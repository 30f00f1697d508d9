"""The networks behind the encoder of a masked method, used in training only: from what it gives for the visible patches to what is predicted of the others."""
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.errors import UserError
from jaxssl.models import convnext, transformer
from jaxssl.models.convolution import convolve
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
            x = jnp.where(mask[..., None], token.astype(x.dtype), placed(x, mask))        # [B, N, D]
        x = jnp.concatenate([first, x + sincos(_square(x.shape[1]), self.width)], 1)                                  # [B, cls + N, D]
        block = {"width": self.width, "heads": self.heads, "kernel_init": self.kernel_init, "eps": self.eps, "dtype": self.dtype}
        x, _ = transformer.run(block, x.astype(self.dtype), np.zeros(self.depth), None, None, subset=False, scan=self.scan, remat=self.remat)
        x = transformer.layer_norm(x[:, self.cls:], self.eps, "norm")
        return nn.Dense(self.values, dtype=self.dtype, kernel_init=init, name="pixels")(x).astype(jnp.float32)


class Predictor(nn.Module):
    """I-JEPA's (arXiv:2301.08243, section 3, "Prediction"): narrow; learned tokens at the places that are asked for attend to the visible ones and to each other.

    out: width of what it predicts. The other fields are those of `vit.make`.
    """
    width: int
    depth: int
    heads: int
    out: int
    kernel_init: str = "normal"
    scan: bool = True
    remat: str = "none"
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, keep: jax.Array, there: jax.Array, asked: jax.Array, valid: jax.Array, grid: jax.Array) -> jax.Array:
        """The encoder's tokens `[R, n, D]`, of the patches `keep [R, n]` of which those are meant that are `there [R, n]`, to predictions `[R, M, out]`, float32, of the patches
        `asked [R, M]`, of which those are meant that are `valid [R, M]`. grid: `[R, N]`, whose shape alone counts: images of N patches, square."""
        init, n = transformer.INITS[self.kernel_init], x.shape[1]
        token = self.param("mask", transformer.NORMAL, (1, 1, self.width), jnp.float32)
        places = jnp.asarray(sincos(_square(grid.shape[1]), self.width))                                              # [N, width]
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="embed")(x)
        x = jnp.concatenate([x + places[keep], token + places[asked]], 1)                                             # [R, n + M, width]
        block = {"width": self.width, "heads": self.heads, "kernel_init": self.kernel_init, "eps": self.eps, "dtype": self.dtype}
        x, _ = transformer.run(block, x.astype(self.dtype), np.zeros(self.depth), None, None, subset=False, scan=self.scan, remat=self.remat,
                               there=jnp.concatenate([there, valid], 1))
        x = transformer.layer_norm(x[:, n:], self.eps, "norm")
        return nn.Dense(self.out, dtype=self.dtype, kernel_init=init, name="out")(x).astype(jnp.float32)


class ConvDecoder(nn.Module):
    """data2vec 2.0's (arXiv:2212.07525, section 3.2): grouped convolutions over the grid of patches, each with layer norm and GELU, around a residual where widths agree.

    depth, width, kernel, groups: of the convolutions. out: width of what it predicts.
    """
    width: int
    depth: int
    kernel: int
    groups: int
    out: int
    kernel_init: str = "normal"
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array, filler: jax.Array) -> jax.Array:
        """Tokens `[R, n, D]` of the patches that `mask [R, N]` does not hide, in their order, and `filler [R, N, D]` in the place of the others, to `[R, N, out]`, float32."""
        x = jnp.where(mask[..., None], filler.astype(x.dtype), placed(x, mask))                                       # [R, N, D]
        side = _square(x.shape[1])
        x = x.reshape(len(x), *side, -1).astype(self.dtype)
        for i in range(self.depth):
            y = Grouped(self.width, self.kernel, self.groups, name=f"conv{i}")(x)
            y = nn.LayerNorm(self.eps, dtype=jnp.float32, use_bias=False, use_scale=False, use_fast_variance=False, name=f"norm{i}")(y).astype(self.dtype)
            y = nn.gelu(y, approximate=False)
            x = x + y if x.shape == y.shape else y
        x = x.reshape(len(x), mask.shape[1], -1)
        return nn.Dense(self.out, dtype=self.dtype, kernel_init=transformer.INITS[self.kernel_init], name="out")(x).astype(jnp.float32)


class Grouped(nn.Module):
    """A convolution with bias, `kernel` × `kernel`, in groups of channels: `[B, H, W, C]` to `[B, H, W, width]`, in the dtype of x."""
    width: int
    kernel: int
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.kernel, self.kernel, x.shape[-1] // self.groups, self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        return convolve(x, kernel, 1, self.groups) + bias.astype(x.dtype)


class MapDecoder(nn.Module):
    """FCMAE's (arXiv:2301.00808, section 3.1): ConvNeXt V2 blocks over the encoder's last map, in which a learned token stands for what is hidden, and pixels of each cell."""
    width: int
    depth: int
    values: int
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array) -> jax.Array:
        """Cells `[B, N, D]` and which of them are hidden `[B, N]` to predictions `[B, N, values]`, float32. Images are square."""
        token = self.param("mask", transformer.NORMAL, (1, 1, self.width), jnp.float32)
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=transformer.NORMAL, name="embed")(x)
        x = jnp.where(mask[..., None], token.astype(x.dtype), x)
        y = x.reshape(len(x), *_square(x.shape[1]), -1)
        for i in range(self.depth):
            y = convnext.Block(self.width, 0.0, 0.0, self.eps, self.dtype, grn=True, name=f"block{i}")(y, None, None)
        return nn.Dense(self.values, dtype=self.dtype, kernel_init=transformer.NORMAL, name="pixels")(y.reshape(x.shape)).astype(jnp.float32)


class Linear(nn.Module):
    """One linear layer with bias: `[B, N, D]` to `[B, N, values]`, float32 (SimMIM, arXiv:2111.09886, section 3.3; BEiT)."""
    values: int
    kernel_init: str = "normal"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(self.values, kernel_init=transformer.INITS[self.kernel_init], name="linear")(x.astype(jnp.float32))


def placed(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Tokens `[B, n, D]` of the patches that `mask [B, N]` does not hide, in their order, at their places, `[B, N, D]`; at hidden ones stands some other token."""
    place = jnp.maximum(jnp.cumsum(~mask, 1) - 1, 0)                                # [B, N]: which visible patch each is
    return jnp.take_along_axis(x, place[..., None], 1)


def _square(n):
    side = math.isqrt(n)
    if side**2 != n:
        raise UserError(f"images of {n} patches are not square; the decoder knows the places of a square alone")
    return side, side
