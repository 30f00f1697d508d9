"""The plain convolutional network of few-shot learning: equal blocks of convolution, batch norm, ReLU and max pool (Vinyals et al., arXiv:1606.04080; Snell et al.,
arXiv:1703.05175, section 3.2: four blocks of 64 filters on Omniglot at 28 pixels)."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.models.convolution import convolve
from jaxssl.models.features import Features
from jaxssl.models.norm import BatchNorm
from jaxssl.models.precision import dtype
from jaxssl.models.resnet import Kernel

NAMES = ("conv4",)


def make(*, name: str, precision: str, width: int = 64, depth: int = 4, bn_groups: int = 1, bn_momentum: float = 0.9, bn_eps: float = 1e-5) -> nn.Module:
    """A network of `depth` blocks of `width` channels, each of which halves the resolution: features of `width`.

    bn_groups: ghost batch norm; the rows of a forward pass are dealt to so many groups (`norm.BatchNorm`). One is the global batch.
    bn_momentum: share of the old running average kept (.9 is torch's .1).
    """
    if width < 1 or not 1 <= depth <= 8:
        raise UserError(f"model.width and model.depth are {width} and {depth}; choose at least one channel and one to eight blocks.")
    if bn_groups < 1:
        raise UserError(f"model.bn_groups is {bn_groups}; choose 1 for the global batch, or the number of ghost groups.")
    return ConvNet(width, depth, bn_groups, bn_momentum, bn_eps, dtype(precision))


class Block(nn.Module):
    """3×3 convolution, norm, ReLU, and a max pool over 2×2 places that leaves out an odd last row or column."""
    width: int
    norm: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = convolve(x, Kernel(self.width, 3, name="conv")(x.shape[-1]), 1)
        return halved(nn.relu(self.norm(name="norm")(x, train)))


def halved(x: jax.Array) -> jax.Array:
    """The largest of each 2×2 places. As a maximum over axes: a pool's gradient takes XLA for CPUs as long as all convolutions here. Equal largest ones share the gradient."""
    b, h, w, d = x.shape
    return x[:, :h // 2 * 2, :w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, d).max((2, 4))            # [B, H, W, D] -> [B, H/2, 2, W/2, 2, D]


class ConvNet(nn.Module):
    """`[B, H, W, 3]` images in, `Features` out: the last map as tokens and its mean over places, which at 28 pixels and four blocks is its one place."""
    width: int = 64
    depth: int = 4
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @property
    def features(self) -> int:
        return self.width

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: jax.Array | None = None) -> Features:
        """rows: of the images in the global batch; nothing is drawn by them here."""
        if min(x.shape[1:3]) < 2 ** self.depth:
            raise UserError(f"images are {x.shape[2]}×{x.shape[1]} pixels; {self.depth} blocks that halve them need sides of at least {2 ** self.depth}: lower model.depth, or "
                            "raise augment.size")
        norm = functools.partial(BatchNorm, momentum=self.bn_momentum, eps=self.bn_eps, groups=self.bn_groups)
        x = x.astype(self.dtype)
        for i in range(self.depth):
            x = Block(self.width, norm, name=f"block{i}")(x, train)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)              # [B, H, W, D] -> [B, H·W, D]
        return Features(x.astype(jnp.float32).mean((1, 2)), tokens)
