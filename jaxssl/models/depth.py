"""The residual blocks of an encoder, input to output: their names, and stochastic depth (Huang et al., arXiv:1603.09382) around its forward pass."""
import contextlib
import re
from collections.abc import Iterable, Iterator

import flax.linen as nn
import jax

from jaxssl.models.norm import BatchNorm
from jaxssl.models.resnet import Block

_NAME = re.compile(r"(?:^|/)(stage(\d+)/block(\d+))/")


def blocks(paths: Iterable[str]) -> tuple[str, ...]:
    """Names of the blocks ("stage1/block0", …) that the parameter paths "…/stage1/block0/conv1/kernel" belong to; () where there are none."""
    found = {match[1]: (int(match[2]), int(match[3])) for match in map(_NAME.search, paths) if match}
    return tuple(sorted(found, key=found.get))


@contextlib.contextmanager
def drop_path(rate: float, key: jax.Array, names: tuple[str, ...]) -> Iterator[None]:
    """While it is open, a forward pass leaves out the residual branch of each image in each block at random, and scales what it keeps.

    rate: chance in the last of the blocks `names`, in [0, 1); it grows linearly from 0 in the first, as in DeiT (arXiv:2012.12877) and timm.
    """
    chances = {name: rate * i / max(len(names) - 1, 1) for i, name in enumerate(names)}

    def intercept(call, args, kwargs, context):
        y, module = call(*args, **kwargs), context.module
        if not (isinstance(module, BatchNorm) and isinstance(module.parent, Block) and _is_last(module)):
            return y
        name = "/".join(module.path[-3:-1])
        keep = 1 - chances.get(name, 0.)
        if keep == 1:
            return y
        kept = jax.random.bernoulli(jax.random.fold_in(key, names.index(name)), keep, (len(y), *(1,) * (y.ndim - 1)))
        return (y * kept / keep).astype(y.dtype)                                    # [B, H, W, C]

    with nn.intercept_methods(intercept):
        yield


def _is_last(norm):
    """Whether the norm ends its block's residual branch: what it gives is the branch's output."""
    return norm.name == {"basic": "norm2", "bottleneck": "norm3"}[norm.parent.kind]
