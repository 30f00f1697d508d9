"""A few labelled images of every class: the same ones for the same seed, however the set is listed, and written down."""
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxssl.workdir import folder as folders
from jaxssl.errors import UserError


def entries(source: Any) -> tuple[np.ndarray, list[str]]:
    """Labels int32 [N] and names of the images of a source, none of them decoded."""
    labels, names = zip(*(source.entry(index) for index in range(len(source))))
    return np.array(labels, np.int32), list(names)


def stratified(labels: np.ndarray, names: Sequence[str], *, share: float = 0., per_class: int = 0, seed: int = 0) -> np.ndarray:
    """Rows int64, rising, of a stratified subset: of each class `per_class` images, or the `share` of them, at least one.

    labels int [N], -1 = unlabelled and never chosen. Images are drawn by a hash of the seed and their name: the draw does not depend on their
    order or number, and a larger subset of one seed contains the smaller. Raises: UserError when neither or both are given, a share is above 1,
    or a class has fewer than `per_class` images.
    """
    if (share > 0) == (per_class > 0) or share > 1 or share < 0 or per_class < 0:
        raise UserError(f"a subset needs either a share in (0, 1] or a number of images a class, got share={share:g} and per_class={per_class}")
    rank = [hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
    order = sorted(np.flatnonzero(np.asarray(labels) >= 0), key=lambda row: (labels[row], rank[row]))
    classes, first, count = np.unique(np.asarray(labels)[order], return_index=True, return_counts=True)
    if not len(order) or per_class > count.min():
        short = "there are none" if not len(order) else f"class {classes[count.argmin()]} has {count.min()}"
        raise UserError(f"the subset needs {per_class or 'some'} labelled images of every class, but {short}; choose fewer")
    take = [per_class or max(1, round(share * int(n))) for n in count]
    return np.sort(np.concatenate([order[at:at + n] for at, n in zip(first, take)])).astype(np.int64)


def save(file: Any, rows: np.ndarray, source: Any, **how: Any) -> str:
    """Writes the chosen images as JSON, atomically: the source, how they were drawn, and [name, class] of each. Returns the sha256 of their names, one a line.

    file: a path, of a bucket too (`etils.epath`).
    """
    chosen = [(label, name) for label, name in (source.entry(int(row)) for row in rows)]
    text = json.dumps({"version": 1, "source": source.name, **how, "images": [[name, source.classes[label]] for label, name in chosen]}, indent=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    folders.write(file, text)
    return hashlib.sha256("\n".join(name for _, name in chosen).encode("utf-8", "surrogateescape")).hexdigest()
