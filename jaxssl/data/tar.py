"""The images inside plain tar shards (WebDataset's), read where they lie: nothing is extracted, and an archive's headers are read once.

A sample is what shares a key, the name up to the first dot of its last part: `0001.jpg` and `0001.cls` (a number), or `0001.json` with a "label", "cls" or "class". Where there is
no such label, folders in the archives are classes, as in a zip. Names are compared and shown, and nothing is ever made under them.

The index of each shard is kept below `HOME`, by the shard's path, size and time, so that a million headers are read once.
"""
import contextlib
import functools
import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxssl.data import layout, listing
from jaxssl.data.decode import MAX_BYTES, Broken
from jaxssl.data.files import Files, OnDisk
from jaxssl.data.folder import read_file
from jaxssl.data.listing import Listing, many
from jaxssl.data.sources import UNLABELLED
from jaxssl.errors import UserError, listed, shown

HOME = os.path.join("~", ".cache", "jaxssl", "tar")
LABELS = ("cls", "json")
KEYS = ("label", "cls", "class", "class_name")      # of a .json, the first that is there
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LONGEST = 2**20        # bytes of a file that says a label
_OPEN = 256             # shards that a process holds open
_BLOCK = 512


class Entries(NamedTuple):
    """The images of one shard. names: as the archive has them. places: int64 [N, 2], first byte and size. labels: what is said of each, "" for nothing. skipped: kind → files."""
    names: list[str]
    places: np.ndarray
    labels: list[str]
    skipped: dict[str, int]


class Tar(OnDisk):
    """Images of shards, in the order of shards and of places in them."""
    said: tuple[str, ...] = ()

    def __init__(self, name: str, shards: Sequence[str], names: list[str], where: np.ndarray, labels: list[int], classes: tuple[str, ...]):
        """names: ids. where: int64 [N, 3], the number of the shard, first byte and size."""
        self.name, self.shards, self.names, self.where, self.labels, self.classes = name, tuple(shards), names, where, labels, classes
        self._handles = {}

    def __len__(self):
        return len(self.names)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "files"} | {"_handles": {}}

    def read(self, index):
        shard, start, size = (int(v) for v in self.where[index])
        if size > MAX_BYTES:
            raise Broken(f"larger than {MAX_BYTES >> 20} MiB")
        try:
            handle = self._handles.get(shard) or Path(self.shards[shard]).open("rb")       # held here too: another thread may let go of it
            if len(self._handles) >= _OPEN:
                self._handles = {}
            self._handles[shard] = handle
            data = os.pread(handle.fileno(), size, start)
        except OSError as error:
            raise Broken(f"{error.strerror or error}") from error
        if len(data) != size:
            raise Broken("its archive is shorter than when it was listed")
        label, name = self.entry(index)
        return data, label, name

    def entry(self, index):
        return self.labels[index], self.id(index)

    def id(self, index):
        return shown(self.names[index])

    @functools.cached_property
    def files(self) -> Files:
        """Of the shards."""
        root = os.path.dirname(self.shards[0])
        return Files(root, [os.path.relpath(shard, root) for shard in self.shards], read_file)

    def contents(self) -> str:
        digest = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape") + np.ascontiguousarray(self.where, "<i8").tobytes())
        digest.update(np.asarray(self.labels, "<i4").tobytes() + self.files.contents().encode())
        return digest.hexdigest()


def shards(root: Path) -> dict[str, list[str]]:
    """{split: its shards, sorted}: those of a folder, or of its folders or names that are called like splits ("" for all where there are none); or the one file.

    Raises: UserError.
    """
    if root.is_file():
        return {"": [str(root)]}
    found = {"": _below(root)}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False) and (role := layout.role(entry.name)):
            found[role] = [*found.get(role, []), *_below(Path(entry.path))]
    if "train" not in found:
        words = {path: next((r for word in layout.words(os.path.basename(path)) if (r := layout.role(word))), "") for path in found[""]}
        if "train" in words.values():
            found = {role: [path for path, its in words.items() if its == role] for role in {"train", *words.values()}}
    if not any(found.values()):
        raise UserError(f"{shown(str(root))} holds no .tar files; give a folder of shards, or one .tar file")
    return found


def only(root: Path) -> bool:
    """Whether the files of a folder, or of its folders that are called like splits, are shards and nothing else."""
    entries = [entry for entry in os.scandir(root) if not listing.hidden(entry.name)]
    if any(entry.is_dir() and not layout.role(entry.name) for entry in entries):
        return False
    inner = [each for entry in entries if entry.is_dir() and layout.role(entry.name) for each in os.scandir(entry.path)]
    files = [entry.name.lower() for entry in (*entries, *inner) if entry.is_file()]
    return any(name.endswith(".tar") for name in files) and not any(map(listing.is_image, files))


