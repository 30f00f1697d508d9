"""ResNet v1.5: the encoder of most self-supervised work (He et al., arXiv:1512.03385; the stride sits on the 3×3 convolution).

Shapes, paddings and names map one to one on torchvision's and timm's, so that weights travel both ways.
"""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError, nearest
from jaxssl.models import droppath
from jaxssl.models.convolution import convolve
from jaxssl.models.features import Features
from jaxssl.models.norm import BatchNorm
from jaxssl.models.precision import dtype

LAYERS = {
    "resnet10": ("basic", (1, 1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
    "resnet200": ("bottleneck", (3, 24, 36, 3)),
    "wide_resnet50_2": ("bottleneck", (3, 4, 6, 3)),
    "wide_resnet101_2": ("bottleneck", (3, 4, 23, 3)),
}
INNER = {"wide_resnet50_2": 2, "wide_resnet101_2": 2}    # times the channels of the 3×3 convolutions of bottlenecks alone (arXiv:1605.07146, as torchvision has it)
NAMES = tuple(LAYERS)
# what a stem does, for messages; and how its max pool is padded, before and behind
STEMS = {"imagenet": "7×7 of stride 2, max pool", "cifar": "3×3 of stride 1, no pool", "tensorflow": "7×7 of stride 2, max pool padded behind only"}
POOL = {"imagenet": (1, 1), "tensorflow": (0, 1)}
EXPANSION = {"basic": 1, "bottleneck": 4}


def make(*, name: str, precision: str, width: float = 1.0, depths: tuple[int, ...] = (), stem: str = "imagenet", zero_init: bool = True,
         bn_groups: int = 1, bn_momentum: float = 0.9, bn_eps: float = 1e-5, remat: bool = False, drop_path: float = 0.0) -> nn.Module:
    """A ResNet.

    width: multiplies every channel count (64 in the first stage at 1); SimCLR's and BYOL's ×2 and ×4 are resnet50 of width 2 and 4.
    depths: blocks of the one to four stages, in place of the name's own.
    stem: "imagenet" (7×7 of stride 2, max pool), "cifar" (3×3 of stride 1, no pool) or "tensorflow" (imagenet's with TensorFlow's padding of the pool).
    zero_init: the last norm scale of each block starts at zero, so that blocks start as identities (arXiv:1706.02677, §5.1).
    bn_groups: ghost batch norm; the rows of a forward pass are dealt to so many groups (`norm.BatchNorm`). One is the global batch.
    bn_momentum: share of the old running average kept (.9 is torch's .1; SimCLR's .9).
    remat: recompute blocks in the backward pass; less memory for about a third more arithmetic.
    drop_path: stochastic depth, the chance in [0, 1) that the last block's branch is left out for an image; it grows linearly from 0 in the first.
    """
    if not 0 <= drop_path < 1:
        raise UserError(f"model.drop_path is {drop_path}; choose a chance from 0 to below 1.")
    if stem not in STEMS:
        raise UserError(f"model.stem is '{stem}'{nearest(stem, STEMS)}; choose one of {', '.join(STEMS)}.")
    first = round(64 * width)
    if first < 1:
        raise UserError(f"model.width is {width}, which leaves no channel; choose at least {1 / 64:.4f}.")
    if bn_groups < 1:
        raise UserError(f"model.bn_groups is {bn_groups}; choose 1 for the global batch, or the number of ghost groups.")
    kind, own = LAYERS[name]
    depths = tuple(depths) or own
    if len(depths) > 4 or not all(type(n) is int and 0 < n <= 100 for n in depths):
        raise UserError(f"model.depths is {depths}; choose the blocks of one to four stages, each from 1 to 100, or () for {name}'s {own}.")
    return ResNet(kind, depths, first, stem, zero_init, bn_groups, bn_momentum, bn_eps, remat, dtype(precision), drop_path, INNER.get(name, 1))


class Kernel(nn.Module):
    """The weights of a convolution, `[size, size, in, width]`."""
    width: int
    size: int

    @nn.compact
    def __call__(self, channels: int) -> jax.Array:
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")            # He et al., arXiv:1502.01852, as torchvision
        return self.param("kernel", init, (self.size, self.size, channels, self.width), jnp.float32)


class Shortcut(nn.Module):
    """The projection where a block changes width or resolution: a 1×1 convolution and its norm."""
    width: int
    stride: int
    norm: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel, norm = Kernel(self.width, 1, name="conv")(x.shape[-1]), self.norm(name="norm")
        # XLA for GPUs ends the process where a product is the one reader of a strided slice (openxla/xla issue 47381). In training the norm reads it thrice.
        return norm(x[:, ::self.stride, ::self.stride], train, kernel[0, 0]) if train else norm(convolve(x, kernel, self.stride), train)


class Block(nn.Module):
    """A residual block; `kind` is "basic" (3×3, 3×3) or "bottleneck" (1×1, 3×3, 1×1 to four times the width); its 3×3 convolution has `inner` times the width.

    The product of a bottleneck's last convolution, its widest activation, is normalised as it is computed and never stored.
    """
    kind: str
    width: int
    stride: int
    zero_init: bool
    norm: functools.partial
    drop: float = 0.0
    inner: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, key: jax.Array | None = None, rows: jax.Array | None = None) -> jax.Array:
        """key, rows: of stochastic depth, which leaves the branch of each row out with chance `drop`; without a key it does not."""
        out = self.width * EXPANSION[self.kind]
        plan = ([(self.width, 3, self.stride), (out, 3, 1)] if self.kind == "basic" else
                [(self.inner * self.width, 1, 1), (self.inner * self.width, 3, self.stride), (out, 1, 1)])
        y = x
        for i, (width, size, stride) in enumerate(plan, 1):
            last = i == len(plan)
            init = nn.initializers.zeros if last and self.zero_init else nn.initializers.ones
            kernel = Kernel(width, size, name=f"conv{i}")(y.shape[-1])
            norm = self.norm(scale_init=init, name=f"norm{i}")
            y = norm(y, train, kernel[0, 0]) if last and size == 1 else norm(convolve(y, kernel, stride), train)
            y = y if last else nn.relu(y)
        if x.shape[-1] != out or self.stride != 1:
            x = Shortcut(out, self.stride, self.norm, name="shortcut")(x, train)
        return nn.relu(x + (y if key is None or not self.drop else droppath.kept(y, key, self.drop, rows)))


class Stage(nn.Module):
    """Blocks of one resolution; the first may halve it."""
    kind: str
    depth: int
    width: int
    stride: int
    zero_init: bool
    remat: bool
    norm: functools.partial
    drops: tuple[float, ...] = ()
    inner: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, keys: jax.Array | None = None, rows: jax.Array | None = None) -> jax.Array:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i, drop in enumerate(self.drops or (0.0,) * self.depth):
            made = block(self.kind, self.width, self.stride if i == 0 else 1, self.zero_init, self.norm, drop, self.inner, name=f"block{i}")
            x = made(x, train, None if keys is None else keys[i], rows)
        return x


