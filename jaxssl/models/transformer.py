"""Pre-norm transformer blocks over tokens, each with parameters of its own or stacked along a first axis and scanned."""
import functools
import re
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.models import droppath, lora
from jaxssl.models.positions import turned

# What the backward pass finds stored: "full" recomputes all but a block's input, "dots" all but the outputs of its linear layers.
REMATS = {"none": None, "full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
FFNS = ("mlp", "swiglu")
# torch's trunc_normal_(std=.02), which timm and DINOv2 draw with, cuts at ±2: a hundred deviations, so that it is a normal draw.
NORMAL = nn.initializers.normal(0.02)
# Of linear layers. At 768 channels the two are within a factor of two; at 96 the first draws so little that a short run does not learn where to look.
INITS = {"normal": NORMAL, "xavier": nn.initializers.xavier_uniform()}
SEEN = "seen"       # the collection that blocks show themselves in
_UNSTACKED = re.compile(r"block(\d+)")
_AMPERE = re.compile(r"([89]|[1-9]\d)\.\d+")       # compute capabilities that cuDNN's fused attention runs on


def swiglu_width(width: int) -> int:
    """Hidden width of SwiGLU: two thirds of 4 · width, rounded up to a multiple of eight (DINOv2)."""
    return (int(4 * width * 2 / 3) + 7) // 8 * 8


class KeylessBias(nn.Module):
    """A linear layer to queries, keys and values, like nn.Dense but that the bias of keys, a third of it, is held at zero (DINOv3): rotary positions would turn it."""
    width: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32) * np.repeat(np.float32([1, 0, 1]), self.width // 3)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class Block(nn.Module):
    """Attention and feed-forward network, each behind a layer norm and in a residual branch (Dosovitskiy et al., arXiv:2010.11929).

    qkv is one linear layer ordered q | k | v, each by heads; GELU is exact. Layer norms and the softmax are computed in float32.
    Whoever makes the collection "seen" mutable finds each block's queries, keys and output there (`models.dense`); otherwise nothing is kept.

    layer_scale: start of a factor for each channel of both branches (CaiT, arXiv:2103.17239); 0 is none.
    kernel_init: how linear layers are drawn, of `INITS`.
    subset_rate: where positive, stochastic depth in the form of `droppath.on_subset` at this rate.
    causal: a token attends to itself and to those before it alone.
    key_bias: keys have a bias. lora: rank of the low-rank additions to the linear layers, 0 for none; lora_scale: their factor (`models.lora`).
    """
    width: int
    heads: int
    ffn: str = "mlp"
    qk_norm: bool = False
    layer_scale: float = 0.0
    kernel_init: str = "normal"
    subset_rate: float = 0.0
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    causal: bool = False
    told: bool = False
    key_bias: bool = True
    lora: int = 0
    lora_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, drop: tuple[jax.Array, jax.Array] | None, rows: jax.Array | None, there: jax.Array | None,
                 turn: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, jax.Array | None]:
        """x `[B, N, D]`; drop: the layer's key and rate, or None to drop nothing; rows: as `droppath.by_row` has them; there: `[B, N]` bool, tokens that
        are attended to, or None for all; turn: of queries and keys, as `positions.turned` takes it, or None. Gives x, and as a scan wants it beside it what
        the feed-forward branch adds, where `told`, else None."""
        said = []

        def feed(x):
            said.append(self._feed(x))
            return said[0]
        for i, branch in enumerate((functools.partial(self._attend, there=there, turn=turn), feed if self.told else self._feed)):
            if drop is None:
                x = x + branch(x)
            elif self.subset_rate:
                x = droppath.on_subset(branch, x, jax.random.fold_in(drop[0], i), self.subset_rate)
            else:
                x = droppath.by_row(branch, x, jax.random.fold_in(drop[0], i), drop[1], rows)
        self._show("output", x)
        return x, said[0] if self.told else None

    def _attend(self, x, there, turn):
        y = self._dense(3 * self.width, "qkv")(layer_norm(x, self.eps, "norm1"))
        q, k, v = jnp.moveaxis(y.reshape(*y.shape[:2], 3, self.heads, -1), 2, 0)     # [B, N, 3D] -> 3 × [B, N, heads, D/heads]
        if self.qk_norm:
            q, k = layer_norm(q, self.eps, "q_norm"), layer_norm(k, self.eps, "k_norm")
        if turn is not None:
            q, k = turned(q, turn), turned(k, turn)
        self._show("query", q)
        self._show("key", k)
        y = attention(q, k, v, there, self.causal)                                                # [B, N, heads, D/heads]
        return self._scaled(self._dense(self.width, "proj")(y.reshape(x.shape)), "scale1")

    def _feed(self, x):
        y = layer_norm(x, self.eps, "norm2")
        if self.ffn == "mlp":
            y = self._dense(self.width, "fc2")(nn.gelu(self._dense(4 * self.width, "fc1")(y), approximate=False))
        else:
            gate, value = jnp.split(self._dense(2 * swiglu_width(self.width), "w12")(y), 2, -1)
            y = self._dense(self.width, "w3")(nn.silu(gate) * value)
        return self._scaled(y, "scale2")

    def _dense(self, width, name):
        kind = KeylessBias if name == "qkv" and not self.key_bias else nn.Dense
        dense = kind(width, dtype=self.dtype, kernel_init=INITS[self.kernel_init], name=name)
        if not self.lora:
            return dense
        added = lora.LowRank(width, self.lora, self.lora_scale, self.dtype, name=name + lora.END)
        return lambda x: dense(x) + added(x)

    def _show(self, name, value):
        self.sow(SEEN, name, value, reduce_fn=lambda old, new: new, init_fn=lambda: None)

    def _scaled(self, y, name):
        if not self.layer_scale:
            return y
        return y * self.param(name, nn.initializers.constant(self.layer_scale), (self.width,), jnp.float32).astype(y.dtype)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, there: jax.Array | None, causal: bool = False) -> jax.Array:
    """Softmax attention of `[B, N, heads, C]`, over the tokens that are `there` ([B, N] bool, None for all); causal: and that are not behind the one that asks.

    Where `fused` says so by cuDNN's kernel, which never holds the weights [B, heads, N, N]; else as XLA compiles it. Both take the softmax in float32.
    """
    if there is None and fused(q):
        count, odd, how = q.shape[1], q.shape[1] % 2, {}
        if odd:                                                                      # JAX gives cuDNN's gradient for an even number of tokens alone: one more, that is not there
            q, k, v = (jnp.pad(a, ((0, 0), (0, 1), (0, 0), (0, 0))) for a in (q, k, v))
            how = dict.fromkeys(("query_seq_lengths", "key_value_seq_lengths"), jnp.full(len(q), count, jnp.int32))
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn", is_causal=causal, **how)[:, :count]
    return jax.nn.dot_product_attention(q, k, v, mask=None if there is None else there[:, None, None], is_causal=causal)


