"""Which of our tensors is which of theirs, and the layouts of convolutions and matrices.

A table maps a name of the other side to a `Tensor`: our name and how the array is turned. Several of their names may stand for one array of ours,
a layer each, or queries, keys and values; else it is one to one. It is complete, so weights travel there and back bit for bit.
"""
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jaxssl.errors import UserError, listed, whole

# layout -> (axes from ours to theirs, axes from theirs to ours)
AXES = {"conv": ((3, 2, 0, 1), (2, 3, 1, 0)), "matrix": ((1, 0), (1, 0)), "same": (None, None)}
COUNTERS = "num_batches_tracked"     # torch counts batches beside each norm; no weight, and never read in inference


class Tensor(NamedTuple):
    """ours: "params/encoder/stem/conv/kernel". layout: "conv" (theirs [O, I, H, W], ours [H, W, I, O]), "matrix" (theirs [O, I], ours [I, O]) or "same".

    layer: which slice of the first axis of ours theirs is, where blocks are stacked. part: (which, of how many) equal parts of the last axis of ours.
    turns: two functions in place of the layout, from ours to theirs and from theirs to ours.
    """
    ours: str
    layout: str = "same"
    layer: int | None = None
    part: tuple[int, int] | None = None
    turns: tuple[Callable, Callable] | None = None

    @property
    def piece(self) -> str:
        """Our name, and of which layer and part: "params/encoder/blocks/qkv/kernel/3/0"."""
        return "/".join([self.ours, *(str(n) for n in (self.layer, self.part and self.part[0]) if n is not None)])

    def theirs(self, array: np.ndarray) -> np.ndarray:
        """Their array from the whole of ours."""
        array = array if self.layer is None else array[self.layer]
        array = array if self.part is None else np.split(array, self.part[1], -1)[self.part[0]]
        return np.ascontiguousarray(self.turns[0](array)) if self.turns else turned(array, AXES[self.layout][0])

    def back(self, array: np.ndarray) -> np.ndarray:
        """Our array, or that piece of it, from theirs."""
        return np.ascontiguousarray(self.turns[1](array)) if self.turns else turned(array, AXES[self.layout][1])


class Side(NamedTuple):
    """A family of networks under a library's names.

    layout: whose names. stem: the name of the first kernel, by which they are known. body, known: regular expressions of the names of the network
    itself, and of those that it has beside its encoder. table: of a module. canonical: a name without what training programs put around it.
    head: a table of the projection head among the names found. constants: what the library's network has and ours computes, with its values.
    """
    layout: str
    stem: str
    body: str
    known: str
    table: Callable[..., dict[str, Tensor]]
    canonical: Callable[[str], str] = lambda name: name
    head: Callable[[list[str]], dict[str, Tensor]] = lambda found: {}
    constants: Callable[..., dict[str, np.ndarray]] = lambda module, size: {}


def theirs(table: Mapping[str, Tensor], named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our tensors under their names and layouts. Raises: UserError that lists what the table leaves over, on either side."""
    wanted = {t.ours for t in table.values()}
    lost, absent = sorted(named.keys() - wanted), sorted(wanted - named.keys())
    if lost or absent:
        raise UserError(f"not every tensor has a place in this format: {len(lost)} without one ({listed(lost)}), {len(absent)} missing ({listed(absent)})"
                        f"{whole({'without a place': lost, 'missing': absent})}")
    return {name: t.theirs(named[t.ours]) for name, t in table.items()}


def ours(table: Mapping[str, Tensor], found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Their tensors as ours. What lacks a layer or a part is left out. Raises: UserError for pieces that do not fit together."""
    pieces = {}
    for name, t in table.items():
        pieces.setdefault(t.ours, {})[t.layer, t.part] = (name, t)
    made = {}
    for mine, entries in pieces.items():
        if all(name in found for name, _ in entries.values()):
            made[mine] = _joined(mine, {key: t.back(found[name]) for key, (name, t) in entries.items()})
    return made


def _joined(mine, pieces):
    """One array from {(layer, part): piece}."""
    try:
        layers = {}
        for (layer, part), piece in sorted(pieces.items(), key=lambda entry: (entry[0][0] or 0, entry[0][1] or ())):
            parts = layers.setdefault(layer, [])
            parts += [np.zeros_like(piece)] * (part[0] - len(parts) if part else 0) + [piece]       # a part that no name stands for is zero
        joined = {layer: parts[0] if len(parts) == 1 else np.concatenate(parts, -1) for layer, parts in layers.items()}
        return joined[None] if None in joined else np.stack(list(joined.values()))
    except ValueError as error:
        shapes = sorted({str(piece.shape) for piece in pieces.values()})
        raise UserError(f"the pieces of {mine} are of several shapes ({listed(shapes)}); its layers are alike here, so the file holds another architecture") from error


def turned(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    """The array with its axes permuted, contiguous. Raises: UserError when it has another number of axes."""
    if axes is None:
        return np.ascontiguousarray(array)
    if array.ndim != len(axes):
        raise UserError(f"a tensor of shape {array.shape} was found where {len(axes)} axes are expected; the file holds another architecture")
    return np.ascontiguousarray(array.transpose(axes))


def nested(named: Mapping[str, np.ndarray]) -> dict:
    """{"a/b": leaf} as {"a": {"b": leaf}}."""
    tree = {}
    for path, leaf in named.items():
        *folders, last = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[last] = leaf
    return tree


def gone(table: Mapping[str, Tensor], found: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """Of a table against the names found: our piece → their name, for each that is missing; and the names that are of no use without them."""
    found = set(found)
    missing = {t.piece: name for name, t in table.items() if name not in found}
    broken = {t.ours for name, t in table.items() if name not in found}
    return missing, {name for name, t in table.items() if name in found and t.ours in broken}
