"""The folder of a curation: `curation.json` with an entry for every step, and the step's table beside it, arrays in an .npz that never holds a pickle.

A table is numpy's own format and not Parquet, so that the core needs no Arrow: every column is one array, which NumPy opens and pandas takes as a column. An entry says from which
tables the step was made, by their digests: a step that is asked for again with the same parameters and the same tables is done already, and one whose tables have changed is not.
"""
import contextlib
import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.errors import UserError, nearest, shown
from jaxssl.workdir import folder as folders

FILE, LOCK, FORMAT = "curation.json", ".lock", "jaxssl.curation.1"
FILTER, PICK, TABLE = "filter", "pick", "table"     # what a step leaves: images that are not dropped, images that were chosen of those, or neither


class Book:
    """A curation in the folder `out`, made where it is not there. log(sentence): progress for a person. Raises: UserError."""

    def __init__(self, out: str, log: Callable[[str], Any] = lambda sentence: None):
        self.folder, self.log = Path(out), log
        self._fresh = folders.make(out)
        found = folders.read_json(self.folder / FILE)
        if found is not None and (found.get("format") != FORMAT or not isinstance(found.get("steps"), dict)):
            raise UserError(f"{shown(str(self.folder / FILE))} is of no curation that this version reads ({shown(str(found.get('format')))[:60]}); give another folder with --out")
        if found is None and any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise UserError(f"{shown(out)} is not empty and has no {FILE}, so it is no curation; give a new folder with --out")
        self.steps: dict[str, dict] = {} if found is None else found["steps"]
        if found is None:
            self._write()

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """While this process changes the folder. Raises: UserError when another one does."""
        return folders.alone(self.folder, f"another process is curating {shown(str(self.folder))}; wait for its end, or give another folder with --out")

    @contextlib.contextmanager
    def withdrawn(self) -> Iterator[None]:
        """Around the first step: where it is refused before anything is kept, the folders that were made for it are gone again."""
        try:
            yield
        except UserError:
            mine = {self.folder / name for name in (FILE, LOCK)}
            if self._fresh and not self.steps and set(self.folder.iterdir()) <= mine:
                for file in mine:
                    file.unlink(missing_ok=True)
                for folder in self._fresh:
                    folder.rmdir()
            raise

    def entry(self, name: str, remedy: str) -> dict:
        """What is known of a step. remedy: what makes it. Raises: UserError where it was not made."""
        if name not in self.steps:
            raise UserError(f"there is no {shown(name)!r} in {shown(str(self.folder))}{nearest(name, self.steps)}; {remedy}")
        return self.steps[name]

    def inputs(self, *names: str) -> dict[str, str]:
        """step → digest of its table, as the entry of a step that is made from them keeps it. Raises: UserError where one of them is not of today's tables."""
        for name in names:
            self.fresh(name)
        return {name: self.steps[name]["digest"] for name in names}

    def fresh(self, name: str) -> None:
        """Raises: UserError when a table that `name` was made from was made anew since, at any depth."""
        for other, digest in self.entry(name, "run that step first")["from"].items():
            if other not in self.steps or self.steps[other]["digest"] != digest:
                raise UserError(f"{name!r} was made from another {other!r} than is there now; run its step again")
            self.fresh(other)

    def made(self, name: str, params: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
        """Whether the step was made so, and its table is whole."""
        entry = self.steps.get(name)
        if entry is None or entry["params"] != _plain(params) or entry["from"] != dict(inputs):
            return False
        try:
            self.table(name)
        except UserError as error:
            self.log(f"{name}: made again, since {error}")
            return False
        self.log(f"{name}: {said(entry['counts'])} (made already)")
        return True

    def keep(self, name: str, kind: str, params: Mapping[str, Any], inputs: Mapping[str, str], counts: Mapping[str, Any], table: Mapping[str, np.ndarray], since: float) -> None:
        """Keeps a step's table, then its entry. since: `time.monotonic()` at its start."""
        write(self.file(name), **table)
        self.steps[name] = {"kind": kind, "params": _plain(params), "from": dict(inputs), "counts": _plain(counts), "seconds": round(time.monotonic() - since, 3),
                            "table": str(self.file(name).relative_to(self.folder)), "digest": digest(table)}
        self._write()
        self.log(f"{name}: {said(counts)}")

    def table(self, name: str) -> dict[str, np.ndarray]:
        """The table of a step. Raises: UserError where it is not what was written."""
        found = read(self.file(name), "run its step again")
        if digest(found) != self.entry(name, "run that step first")["digest"]:
            raise UserError(f"{shown(str(self.file(name)))} is not the table that was written; run its step again")
        return found

    def file(self, name: str) -> Path:
        return self.folder / "tables" / (name.replace("/", "-").replace(" ", "-") + ".npz")

    def last(self, kind: str, *, before: str = "") -> list[str]:
        """Names of the steps of a kind in the order in which they were first made; only those that came before the step `before`."""
        names = list(self.steps)
        return [name for name in (names[:names.index(before)] if before in names else names) if self.steps[name]["kind"] == kind]

    def selection(self, given: str, of: str) -> str:
        """The filter whose images the step `of` looks at: the one that is `given`, the one it looked at before, or the last one. Raises: UserError."""
        filters = self.last(FILTER, before=of)
        if given and given not in filters:
            raise UserError(f"--among {shown(given)} is none of the selections here ({', '.join(filters) or 'none yet'}){nearest(given, filters)}")
        if not filters:
            raise UserError(f"{shown(str(self.folder))} has no features yet; make them with `embed SRC --weights W`")
        return given or filters[-1]

    def _write(self):
        folders.write(self.folder / FILE, json.dumps({"format": FORMAT, "steps": self.steps}, indent=1))


def write(file: Path, **arrays: np.ndarray) -> None:
    """Arrays to an .npz, atomically. Raises: OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with folders.whole(file) as stream:
        np.savez(stream, **arrays)


def read(file: Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz, whose checksums are compared. Raises: UserError, ending in `remedy`, where it is gone, torn or changed."""
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise UserError(f"{shown(str(file))} is gone; {remedy}") from None
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, SyntaxError, NotImplementedError) as error:
        raise UserError(f"{shown(str(file))} is torn or damaged ({shown(str(error))[:100]}); {remedy}") from error


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def said(counts: Mapping[str, Any]) -> str:
    """The counts of a step in a line."""
    def one(value):
        if isinstance(value, list | tuple):
            return " ".join(map(one, value)) or "none"
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    return ", ".join(f"{name.replace('_', ' ')} {one(value)}" for name, value in counts.items() if not isinstance(value, dict))


def _plain(values):
    return json.loads(json.dumps(values, default=float))