def fused(q: jax.Array) -> bool:
    """Whether cuDNN's attention can take q: bfloat16, heads of a multiple of 8 up to 128 channels, NVIDIA GPUs of compute capability 8 or more, and no more of them than
    share one copy of the parameters: beyond, a step has a second mesh (`parallel.mesh.update_slices`), and JAX partitions this kernel in programs of one mesh alone."""
    if q.dtype != jnp.bfloat16 or q.shape[-1] % 8 or q.shape[-1] > 128 or jax.device_count() > 16:
        return False
    device = jax.devices()[0]
    return device.platform == "gpu" and bool(_AMPERE.fullmatch(str(getattr(device, "compute_capability", ""))))


def layer_norm(x: jax.Array, eps: float, name: str) -> jax.Array:
    """Layer norm of the last axis in float32, its statistics in two passes as in torch; in the dtype of x."""
    return nn.LayerNorm(eps, dtype=jnp.float32, use_fast_variance=False, name=name)(x).astype(x.dtype)


def run(block: dict, x: jax.Array, rates: np.ndarray, key: jax.Array | None, rows: jax.Array | None, *, subset: bool, scan: bool, remat: str,
        there: jax.Array | None = None, turn: tuple[jax.Array, jax.Array] | None = None, told: bool = False) -> tuple[jax.Array, jax.Array | None]:
    """x `[B, N, D]` through as many blocks as there are `rates`, within a compact method; `block` are the arguments of `Block`.

    rates: of stochastic depth, `[depth]`; key: of its draws, a layer's is fold_in(key, layer), or None to drop nothing; rows: `[B]` int32, or None for
    0 to B - 1. subset: in the form of `droppath.on_subset`; scanned, the rates are then one.
    there: `[B, N]` bool, tokens that are attended to; None for all. turn: rotary positions, as `positions.turned` takes them.
    told: beside x, what each block's feed-forward branch adds, `[depth, B, N, D]`, else None.
    scan: parameters are stacked as "blocks", with the layer as first axis, and one block is compiled; otherwise they are "block0", "block1", …
    """
    drop = None
    if key is not None:
        rows = jnp.arange(len(x)) if rows is None else rows
        drop = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(rates))), jnp.asarray(rates)
    kind = Block if remat == "none" else nn.remat(Block, policy=REMATS[remat], prevent_cse=not scan)
    subsets = [float(rate) * subset for rate in rates]
    if scan:
        scanned = nn.scan(kind, variable_axes={"params": 0, SEEN: 0}, split_rngs={"params": True}, in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast), length=len(rates))
        return scanned(**block, subset_rate=subsets[0], told=told, name="blocks")(x, drop, rows, there, turn)
    said = []
    for i, rate in enumerate(subsets):
        x, added = kind(**block, subset_rate=rate, told=told, name=f"block{i}")(x, jax.tree.map(lambda a: a[i], drop), rows, there, turn)
        said.append(added)
    return x, jnp.stack(said) if told else None


def stack(params: Mapping) -> dict:
    """Parameters with "block0", "block1", … as those of a scanned model, with "blocks" `[depth, …]`; others stay, and so do stacked ones."""
    layers = sorted((name for name in params if _UNSTACKED.fullmatch(name)), key=lambda name: int(name[5:]))
    if not layers:
        return dict(params)
    rest = {name: value for name, value in params.items() if name not in layers}
    return rest | {"blocks": jax.tree.map(lambda *arrays: jnp.stack(arrays), *(params[name] for name in layers))}


def unstack(params: Mapping) -> dict:
    """The inverse of `stack`: "blocks" `[depth, …]` as "block0", "block1", …"""
    if "blocks" not in params:
        return dict(params)
    rest = {name: value for name, value in params.items() if name != "blocks"}
    depth = len(jax.tree.leaves(params["blocks"])[0])
    return rest | {f"block{i}": jax.tree.map(lambda array: array[i], params["blocks"]) for i in range(depth)}
