"""Evaluation protocols: one file each, found by its name; `run(context, *, <options>) -> list[Row]`.

A protocol sees the encoder, the data and cached features, and nothing of how the encoder was trained. Whatever it selects (a learning rate, a
penalty, an epoch) it selects on a held-out part of the training images, unless `context.select` says "test", and its rows say which.
"""
import dataclasses
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxssl import data as datas
from jaxssl.evaluation.features import cache
from jaxssl.encoder import preprocessing
from jaxssl.data import sources
from jaxssl.data.sources import Subset
from jaxssl.encoder import Encoder
from jaxssl.errors import UserError, nearest
from jaxssl.evaluation.measures import bootstrap

SELECT = ("validation", "test")
BUDGETS = ("short", "published")
GROUPS = ("all", "dense")
_BATCH, _BATCH_BYTES = 500, 2**27       # images in a forward pass: at most so many, and canvases of at most so many bytes
_CHECKED = 2**14                        # rows whose numbers are looked at at a time


class Row(NamedTuple):
    """One number of a table.

    protocol: the file's name. variant: what tells rows of one protocol apart ("k=20 T=.07"). layer: of the encoder. metric: "accuracy", "map@r", …
    value: as measured. n: images (or tries) it is a mean over. interval: 95 %, from `Context.interval`, or None.
    setting: everything that fixes the number, as plain JSON values. note: one sentence, or "". seconds: spent on it.
    selected: where the setting came from: "fixed", "validation" (a held-out part of the training images) or "test".
    unit: of the value: "share" for what lies in [0, 1] and is better the higher it is, else what is counted or measured: "rank", "slope", "nats", …
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
    unit: str


@dataclasses.dataclass
class Context:
    """What a protocol works with.

    folder: where features are cached. results: where evaluations/ lies (None: `folder`). seed: of every random draw. select: "validation" or
    "test" (see above). budget: "short" or "published", for protocols that train long. log(sentence): progress for a person.
    """
    encoder: Encoder
    data: datas.Data
    mesh: Any
    folder: str
    seed: int = 0
    select: str = "validation"
    budget: str = "short"
    log: Callable[[str], None] = print
    results: Any = None
    _kept: dict = dataclasses.field(default_factory=dict, repr=False)
    _stores: dict = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self):
        if self.results is None:
            self.results = Path(self.folder)

    def of(self, encoder: Encoder) -> "Context":
        """For another encoder with the same test-time view: the images that are decoded already are shared."""
        return dataclasses.replace(self, encoder=encoder, _kept={"digest": self.digest})

    @property
    def digest(self) -> str:
        """Of the data, wherever a copy of them lies: `cache.identity` of the training and of the test images, joined by "-"."""
        if "digest" not in self._kept:
            self._kept["digest"] = "-".join(cache.identity(source, here=False) for source in (self.data.train, self.data.test) if source is not None)
        return self._kept["digest"]

    @property
    def batch(self) -> int:
        """Images in one forward pass: of several processes all of them share it."""
        most = max(min(_BATCH, _BATCH_BYTES // (self.data.pixels.nbytes * self.data.canvas**2)), 1)
        return most if jax.process_count() == 1 else -(-most // jax.device_count()) * jax.device_count()

    def features(self, which: str, layer: str = "backbone") -> cache.Features:
        """Features of the "train" or "test" images, test-time view, batch norm in inference mode; computed once, then memory-mapped.

        Training rows may be unlabelled (-1), test rows too: see `labelled`. Raises: UserError when there are no test images, or features are not finite.
        """
        if (which, layer) not in self._kept:
            found = cache.features(self.encoder, self.data, which, layer=layer, mesh=self.mesh, folder=self.folder, batch=self.batch, store=lambda: self.store(which, view=True))
            bad = sum(int((~np.isfinite(found.x[at:at + _CHECKED]).all(1)).sum()) for at in range(0, len(found.x), _CHECKED))
            if bad:
                raise UserError(f"features at {layer} of {bad} of {len(found.x)} {which} images are not finite: {self.encoder.name} diverged in training, or bf16 is too "
                                "coarse for it; evaluate an earlier --step, other weights, or with --precision f32")
            self._kept[which, layer] = found
        return self._kept[which, layer]

    def labelled(self, which: str, layer: str = "backbone") -> cache.Features:
        """`features` without its unlabelled rows. Raises: UserError when none is left, or one alone to train on."""
        found = cache.labelled(self.features(which, layer), f"the {which} images of {self.data.train.name}")
        if which == "train" and len(found.labels) < 2:
            raise UserError(f"{self.data.train.name} has one labelled training image that can be decoded; give at least two")
        return found

    def keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make()` gives, made once under this key for all protocols and seeds."""
        if ("kept", key) not in self._kept:
            self._kept["kept", key] = make()
        return self._kept["kept", key]

    @property
    def prepare(self) -> Callable | None:
        """What large images go through before the test-time view: `preprocessing.before`."""
        return preprocessing.before(self.encoder.preprocessing, self.data.canvas)

    def store(self, which: str, *, view: bool = False) -> dict | None:
        """The decoded "train" or "test" images (`data.store`), kept; None when they are too many to stay in memory (`data.resident`).

        view: as the test-time view takes them, rather than as training crops from them. The same, unless there is something to `prepare`.
        """
        if not self.data.resident:
            return None
        prepare = self.prepare if view else None
        if (which, prepare is None) not in self._stores:
            self._stores[which, prepare is None] = datas.store(self.data, cache.find(self.data, which), prepare=prepare)
        return self._stores[which, prepare is None]

    def canvases(self, which: str, rows: np.ndarray) -> dict:
        """The images `rows` (places in the source) of a set, decoded: image uint8 [n, S, S, 3], size int32 [n, 2]; a broken one has its substitute."""
        store = self.store(which)
        if store is None:
            store, rows = datas.store(self.data, Subset(cache.find(self.data, which), rows)), slice(None)
        return {name: store[name][rows] for name in ("image", "size")}

    def interval(self, correct: np.ndarray, labels: np.ndarray, ids: np.ndarray, *, balanced: bool = False) -> bootstrap.Interval:
        """95 % interval (low, high) of the mean of `correct` (bool or float [N]) over images; `.classes` is that over whole classes (labels int [N]).

        ids int [N]: places of the images in their source, by which two encoders are paired. balanced: of the mean over classes of their means.
        """
        return bootstrap.interval(correct, labels, ids=ids, balanced=balanced, seed=self.seed)


