"""Classes that are trained on, validated on and tested on are different ones: the splits of metric learning.

Folds are those of Musgrave et al. (arXiv 2003.08505, section 3.1; their MLRCSplitManager): of N sorted classes the first N // 2 are for development, the rest for
the test; fold p of four begins at place int(p / 4 · N // 2) of the development half, trains on what follows, around its end, and validates on the last N // 8 of it.
Where N is odd their code lets training and validation share a class; here they never do.
"""
import os
import posixpath
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxssl.data.decode import pixel_limit, pixels_of
from jaxssl.data.sources import UNLABELLED, Source, Subset
from jaxssl.errors import UserError, listed, nearest, shown

CLASS_DISJOINT = "class_disjoint"
FOLDS = 4
HELD = ("val", "test")
BY = ("class", "parent")


class Parts(NamedTuple):
    """Names of the classes of each part, sorted. how: the rule, a sentence for a person."""
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    how: str


class Pool:
    """Several sources as one: classes of one name are one class, and an image that two of them hold (the same class, the same name, the same contents) counts once."""

    def __init__(self, sources: Sequence[Source]):
        self.sources, self.name = tuple(sources), " and ".join(source.name for source in sources)
        self.max_pixels, self.pixels = pixel_limit(self.sources[0]), pixels_of(self.sources[0])
        self.classes = tuple(sorted({name for source in sources for name in source.classes}))
        number = {name: i for i, name in enumerate(self.classes)}
        self._labels = [np.array([number[name] for name in source.classes] + [UNLABELLED], np.int64) for source in sources]     # -1 is the last
        self.twice, self._at, first = 0, [], {}
        for which, source in enumerate(self.sources):
            for index in range(len(source)):
                label, name = source.entry(index)
                other = first.setdefault((int(self._labels[which][label]), posixpath.basename(name)), (which, index))
                if other[0] != which and self._same(other, (which, index)):
                    self.twice += 1
                else:
                    self._at.append((which, index))

    def _same(self, one, other):
        a, b = (self.sources[which].read(index)[0] for which, index in (one, other))
        return a == b if isinstance(a, bytes) and isinstance(b, bytes) else np.array_equal(a, b)

    def __len__(self):
        return len(self._at)

    def read(self, index):
        which, at = self._at[index]
        data, label, name = self.sources[which].read(at)
        return data, int(self._labels[which][label]), name

    def entry(self, index):
        which, at = self._at[index]
        label, name = self.sources[which].entry(at)
        return int(self._labels[which][label]), name

    def id(self, index):
        which, at = self._at[index]
        return self.sources[which].id(at)


