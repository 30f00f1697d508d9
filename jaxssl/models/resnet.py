"""ResNet v1.5: the encoder of most self-supervised work (He et al., arXiv:1512.03385; the stride sits on the 3×3 convolution).

Shapes, paddings and names map one to one on torchvision's and timm's, so that weights travel both ways.
"""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.models.norm import BatchNorm

LAYERS = {
    "resnet10": ("basic", (1, 1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}
EXPANSION = {"basic": 1, "bottleneck": 4}


class Conv(nn.Module):
    """Convolution without bias, padded by half the kernel on both sides as in torch (SAME would pad strided ones unevenly)."""
    width: int
    kernel: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.width)
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")            # He et al., arXiv:1502.01852, as torchvision
        kernel = self.param("kernel", init, shape, jnp.float32)
        pad = (self.kernel // 2, self.kernel // 2)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype), (self.stride, self.stride), (pad, pad),
            dimension_numbers=("NHWC", "HWIO", "NHWC"))                              # [B, H, W, C] -> [B, H/s, W/s, width]


class ConvNorm(nn.Module):
    """The projection of a shortcut: convolution and norm."""
    width: int
    kernel: int
    stride: int
    norm: functools.partial
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(self.width, self.kernel, self.stride, self.dtype, name="conv")(x)
        return self.norm(name="norm")(x, train)


class Block(nn.Module):
    """A residual block; `kind` is "basic" (3×3, 3×3) or "bottleneck" (1×1, 3×3, 1×1 to four times the width)."""
    kind: str
    width: int
    stride: int
    zero_init: bool
    norm: functools.partial
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        out = self.width * EXPANSION[self.kind]
        plan = ([(self.width, 3, self.stride), (out, 3, 1)] if self.kind == "basic" else
                [(self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1)])
        y = x
        for i, (width, kernel, stride) in enumerate(plan, 1):
            y = Conv(width, kernel, stride, self.dtype, name=f"conv{i}")(y)
            last = i == len(plan)
            init = nn.initializers.zeros if last and self.zero_init else nn.initializers.ones
            y = self.norm(scale_init=init, name=f"norm{i}")(y, train)
            if not last:
                y = nn.relu(y)
        if x.shape[-1] != out or self.stride != 1:
            x = ConvNorm(out, 1, self.stride, self.norm, self.dtype, name="shortcut")(x, train)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Blocks of one resolution; the first may halve it."""
    kind: str
    depth: int
    width: int
    stride: int
    zero_init: bool
    remat: bool
    norm: functools.partial
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i in range(self.depth):
            x = block(self.kind, self.width, self.stride if i == 0 else 1, self.zero_init, self.norm, self.dtype,
                      name=f"block{i}")(x, train)
        return x


class Stem(nn.Module):
    """"imagenet": 7×7 of stride 2 and a 3×3 max pool of stride 2; "cifar": 3×3 of stride 1 and no pool (SimCLR, appendix B.9)."""
    kind: str
    width: int
    norm: functools.partial
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel, stride = (3, 1) if self.kind == "cifar" else (7, 2)
        x = Conv(self.width, kernel, stride, self.dtype, name="conv")(x)
        x = nn.relu(self.norm(name="norm")(x, train))
        if self.kind == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return x


class ResNet(nn.Module):
    """`[B, H, W, 3]` images in, `[B, features]` float32 globally averaged features out.

    Parameters and statistics are float32; convolutions run in `dtype`. `width` is the number of channels of the first stage.
    With `remat` each block keeps its input alone and is computed again in the backward pass.
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

    @property
    def features(self) -> int:
        return self.width * 2 ** (len(self.depths) - 1) * EXPANSION[self.kind]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(BatchNorm, momentum=self.bn_momentum, eps=self.bn_eps, groups=self.bn_groups)
        x = Stem(self.stem, self.width, norm, self.dtype, name="stem")(x, train)
        for i, depth in enumerate(self.depths):
            x = Stage(self.kind, depth, self.width * 2 ** i, 1 if i == 0 else 2, self.zero_init, self.remat, norm, self.dtype,
                      name=f"stage{i + 1}")(x, train)
        return x.astype(jnp.float32).mean((1, 2))                                    # [B, H, W, D] -> [B, D]
