"""Retrieval by lists of easy, hard and junk images: Oxford and Paris, revisited (Radenović et al., arXiv 1803.11285), mAP easy, medium and hard.

Every query, its box cut out, is compared with all images of the gallery by cosine. The lists are a JSON file; the published ones come as a pickle, which is not read:
in Python, `json.dump({**d, "gnd": [{k: list(map(float, v)) for k, v in g.items()} for g in d["gnd"]]}, f)` with d = pickle.load(…) makes one of it.
"""
import json
import os
import time
from pathlib import PurePath

import numpy as np

from jaxssl.data.decode import Broken, whole
from jaxssl.errors import UserError, listed, shown
from jaxssl.evaluation.measures import landmarks
from jaxssl.evaluation.protocols import Context, Row

GROUP, LABELS = "lists", ()
_TOLD = '{"imlist": [gallery names], "qimlist": [query names], "gnd": [{"bbx": [left, top, right, bottom], "easy": [places in imlist], "hard": […], "junk": […]}, …]}'


def run(context: Context, *, lists: str = "", setups: tuple[str, ...] = ("medium", "hard"), crop: bool = True) -> list[Row]:
    """Rows of mAP and of mean precision at 1, 5 and 10 for each setup: easy, medium or hard.

    lists: the JSON file, and the images are those of --data, found by their names without folder and ending. crop: cut queries to their boxes ("bbx").
    """
    if not lists:
        raise UserError(f"landmarks needs its lists: --set landmarks.lists=FILE, JSON like {_TOLD}")
    if wrong := [setup for setup in setups if setup not in landmarks.SETUPS]:
        raise UserError(f"landmarks.setups has {wrong[0]!r}; choose among {', '.join(landmarks.SETUPS)}")
    start, (gallery, queries, boxes, given) = time.monotonic(), read(lists)
    sources = [source for source in (context.data.train, context.data.test) if source is not None]
    found = {PurePath(source.id(i)).stem: (source, i) for source in sources for i in range(len(source))}
    if missing := [name for name in dict.fromkeys((*gallery, *queries)) if name not in found]:
        raise UserError(f"{len(missing)} of {len(set(gallery) | set(queries)):,} images of {shown(lists)} are not in {context.data.train.name} "
                        f"({listed(map(shown, missing))}); give their folder with --data")
    x, q = _embedded(context, [(found[name], None) for name in gallery]), _embedded(context, [(found[name], box if crop else None) for name, box in zip(queries, boxes)])
    ranking = np.argsort(-(q @ x.T), axis=1, kind="stable")
    rows = []
    for setup in setups:
        result = landmarks.evaluate(ranking, given, setup)
        if not len(result.ap):
            raise UserError(f"no query of {shown(lists)} has a positive in the setup {setup!r}; leave it out of landmarks.setups")
        setting = {"setup": setup, "gallery": len(gallery), "queries": len(result.ap), "cropped": crop, "similarity": "cosine", "average precision": "trapezoids"}
        note = f"{len(queries) - len(result.ap)} queries without a positive do not count" if len(result.ap) < len(queries) else ""
        values = {"mAP": result.ap, **{f"mP@{k}": v for k, v in result.precision.items()}}
        seconds = (time.monotonic() - start) / len(values) / len(setups)
        rows += [Row("landmarks", setup, "backbone", name, float(v.mean()), len(v), context.interval(v, np.zeros(len(v), int), result.queries), setting, note, seconds, "fixed",
                     "share") for name, v in values.items()]
    return rows


def read(path: str) -> tuple[list[str], list[str], list, list[landmarks.Lists]]:
    """Names of the gallery and of the queries, boxes (or None), and lists of each query. Raises: UserError."""
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            text = file.read()
        found = json.loads(text)
        gallery, queries = ([PurePath(str(name)).stem for name in found[key]] for key in ("imlist", "qimlist"))
        lists = [landmarks.Lists(*(np.array(own.get(key, []), np.int64) for key in landmarks.Lists._fields)) for own in found["gnd"]]
        boxes = [[float(v) for v in own["bbx"]] if own.get("bbx") is not None else None for own in found["gnd"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"the lists {shown(path)} cannot be read ({type(error).__name__}: {shown(str(error))[:200]}); they are JSON like {_TOLD}") from error
    if len(lists) != len(queries) or any(box is not None and len(box) != 4 for box in boxes):
        raise UserError(f"{shown(path)} has {len(queries)} queries (qimlist) and {len(lists)} lists (gnd), whose boxes have four numbers; there is one for each query")
    if outside := [int(i) for own in lists for part in own for i in part if not 0 <= i < len(gallery)]:
        raise UserError(f"{shown(path)} lists image {outside[0]} of a gallery of {len(gallery):,}; places are counted from 0")
    return gallery, queries, boxes, lists


def _embedded(context, wanted, part=64):
    """Unit vectors f32 [N, D] of images ((source, place), box)."""
    x = []
    for at in range(0, len(wanted), part):
        pixels = [_pixels(*place, box) for place, box in wanted[at:at + part]]
        x.append(context.encoder(pixels))
    x = np.concatenate(x)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _pixels(source, place, box):
    try:
        pixels = whole(source, place)
    except Broken as error:
        raise UserError(f"{source.id(place)} of {source.name} cannot be decoded ({error}); every image of the lists is needed") from error
    if box is None:
        return pixels
    height, width = pixels.shape[:2]
    left, top = (min(max(int(v), 0), n - 1) for v, n in zip(box[:2], (width, height)))
    right, bottom = (max(min(int(np.ceil(v)), n), low + 1) for v, n, low in zip(box[2:], (width, height), (left, top)))
    return np.ascontiguousarray(pixels[top:bottom, left:right])