def _below(folder):
    try:
        return sorted(entry.path for entry in os.scandir(folder) if entry.name.lower().endswith(".tar") and entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"The folder {shown(str(folder))} cannot be listed ({error.strerror or error}).") from error


def open_splits(root: Path, *, depth: int = 1, splits: str = "auto", held: bool = True, test_split: str = "") -> tuple[Tar, Tar | None]:
    """-> (training set, held-out set or None), with the training set's `said`. Raises: UserError."""
    found = shards(root)
    parts = found if splits == "auto" and "train" in found else {"train": sorted(path for paths in found.values() for path in paths)}
    train, said = _source(root, parts["train"], depth)
    there = [its for its in dict.fromkeys((layout.role(test_split), *layout.HELD)) if parts.get(its)]
    test = _source(root, parts[there[0]], depth)[0] if there and held else None
    if there and held:
        said = (f"held out: {many(len(test), 'image')} of {many(len(parts[there[0]]), 'shard')} ({there[0]})", *said)
    if unused := [path for its, paths in parts.items() if its not in ("train", *there[:1]) for path in paths]:
        said = (*said, f"not used: {many(len(unused), 'shard')} ({listed([shown(os.path.basename(path)) for path in unused], 3)})")
    train.said = said
    return train, test


def _source(root, paths, depth) -> tuple[Tar, tuple[str, ...]]:
    entries = [index(path) for path in paths]
    where = np.concatenate([np.column_stack([np.full(len(e.names), i, np.int64), e.places]) for i, e in enumerate(entries)])
    raw, texts = [name for e in entries for name in e.names], [label for e in entries for label in e.labels]
    short = [os.path.basename(path) for path in paths]
    ids = raw if len(paths) == 1 else [f"{short[shard]}/{name}" for shard, name in zip(where[:, 0], raw)]
    found = Listing(str(root))
    for e in entries:
        found.skipped.update(e.skipped)
    if not raw:
        listing.refuse_empty(found)
    said = [f"{many(len(raw), 'image')} in {many(len(paths), 'shard')}"]
    if any(texts):
        classes = tuple(sorted({text for text in texts if text}, key=lambda text: (0, int(text), "") if text.isdecimal() and text.isascii() else (1, 0, text)))
        number = {text: i for i, text in enumerate(classes)} | {"": UNLABELLED}
        labels = [number[text] for text in texts]
        bare = f"; {many(labels.count(UNLABELLED), 'image')} without a label" if "" in texts else ""
        said.append(f"{len(classes):,} classes, by the .{' and .'.join(LABELS)} beside images{bare}")
        classes = tuple(shown(name) for name in classes)
    else:
        clean = ["/".join(part for part in name.split("/") if part not in ("", ".", "..")) for name in raw]
        for name in clean:
            folder = name[:name.rfind("/") + 1]
            found.counts[folder] = found.counts.get(folder, 0) + 1
            found.folder(folder)
        found.images = clean
        read = layout.decide(found, depth=depth, splits="none", held=False)
        numbers, classes = layout.classes_of(found.counts, depth, read.train)
        labels = [numbers[name[:name.rfind("/") + 1]] for name in clean]
        said += read.said[:1]
    if found.skipped:
        said.append(f"skipped {many(found.skipped.total(), 'file')} of other kinds: {listing.counted(found.skipped)}")
    return Tar(str(root), paths, ids, where, labels, classes), tuple(said)


def index(path: str) -> Entries:
    """The images of a shard, from the index that is kept of it or from its headers. Raises: UserError for one that is no plain whole tar."""
    try:
        facts = os.stat(path)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be looked at ({error.strerror or error}).") from error
    key = hashlib.sha256(json.dumps([1, os.path.abspath(path), facts.st_size, facts.st_mtime_ns]).encode("utf-8", "surrogateescape")).hexdigest()
    kept = os.path.join(os.path.expanduser(HOME), f"{key}.index")
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, tarfile.TarError):        # none, or damaged: it is made again
        return _kept(kept, facts.st_size)
    found = _scan(path, facts.st_size)
    with contextlib.suppress(OSError):                                                          # no place for it: it is made again next time
        _keep(kept, found)
    return found


