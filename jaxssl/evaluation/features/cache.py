"""Features of a whole set on disk: computed once for these weights, this transform and these images, then memory-mapped.

`<folder>/features/<key>/` holds `features.f32` [N, D], `labels.i32` [N], `kept.u1` [N] (0: the image could not be decoded) and `state.json`: what the
key stands for, and a digest of every chunk of rows that is done. The digests are checked whenever a cache is opened: missing and damaged chunks,
and only those, are computed again, so an interrupted run goes on where it stopped.
"""
import collections
import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxssl import data as datas
from jaxssl.parallel import agreement, mesh as sharding
from jaxssl.encoder import preprocessing
from jaxssl.data.array_record import Packed
from jaxssl.data.disjoint import Pool
from jaxssl.data.folder import Folder
from jaxssl.data.sources import Subset
from jaxssl.data.tar import Tar
from jaxssl.data.tfds import TFDS
from jaxssl.data.zip import Zip
from jaxssl.encoder import Encoder
from jaxssl.errors import UserError
from jaxssl.evaluation.features import extract as extraction
from jaxssl.workdir import folder as folders

log = logging.getLogger("jaxssl.evaluation.features.cache")
SETS = ("train", "test")
_VERSION = 2
_SAVE_EVERY = 5.    # seconds of work that an interruption may cost


class Features(NamedTuple):
    """x f32 [N, D], memory-mapped unless rows had to be left out; labels int32 [N], -1 = unlabelled; ids int32 [N], the place in the source;
    names(row) gives the image's name."""
    x: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    names: Callable[[int], str]


def features(encoder: Encoder, data: datas.Data, which: str, *, layer: str = "backbone", mesh, folder: str, batch: int = 500,
             store: Callable[[], dict | None] = lambda: None) -> Features:
    """Features of every decodable image of the "train" or "test" set, in order, by the test-time view and batch norm in inference mode.

    layer: one of `encoder.layers` or `encoder.blocks`; those of a head are computed from the backbone's. mesh: the devices that share each batch. folder: of the
    cache. batch: images in one forward pass, rounded up to the number of devices. store(): the decoded set (`data.store`), prepared for the view
    (`preprocessing.before`), or None to read it from disk; called only where features are missing. Raises: UserError without such a set or such a
    layer, or when nothing in it can be decoded.
    """
    encoder.check_layer(layer)
    table, source = _table(encoder, data, which, layer, mesh, folder, batch)
    missing = table.missing()
    if missing and layer.partition(".")[0] not in encoder.heads:
        _fill(table, missing, _embedded(encoder, data, source, mesh, store(), missing, table, layer))
    elif missing:
        _fill(table, missing, _headed(encoder, layer, features(encoder, data, which, mesh=mesh, folder=folder, batch=batch, store=store), missing, table))
    return table.read(source)


def embed_together(encoder: Encoder, data: datas.Data, which: str, *, mesh, own, folder: str, batch: int, store: Callable[[], dict | None]) -> None:
    """What `features` of the backbone would compute in one process on the mesh `own`, computed by all processes of `mesh`, each from its share of the images, and
    written by process 0 to its `folder`. All must call it alike."""
    table, source = _table(encoder, data, which, "backbone", own, folder, batch)
    missing = agreement.from_first(table.missing() if jax.process_index() == 0 else None)
    if missing:
        chunks = _embedded(encoder, data, source, mesh, store(), missing, table)
        _fill(table, missing, chunks) if jax.process_index() == 0 else collections.deque(chunks, maxlen=0)


