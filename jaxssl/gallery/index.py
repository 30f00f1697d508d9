"""A folder of images as rows of features on disk: made once, kept, and brought up to date by what is new, changed or gone.

The index of one encoder is a folder with `index.json` (what it is of), `features.f32` [n, D] (normalised rows, only ever appended) and `rows.jsonl`, a line for each
chunk of rows that is done: names, sizes and times of its files, which could be decoded, and a checksum of the rows. The features come first, so a chunk without its line, or
with a line that does not fit, was never there: an interrupted index goes on where it stopped. Nothing in it is ever executed.
"""
import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxssl.errors import UserError, shown
from jaxssl.workdir import folder as folders

VERSION = 1
CHUNK = 512             # rows of a chunk when the index is written anew
_WASTE = .5             # share of rows that are of no file any more from which on the index is written anew


class File(NamedTuple):
    """One image file. time: of its last change, in ns."""
    name: str
    size: int
    time: int


class Index:
    """The rows of one encoder and one folder of images. what: everything that the features depend on but the files. Raises: UserError."""

    def __init__(self, folder: str, what: dict):
        self.folder, self.what = Path(folder), json.loads(json.dumps({"version": VERSION, **what}))
        self.width, self.files, self.kept = 0, [], []
        self.x = np.zeros((0, 1), np.float32)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the index {shown(folder)} cannot be made ({error.strerror or error}); give another folder with --index") from error

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """While this process changes the index. Raises: UserError when another one does."""
        return folders.alone(self.folder, f"another search is writing the index {shown(str(self.folder))}; wait for its end, or give another folder with --index")

    def open(self) -> None:
        """Reads what is there and whole; of another encoder or version, nothing."""
        self.files, self.kept, self.width, bytes_ = [], [], 0, 0
        told = folders.readable(self.folder / "index.json") or {}
        if told.get("what") == self.what and isinstance(told.get("width"), int) and told["width"] > 0:
            self.width = told["width"]
        features = self.folder / "features.f32"
        size = features.stat().st_size if self.width and features.is_file() else 0
        count = size // (4 * max(self.width, 1))
        rows = np.memmap(features, np.float32, "r", shape=(count, self.width)) if count else np.zeros((0, max(self.width, 1)), np.float32)
        for line in self._lines():
            try:
                chunk = json.loads(line)
                files = [File(str(name), int(size), int(time)) for name, size, time in chunk["files"]]
                part = rows[len(self.files):len(self.files) + len(files)]
                if len(part) != len(files) or len(chunk["kept"]) != len(files) or zlib.crc32(np.ascontiguousarray(part)) != chunk["crc"]:
                    break
            except (ValueError, TypeError, KeyError, RecursionError):
                break
            self.files += files
            self.kept += [bool(k) for k in chunk["kept"]]
            bytes_ += len(line)
        self.x, self._end = rows[:len(self.files)], bytes_

    def _lines(self):
        try:
            return (self.folder / "rows.jsonl").read_bytes().splitlines(keepends=True) if self.width else []
        except OSError:
            return []

    def update(self, files: list[File], embed: Callable[[list[File]], Iterator[tuple[np.ndarray, np.ndarray]]], say: Callable[[int, int], Any] = lambda done, total: None) -> dict:
        """Brings the opened index up to `files`; -> {"new", "gone", "broken"}, counts of files.

        embed(files) yields (f32 [n, D], decoded bool [n]) of some of them after the others. say(done, total): progress.
        """
        with self.alone():
            self.open()                                 # another process may have been here
            there, wanted = dict(zip(self.files, range(len(self.files)))), set(files)
            gone = sum(file not in wanted for file in there)
            if gone > _WASTE * max(len(self.files), 1):
                self._compact([i for file, i in there.items() if file in wanted])
                there = dict(zip(self.files, range(len(self.files))))
            new = [file for file in files if file not in there]
            done = 0        # each batch is a chunk
            with contextlib.closing(self._appending()) as append:
                next(append)
                for x, kept in embed(new) if new else ():
                    append.send((new[done:done + len(x)], x, kept))
                    done += len(x)
                    say(done, len(new))
            self.open()
            alive = {file: i for i, file in enumerate(self.files) if file in wanted}
            return {"new": len(new), "gone": gone, "broken": sum(not self.kept[i] for i in alive.values())}

    def rows(self, files: list[File] | None = None) -> tuple[np.ndarray, list[str]]:
        """(f32 [n, D], names) of those of `files` that could be decoded, in the order of their names; None: of all that are there, the newest of each name."""
        wanted = None if files is None else set(files)
        latest = {file.name: i for i, file in enumerate(self.files) if wanted is None or file in wanted}
        order = np.array([latest[name] for name in sorted(latest) if self.kept[latest[name]]], np.int64)
        names = [self.files[i].name for i in order]
        return (self.x if len(order) == len(self.x) and np.array_equal(order, np.arange(len(order))) else self.x[order]), names

    def _appending(self):
        """Takes (files, features, kept) of one chunk after another and writes them."""
        rows, lines = self.folder / "features.f32", self.folder / "rows.jsonl"
        while True:
            files, x, kept = yield
            x = np.ascontiguousarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), np.float32)
            if not self.width:
                self._begin(x.shape[1])
            try:
                with open(rows, "r+b") as file:
                    file.truncate(4 * self.width * len(self.files))
                    file.seek(0, os.SEEK_END)
                    file.write(x.tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                line = _line(files, kept, x)
                with open(lines, "r+b") as file:
                    file.truncate(self._end)
                    file.seek(0, os.SEEK_END)
                    file.write(line)
            except OSError as error:
                raise UserError(f"the index {shown(str(self.folder))} cannot be written ({error.strerror or error}); what is done is kept: make room, or give another folder with "
                                "--index") from error
            self.files += files
            self.kept += [bool(k) for k in kept]
            self._end += len(line)

    def _begin(self, width):
        self.width, self._end = width, 0
        for name in ("features.f32", "rows.jsonl"):
            (self.folder / name).write_bytes(b"")
        folders.write(self.folder / "index.json", json.dumps({"what": self.what, "width": width}, indent=1))

    def _compact(self, rows):
        """Writes the index anew with these rows alone, beside the old one, which it then replaces."""
        features, lines = (self.folder / name for name in ("features.f32", "rows.jsonl"))
        with open(f"{features}.new", "wb") as new, open(f"{lines}.new", "wb") as told:
            for at in range(0, len(rows), CHUNK):
                part = rows[at:at + CHUNK]
                x = np.ascontiguousarray(self.x[part])
                new.write(x.tobytes())
                told.write(_line([self.files[i] for i in part], [self.kept[i] for i in part], x))
        for file in (features, lines):
            os.replace(f"{file}.new", file)
        self.open()


def _line(files, kept, x) -> bytes:
    return json.dumps({"files": files, "kept": [int(k) for k in kept], "crc": zlib.crc32(x)}).encode("ascii") + b"\n"
