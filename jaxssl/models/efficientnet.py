"""EfficientNet-Lite (Tan and Le, arXiv:1905.11946; tensorflow/tpu, efficientnet/lite): inverted bottlenecks of depthwise convolutions, ReLU6, no squeeze-and-excitation.

Shapes, paddings and names map one to one on timm's `tf_efficientnet_lite0` to 4, whose weights are those of the TensorFlow code: convolutions are padded as SAME is there, more
behind than before where they stride, and norms have an epsilon of .001.
"""
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.models import droppath
from jaxssl.models.convolution import convolve, depthwise
from jaxssl.models.features import Features
from jaxssl.models.norm import BatchNorm
from jaxssl.models.precision import dtype

# Name -> what the channels and the blocks of the stages are multiplied by.
SIZES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2), "efficientnet_lite3": (1.2, 1.4), "efficientnet_lite4": (1.4, 1.8)}
NAMES = tuple(SIZES)
# Stages of Lite0: blocks, side of the depthwise kernels, stride of the first block, times that blocks widen within, channels.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
STEM, HEAD = 32, 1280           # channels of the first and the last convolution, of all sizes


def make(*, name: str, precision: str, width: float = 1.0, depths: tuple[int, ...] = (), bn_groups: int = 1, bn_momentum: float = 0.99, bn_eps: float = 1e-3,
         drop_path: float = 0.0) -> nn.Module:
    """An EfficientNet-Lite.

    width: multiplies every channel count of the name's own, then rounded to multiples of eight. depths: blocks of the first one to seven stages, in place of the name's own.
    bn_groups, bn_momentum, bn_eps: of batch norm, as a ResNet's (`models.resnet`).
    drop_path: stochastic depth of residual branches, the chance in [0, 1) that the last block's is left out for an image; it grows linearly from 0 in the first.
    """
    depths = tuple(depths) or blocks(name)
    for key, value, words, good in (("width", width, "above 0", width > 0), ("drop_path", drop_path, "a chance from 0 to below 1", 0 <= drop_path < 1),
                                    ("bn_groups", bn_groups, "1 for the global batch, or the number of ghost groups", bn_groups >= 1),
                                    ("bn_eps", bn_eps, "above 0", bn_eps > 0),
                                    ("depths", depths, "the blocks of one to seven stages, each from 1 to 100",
                                     len(depths) <= 7 and all(type(n) is int and 0 < n <= 100 for n in depths))):
        if not good:
            raise UserError(f"model.{key} is {value}; it must be {words}.")
    return EfficientNet(channels(name, width), depths, bn_groups, bn_momentum, bn_eps, drop_path, dtype(precision))


def blocks(name: str) -> tuple[int, ...]:
    """Blocks of the seven stages of a size; the first and the last stage are not deepened."""
    return tuple(n if i in (0, 6) else math.ceil(n * SIZES[name][1]) for i, (n, *_) in enumerate(STAGES))


def channels(name: str, width: float = 1.0) -> tuple[int, ...]:
    """Channels of the stem, the seven stages and the last convolution."""
    inner = [rounded(rounded(c * SIZES[name][0]) * width) if width != 1 else rounded(c * SIZES[name][0]) for *_, c in STAGES]
    return rounded(STEM * width), *inner, rounded(HEAD * width)


def rounded(channels: float) -> int:
    """The nearest multiple of eight, at least eight, and not below nine tenths (official code, round_filters)."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < .9 * channels else near


class Depthwise(nn.Module):
    """A convolution of each channel by itself, `[B, H, W, C]` to `[B, ⌈H/s⌉, ⌈W/s⌉, C]`, padded as SAME."""
    size: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal((2 / self.size**2) ** .5), (self.size, self.size, 1, x.shape[-1]), jnp.float32)
        return depthwise(x, kernel, self.stride)


class Convolution(nn.Module):
    """A convolution of all channels, drawn as the official code draws it; of stride 2 padded as SAME."""
    width: int
    size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.width), jnp.float32)
        if self.stride == 1:
            return convolve(x, kernel, 1)
        return jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), (self.stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Block(nn.Module):
    """Widened by a 1×1 convolution where `expand` is above 1, each channel's surroundings, and back by a 1×1 convolution without activation; what came in is added if it fits."""
    width: int
    size: int
    stride: int
    expand: int
    norm: functools.partial
    drop: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, key: jax.Array | None = None, rows: jax.Array | None = None) -> jax.Array:
        y = x
        if self.expand > 1:
            y = nn.relu6(self.norm(name="norm1")(Convolution(self.expand * x.shape[-1], name="conv1")(y), train))
        y = nn.relu6(self.norm(name="norm2")(Depthwise(self.size, self.stride, name="conv2")(y), train))
        y = self.norm(name="norm3")(Convolution(self.width, name="conv3")(y), train)
        if self.stride > 1 or x.shape[-1] != self.width:
            return y
        return x + (y if key is None or not self.drop else droppath.kept(y, key, self.drop, rows))


class Unit(nn.Module):
    """What stands before the stages and behind them: a convolution, its norm and ReLU6."""
    width: int
    size: int
    stride: int
    norm: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.relu6(self.norm(name="norm")(Convolution(self.width, self.size, self.stride, name="conv")(x), train))


class Stage(nn.Module):
    """Blocks of one width; the first may halve the resolution."""
    width: int
    size: int
    stride: int
    expand: int
    norm: functools.partial
    drops: tuple[float, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, keys: list | None, rows: jax.Array | None) -> jax.Array:
        for i, drop in enumerate(self.drops):
            block = Block(self.width, self.size, 1 if i else self.stride, self.expand, self.norm, drop, name=f"block{i}")
            x = block(x, train, None if keys is None else keys[i], rows)
        return x


class EfficientNet(nn.Module):
    """`[B, H, W, 3]` images in, `Features` out: the last map, behind the convolution that follows the stages, as tokens, and its mean over places.

    widths: channels of the stem, the stages and the last convolution. Parameters and statistics are float32; convolutions run in `dtype`. A rng "drop" turns stochastic depth on.
    """
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    bn_groups: int = 1
    bn_momentum: float = 0.99
    bn_eps: float = 1e-3
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @property
    def features(self) -> int:
        return self.widths[-1]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: jax.Array | None = None) -> Features:
        """rows: int32 [B], the places of the images in the global batch (0, 1, … by default), by which stochastic depth draws."""
        norm = functools.partial(BatchNorm, momentum=self.bn_momentum, eps=self.bn_eps, groups=self.bn_groups)
        total = sum(self.depths)
        drops = iter(droppath.rates(total, self.drop_path, "linear").tolist())
        drawn = train and self.drop_path and self.has_rng("drop")
        keys = iter(jax.random.split(self.make_rng("drop"), total)) if drawn else None
        rows = jnp.arange(len(x), dtype=jnp.int32) if drawn and rows is None else rows
        x = Unit(self.widths[0], 3, 2, norm, name="stem")(x.astype(self.dtype), train)
        for i, (depth, width, (_, size, stride, expand, _)) in enumerate(zip(self.depths, self.widths[1:], STAGES), 1):
            stage = Stage(width, size, stride, expand, norm, tuple(next(drops) for _ in range(depth)), name=f"stage{i}")
            x = stage(x, train, None if keys is None else [next(keys) for _ in range(depth)], rows)
        x = Unit(self.widths[-1], 1, 1, norm, name="head")(x, train)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)              # [B, h, w, D] -> [B, h·w, D]
        return Features(x.astype(jnp.float32).mean((1, 2)), tokens)
