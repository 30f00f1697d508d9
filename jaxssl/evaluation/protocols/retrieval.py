"""Retrieval and clustering of the test images: every one is a query against all others, or against the training images (the protocol of
Musgrave et al., arXiv 2003.08505, section 3.2; the definitions stand in `jaxssl.evaluation.measures.retrieval`).

An image is never its own neighbour, by its id. Images whose class has no other image are left out as queries and stay as references.
"""
import dataclasses
import json
import os
import time

import numpy as np

from jaxssl import encoder as encoders
from jaxssl.encoder import load as loading
from jaxssl.errors import UserError, listed, nearest as nearest_name
from jaxssl.evaluation.features.search import neighbours
from jaxssl.evaluation.measures import retrieval
from jaxssl.evaluation.protocols import Context, Row
from jaxssl.workdir import folder as folders

LABELS = ("test",)      # read by this protocol; against="train" reads those of the training images too
BESIDE = ("untrained", "pretrained")
PER_CLASS = ("precision@1", "MAP@R")
_NEAREST = 5            # classes that are named for each


def run(context: Context, *, against: str = "test", recall: tuple = (1, 2, 4, 8), clusters: bool = True, per_class: bool = False, beside: tuple[str, ...] = (),
        nearest: str = "", layer: str = "backbone") -> list[Row]:
    """precision@1, recall@k, R-precision, MAP@R and MRR; with `clusters` NMI and AMI of k-means.

    against: "test" (query = reference, self excluded) or "train" (separate sets). per_class: also precision@1 and MAP@R of each class, the worst first.
    beside: the same rows of the network "untrained", and "pretrained", with the weights alone that the run began with (init_from).
    nearest: a JSON file to write, {training class: the classes whose means are most like its own}, which data.confusable reads.
    """
    if against not in ("test", "train"):
        raise UserError(f"retrieval.against is {against!r}; choose test (every test image against all others) or train (against the training images)")
    if against == "train" and context.data.disjoint:
        raise UserError("retrieval.against=train looks for classes of test images among training images, and data.split='class_disjoint' has none of them there; leave it out")
    if not recall or min(recall) < 1:
        raise UserError(f"retrieval.recall is {', '.join(map(str, recall)) or 'empty'}; give whole numbers from 1 on")
    if wrong := next((name for name in beside if name not in BESIDE), None):
        raise UserError(f"retrieval.beside is {wrong!r}; choose some of {', '.join(BESIDE)}{nearest_name(wrong, BESIDE)}")
    rows = measured(context, against, recall, layer, per_class=per_class)
    for which in beside:
        other = dataclasses.replace(context, encoder=_other(context.encoder, which), _kept={})
        rows += measured(other, against, recall, layer if layer in other.encoder.layers else "backbone", which)
    if nearest:
        write_nearest(context, nearest, layer)
    if not clusters:
        return rows
    start, test = time.monotonic(), context.labelled("test", layer)
    scores = retrieval.clustering(test.x, test.labels, seed=context.seed)
    setting = {"clusters": len(np.unique(test.labels)), "algorithm": "k-means, one start", "seed": context.seed}
    seconds = (time.monotonic() - start) / len(scores)
    return rows + [Row("retrieval", "k-means", layer, name, value, len(test.labels), None, setting, "", seconds, "fixed", "share") for name, value in scores.items()]


def measured(context: Context, against: str, recall: tuple, layer: str, which: str = "", *, per_class: bool = False) -> list[Row]:
    """The rows of one encoder. which: says of another one than the run's own what it is."""
    start, test = time.monotonic(), context.labelled("test", layer)
    reference = test if against == "test" else context.labelled("train", layer)
    ids = dict(query_ids=test.ids, reference_ids=test.ids) if against == "test" else {}
    try:
        found = retrieval.evaluate(test.x, test.labels, reference.x, reference.labels, recall=recall, mesh=context.mesh, **ids)
    except ValueError as error:
        raise UserError(f"retrieval on {context.data.train.name}: {error}; give data with several images a class") from error
    setting = {"against": against, "self": "excluded by id" if ids else "separate sets", "reference": len(reference.labels), "R_max": found.most, "lone": found.lone}
    note = f"{found.lone} images without another of their class are no queries" if found.lone else ""
    own, variant = test.labels[found.queries], f"against {against}" + (f", {which}" if which else "")
    seconds = (time.monotonic() - start) / len(found.outcomes)

    def row(variant, name, values, labels, ids, seconds):
        return Row("retrieval", variant, layer, name, float(values.mean()), len(values), context.interval(values, labels, ids), setting, note, seconds, "fixed", "share")
    rows = [row(variant, name, values, own, test.ids[found.queries], seconds) for name, values in found.outcomes.items()]
    for name in PER_CLASS if per_class else ():
        values = found.outcomes[name]
        of = {label: values[own == label] for label in np.unique(own)}
        rows += [row(f"{variant}, class {context.data.test.classes[label]}", f"{name} of a class", of[label], own[own == label], test.ids[found.queries][own == label], 0.)
                 for label in sorted(of, key=lambda label: (of[label].mean(), label))]
    return rows


def _other(encoder, which):
    """The encoder untrained, or as the weights that its run began with have it."""
    if which == "untrained":
        return encoders.untrained(encoder)
    if not (path := encoder.config.get("init_from")):
        raise UserError(f"retrieval.beside=pretrained, but {encoder.name} began with no weights (its init_from is empty); use retrieval.beside=untrained")
    return loading.load(os.path.expanduser(path))


def write_nearest(context: Context, path: str, layer: str) -> None:
    """Writes for each training class the `_NEAREST` others whose means of normalised features are most alike. Raises: UserError."""
    train, names = context.labelled("train", layer), context.data.train.classes
    x = train.x / np.maximum(np.linalg.norm(train.x, axis=1, keepdims=True), 1e-12)
    there = np.unique(train.labels)
    if len(there) < 2:
        raise UserError(f"retrieval.nearest is {path!r}, and the training images have {len(there)} class ({listed(names[c] for c in there)}); give more")
    means = np.stack([x[train.labels == c].mean(0) for c in there])
    _, index = neighbours(means, means, k=min(_NEAREST, len(there) - 1), query_ids=there, reference_ids=there)
    try:
        folders.write(folders.path(os.path.expanduser(path)), json.dumps({names[c]: [names[there[i]] for i in own] for c, own in zip(there, index)}, indent=1))
    except OSError as error:
        raise UserError(f"retrieval.nearest: cannot write {path} ({error.strerror or error}); give another file") from error
