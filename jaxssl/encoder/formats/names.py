"""Which of our tensors is which of theirs: the ResNet by place, and the layouts of convolutions and matrices.

A table maps a name of the other side to a `Tensor`: our name and how the array is turned. It is one to one and complete, so weights travel
there and back bit for bit.
"""
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError, listed, whole

# layout -> (axes from ours to theirs, axes from theirs to ours)
AXES = {"conv": ((3, 2, 0, 1), (2, 3, 1, 0)), "matrix": ((1, 0), (1, 0)), "same": (None, None)}
COUNTERS = "num_batches_tracked"     # torch counts batches beside each norm; no weight, and never read in inference


class Tensor(NamedTuple):
    """ours: "params/encoder/stem/conv/kernel". layout: "conv" (theirs [O, I, H, W], ours [H, W, I, O]), "matrix" (theirs [O, I], ours [I, O]) or "same"."""
    ours: str
    layout: str


class Place(NamedTuple):
    """A convolution and its norm: stage from 1 (0 is the stem), block from 0, unit from 1 (0 is the shortcut)."""
    stage: int
    block: int
    unit: int


def places(kind: str, depths: Iterable[int]) -> list[Place]:
    """Every convolution of a ResNet, input to output."""
    found = [Place(0, 0, 1)]
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            if block == 0 and (stage > 1 or kind == "bottleneck"):
                found.append(Place(stage, block, 0))
            found += [Place(stage, block, unit) for unit in range(1, 3 if kind == "basic" else 4)]
    return found


def ours(place: Place) -> tuple[str, str]:
    """Paths of the convolution and the norm at `place` in our tree."""
    if not place.stage:
        return "encoder/stem/conv", "encoder/stem/norm"
    block = f"encoder/stage{place.stage}/block{place.block}"
    return (f"{block}/conv{place.unit}", f"{block}/norm{place.unit}") if place.unit else (f"{block}/shortcut/conv", f"{block}/shortcut/norm")


def table(kind: str, depths: Iterable[int], name: Callable[[Place], tuple[str, str]], leaves: dict[str, str], layout: str) -> dict[str, Tensor]:
    """Their names to ours for a ResNet's encoder.

    name: their (convolution, norm) at a place. leaves: their ends for our kernel, scale, bias, mean and var, separators included.
    layout: of their convolutions, "conv" or "same".
    """
    found = {}
    for place in places(kind, depths):
        (conv, norm), (their_conv, their_norm) = ours(place), name(place)
        found[their_conv + leaves["kernel"]] = Tensor(f"params/{conv}/kernel", layout)
        for leaf, collection in (("scale", "params"), ("bias", "params"), ("mean", "batch_stats"), ("var", "batch_stats")):
            found[their_norm + leaves[leaf]] = Tensor(f"{collection}/{norm}/{leaf}", "same")
    return found


TORCH = {"kernel": ".weight", "scale": ".weight", "bias": ".bias", "mean": ".running_mean", "var": ".running_var"}


def resnet(module) -> tuple[str, tuple[int, ...]]:
    """(kind, depths) of an encoder module. Raises: UserError when it is no ResNet."""
    if not isinstance(module, models.resnet.ResNet):
        raise UserError(f"the names of a {type(module).__name__} in other libraries are not known here; only ResNets are")
    return module.kind, tuple(module.depths)


def theirs(table: dict[str, Tensor], named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our tensors under their names and layouts. Raises: UserError that lists what the table leaves over, on either side."""
    wanted = {t.ours for t in table.values()}
    lost, absent = sorted(named.keys() - wanted), sorted(wanted - named.keys())
    if lost or absent:
        raise UserError(f"not every tensor has a place in this format: {len(lost)} without one ({listed(lost)}), {len(absent)} missing ({listed(absent)})"
                        f"{whole({'without a place': lost, 'missing': absent})}")
    return {name: turned(named[t.ours], AXES[t.layout][0]) for name, t in table.items()}


def turned(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    """The array with its axes permuted, contiguous. Raises: UserError when it has another number of axes."""
    if axes is None:
        return np.ascontiguousarray(array)
    if array.ndim != len(axes):
        raise UserError(f"a tensor of shape {array.shape} was found where {len(axes)} axes are expected; the file holds another architecture")
    return np.ascontiguousarray(array.transpose(axes))


def nested(named: dict[str, np.ndarray]) -> dict:
    """{"a/b": leaf} as {"a": {"b": leaf}}."""
    tree = {}
    for path, leaf in named.items():
        *folders, last = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[last] = leaf
    return tree
