"""A page or a picture of what an encoder says of the places of one image, or of two."""
import os
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from jaxssl.data import decode
from jaxssl.encoder import Encoder
from jaxssl.errors import UserError, shown
from jaxssl.report import figures, page, patches
from jaxssl.report.markup import Html, isolated, join, tag
from jaxssl.workdir import folder as folders


def read(path: str) -> np.ndarray:
    """The RGB pixels of an image file, uint8 [h, w, 3]. Raises: UserError."""
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return np.asarray(decode.rgb(file.read()))
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror or error}); give an image file") from error
    except decode.Broken as error:
        raise UserError(f"{shown(path)} cannot be decoded ({error})") from error


def write(encoder: Encoder, paths: list[str], out: str, *, size: int = 0, threshold: float | None = 0.) -> str:
    """Writes `out`, a page (.html) or a picture (.png) of one or two images, and gives its path.

    size: of the short side that the network sees, pixels, rounded to whole patches; 0 is the encoder's own. threshold: see `measures.patches.coloured`.
    Raises: UserError.
    """
    if not out.lower().endswith((".html", ".png")):
        raise UserError(f"--out is {shown(out)}; its name ends in .html for a page or in .png for a picture")
    if not 0 <= size <= 4096:
        raise UserError(f"--size is {size}; give pixels of the short side, up to 4,096, or 0 for what the encoder was trained for")
    if len(encoder.preprocessing["mean"]) != 3 or "high" in encoder.preprocessing:
        raise UserError(f"a page of places shows images of RGB in 8 bits, and {encoder.name} takes others; jaxssl.load(…).patches(arrays) gives the vectors of their places")
    given = [read(path) for path in paths]
    seen = patches.see(encoder, [patches.resized(image, patches.side_of(encoder, image.shape, size or encoder.preprocessing["size"])) for image in given])
    if not patches.worth(seen):
        h, w = min((m.shape[:2] for m in seen.maps), key=min)
        raise UserError(f"the map of {encoder.name} has {h} × {w} places for such an image, too few to look at; give a larger --size")
    coloured, fronts = patches.components(seen, threshold)
    rows = [[patches.Picture(patches.original(seen.images[i]), f"{PurePath(path).name}, {m.shape[0]} × {m.shape[1]} places"), coloured[i], *patches.attentions(seen, i, heads=True)]
            for i, (path, m) in enumerate(zip(paths, seen.maps))]
    if len(paths) > 1:
        rows.append([patches.matching(seen, fronts)])
    file = folders.path(out)
    try:
        if out.lower().endswith(".png"):
            with open(file, "wb") as target:
                Image.fromarray(patches.sheet(rows)).save(target, "PNG")
        else:
            folders.write(file, _page(encoder, paths, rows))
    except OSError as error:
        raise UserError(f"cannot write {shown(str(file))} ({error.strerror or error}); give --out a writable file") from error
    return str(file)


def _page(encoder, paths, rows):
    names = " and ".join(isolated(shown(PurePath(path).name)) for path in paths)
    step = "" if encoder.step is None else f", step {encoder.step:,}"
    head = tag("header", tag("p", "jaxssl look", class_="kicker"), tag("h1", names), tag("p", f"Through {shown(encoder.name)} ({encoder.weights}{step}).", class_="subtitle"))
    titles = [*(isolated(shown(PurePath(path).name)) for path in paths), "What belongs together"]
    sections = [tag("section", tag("h2", title), strip(row)) for title, row in zip(titles, rows)]
    return page.document(names, join([head, tag("main", *sections)]), {"charts": {}, "maps": {}})


def strip(row: list[Any]) -> Html:
    """Pictures side by side over their captions."""
    return tag("div", *(tag("figure", figures.picture(p.pixels, p.caption), tag("figcaption", p.caption)) for p in row), class_="patches")
