"""Wrong labels, fewer classes and classes of very different sizes, on purpose: what learning loses by them. Only training images are touched, and what was drawn is told.

Both are functions of a seed and of the images' places alone, so that every process and every resume draw the same.
"""
import json
import os
from collections.abc import Sequence

import numpy as np

from jaxssl.data.order import mix, permute
from jaxssl.data.sources import UNLABELLED, Source, Subset
from jaxssl.errors import UserError, listed, shown

HOW = "`python -m jaxssl.evaluate --weights W --protocols retrieval --set retrieval.nearest=FILE`"
_PLACES, _LABELS, _CLASSES, _TAIL = np.uint64(11), np.uint64(12), np.uint64(13), np.uint64(14)       # what a key is for


def relabelled(source: Source, share: float, *, confusable: str = "", seed: int = 0) -> tuple[Subset, dict]:
    """`source` with wrong labels on round(share · labelled images) of its images, and a record of them: {"images": [[id, true class, given class], …], …}.

    A wrong label is never the true one: it is any of the other classes alike, or with `confusable`, a JSON file {class: [its nearest classes]}, one of those (`HOW` writes one).
    Raises: UserError.
    """
    labels = np.array([source.entry(i)[0] for i in range(len(source))], np.int32)
    known, classes = np.flatnonzero(labels != UNLABELLED), len(source.classes)
    if classes < 2 or not len(known):
        raise UserError(f"data.label_noise={share:g} gives images the label of another class, and {shown(source.name)} has {classes} classes; set it to 0")
    key = mix(np.uint64(seed % 2**64))
    wrong = np.sort(known[permute(np.arange(round(share * len(known))), len(known), mix(key ^ _PLACES))])
    others = _nearest(confusable, source.classes) if confusable else None
    draw = mix(mix(key ^ _LABELS) ^ wrong.astype(np.uint64))
    given = labels.copy()
    if others is None:
        given[wrong] = (labels[wrong] + 1 + (draw % np.uint64(classes - 1)).astype(np.int64)) % classes
    else:
        given[wrong] = [others[true][int(d % np.uint64(len(others[true])))] for true, d in zip(labels[wrong], draw)]
    images = [[source.id(int(i)), source.classes[labels[i]], source.classes[given[i]]] for i in wrong]
    record = {"share": share, "kind": "confusable" if confusable else "uniform", "seed": seed, "of": len(known), "images": images}
    return Subset(source, np.arange(len(source)), given, source.classes), record


def fewer_classes(source: Source, share: float, *, seed: int = 0) -> tuple[Subset, dict]:
    """The images of round(share · classes) of the classes of `source`, at least two, renumbered; and a record {"classes": [names], …}. Raises: UserError."""
    classes = len(source.classes)
    count = max(2, round(share * classes))
    if classes < 2:
        raise UserError(f"data.class_share={share:g} leaves classes out, and {shown(source.name)} has {classes}; set it to 1")
    chosen = np.sort(permute(np.arange(count), classes, mix(mix(np.uint64(seed % 2**64)) ^ _CLASSES)))
    number = np.full(classes + 1, UNLABELLED, np.int32)         # the last is that of -1
    number[chosen] = np.arange(count)
    labels = number[[source.entry(i)[0] for i in range(len(source))]]
    rows, names = np.flatnonzero(labels >= 0), tuple(source.classes[i] for i in chosen)
    return Subset(source, rows, labels[rows], names), {"share": share, "seed": seed, "of": classes, "classes": list(names)}


def long_tail(source: Source, imbalance: float, *, seed: int = 0) -> tuple[Subset, dict]:
    """The first class of `source` whole, the last 1 / imbalance of it, those between on an exponential (CIFAR-LT: Cui et al. 2019, arXiv 1901.05555, section 5.1).

    Of class c of C with n images round(n · imbalance^(-c / (C - 1))) are kept, at least one; images without a label stay. Returns the images, in their order, and a record
    {"images": {class: how many}, …}. Raises: UserError.
    """
    classes = len(source.classes)
    if classes < 2:
        raise UserError(f"data.imbalance={imbalance:g} makes classes of different sizes, and {shown(source.name)} has {classes}; set it to 1")
    labels = np.array([source.entry(i)[0] for i in range(len(source))], np.int32)
    key, kept = mix(np.uint64(seed % 2**64)), [np.flatnonzero(labels == UNLABELLED)]
    for c in range(classes):
        own = np.flatnonzero(labels == c)
        count = min(len(own), max(1, round(len(own) * imbalance ** (-c / (classes - 1)))))
        kept.append(own[permute(np.arange(count), len(own), mix(mix(key ^ _TAIL) ^ np.uint64(c)))] if count else own)
    rows = np.sort(np.concatenate(kept))
    counts = {source.classes[c]: int(np.sum(labels[rows] == c)) for c in range(classes)}
    return Subset(source, rows, labels[rows], source.classes), {"imbalance": imbalance, "seed": seed, "of": len(source), "images": counts}


def _nearest(path: str, classes: Sequence[str]) -> list[list[int]]:
    """For each class the places of its nearest others, from the file that names them."""
    number = {name: i for i, name in enumerate(classes)}
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            told = json.load(file)
        found = [[number[other] for other in told[name] if other in number and other != name] for name in classes]
    except OSError as error:
        raise UserError(f"data.confusable='{shown(path)}' cannot be read ({error.strerror or error}); write it with {HOW}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"data.confusable='{shown(path)}' does not name the nearest classes of each class ({type(error).__name__}: {shown(str(error))[:100]}); write it with "
                        f"{HOW}") from error
    if lone := [name for name, others in zip(classes, found) if not others]:
        raise UserError(f"data.confusable='{shown(path)}' names no class of the training images near {listed(map(shown, lone))}; write it for these classes")
    return found
