"""Other images of the same classes: accuracy on a shifted set (ImageNet-A, -R, -Sketch, V2) of classifiers fitted to the training images, frozen features.

Such a set has some of the classes only, and answers are restricted to those, as its authors do (Hendrycks et al., arXiv 1907.07174, 2006.16241). Its folders are
matched to classes by name, or by a map: JSON {"folder": "class"}, or text with a folder and its class on each line. The same classifiers on the own test images of these
classes stand beside.
"""
import dataclasses
import json
import os
import time

import numpy as np

from jaxssl import data as datas
from jaxssl.data import open as opening
from jaxssl.errors import UserError, listed, shown
from jaxssl.evaluation.measures import knn, linear
from jaxssl.evaluation.protocols import Context, Row

GROUP = "sets"
METHODS = ("knn", "linear")


def run(context: Context, *, path: str = "", classes: str = "", methods: tuple[str, ...] = METHODS, k: int = 20, temperature: float = .07, layer: str = "backbone") -> list[Row]:
    """Two rows a method: accuracy on the shifted set, and on the own test images of its classes.

    path: the shifted set, a folder or zip of class folders. classes: a file of the map; "" matches names. methods: "knn" (weighted, k and temperature) and "linear" (L-BFGS
    on all classes, its penalty chosen on held-out training images).
    """
    if not path:
        raise UserError("robustness needs the shifted set: --set robustness.path=FOLDER, with a folder for each class")
    if not methods or set(methods) - set(METHODS) or k < 1 or temperature <= 0:
        raise UserError(f"robustness.methods are some of {', '.join(METHODS)}, k at least 1 and temperature above 0, got {', '.join(methods)}, {k} and {temperature:g}")
    kind = opening.detect(path)
    whole = datas.make(source=kind, path=path, test_path=opening.NO_TEST, holdout=0., canvas=context.data.canvas, workers=context.data.workers)
    to = mapped(whole.classes, context.data.classes, classes, path)
    shifted = dataclasses.replace(context, data=dataclasses.replace(context.data, test=whole.train), _kept={}, _stores={})
    train, own, other = context.labelled("train", layer), context.labelled("test", layer), shifted.labelled("test", layer)
    among = np.unique(to)
    sets = {os.path.basename(os.path.normpath(path)) or path: (other.x, to[other.labels], other.ids), "own test images": _of(own, among)}
    rows = []
    for method in methods:
        for name, (x, labels, ids) in sets.items():
            if not len(labels):
                context.log(f"robustness: no own test image has one of these {len(among)} classes")
                continue
            start = time.monotonic()
            predicted, setting = _predicted(context, method, train, x, labels, among, k, temperature)
            setting |= {"classes": len(among), "of": len(context.data.classes), "train": len(train.labels)}
            variant = f"{name}, {f'k={k} T={temperature:g}' if method == 'knn' else 'linear'}"
            note = f"answers restricted to {len(among)} of {len(context.data.classes)} classes" if len(among) < len(context.data.classes) else ""
            interval = context.interval(predicted == labels, labels, ids)
            rows.append(Row("robustness", variant, layer, "accuracy", float(np.mean(predicted == labels)), len(labels), interval, setting, note,
                            time.monotonic() - start, "fixed" if method == "knn" else context.select, "share"))
    return rows


def mapped(folders: tuple[str, ...], classes: tuple[str, ...], file: str, path: str) -> np.ndarray:
    """int64 [F]: the class of each folder of the shifted set. Raises: UserError for a folder without one."""
    names = {name: i for i, name in enumerate(classes)}
    given = _read(file) if file else {}
    unknown = [name for name in folders if given.get(name, name if not file else None) not in names]
    if not folders or unknown:
        how = (f"{shown(file)} gives no class of the training images for them" if file else
               "no class of the training images is called so; give a map with --set robustness.classes=FILE")
        raise UserError(f"{len(unknown)} of {len(folders)} folders of {shown(path)} have no class ({listed(map(shown, unknown))}): {how}")
    return np.array([names[given.get(name, name)] for name in folders], np.int64)


def _read(file):
    try:
        with open(os.path.expanduser(file), encoding="utf-8") as lines:
            text = lines.read()
        if text.lstrip().startswith("{"):
            return {str(folder): str(name) for folder, name in json.loads(text).items()}
        return {folder: name.strip() for folder, name in (line.split(None, 1) for line in text.splitlines() if line.strip())}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the map of classes {shown(file)} cannot be read ({shown(str(error))[:200]}); write JSON {{\"folder\": \"class\"}}, or a folder and its class "
                        "on each line") from error


def _of(found, among):
    rows = np.flatnonzero(np.isin(found.labels, among))
    return found.x[rows], found.labels[rows].astype(np.int64), found.ids[rows]


def _predicted(context, method, train, x, labels, among, k, temperature):
    if method == "knn":                                  # neighbours of other classes would be no answer
        rows = np.flatnonzero(np.isin(train.labels, among))
        result, = knn.evaluate(x, labels, train.x[rows], train.labels[rows], settings=((k, temperature),), mesh=context.mesh)
        return result.predictions, {"k": min(k, len(rows)), "temperature": temperature, "reference": len(rows)}
    result = linear.evaluate(train.x, train.labels, x, labels, select=context.select, among=among)
    return result.predictions, {"l2": result.l2}
