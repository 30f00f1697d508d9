"""The images that were chosen, as a manifest that training reads (`data.manifest`), and how many of each stage are left."""
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxssl.curation import book as books, features
from jaxssl.curation.book import Book
from jaxssl.data import manifest, open as opening
from jaxssl.errors import UserError, nearest, shown
from jaxssl.workdir import folder as folders

FILE, WEIGHTS = "manifest.jsonl", ("one", "hits")


def write(book: Book, *, steps: Sequence[str] = (), weights: str = "one") -> None:
    """Writes `manifest.jsonl`: the union of the images that `steps` chose, or where none are named of all picks, or without picks what the last filter left. The step "manifest".

    weights: how often an image stands in an epoch: "one" time, or as often as it was found ("hits", summed over the steps). Raises: UserError.
    """
    start = time.monotonic()
    if weights not in WEIGHTS:
        raise UserError(f"--weight is {weights!r}; choose one of {', '.join(WEIGHTS)}{nearest(weights, WEIGHTS)}")
    known = [*book.last(books.PICK), *book.last(books.FILTER)]
    if unknown := [name for name in steps if name not in known]:
        raise UserError(f"--steps {shown(unknown[0])!r} has chosen no images here; there are {', '.join(map(repr, known)) or 'none'}{nearest(unknown[0], known)}")
    steps = list(steps) or book.last(books.PICK) or [book.selection("", "manifest")]
    inputs = book.inputs(*steps)
    file = book.folder / FILE
    params = {"steps": steps, "weights": weights}
    if file.is_file() and book.made("manifest", params, inputs) and manifest.read(str(file)):
        return
    names = features.ids(book, features.POOL)
    hits = np.zeros(len(names), np.int64)
    for name in steps:
        table = book.table(name)
        hits[table["rows"]] += table.get("hits", np.ones(len(table["rows"]), np.int64))
    rows = np.flatnonzero(hits)
    weight = np.minimum(hits[rows], manifest.MOST) if weights == "hits" else np.ones(len(rows), np.int64)
    told = features.about(book, features.POOL)
    folders.write(file, manifest.text([names[i] for i in rows], weight, source=told["path"], of=len(names), made_by=params, from_tables=inputs))
    book.keep("manifest", books.TABLE, params, inputs, {"images": len(names), "chosen": len(rows), "in_an_epoch": int(weight.sum())}, {"rows": rows, "weight": weight}, start)
    book.log(f"train on them with {' '.join(f'--config.data.{key}={value}' for key, value in source_keys(told).items())} --config.data.manifest={file}")


def source_keys(told: Mapping[str, Any]) -> dict[str, str]:
    """Keys of `data` that open the images of a set as `set.json` tells of them, beside those of a folder's config."""
    kind = told["keys"].get("source") or opening.detect(told["path"])
    if kind == "digits":
        return {"source": kind, **told["keys"]}
    return {**({} if kind == "folder" else {"source": kind}), "path": told["path"], **({"splits": "none"} if kind in ("folder", "zip") else {}), **told["keys"]}
