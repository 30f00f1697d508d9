"""ConvNeXt (Liu et al., arXiv:2201.03545): a convolutional network with the blocks and the training of a vision transformer.

Shapes, paddings and names map one to one on timm's and torchvision's, so that weights travel both ways.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.models import droppath
from jaxssl.models.features import Features
from jaxssl.models.precision import dtype
from jaxssl.models.transformer import NORMAL, layer_norm

# Name -> channels of the first stage, which double from stage to stage, and blocks of the four stages.
SIZES = {"convnext_tiny": (96, (3, 3, 9, 3)), "convnext_small": (96, (3, 3, 27, 3)), "convnext_base": (128, (3, 3, 27, 3)), "convnext_large": (192, (3, 3, 27, 3))}
NAMES = tuple(SIZES)


def make(*, name: str, precision: str, width: int = 0, depths: tuple[int, ...] = (), layer_scale: float = 1e-6, drop_path: float = 0.0, eps: float = 1e-6,
         remat: bool = False) -> nn.Module:
    """A ConvNeXt.

    width, depths: channels of the first stage and blocks of the stages, in place of the name's own; 0 and () are the name's own.
    layer_scale: start of the factors of the residual branches; 0 is none.
    drop_path: stochastic depth, the chance in [0, 1) that the last block's branch is left out for an image; it grows linearly from 0 in the first.
    eps: of the layer norms.
    remat: recompute blocks in the backward pass.
    """
    own, depths = SIZES[name], tuple(depths)
    check(width=width, depths=depths, layer_scale=layer_scale, drop_path=drop_path, eps=eps)
    return ConvNeXt(width or own[0], depths or own[1], layer_scale, drop_path, eps, remat, dtype(precision))


def check(*, width: int, depths: tuple[int, ...], drop_path: float, eps: float, layer_scale: float = 0.0) -> None:
    """Raises: UserError for the first key of `model` out of its range."""
    for key, value, words, good in (("width", width, "0 or more", width >= 0), ("layer_scale", layer_scale, "0 or more", layer_scale >= 0),
                                    ("drop_path", drop_path, "a chance from 0 to below 1", 0 <= drop_path < 1), ("eps", eps, "above 0", eps > 0),
                                    ("depths", depths, "numbers of blocks, each from 1 to 100", len(depths) <= 4 and all(type(n) is int and 0 < n <= 100 for n in depths))):
        if not good:
            raise UserError(f"model.{key} is {value}; it must be {words}.")


class Convolution(nn.Module):
    """A convolution with bias, `size` × `size`; of stride `size` without padding, or of stride 1 over each channel by itself, padded to keep the size."""
    width: int
    size: int
    each: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", NORMAL, (self.size, self.size, 1 if self.each else x.shape[-1], self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        stride, pad, groups = (1, self.size // 2, self.width) if self.each else (self.size, 0, 1)
        y = jax.lax.conv_general_dilated(x.astype(self.dtype), kernel.astype(self.dtype), (stride, stride), [(pad, pad)] * 2,
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)
        return y + bias.astype(self.dtype)


class ResponseNorm(nn.Module):
    """Global response normalisation (ConvNeXt V2, arXiv:2301.00808, section 3.3): channels compete by their length over an image's places.

        length = sqrt(sum of x² over places)                    # [B, 1, 1, C]
        y = x + gain * x * length / (mean of length over channels) + bias

    Gain and bias start at zero. `hidden` places do not count. The official sparse code sums over the visible places of all images of a device; here each image has its own.
    """
    @nn.compact
    def __call__(self, x: jax.Array, hidden: jax.Array | None) -> jax.Array:
        gain, bias = (self.param(name, nn.initializers.zeros, (x.shape[-1],), jnp.float32) for name in ("gain", "bias"))
        y = x.astype(jnp.float32)
        squares = jnp.square(shown(y, hidden)).sum((1, 2), keepdims=True)
        length = jnp.sqrt(jnp.maximum(squares, 1e-24))                                  # a root's slope at zero is no number
        return (y + gain * y * (length / (length.mean(-1, keepdims=True) + 1e-6)) + bias).astype(x.dtype)


def shown(x: jax.Array, hidden: jax.Array | None) -> jax.Array:
    """x [B, H, W, C], zero where hidden [B, H, W, 1]; None hides nothing."""
    return x if hidden is None else jnp.where(hidden, jnp.zeros((), x.dtype), x)


class Block(nn.Module):
    """Each channel's 7×7 surroundings, layer norm, four times the width, GELU and back, in a residual branch. grn: a `ResponseNorm` of the wide layer.

    hidden: places that are no part of the map (a submanifold sparse convolution): x is zero there, what is computed there reaches no other place, and y is zero there.
    """
    width: int
    layer_scale: float
    drop: float
    eps: float
    dtype: jnp.dtype
    grn: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, key: jax.Array | None, rows: jax.Array | None, hidden: jax.Array | None = None) -> jax.Array:
        y = layer_norm(Convolution(self.width, 7, True, self.dtype, name="conv")(x), self.eps, "norm")
        for name, width in (("fc1", 4 * self.width), ("fc2", self.width)):
            y = nn.Dense(width, dtype=self.dtype, kernel_init=NORMAL, name=name)(y)
            y = nn.gelu(y, approximate=False) if name == "fc1" else y
            y = ResponseNorm(name="grn")(y, hidden) if self.grn and name == "fc1" else y
        if self.layer_scale:
            y = y * self.param("scale", nn.initializers.constant(self.layer_scale), (self.width,), jnp.float32).astype(self.dtype)
        return shown(x + (y if key is None or not self.drop else droppath.kept(y, key, self.drop, rows)), hidden)


class Stem(nn.Module):
    """4×4 patches, and a norm."""
    width: int
    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(Convolution(self.width, 4, False, self.dtype, name="conv")(x), self.eps, "norm")


class Stage(nn.Module):
    """A norm and a 2×2 convolution, but in the first one, and blocks of one resolution."""
    width: int
    first: bool
    drops: tuple[float, ...]
    layer_scale: float
    eps: float
    remat: bool
    dtype: jnp.dtype
    grn: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, keys: list | None, rows: jax.Array | None, hidden: jax.Array | None = None) -> jax.Array:
        if not self.first:
            x = shown(Convolution(self.width, 2, False, self.dtype, name="conv")(layer_norm(x, self.eps, "norm")), hidden)
        block = nn.remat(Block) if self.remat else Block
        for i, drop in enumerate(self.drops):
            x = block(self.width, self.layer_scale, drop, self.eps, self.dtype, self.grn, name=f"block{i}")(x, None if keys is None else keys[i], rows, hidden)
        return x


class ConvNeXt(nn.Module):
    """`[B, H, W, 3]` images in, `Features` out: the last map [B, H/32 · W/32, features] as tokens; its mean over places, normed, is pooled.

    Parameters and layer norms are float32; the rest runs in `dtype`. A rng "drop" turns stochastic depth on (arXiv:1603.09382).
    """
    width: int
    depths: tuple[int, ...]
    layer_scale: float = 1e-6
    drop_path: float = 0.0
    eps: float = 1e-6
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    grn: bool = False

    @property
    def features(self) -> int:
        return self.width * 2 ** (len(self.depths) - 1)

    @property
    def cell(self) -> int:
        """Side in pixels of what one place of the last map stands for."""
        return 4 * 2 ** (len(self.depths) - 1)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None, rows: jax.Array | None = None) -> Features:
        """mask: bool [B, N], cells (of `cell` pixels a side, row by row) that are not seen: convolutions go around them as sparse ones do, their tokens are zero and
        do not count; the others are normed as the mean is, since nothing else would train that norm. rows: int32 [B],
        the places of the images in the global batch (0, 1, … by default), by which stochastic depth draws."""
        least = self.cell
        if min(x.shape[1:3]) < least:
            raise UserError(f"images are {x.shape[1]}×{x.shape[2]} pixels; a ConvNeXt of {len(self.depths)} stages needs sides of at least {least}.")
        total = sum(self.depths)
        rates = iter(droppath.rates(total, self.drop_path, "linear").tolist())
        drawn = train and self.drop_path and self.has_rng("drop")
        keys = iter(jax.random.split(self.make_rng("drop"), total)) if drawn else None
        rows = jnp.arange(len(x), dtype=jnp.int32) if drawn and rows is None else rows
        def hidden(stage):
            """[B, h, w, 1] of a stage's map."""
            if mask is None:
                return None
            cells = mask.reshape(len(mask), shape[0] // least, shape[1] // least)
            return jnp.repeat(jnp.repeat(cells, 2 ** (len(self.depths) - 1 - stage), 1), 2 ** (len(self.depths) - 1 - stage), 2)[..., None]
        shape = x.shape[1:3]
        x = shown(Stem(self.width, self.eps, self.dtype, name="stem")(x), hidden(0))
        for i, depth in enumerate(self.depths):
            x = Stage(self.width * 2**i, i == 0, tuple(next(rates) for _ in range(depth)), self.layer_scale, self.eps, self.remat, self.dtype, self.grn,
                      name=f"stage{i + 1}")(x, None if keys is None else [next(keys) for _ in range(depth)], rows, hidden(i))
        x = x.astype(jnp.float32)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])                                  # [B, H, W, D] -> [B, H·W, D]
        if mask is None:
            return Features(layer_norm(tokens.mean(1), self.eps, "norm"), tokens)
        mean = tokens.sum(1, keepdims=True) / jnp.sum(~mask, 1)[:, None, None]
        both = layer_norm(jnp.concatenate([mean, tokens], 1), self.eps, "norm")          # [B, 1 + N, D]
        return Features(both[:, 0], jnp.where(mask[..., None], 0.0, both[:, 1:]))
