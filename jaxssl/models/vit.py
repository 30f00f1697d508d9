"""Vision transformers (Dosovitskiy et al., arXiv:2010.11929) as DeiT, MAE, MoCo v3, DINO and DINOv2 use them.

Parameters map one to one to those of timm's VisionTransformer: cls `[1, 1, D]`, pos `[1, 1 + N, D]` (the class token's first), registers `[1, R, D]`,
mask `[1, D]` (DINOv2's mask_token), patch/{kernel `[p, p, C, D]`, bias}, blocks/{norm1, qkv, q_norm, k_norm, proj, scale1, norm2, fc1, fc2, w12, w3,
scale2} stacked over layers, norm. Two differ from timm: registers have no positions (timm's no_embed_class with pos[0] added to cls), and timm
calls SwiGLU's w12 and w3 fc1 and fc2.
"""
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError, nearest
from jaxssl.models import droppath, lora as low, transformer
from jaxssl.models.features import Features
from jaxssl.models.positions import RESIZES, resize, rotations, sincos
from jaxssl.models.precision import dtype

POOLS = ("cls", "mean")
POSITIONS = ("learned", "sincos", "rope")


class Size(NamedTuple):
    width: int
    depth: int
    heads: int


SIZES = {"vit_tiny": Size(192, 12, 3), "vit_small": Size(384, 12, 6), "vit_base": Size(768, 12, 12), "vit_large": Size(1024, 24, 16),
         "vit_huge": Size(1280, 32, 16), "vit_giant": Size(1536, 40, 24)}
NAMES = tuple(SIZES)