def _kept(file, size) -> Entries:
    data = read_file(file, MAX_BYTES)
    body, digest = data[:-32], data[-32:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("damaged")
    length = int.from_bytes(body[:8], "little")
    names, labels, skipped = json.loads(body[8:8 + length])
    places = np.frombuffer(body[8 + length:], "<i8").reshape(-1, 2)
    if len(names) != len(places) or len(labels) != len(names) or len(places) and int(places.sum(1).max()) > size:
        raise ValueError("damaged")
    return Entries(names, places, labels, skipped)


def _keep(file, found: Entries) -> None:
    text, folder = json.dumps([found.names, found.labels, found.skipped]).encode(), os.path.dirname(file)
    body = len(text).to_bytes(8, "little") + text + np.ascontiguousarray(found.places, "<i8").tobytes()
    os.makedirs(folder, exist_ok=True)
    number, partial = tempfile.mkstemp(dir=folder)
    try:
        with open(number, "wb") as out:
            out.write(body + hashlib.sha256(body).digest())
        os.replace(partial, file)
    except BaseException:
        os.unlink(partial)
        raise


def _scan(path, size) -> Entries:
    """Reads the headers of a shard."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            if packed := next((name for magic, name in _PACKED.items() if head.startswith(magic)), ""):
                raise UserError(f"{shown(path)} is a tar compressed by {packed}, which cannot be read at random; unpack it to a plain .tar (images are compressed already)")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:", errorlevel=1) as archive:
                found = _members(path, archive, file, size)
                _ended(path, archive, file, size)
                return found
    except PermissionError:
        raise UserError(f"No permission to read {shown(path)}; change its mode or run as its owner.") from None
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not a whole tar ({shown(str(error)) or type(error).__name__}); it may be truncated: copy or download it again, or check it with "
                        "`tar -tf`.") from error


def _ended(path, archive, file, size):
    """The library takes a damaged header for the end: the end is a block of zeros, or that of the file."""
    at = archive.offset
    file.seek(at)
    block = file.read(_BLOCK)
    if block.strip(b"\0") or 0 < len(block) < _BLOCK:
        raise UserError(f"{shown(path)} is damaged at byte {at:,} of {size:,}, where a header is expected; copy or download it again, or check it with `tar -tf`.")


def _members(path, archive, file, size) -> Entries:
    samples, skipped = {}, {}
    while (member := archive.next()) is not None:
        archive.members = []                            # the library keeps every header that it has read
        name = member.name
        base = name.rpartition("/")[2]
        if member.isdir():
            continue
        extension = base.partition(".")[2].lower()
        if not member.isreg() or member.issparse():
            skipped["links, devices and sparse files"] = skipped.get("links, devices and sparse files", 0) + 1
            continue
        if listing.hidden_path("/".join(part for part in name.split("/") if part not in (".", ".."))):
            skipped["hidden files"] = skipped.get("hidden files", 0) + 1
            continue
        if member.offset_data + member.size > size:
            raise UserError(f"{shown(path)} is truncated: {shown(name)} ends at byte {member.offset_data + member.size:,}, and the file has {size:,}; copy or download it again.")
        sample = samples.setdefault(name[:len(name) - len(extension) - 1] if extension else name, {})
        if extension in LABELS:
            sample["label"] = _said(path, name, os.pread(file.fileno(), min(member.size, _LONGEST + 1), member.offset_data), extension) or sample.get("label", "")
        elif (listing.is_image(base) or listing.is_array(base)) and ("image" not in sample or "." not in extension and "." in sample["image"][3]):
            if "image" in sample:
                skipped["further images of a sample"] = skipped.get("further images of a sample", 0) + 1
            sample["image"] = (name, member.offset_data, member.size, extension)
        else:
            kind = "further images of a sample" if listing.is_image(base) or listing.is_array(base) else listing.kind(base)
            skipped[kind] = skipped.get(kind, 0) + 1
    whole = [sample for sample in samples.values() if "image" in sample]
    if lone := len(samples) - len(whole):
        skipped["samples without an image"] = lone
    return Entries([s["image"][0] for s in whole], np.array([s["image"][1:3] for s in whole], np.int64).reshape(-1, 2), [s.get("label", "") for s in whole], skipped)


def _said(path, name, data, extension) -> str:
    """The label that a .cls or .json says, as text; "" for none. Raises: UserError for one that cannot be read."""
    try:
        if len(data) > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST:,} bytes")
        text = data.decode("utf-8").strip()
        if extension == "json":
            found = json.loads(text)
            value = next((found[key] for key in KEYS if key in found), "") if isinstance(found, dict) else ""
            text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if "\0" in text or len(text) > 200:
            raise ValueError("its label is longer than 200 letters")
        return text
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)}: {shown(name)} says no label that can be read ({shown(str(error))[:150]}); a .cls holds a number or a word, a .json an object") from error