def _table(encoder, data, which, layer, mesh, folder, batch):
    """The files of a layer's features of a set, and its source."""
    source = find(data, which)
    what = {"version": _VERSION, "weights": encoder.digest, "model": encoder.config["model"], "method": encoder.config.get("method"), "layer": layer,
            "dtype": np.dtype(encoder.module.dtype).name, "transform": encoder.preprocessing, "canvas": data.canvas, "images": identity(source),
            "rows": len(source), "chunk": -(-batch // mesh.size) * mesh.size, "backend": jax.default_backend()}
    what |= {"pixels": data.pixels} if data.pixels.native else {}
    what = json.loads(json.dumps(what))
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
    return _Table(Path(folder) / "features" / key, what), source


def labelled(found: Features, what: str) -> Features:
    """Without the unlabelled rows; a copy when there are any. Raises: UserError when no row is left; `what` names the set."""
    known = np.flatnonzero(found.labels >= 0)
    if not len(known):
        raise UserError(f"{what} have no labels, which this evaluation needs; use --protocols labelfree, or give classes as sub-folders or another --data")
    return found if len(known) == len(found.labels) else Features(found.x[known], found.labels[known], found.ids[known], lambda row: found.names(int(known[row])))


def identity(source: datas.Source, *, here: bool = True) -> str:
    """sha256 over what a source shows: its kind and classes, the id and label of each image, and sizes of the files behind them.

    here: also where these files lie and when they were written. Without it, copies on several machines are the same images; so is a file whose contents
    were changed to others of the same size.
    """
    name = "" if not here and isinstance(source, Folder | Zip | Tar | Packed | Subset | Pool) else source.name        # of these it is a path
    total = hashlib.sha256(repr((type(source).__name__, name, source.classes, len(source))).encode("utf-8", "surrogateescape"))
    if isinstance(source, Subset):
        labels = b"" if source.labels is None else source.labels.tobytes()
        total.update(identity(source.source, here=here).encode() + np.ascontiguousarray(source.indices).tobytes() + labels)
        return total.hexdigest()
    for part in source.sources if isinstance(source, Pool) else ():
        total.update(identity(part, here=here).encode())
    if not isinstance(source, TFDS):                # whose entries cost a read each
        for index in range(len(source)):
            total.update(repr(source.entry(index)).encode("utf-8", "surrogateescape"))
    for file in _files(source):
        try:
            stat = os.stat(file)
            total.update(f"{stat.st_size} {stat.st_mtime_ns if here else 0}\n".encode())
        except OSError:                             # a link to nowhere: a broken image, which decoding counts
            total.update(b"none\n")
    return total.hexdigest()


def _files(source):
    if isinstance(source, Folder):
        return [source.root / path for path in (*source.paths, *getattr(source, "answers", ()))]       # of a dense set, its masks too
    if isinstance(source, Tar):
        return list(source.shards)
    if isinstance(source, Packed):
        return sorted(source.root.glob(f"{source.split}*"))
    if isinstance(source, TFDS):
        return sorted(file for file in source.directory.iterdir() if file.is_file())        # of all splits: they are prepared together
    return [source.path] if isinstance(source, Zip) else []


def find(data: datas.Data, which: str) -> datas.Source:
    """The source of the "train" or "test" images. Raises: UserError when there are none."""
    if which not in SETS:
        raise ValueError(f"which is {which!r}; choose one of {', '.join(SETS)}")
    source = data.train if which == "train" else data.test
    if source is None or not len(source):
        raise UserError(f"{data.train.name} has no {which} images; give --data.test_path, or --data.holdout above 0 to hold out a share of labelled training images")
    return source


def _fill(table, missing, chunks):
    """Writes the chunks `missing`, as (x, labels, kept) come, and vouches for them now and then."""
    saved = time.monotonic()
    for chunk, arrays in zip(missing, chunks, strict=True):
        table.write(chunk, *arrays)
        if time.monotonic() - saved > _SAVE_EVERY:
            table.save()
            saved = time.monotonic()
    table.save()


def _embedded(encoder, data, source, mesh, store, missing, table, layer="backbone"):
    """Chunks of features of the network itself: from the images."""
    prepare = preprocessing.before(encoder.preprocessing, data.canvas)
    rows = np.concatenate([np.arange(*table.span(chunk)) for chunk in missing])     # every chunk but the last is full, so a batch is a chunk
    part = None if store is None else {**{k: v[rows] for k, v in store.items()}, "id": np.where(store["id"][rows] == rows, np.arange(len(rows)), -1)}
    embed, (index, count) = encoder.embed(layer, place=sharding.replicated(mesh)), sharding.share(mesh)
    batches = datas.eval_batches(data, Subset(source, rows), batch_size=table.what["chunk"], process_index=index, process_count=count, store=part, prepare=prepare)
    for chunk, batch in zip(missing, batches, strict=True):
        low, high = table.span(chunk)
        x, labels = extraction.extract(embed, [batch], mesh)
        yield _spread(x, labels, np.flatnonzero(extraction.gathered(batch["mask"], mesh)), high - low)


def _headed(encoder, layer, backbone, missing, table):
    """Chunks of a head layer's features: from those of the backbone."""
    apply = jax.jit(lambda h: encoder.behind(encoder.variables, h, layer)[0])
    for chunk in missing:
        low, high = table.span(chunk)
        rows = slice(*np.searchsorted(backbone.ids, (low, high)))
        yield _spread(np.asarray(apply(backbone.x[rows])), backbone.labels[rows], backbone.ids[rows] - low, high - low)


def _spread(x, labels, at, rows):
    """(x, labels, kept) of a chunk of `rows`, from those of its rows `at`, the rest empty."""
    out = np.zeros((rows, x.shape[1]), np.float32), np.full(rows, -1, np.int32), np.zeros(rows, bool)
    for array, values in zip(out, (x, labels, True)):
        array[at] = values
    return out


def _reserve(path, size):
    """Makes a file of so many bytes with room on the disk for all of them: a memory map of a full disk ends the process without a word."""
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, "posix_fallocate") else file.truncate(size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                path.unlink()
                raise UserError(f"there is no room for features of {size / 1e6:,.1f} MB in {path.parent} ({error.strerror}); free some, or give another folder with "
                                "--cache") from error
            file.truncate(size)                     # file systems that cannot reserve


class _Table:
    """The files of one cache."""

    def __init__(self, folder: Path, what: dict):
        self.folder, self.what = folder, what
        self.chunks = -(-what["rows"] // what["chunk"])
        self.width, self.digests = 0, [None] * self.chunks

    def span(self, chunk: int) -> tuple[int, int]:
        """First row of a chunk, and the row behind its last."""
        return chunk * self.what["chunk"], min((chunk + 1) * self.what["chunk"], self.what["rows"])

    def missing(self) -> list[int]:
        """The chunks that are not there or do not match their digest."""
        try:
            state = folders.readable(self.folder / "state.json") or {}
            if state["what"] == self.what and len(state["digests"]) == self.chunks:
                self.width, self.digests = state["width"], state["digests"]
                self._map("r")
        except (OSError, ValueError, KeyError, TypeError):      # nothing there, or cut short: all of it is computed
            self.width, self.digests = 0, [None] * self.chunks
        damaged = [chunk for chunk, digest in enumerate(self.digests) if digest is not None and digest != self._digest(chunk)]
        if damaged:
            log.warning("%d of %d chunks of the feature cache %s are damaged and are computed again", len(damaged), self.chunks, self.folder)
        for chunk in damaged:
            self.digests[chunk] = None
        return [chunk for chunk, digest in enumerate(self.digests) if digest is None]

    def write(self, chunk: int, x: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> None:
        low, high = self.span(chunk)
        if not self.width or self.x.mode == "r":
            self.width = x.shape[1]
            self.folder.mkdir(parents=True, exist_ok=True)
            self._map("r+")
        self.x[low:high], self.labels[low:high], self.kept[low:high] = x, labels, kept
        self.digests[chunk] = self._digest(chunk)

    def save(self) -> None:
        """Rows first, then the state that vouches for them."""
        for array in (self.x, self.labels, self.kept):
            array.flush()
        folders.write(self.folder / "state.json", json.dumps({"what": self.what, "width": self.width, "digests": self.digests}))

    def read(self, source: datas.Source) -> Features:
        self._map("r")
        ids = np.flatnonzero(self.kept).astype(np.int32)
        if not len(ids):
            raise UserError(f"none of the {self.what['rows']} images of {source.name} can be decoded; see them with `python -m jaxssl.data inspect`")
        whole = len(ids) == self.what["rows"]
        return Features(self.x if whole else self.x[ids], np.array(self.labels if whole else self.labels[ids]), ids, lambda row: source.entry(int(ids[row]))[1])

    def _map(self, mode):
        """Opens the arrays; for writing, files of the wrong size are made anew. OSError or ValueError when they cannot be read."""
        rows = self.what["rows"]
        shapes = {"x": ("features.f32", "<f4", (rows, self.width)), "labels": ("labels.i32", "<i4", (rows,)), "kept": ("kept.u1", "?", (rows,))}
        for name, (file, dtype, shape) in shapes.items():
            path, size = self.folder / file, int(np.prod(shape)) * np.dtype(dtype).itemsize
            if mode == "r+" and (not path.exists() or path.stat().st_size != size):
                _reserve(path, size)
            elif path.stat().st_size != size:
                raise ValueError(f"{path} has {path.stat().st_size} bytes instead of {size}")
            setattr(self, name, np.memmap(path, dtype, mode, shape=shape))

    def _digest(self, chunk):
        low, high = self.span(chunk)
        total = hashlib.sha256()
        for array in (self.x, self.labels, self.kept):
            total.update(np.ascontiguousarray(array[low:high]).data)
        return total.hexdigest()
