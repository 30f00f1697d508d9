"""Evaluation protocols: one file each, found by its name; `run(context, *, <options>) -> list[Row]`.

A protocol sees the encoder, the data and cached features, and nothing of how the encoder was trained. Whatever it selects (a learning rate, a
penalty, an epoch) it selects on a held-out part of the training images, unless `context.select` says "test", and its rows say which.
"""
import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxssl import cache, data as datas
from jaxssl.data.sources import Subset
from jaxssl.encoder import Encoder
from jaxssl.errors import UserError, nearest
from jaxssl.eval import bootstrap

SELECT = ("validation", "test")
BUDGETS = ("short", "published")


class Row(NamedTuple):
    """One number of a table.

    protocol: the file's name. variant: what tells rows of one protocol apart ("k=20 T=.07"). layer: of the encoder. metric: "accuracy", "map@r", …
    value: as measured; shares lie in [0, 1]. n: images (or tries) it is a mean over. interval: 95 %, from `Context.interval`, or None.
    setting: everything that fixes the number, as plain JSON values. note: one sentence, or "". seconds: spent on it.
    selected: where the setting came from: "fixed", "validation" (a held-out part of the training images) or "test".
    """
    protocol: str
    variant: str
    layer: str
    metric: str
    value: float
    n: int
    interval: tuple[float, float] | None
    setting: dict
    note: str
    seconds: float
    selected: str


@dataclasses.dataclass
class Context:
    """What a protocol works with.

    folder: where features are cached. seed: of every random draw. select: "validation" or "test" (see above). budget: "short" or "published",
    for protocols that train long. log(sentence): progress for a person.
    """
    encoder: Encoder
    data: datas.Data
    mesh: Any
    folder: str
    seed: int = 0
    select: str = "validation"
    budget: str = "short"
    log: Callable[[str], None] = print
    _kept: dict = dataclasses.field(default_factory=dict, repr=False)
    _stores: dict = dataclasses.field(default_factory=dict, repr=False)

    def features(self, which: str, layer: str = "backbone") -> cache.Features:
        """Features of the "train" or "test" images, test-time view, batch norm in inference mode; computed once, then memory-mapped.

        Training rows may be unlabelled (-1), test rows too: see `labelled`. Raises: UserError when there are no test images.
        """
        if (which, layer) not in self._kept:
            self._kept[which, layer] = cache.features(self.encoder, self.data, which, layer=layer, mesh=self.mesh, folder=self.folder,
                                                      store=lambda: self.store(which))
        return self._kept[which, layer]

    def labelled(self, which: str, layer: str = "backbone") -> cache.Features:
        """`features` without its unlabelled rows. Raises: UserError when none is left."""
        return cache.labelled(self.features(which, layer), f"the {which} images of {self.data.train.name}")

    def store(self, which: str) -> dict | None:
        """The decoded "train" or "test" images (`data.store`), kept; None when they are too many to stay in memory (`data.resident`)."""
        if not self.data.resident:
            return None
        if which not in self._stores:
            self._stores[which] = datas.store(self.data, cache.find(self.data, which))
        return self._stores[which]

    def canvases(self, which: str, rows: np.ndarray) -> dict:
        """The images `rows` (places in the source) of a set, decoded: image uint8 [n, S, S, 3], size int32 [n, 2]; a broken one has its substitute."""
        store = self.store(which)
        if store is None:
            store, rows = datas.store(self.data, Subset(cache.find(self.data, which), rows)), slice(None)
        return {name: store[name][rows] for name in ("image", "size")}

    def interval(self, correct: np.ndarray, labels: np.ndarray) -> bootstrap.Interval:
        """95 % interval (low, high) of the mean of `correct` (bool or float [N]) over images; `.classes` is that over whole classes (labels int [N])."""
        return bootstrap.interval(correct, labels, seed=self.seed)


def names() -> list[str]:
    """The protocols there are: the files of this folder."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")


def find(name: str) -> Any:
    """The module of a protocol. Raises: UserError that lists them."""
    if name not in names():
        raise UserError(f"protocol {name!r} is not one of {', '.join(names())}{nearest(name, names())}")
    return importlib.import_module(f"jaxssl.protocols.{name}")


def options(name: str) -> dict:
    """The options of a protocol with their defaults."""
    return {p.name: p.default for p in inspect.signature(find(name).run).parameters.values() if p.kind is p.KEYWORD_ONLY}