def names(group: str = "") -> list[str]:
    """The protocols there are: the files of this folder; or those of a group: "all", which need images and labels alone, or "dense", which need an answer for each
    place (their modules say so in GROUP). Others need a file, and are named."""
    found = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")
    return [name for name in found if not group or getattr(find(name), "GROUP", "all") == group]


def find(name: str) -> Any:
    """The module of a protocol. Raises: UserError that lists them."""
    if name not in (known := names()):
        raise UserError(f"protocol {name!r} is not one of {', '.join(known)}{nearest(name, known)}")
    return importlib.import_module(f"jaxssl.evaluation.protocols.{name}")


def options(name: str) -> dict:
    """The options of a protocol with their defaults."""
    return {p.name: p.default for p in inspect.signature(find(name).run).parameters.values() if p.kind is p.KEYWORD_ONLY}


def annotations(name: str) -> dict[str, Any]:
    """The type of each option of a protocol, as its signature has it."""
    return {p.name: p.annotation for p in inspect.signature(find(name).run).parameters.values() if p.kind is p.KEYWORD_ONLY}


def check_labels(needy: dict[str, dict], data: datas.Data) -> None:
    """Raises: UserError unless the sets have the labels that the protocols `needy` (name -> options that are set) read. Decodes nothing.

    A protocol reads those of both sets, unless its module says others in LABELS, and an answer for each place where its module has TARGETS.
    """
    check_targets(needy, data)
    by_set = {which: [name for name in needy if which in getattr(find(name), "LABELS", cache.SETS)] for which in cache.SETS}
    if any(by_set.values()) and not data.classes:
        raise UserError(f"{data.train.name} has no labels, which {', '.join(dict.fromkeys(sum(by_set.values(), [])))} need; use --protocols labelfree, or another --data")
    if data.disjoint and (both := [name for name in by_set["train"] if name in by_set["test"]]):
        raise UserError(f"{', '.join(both)} {'tells' if len(both) == 1 else 'tell'} test images the class of training images, and data.split='class_disjoint' holds out "
                        "other classes; use --protocols retrieval or labelfree, or --data.split=train")
    for which, wanted in (("test", 1), ("train", 2)):
        if not by_set[which]:
            continue
        source = cache.find(data, which)
        found = sum(1 for _ in itertools.islice((i for i in range(len(source)) if source.entry(i)[0] >= 0), wanted))
        if found < wanted:
            raise UserError(f"{source.name} has {'no' if not found else 'one'} labelled {which} image, and {', '.join(by_set[which])} need{'s' if len(by_set[which]) == 1 else ''} "
                            f"{'one' if wanted == 1 else 'at least two'}; name other images with --data, --data.test_path or --data.test_split, or use --protocols labelfree")


def check_targets(names: Iterable[str], data: datas.Data) -> None:
    """Raises: UserError unless both sets have the answers for each place ("masks" or "depth") that these protocols read. Decodes nothing."""
    for name in names:
        kind = getattr(find(name), "TARGETS", "")
        for which in cache.SETS if kind else ():
            source = cache.find(data, which)
            if sources.targets(source) != kind:
                what, digits = ("masks", ", or --data digits") if kind == "masks" else ("maps of depth", "")
                raise UserError(f"{source.name} has no {what}, which {name} needs; give a folder with images/ and {kind}/ beside each other with --data{digits}")
