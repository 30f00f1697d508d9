"""Image files on their way into an index, and to a query: listed, decoded as the encoder sees them, embedded."""
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl import data as datas
from jaxssl.data import open as opening
from jaxssl.data.decode import MAX_BYTES, Broken, canvas, pixel_limit, rgb
from jaxssl.data.folder import walk
from jaxssl.data.listing import refuse_empty
from jaxssl.encoder import preprocessing
from jaxssl.errors import UserError, shown
from jaxssl.evaluation import subjects
from jaxssl.evaluation.features import extract
from jaxssl.gallery.index import File
from jaxssl.parallel import mesh as sharding

BATCH, BATCH_BYTES = 500, 2**27        # images in a forward pass: at most so many, and canvases of at most so many bytes


def folder(path: str, flag: str) -> Path:
    """A folder of images. Raises: UserError."""
    try:
        return Path(os.path.realpath(opening.existing(path, "folder", flag)))
    except opening.Absent as error:
        raise UserError(str(error)) from error


def opened(root: Path, encoder: Any) -> datas.Data:
    """The images of a folder as `Data`, whatever its folders are called. Raises: UserError for an encoder of other images than RGB."""
    if len(encoder.preprocessing["mean"]) != 3 or "high" in encoder.preprocessing:
        raise UserError(f"a search reads images as RGB of 8 bits, and {encoder.name} takes others; use jaxssl.load(…)(arrays), or jaxssl.evaluate --protocols retrieval")
    keys = {"source": "folder", "splits": "none", "holdout": "0", "max_broken": "1"}
    return subjects.open_data({}, str(root), keys, resize=encoder.preprocessing["resize"])


def listed(root: Path, encoder: Any) -> tuple[list[File], datas.Data]:
    """(the image files of the gallery, sorted by name, its `Data`)."""
    data, files = opened(root, encoder), []
    for name in data.train.paths:
        try:
            facts = os.stat(root / name)
        except OSError:                                 # gone since it was listed
            continue
        files.append(File(name, facts.st_size, facts.st_mtime_ns))
    return files, data


def embedded(encoder: Any, data: Any, source: Any, layer: str) -> Iterator[tuple]:
    """(features f32 [n, D], decoded bool [n]) of the images of `source`, a batch after another; those that cannot be decoded are zeros."""
    mesh, left, source = sharding.make_mesh(devices=jax.local_devices()), len(source), Decoded(source)
    batch = -(-min(max(min(BATCH, BATCH_BYTES // (data.pixels.nbytes * data.canvas**2)), 1), left) // mesh.size) * mesh.size
    embed = encoder.embed(layer, place=sharding.replicated(mesh))
    for each in datas.eval_batches(data, source, batch_size=batch, prepare=preprocessing.before(encoder.preprocessing, data.canvas)):
        kept = np.asarray(each["mask"]) & (np.asarray(each["label"]) >= 0)
        x, _ = extract.extract(embed, [{**each, "mask": kept}], mesh)
        if not np.isfinite(x).all():
            raise UserError(f"features of some images are not finite: {encoder.name} diverged in training, or bf16 is too coarse for it; use other weights, or --precision f32")
        rows = np.zeros((batch, x.shape[1]), np.float32)
        rows[kept] = x
        yield rows[:left], kept[:left]
        left -= batch


class Decoded:
    """A source whose images are decoded where they are read: one that cannot be is a dot with the label -1, and no other image takes its place."""

    def __init__(self, source: Any):
        self.source, self.name, self.classes = source, source.name, ()

    def __len__(self):
        return len(self.source)

    def read(self, index):
        try:
            data, _, name = self.source.read(index)
            return data if isinstance(data, np.ndarray) else np.asarray(rgb(data, pixel_limit(self.source))), 0, name
        except Broken:
            return np.zeros((1, 1, 3), np.uint8), -1, self.id(index)

    def entry(self, index):
        return 0, self.id(index)

    def id(self, index):
        return self.source.id(index)


class Files:
    """Image files as a source: those of a query."""

    def __init__(self, paths: list[str]):
        self.paths, self.name, self.classes = paths, "the query", ()

    def __len__(self):
        return len(self.paths)

    def read(self, index):
        try:
            with open(self.paths[index], "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise Broken(error.strerror or str(error)) from error
        if len(data) > MAX_BYTES:
            raise Broken(f"larger than {MAX_BYTES >> 20} MiB")
        return data, -1, self.id(index)

    def entry(self, index):
        return -1, self.id(index)

    def id(self, index):
        return shown(self.paths[index])


def queries(path: str) -> list[str]:
    """The files to search for: one, or all images of a folder. Raises: UserError."""
    if os.path.isfile(path):
        return [path]
    root = folder(path, "--query")
    found = walk(root)
    if not found.images:
        refuse_empty(found)
    return [os.path.join(root, name) for name in found.images]


def normalised(encoder: Any, paths: list[str], layer: str) -> np.ndarray:
    """Features f32 [N, D] of length 1 of files. Raises: UserError for one that cannot be decoded."""
    source = Files(paths)
    data = datas.Data(source, None, (), preprocessing.LARGEST * encoder.preprocessing["resize"], False, 0, 1.)
    parts = list(embedded(encoder, data, source, layer))
    x, kept = np.concatenate([x for x, _ in parts]), np.concatenate([kept for _, kept in parts])
    if not kept.all():
        raise UserError(f"{int((~kept).sum())} of {len(paths)} query images cannot be decoded ({shown(paths[int(np.flatnonzero(~kept)[0])])}); give JPEG, PNG or other image files "
                        "that open elsewhere")
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def picture(path: str, side: int) -> tuple | None:
    """An image file on a canvas uint8 [side, side, 3], and its (h, w) there; None where it is gone."""
    try:
        return canvas(Files([path]).read(0)[0], side)
    except Broken:
        return None