class Stem(nn.Module):
    """"imagenet": 7×7 of stride 2 and a 3×3 max pool of stride 2, padded as in torch; "tensorflow": the same with the pool padded behind only, as SAME does
    there and official SimCLR's weights were trained (tf2/resnet.py); "cifar": 3×3 of stride 1 and no pool (SimCLR, appendix B.9)."""
    kind: str
    width: int
    norm: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        size, stride = (3, 1) if self.kind == "cifar" else (7, 2)
        x = convolve(x, Kernel(self.width, size, name="conv")(x.shape[-1]), stride)
        x = nn.relu(self.norm(name="norm")(x, train))
        if self.kind in POOL:
            x = nn.max_pool(x, (3, 3), (2, 2), (POOL[self.kind],) * 2)
        return x


class ResNet(nn.Module):
    """`[B, H, W, 3]` images in, `Features` out: the last map (of H/32 · W/32 places where there are four stages) as tokens, and its mean over places.

    Parameters and statistics are float32; convolutions run in `dtype`. `width` is the number of channels of the first stage.
    With `remat` each block keeps its input alone and is computed again in the backward pass. `drop_path`: chance that the last block's branch is left
    out for a row; it grows linearly from 0 in the first block (arXiv:1603.09382; timm). A rng "drop" turns it on.
    """
    kind: str
    depths: tuple[int, ...]
    width: int = 64
    stem: str = "imagenet"
    zero_init: bool = True
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_eps: float = 1e-5
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    drop_path: float = 0.0
    inner: int = 1

    @property
    def features(self) -> int:
        return self.width * 2 ** (len(self.depths) - 1) * EXPANSION[self.kind]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: jax.Array | None = None) -> Features:
        """rows: int32 [B], the places of the images in the global batch (0, 1, … by default), by which stochastic depth draws."""
        norm = functools.partial(BatchNorm, momentum=self.bn_momentum, eps=self.bn_eps, groups=self.bn_groups)
        drops = iter(droppath.rates(sum(self.depths), self.drop_path, "linear").tolist())
        drawn = train and self.drop_path and self.has_rng("drop")
        keys = iter(jax.random.split(self.make_rng("drop"), sum(self.depths))) if drawn else None
        rows = jnp.arange(len(x), dtype=jnp.int32) if drawn and rows is None else rows
        x = Stem(self.stem, self.width, norm, name="stem")(x.astype(self.dtype), train)
        for i, depth in enumerate(self.depths):
            own = tuple(next(drops) for _ in range(depth))
            stage = Stage(self.kind, depth, self.width * 2 ** i, 1 if i == 0 else 2, self.zero_init, self.remat, norm, own, self.inner, name=f"stage{i + 1}")
            x = stage(x, train, None if keys is None else [next(keys) for _ in range(depth)], rows)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)              # [B, H, W, D] -> [B, H·W, D]
        return Features(x.astype(jnp.float32).mean((1, 2)), tokens)