def decide(classes: Sequence[str], *, fold: int = 0, by: str = "class", val_classes: str = "", test_classes: str = "") -> Parts:
    """Which of `classes` are trained on, validated on and tested on.

    by: "class", or "parent": whole parents are parted, the folder of a class name such as "Latin/character01". val_classes, test_classes: names of classes or parents with
    commas between them, or a text file with one a line; those of the test take the place of the second half, and with those of validation there are no folds.
    Raises: UserError.
    """
    if by not in BY:
        raise UserError(f"data.split_by='{shown(by)}' is none of {', '.join(BY)}{nearest(by, BY)}")
    if not 0 <= fold < FOLDS:
        raise UserError(f"data.fold is {fold}; there are {FOLDS} folds, numbered from 0")
    classes = sorted(classes)
    test, val = _named("test_classes", test_classes, classes), _named("val_classes", val_classes, classes)
    named = set(val)
    if both := sorted(named.intersection(test)):
        raise UserError(f"{len(both)} classes are in data.val_classes and in data.test_classes ({listed(both)}), so what is selected on would be tested on; name each in one")
    if val_classes and fold:
        raise UserError(f"data.fold is {fold}, but data.val_classes names the classes of validation, so there are no folds; leave one of them out")
    parent = (lambda name: name) if by == "class" else _parent
    units, tested = sorted({parent(name) for name in classes}), set(test)
    plural = "classes" if by == "class" else "parents"
    if by == "parent" and units == [""]:
        raise UserError("data.split_by='parent' parts whole parents, and no class has one; set data.class_depth=2, so that a class is parent/class")
    if test_classes:
        units = sorted({parent(name) for name in classes if name not in tested})
        development, eighth, said = units, len(units) // FOLDS, f"test: the {len(test)} classes that data.test_classes names"
    else:
        development, eighth = units[:len(units) // 2], len(units) // 8
        rest = set(units[len(development):])
        test = [name for name in classes if parent(name) in rest and name not in named]
        said = f"test: the second half of {len(units)} sorted {plural}"
    if not val_classes:
        if len(development) < FOLDS:
            raise UserError(f"{FOLDS} folds need at least {FOLDS if test_classes else 2 * FOLDS} {plural}, and there are {len(units)}; name the classes with data.val_classes and "
                            "data.test_classes" + ("" if by == "class" else ", or part them by data.split_by='class'"))
        eighth = max(eighth, 1)
        start = int(fold / FOLDS * len(development)) + len(development) - eighth
        held = {development[(start + i) % len(development)] for i in range(eighth)}
        val = [name for name in classes if parent(name) in held and name not in tested]
        said = f"fold {fold} of {FOLDS}: {said}; validation: {eighth} of the other {len(development)} {plural}"
    else:
        said = f"{said}; validation: the {len(val)} classes that data.val_classes names"
    left = set(test) | set(val)
    train = [name for name in classes if name not in left]
    for what, names in (("trained on", train), ("validated on", val), ("tested on", test)):
        if not names:
            raise UserError(f"the split by classes leaves no class to be {what}; name fewer in data.val_classes and data.test_classes")
    return Parts(tuple(train), tuple(val), tuple(test), said)


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _named(key: str, text: str, classes: list[str]) -> list[str]:
    """The classes that a list names, as themselves or by a parent. Raises: UserError for a name that is neither."""
    if not text:
        return []
    names = text.split(",")
    if os.path.isfile(text):
        try:
            with open(text, encoding="utf-8") as file:
                names = file.read().splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"data.{key}='{shown(text)}' cannot be read ({getattr(error, 'strerror', None) or error}); give a text file with the name of a "
                            "class on each line") from error
    names = [name.strip().rstrip("/") for name in names if name.strip()]
    below = {}                              # name of a class or of a folder above it -> its classes
    for each in classes:
        above = each
        while above:
            below.setdefault(above, []).append(each)
            above = _parent(above)
    unknown = [name for name in names if name not in below]
    found = {each for name in names for each in below.get(name, ())}
    if unknown or not names:
        parents = sorted({_parent(each) for each in classes} - {""})
        what = f"{listed(map(shown, unknown)) if unknown else 'no class'}, which {'are' if len(unknown) > 1 else 'is'}"
        raise UserError(f"data.{key} names {what} neither a class nor a parent of some"
                        f"{nearest(unknown[0], [*parents, *classes]) if unknown else ''}")
    return sorted(found)


def take(source: Source, names: Sequence[str]) -> Subset:
    """The images of the classes `names`, whose labels are their places there. Raises: UserError when there are none."""
    number = {name: i for i, name in enumerate(names)}
    own = np.array([number.get(name, UNLABELLED) for name in source.classes] + [UNLABELLED], np.int32)
    labels = own[[source.entry(i)[0] for i in range(len(source))]]
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise UserError(f"{shown(source.name)} holds no image of {listed(map(shown, names))}; name other classes")
    return Subset(source, rows, labels[rows], tuple(names))


def demand(train: Source, held: Source, test: Sequence[str]) -> None:
    """The last gate, whatever the split was made by: no class of `held`, nor one of `test`, and no image of `held` is trained on. Raises: UserError that names one."""
    if shared := sorted(set(train.classes) & {*held.classes, *test}):
        raise UserError(f"{len(shared)} classes are trained on and held out ({listed(map(shown, shared))}); classes must lie in one part alone: mend data.val_classes and "
                        "data.test_classes")
    if isinstance(train, Subset) and isinstance(held, Subset) and len(both := np.intersect1d(train.indices, held.indices)):
        raise UserError(f"{len(both)} images are trained on and held out ({shown(train.source.id(int(both[0])))}); each must lie in one part alone")
