"""Low-rank additions to linear layers (LoRA: Hu et al., arXiv:2106.09685): what is trained of a network whose own weights stand still, and how both become one again."""
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

END = "_lora"       # behind the name of the layer that an addition stands beside


class LowRank(nn.Module):
    """scale · x A B: A `[D, rank]` is drawn as the paper's code draws it, small, and B `[rank, width]` is zero, so that a network begins as it is without it."""
    width: int
    rank: int
    scale: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a = self.param("a", nn.initializers.normal(0.02), (x.shape[-1], self.rank), jnp.float32)
        b = self.param("b", nn.initializers.zeros, (self.rank, self.width), jnp.float32)
        return (x.astype(self.dtype) @ a.astype(self.dtype) @ b.astype(self.dtype)) * jnp.asarray(self.scale, self.dtype)


def scale(rank: int, alpha: float) -> float:
    """The factor of an addition, alpha / rank; 1 where alpha is 0."""
    return alpha / rank if alpha else 1.0


def merged(params: Mapping, factor: float) -> dict:
    """`params` (nested dicts) in which every addition is part of the kernel that it stands beside: kernel + factor · A B, layer by layer where layers are stacked."""
    plain = {name: merged(value, factor) if isinstance(value, Mapping) else value for name, value in params.items() if not name.endswith(END)}
    for name in params:
        if name.endswith(END):
            layer = name.removesuffix(END)
            plain[layer] = {**plain[layer], "kernel": plain[layer]["kernel"] + factor * (params[name]["a"] @ params[name]["b"])}
    return plain
