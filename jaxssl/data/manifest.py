"""A manifest: which images of a source are trained on, and how often, as `python -m jaxssl.curate manifest` writes it.

JSON lines: the first says {"format", "images", …}, each other {"id", "weight"}, where an image of weight w stands w times in an epoch.
"""
import hashlib
import json
import os
from collections.abc import Iterable

import numpy as np

from jaxssl.data.listing import many
from jaxssl.data.sources import Source, Subset
from jaxssl.errors import UserError, listed, shown

FORMAT = "jaxssl.manifest.1"
MOST = 1000        # times that an image may stand in an epoch


def text(ids: Iterable[str], weights: Iterable[int], **facts) -> str:
    """The content of a manifest. facts: what is said of it in its first line."""
    lines = [json.dumps({"id": name, "weight": int(weight)}) for name, weight in zip(ids, weights, strict=True)]
    return "\n".join([json.dumps({"format": FORMAT, "images": len(lines), **facts}), *lines, ""])


def read(path: str) -> dict[str, int]:
    """id → weight. Raises: UserError."""
    place = f"data.manifest='{shown(path)}'"
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            head, *rows = map(json.loads, file)
        if head["format"] != FORMAT:
            raise ValueError(f"its format is {shown(str(head['format']))[:60]}")
        found = {row["id"]: row["weight"] for row in rows}
        if len(found) != len(rows) or len(rows) != head["images"]:
            raise ValueError(f"it says {head['images']} images and names {len(found)}")
        if odd := [name for name, weight in found.items() if not isinstance(name, str) or type(weight) is not int or not 1 <= weight <= MOST]:
            raise ValueError(f"the weight of {shown(str(odd[0]))[:100]} is no whole number from 1 to {MOST:,}")
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror or error}); write it with `python -m jaxssl.curate manifest`") from error
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
        raise UserError(f"{place} is no whole manifest of format {FORMAT} ({type(error).__name__}: {shown(str(error))[:200]}); write it again with "
                        "`python -m jaxssl.curate manifest`") from error
    if not found:
        raise UserError(f"{place} names no image; write one that does")
    return found


def chosen(train: Source, test: Source | None, path: str) -> tuple[Subset, str]:
    """(the images of `train` that the manifest names, in the order of the source, each as often as its weight; what is said of them). What it names of the held-out images stays
    held out. Raises: UserError for an image that is in neither."""
    wanted, names = read(path), [train.id(i) for i in range(len(train))]
    weight = np.array([wanted.get(name, 0) for name in names], np.int64)
    rows = np.flatnonzero(weight)
    missing = wanted.keys() - set(names)
    held = missing & {test.id(i) for i in range(len(test))} if test is not None and missing else set()
    if missing := sorted(missing - held):
        raise UserError(f"data.manifest='{shown(path)}' names {many(len(missing), 'image')} that {shown(train.name)} does not have ({listed(missing)}); open the source as "
                        "it was when it was curated: the same data.path, and data.splits='none' for a folder or zip")
    if not len(rows):
        raise UserError(f"data.manifest='{shown(path)}' names only images that are held out of {shown(train.name)}; set data.holdout=0, or write another")
    also = f", {len(held):,} more that it names are held out" if held else ""
    found = Subset(train, np.repeat(rows, weight[rows]))
    found.manifest_sha256 = hashlib.sha256(found.indices.astype("<i8").tobytes()).hexdigest()
    return found, f"trained on: {len(rows):,} of {len(train):,} images, {weight.sum():,} in an epoch (data.manifest){also}"