def make(*, name: str = "vit_small", patch: int = 16, image: int = 224, channels: int = 3, pool: str = "cls", cls: bool = True, positions: str = "learned",
         rope_base: float = 100.0, rope_shift: float = 0.0, rope_jitter: float = 1.0, rope_rescale: float = 1.0,
         resize: str = "antialias", registers: int = 0, mask_token: bool = False, layer_scale: float = 0.0, drop_path: float = 0.0,
         drop_path_shape: str = "linear", drop_rows: bool = False, ffn: str = "mlp", qk_norm: bool = False, key_bias: bool = True, frozen_patch: bool = False,
         kernel_init: str = "normal", scan: bool = True, remat: str = "none", eps: float = 1e-6, precision: str = "bf16", width: int = 0, depth: int = 0, heads: int = 0,
         lora: int = 0, lora_alpha: float = 0.0) -> nn.Module:
    """Makes a vision transformer; `encoder.apply(variables, images [B, H, W, channels], train)` gives `Features`.

    name: vit_tiny (192 channels, 12 blocks, 3 heads), vit_small (384, 12, 6), vit_base (768, 12, 12), vit_large (1024, 24, 16), vit_huge (1280, 32, 16)
          or vit_giant (1536, 40, 24: DINOv2's g, whose ffn is "swiglu").
    patch: side of a patch, in pixels; sides of images are multiples of it.
    image: side of the images that the learned positions are made for; on other images, square or not, they are interpolated.
    channels: of the images.
    pool: "cls" is the normed class token; "mean" is the mean of the normed patch tokens, timm's global_pool="avg" with fc_norm=False (its default for
          "avg", fc_norm, norms the mean of tokens that are not normed).
    cls: there is a class token.
    positions: "learned"; "sincos", fixed (`positions.sincos`) on the grid of the images and zero for the class token; or "rope", rotary, by which queries and keys of
          patches are turned in every block (`positions.rotations`; DINOv3).
    rope_base: of the periods. rope_shift, rope_jitter, rope_rescale: in training coordinates, in [-1, 1], are moved by up to rope_shift along each axis, and
          stretched by a factor between 1 / rope_jitter and rope_jitter along each and between 1 / rope_rescale and rope_rescale along both, drawn once
          a pass; 0, 1 and 1 are none (DINOv3: a rescale of 2). A pass without rng, a teacher's, has none.
    resize: how learned positions are interpolated, "antialias" or "torch" (`positions.resize`).
    registers: so many learned tokens without positions stand behind the class token (arXiv:2309.16588).
    mask_token: there is a token that stands for masked patches.
    layer_scale: start of the factors of the residual branches (CaiT; DINOv2: 1e-5); 0 is none.
    drop_path: chance in [0, 1) that a residual branch is left out in training, for each image; "linear" `drop_path_shape` grows to it over the blocks
          from 0 in the first, "uniform" is the same in all.
    drop_rows: DINOv2's form, which computes the branches of a fixed number of images only (`droppath.on_subset`). It draws over the images of a call.
    ffn: "mlp" of four times the width, or "swiglu" (arXiv:2002.05202) of two thirds of that, rounded up to a multiple of eight.
    qk_norm: layer norm of the queries and keys of each head (arXiv:2302.05442).
    key_bias: keys have a bias; DINOv3's have none.
    frozen_patch: MoCo v3's random patch projection: drawn Xavier-uniform, and no gradient reaches it.
    kernel_init: how the linear layers of the blocks are drawn, "normal" of ±.02 (DINO, timm) or "xavier", uniform by their width (MAE).
    scan: blocks share one compiled program and have their parameters stacked; `transformer.stack` and `unstack` change between both layouts.
    remat: "none"; "full" recomputes each block in the backward pass; "dots" recomputes all but the outputs of its linear layers.
    eps: of the layer norms.
    precision: "bf16" or "f32" arithmetic, the residual stream included; parameters, layer norms, softmax and features are float32 in both.
    width, depth, heads: in place of the name's own; 0 is the name's own (heads of 64 channels where only the width is given).
    lora: rank of low-rank additions to the linear layers of attention and feed-forward network (`models.lora`), which alone are trained then, from the weights of init_from;
          exports hold them merged. 0 is none. lora_alpha: they count lora_alpha / lora; 0 is once.

    A wrong value is a UserError that names its key.
    """
    _choose(name=(name, SIZES), pool=(pool, POOLS), positions=(positions, POSITIONS), resize=(resize, RESIZES), remat=(remat, transformer.REMATS),
            drop_path_shape=(drop_path_shape, droppath.SHAPES), ffn=(ffn, transformer.FFNS), kernel_init=(kernel_init, transformer.INITS))
    _least(patch=(patch, 1), channels=(channels, 1), registers=(registers, 0), width=(width, 0), depth=(depth, 0), heads=(heads, 0), layer_scale=(layer_scale, 0), lora=(lora, 0),
           lora_alpha=(lora_alpha, 0))
    if depth > 1000:
        raise UserError(f"model.depth is {depth}; choose at most 1,000 blocks.")
    own = SIZES[name]
    heads = heads or (max(width // 64, 1) if width and width != own.width else own.heads)
    module = ViT(width or own.width, depth or own.depth, heads, patch, image, channels, pool, cls, positions, rope_base, rope_shift,
                 rope_jitter, rope_rescale, resize, registers, mask_token, layer_scale, drop_path, drop_path_shape, drop_rows, ffn, qk_norm, frozen_patch, kernel_init,
                 scan, remat, eps, dtype(precision), key_bias=key_bias, lora=lora, lora_alpha=lora_alpha)
    _fit(module)
    return module


def _choose(**keys):
    for key, (value, choices) in keys.items():
        if value not in choices:
            raise UserError(f"model.{key} is '{value}'{nearest(str(value), choices)}; choose one of {', '.join(choices)}.")


def _least(**keys):
    for key, (value, least) in keys.items():
        if value < least:
            raise UserError(f"model.{key} is {value}; choose at least {least}.")


def _fit(m):
    """What only fits together, or not, in the module's own terms."""
    if m.positions == "learned" and (m.image < m.patch or m.image % m.patch):
        raise UserError(f"model.image is {m.image}; choose a multiple of model.patch={m.patch}, the side of the images that the positions are made for.")
    if m.width % m.heads:
        raise UserError(f"model.heads is {m.heads}; choose a divisor of the {m.width} channels.")
    if m.positions == "sincos" and m.width % 4:
        raise UserError(f"model.width is {m.width}; choose a multiple of 4 with model.positions=sincos.")
    if m.positions == "rope" and m.width // m.heads % 4:
        raise UserError(f"model.heads is {m.heads}; with model.positions=rope heads have a multiple of 4 channels, where {m.width} leave {m.width // m.heads} for each.")
    unread = [key for key, off in {"base": 100.0, "shift": 0.0, "jitter": 1.0, "rescale": 1.0}.items() if getattr(m, f"rope_{key}") != off]
    if m.positions != "rope" and unread:
        raise UserError(f"model.rope_{unread[0]} is of rotary positions; choose model.positions=rope, or leave it out.")
    if not (m.rope_base > 1 and m.rope_shift >= 0 and m.rope_jitter >= 1 and m.rope_rescale >= 1):
        raise UserError(f"model.rope_base, rope_shift, rope_jitter and rope_rescale are {m.rope_base}, {m.rope_shift}, {m.rope_jitter} and {m.rope_rescale}; "
                        "choose a base above 1, a shift of 0 or more, and factors of at least 1.")
    if m.positions == "rope" and m.drop_rows:
        raise UserError("model.drop_rows takes rows out of a block, whose rotary positions may be each image's own; choose model.drop_rows=False with model.positions=rope.")
    if m.pool == "cls" and not m.cls:
        raise UserError("model.pool is 'cls'; choose 'mean' where model.cls is off.")
    if not 0 <= m.drop_path < 1:
        raise UserError(f"model.drop_path is {m.drop_path}; choose a chance from 0 to below 1.")
    if m.drop_rows and m.scan and m.drop_path_shape != "uniform":
        raise UserError("model.drop_rows is on, which needs the same rate in every scanned block; choose model.drop_path_shape=uniform, or model.scan=False.")
    if m.lora > m.width:
        raise UserError(f"model.lora is {m.lora}; it is the rank of additions to matrices of {m.width} rows: choose from 1 to {m.width}, such as 8, or 0 for none.")
    if m.lora_alpha and not m.lora:
        raise UserError(f"model.lora_alpha is {m.lora_alpha:g}, but model.lora is 0, so that nothing reads it; set model.lora, or leave it out.")
    if not m.eps > 0:
        raise UserError(f"model.eps is {m.eps}; choose a positive number, such as 1e-6.")


class Patch(nn.Module):
    """The patch projection: `[B, H, W, C]` images in, `[B, N, width]` out, a convolution of stride `patch` written as one matrix product.

    Kernel and bias are drawn as torch's Conv2d draws them, uniform within ±1/√(patch² · C), as timm and DINOv2 leave it. `frozen`: the kernel is
    drawn uniform within ±√(6 / (patch² · C + width)), the bias is zero and no gradient reaches either (MoCo v3, arXiv:2104.02057, §4).
    """
    width: int
    patch: int
    frozen: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        batch, height, width, channels = x.shape
        fan = self.patch**2 * channels
        bound = (6 / (fan + self.width))**0.5 if self.frozen else fan**-0.5
        kernel = self.param("kernel", _uniform(bound), (self.patch, self.patch, channels, self.width))
        bias = self.param("bias", _uniform(0.0 if self.frozen else bound), (self.width,))
        if self.frozen:
            kernel, bias = jax.lax.stop_gradient((kernel, bias))
        x = x.reshape(batch, height // self.patch, self.patch, width // self.patch, self.patch, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, fan)                   # [B, h, p, w, p, C] -> [B, h·w, p·p·C]
        return x.astype(self.dtype) @ kernel.reshape(fan, -1).astype(self.dtype) + bias.astype(self.dtype)


def _uniform(bound):
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class ViT(nn.Module):
    """`make` describes the fields but `causal` and `told`; `features` is the width D of what it gives.

    causal: a token attends to itself and to those before it alone (NEPA, in training): cls, registers, patches row by row.
    told: tokens are `[B, N, told, D]`, what the feed-forward networks of the last so many blocks add for each patch (data2vec's targets); 0 is the last layer's.
    """
    width: int
    depth: int
    heads: int
    patch: int = 16
    image: int = 224
    channels: int = 3
    pool: str = "cls"
    cls: bool = True
    positions: str = "learned"
    rope_base: float = 100.0
    rope_shift: float = 0.0
    rope_jitter: float = 1.0
    rope_rescale: float = 1.0
    resize: str = "antialias"
    registers: int = 0
    mask_token: bool = False
    layer_scale: float = 0.0
    drop_path: float = 0.0
    drop_path_shape: str = "linear"
    drop_rows: bool = False
    ffn: str = "mlp"
    qk_norm: bool = False
    frozen_patch: bool = False
    kernel_init: str = "normal"
    scan: bool = True
    remat: str = "none"
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    causal: bool = False
    told: int = 0
    key_bias: bool = True
    lora: int = 0
    lora_alpha: float = 0.0

    @property
    def features(self) -> int:
        return self.width

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, keep: jax.Array | None = None, mask: jax.Array | None = None, there: jax.Array | None = None,
                 rows: jax.Array | None = None) -> Features:
        """Images `[B, H, W, C]`, H and W multiples of the patch, to `Features`; N is their number of patches, or n with `keep`.

        keep: `[B, n]` int32, the visible patches of each image, taken after positions are added; the others are not seen. cls and registers stay.
        there: `[B, N]` or `[B, n]` bool; what is not is a filler, which no other token attends to: it does not count, and its token is zero.
        mask: `[B, N]` bool, patches that the mask token stands for, before positions are added; needs `mask_token`.
        rows: `[B]` int32, the places of the images in the global batch, for stochastic depth: a micro-batch with its places draws what the whole
              batch would with the same rng "drop". The places are 0 to B - 1 unless given. Without that rng nothing is left out (a teacher).

        Raises UserError where images do not fit patch and channels, or a mask comes without a mask token.
        """
        grid = self._grid(x.shape)
        x = Patch(self.width, self.patch, self.frozen_patch, self.dtype, name="patch")(x)
        if mask is not None and not self.mask_token:
            raise UserError("model.mask_token is off; set it for a method that puts a mask token in the place of patches.")
        if self.mask_token:
            token = self.param("mask", nn.initializers.zeros, (1, self.width), jnp.float32)
            x = x if mask is None else jnp.where(mask[..., None], token, x)
        prefix, places = self._tokens(grid)
        x = x + places                                                              # [B, N, D] float32
        drawn = self.make_rng("drop") if train and self.has_rng("drop") and (self.drop_path or self.positions == "rope") else None
        turn = self._turn(grid, drawn, keep) if self.positions == "rope" else None
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], 1)                          # [B, N, D] -> [B, n, D]
        x = jnp.concatenate([*(jnp.broadcast_to(t, (x.shape[0], *t.shape[1:])) for t in prefix), x], 1)       # [B, 1 + R + n, D]
        block = {"width": self.width, "heads": self.heads, "ffn": self.ffn, "qk_norm": self.qk_norm, "layer_scale": self.layer_scale,
                 "kernel_init": self.kernel_init, "eps": self.eps, "dtype": self.dtype, "causal": self.causal}
        if not self.key_bias:
            block |= {"key_bias": False}
        if self.lora:
            block |= {"lora": self.lora, "lora_scale": low.scale(self.lora, self.lora_alpha)}
        key = drawn if self.drop_path else None
        rates = droppath.rates(self.depth, self.drop_path, self.drop_path_shape)
        before = self.cls + self.registers
        attended = None if there is None else jnp.pad(there, ((0, 0), (before, 0)), constant_values=True)
        x, said = transformer.run(block, x.astype(self.dtype), rates, key, rows, subset=self.drop_rows, scan=self.scan, remat=self.remat, there=attended,
                                  turn=turn, told=self.told > 0)
        x = transformer.layer_norm(x.astype(jnp.float32), self.eps, "norm")
        tokens = x[:, before:]
        if there is not None:
            tokens = jnp.where(there[..., None], tokens, 0.0)
        mean = tokens.mean(1) if there is None else tokens.sum(1) / there.sum(1)[:, None]
        if self.told:
            tokens = jnp.moveaxis(said[-self.told:, :, before:].astype(jnp.float32), 0, 2)      # [depth, B, N, D] -> [B, N, told, D]
        return Features(x[:, 0] if self.pool == "cls" else mean, tokens)

    def _grid(self, shape):
        _, height, width, channels = shape
        if height % self.patch or width % self.patch or not height * width:
            raise UserError(f"images are {height}×{width} pixels; choose sides that are multiples of model.patch={self.patch}.")
        if channels != self.channels:
            raise UserError(f"images have {channels} channels, but model.channels is {self.channels}; set model.channels={channels}.")
        return height // self.patch, width // self.patch

    def _tokens(self, grid):
        """The tokens before the patches, `[1, 1, D]` and `[1, R, D]`, and the positions of the patches, `[1, N, D]` or `[N, D]`."""
        prefix, tiny = [], nn.initializers.normal(1e-6)                             # cls and registers start as in DINOv2
        if self.cls:
            prefix.append(self.param("cls", tiny, (1, 1, self.width), jnp.float32))
        if self.positions == "learned":
            side = self.image // self.patch
            table = self.param("pos", transformer.NORMAL, (1, self.cls + side**2, self.width), jnp.float32)
            if self.cls:
                prefix[0] = prefix[0] + table[:, :1]                                # not in place: parameters may be numpy arrays
            places = resize(table[0, self.cls:], grid, self.resize)
        else:
            places = sincos(grid, self.width) if self.positions == "sincos" else 0.0
        if self.registers:
            prefix.append(self.param("registers", tiny, (1, self.registers, self.width), jnp.float32))
        return prefix, places

    def _turn(self, grid, key, keep):
        """Cosines and sines `[1 or B, 1 + R + n, D / heads]` of all tokens, those before the patches not turned; key: of what is drawn in training, or None."""
        moved = {}
        if key is not None:
            shift, jitter, both = jnp.split(jax.random.uniform(jax.random.fold_in(key, self.depth), (5,), minval=-1.0), (2, 4))
            moved = {"shift": self.rope_shift * shift, "scale": self.rope_jitter**jitter * self.rope_rescale**both}
        first = self.cls + self.registers
        turn = rotations(grid, self.width // self.heads, self.rope_base, **moved)
        turn = [a[None] if keep is None else a[keep] for a in turn]                 # [1 or B, n, C]
        return tuple(jnp.concatenate([jnp.full((len(a), first, a.shape[-1]), still), a], 1) for a, still in zip(turn, (1.0, 0.0)))
