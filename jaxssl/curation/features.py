"""Features of a set of images as float16 shards: made once, by one encoder for all sets that are compared, and gone on with where they were interrupted.

`features/SPACE/space.json` says whose they are; `features/SPACE/SET` holds `set.json` (which images), `ids.jsonl`, `broken.jsonl` and a file for every shard: unit rows in f16,
their lengths in f32, and which images could be decoded. Row i is image i of the source.
"""
import dataclasses
import hashlib
import json
import re
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxssl import data as datas
from jaxssl.curation import book as books
from jaxssl.curation.book import Book
from jaxssl.data import open as opening
from jaxssl.data.decode import demand_rgb, pixel_limit, rgb
from jaxssl.data.sources import Subset
from jaxssl.errors import UserError, nearest, shown
from jaxssl.evaluation import subjects
from jaxssl.gallery import images
from jaxssl.workdir import folder as folders

POOL, SPACE = "pool", "main"
SHARD = 4096            # images of a shard: what a kill may cost
# How a source is opened, so that every folder's images are in it: nothing is held out, no folder is taken for a split.
WHOLE = {"folder": {"splits": "none", "holdout": "0"}, "zip": {"splits": "none", "holdout": "0"}, "tar": {"splits": "none", "holdout": "0"}, "dense": {"holdout": "0"},
         "tfds": {"holdout": "0"}, "array_record": {"holdout": "0"}, "digits": {}}


@dataclasses.dataclass(frozen=True)
class Features:
    """x: f32 [N, D] of length 1, or 0 where an image was broken. length: f32 [N] of the encoder's own features. kept: bool [N]."""
    x: np.ndarray
    length: np.ndarray
    kept: np.ndarray


def step(space: str, name: str) -> str:
    """What the step is called that embeds a set."""
    return f"embed {space}/{name}"


def opened(path: str, keys: Mapping[str, str], part: str, resize: int) -> tuple[datas.Data, Any]:
    """(its `Data`, the source: all images of `path`, or with part "held_out" those that it holds out). keys: of `data`, as text. Raises: UserError."""
    kind = keys.get("source") or opening.detect(path)
    data = subjects.open_data({}, path, {**WHOLE.get(kind, {}), "max_broken": "1", **keys}, resize=resize)
    demand_rgb(data.train, "jaxssl.curate")
    source = data.train if part == "all" else data.test
    if source is None:
        raise UserError(f"--part held_out: {shown(path)} has no images that are held out; leave it out")
    return data, source


def embed(book: Book, encoder: Any, path: str, *, name: str = POOL, space: str = SPACE, layer: str = "backbone", precision: str = "f32", part: str = "all",
          keys: Mapping[str, str] | None = None, shard: int = SHARD) -> None:
    """Features of all images at `path`. name: of the set: "pool" is what is curated, others are references and seeds. space: of the features, one encoder each.

    Raises: UserError.
    """
    start, keys = time.monotonic(), dict(keys or {})
    for flag, word in (("--name", name), ("--features", space)):
        if not re.fullmatch(r"[A-Za-z0-9_]{1,40}", word):
            raise UserError(f"{flag} is {shown(word)[:60]!r}; give a short name of letters, digits and underscores")
    data, source = opened(path, keys, part, encoder.preprocessing["resize"])
    if not len(source):
        raise UserError(f"{shown(path)} has no images; give a folder, a zip or another source of images")
    folder = book.folder / "features" / space
    own = {"encoder": encoder.digest, "model": encoder.config["model"], "layer": layer, "precision": precision, "transform": encoder.preprocessing}
    _claim_space(folder / "space.json", space, own, encoder.name)
    ids = [source.id(i) for i in range(len(source))]
    told = {"path": path, "keys": keys, "part": part, "resize": encoder.preprocessing["resize"], "images": len(source), "shard": shard,
            "ids_sha256": hashlib.sha256("\0".join(ids).encode("utf-8", "surrogateescape")).hexdigest(), "facts": data.images}
    _claim_set(book, folder / name, name, told, ids)
    files = [folder / name / f"{at // shard:05d}.npz" for at in range(0, len(source), shard)]
    left = [number for number, file in enumerate(files) if not _whole(file, min(shard, len(source) - number * shard))]
    if left:
        _fill(book, encoder, data, source, layer, files, left, shard)
    parts = [books.read(file, "embed again") for file in files]
    kept = np.concatenate([own["kept"] for own in parts])
    broken = [ids[i] for i in np.flatnonzero(~kept)]
    folders.write(folder / name / "broken.jsonl", "".join(json.dumps(each) + "\n" for each in broken))
    table = {"rows": np.flatnonzero(kept), "checksums": np.array([zlib.crc32(own["x"].tobytes() + own["length"].tobytes()) for own in parts], np.uint32)}
    if not len(table["rows"]):
        raise UserError(f"none of the {len(source):,} images of {shown(path)} can be decoded; see what they are with `python -m jaxssl.data inspect`")
    params = {"source": path, "encoder": encoder.digest, "layer": layer, "name": encoder.name}
    here = step(space, name)
    if not book.made(here, params, {}) or book.steps[here]["digest"] != books.digest(table):
        first = next(iter(book.last(books.FILTER)), here)       # the chain of selections begins with the first features of the pool
        counts = {"images": len(kept), "kept": len(table["rows"]), "broken": len(broken), "width": parts[0]["x"].shape[1]}
        book.keep(here, books.FILTER if name == POOL and first == here else books.TABLE, params, {}, counts, table, start)


def _spaces(book, name):
    return sorted((file.parent.parent.name for file in book.folder.glob(f"features/*/{name}/set.json")), key=lambda own: (own != SPACE, own))


def _claim_space(file: Path, space, own, named):
    own = json.loads(json.dumps(own, default=str))
    former = folders.read_json(file)
    if former is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        folders.write(file, json.dumps({**own, "named": named}, indent=1))
    elif other := [key for key, value in own.items() if former.get(key) != value]:
        raise UserError(f"features {space!r} are those of another encoder ({shown(str(former.get('named')))}; {', '.join(other)} differ), and features of two encoders cannot be "
                        f"compared; give the same --weights, or another name with --features")


def _claim_set(book, folder: Path, name, told, ids):
    told = json.loads(json.dumps(told))
    former = folders.read_json(folder / "set.json")
    others = [folders.read_json(file) for file in book.folder.glob(f"features/*/{name}/set.json")]
    for other in others:
        if differ := [key for key in ("images", "ids_sha256", "facts") if other.get(key) != told[key]]:
            raise UserError(f"the set {name!r} of {shown(str(book.folder))} is of other images than {shown(told['path'])} has now ({', '.join(differ)} differ); "
                            "give another --name, or another --out")
    if former is None:
        folder.mkdir(parents=True, exist_ok=True)
        folders.write(folder / "ids.jsonl", "".join(json.dumps(each) + "\n" for each in ids))
        folders.write(folder / "set.json", json.dumps(told, indent=1))
    elif former["shard"] != told["shard"]:
        raise UserError(f"the set {name!r} was begun with shards of {former['shard']:,} images, and --shard is {told['shard']:,}; leave it as it was")


def _whole(file: Path, count: int) -> bool:
    try:
        return file.exists() and len(books.read(file, "")["kept"]) == count
    except (UserError, KeyError):
        return False


def _fill(book, encoder, data, source, layer, files, left, shard):
    """Writes the shards `left`; one pass over their images, so that one program is compiled."""
    rows = np.concatenate([np.arange(number * shard, min((number + 1) * shard, len(source))) for number in left])
    waiting, done, held = list(left), 0, []
    for x, kept in images.embedded(encoder, data, Subset(source, rows), layer):
        held.append((np.asarray(x, np.float32), np.asarray(kept)))
        while waiting and sum(len(own) for _, own in held) >= (size := min(shard, len(source) - waiting[0] * shard)):
            x, kept = (np.concatenate(part) for part in zip(*held))
            length = np.linalg.norm(x[:size], axis=1).astype(np.float32)
            unit = np.where(kept[:size, None], x[:size] / np.maximum(length, 1e-12)[:, None], 0).astype(np.float16)
            books.write(files[waiting.pop(0)], x=unit, length=np.where(kept[:size], length, 0).astype(np.float32), kept=kept[:size])
            held, done = [(x[size:], kept[size:])], done + size
            book.log(f"embedded {done:,} of {len(rows):,} images")


def step_of_pool(book: Book) -> str | None:
    """The step that embedded the pool first; None before that."""
    return next(iter(book.last(books.FILTER)), None)


def sets(book: Book) -> list[str]:
    """Names of the sets that were embedded."""
    return sorted({file.parent.name for file in book.folder.glob("features/*/*/set.json")})


def demand(book: Book, name: str, space: str) -> str:
    """The step that embedded the set. Raises: UserError where it was not."""
    if step(space, name) not in book.steps:
        known = sets(book)
        raise UserError(f"there are no features {shown(space)!r} of a set {shown(name)!r} in {shown(str(book.folder))} (sets: {', '.join(known) or 'none'}){nearest(name, known)}; "
                        f"make them with `embed SRC --weights W --name {shown(name)}" + (f" --features {shown(space)}`" if space != SPACE else "`"))
    return step(space, name)


def load(book: Book, name: str, space: str) -> Features:
    """The features of a set. Raises: UserError where a shard is gone, damaged, or not the one that the step wrote."""
    own = demand(book, name, space)
    folder, sums = book.folder / "features" / space / name, book.table(own)["checksums"]
    parts = []
    for number, checksum in enumerate(sums):
        file = folder / f"{number:05d}.npz"
        part = books.read(file, "embed the set again, which makes this shard alone")
        if zlib.crc32(part["x"].tobytes() + part["length"].tobytes()) != checksum:
            raise UserError(f"{shown(str(file))} is not the shard that was embedded; delete it and embed the set again, which makes this shard alone")
        parts.append(part)
    x = np.concatenate([part["x"] for part in parts]).astype(np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return Features(x, *(np.concatenate([part[key] for part in parts]) for key in ("length", "kept")))


def ids(book: Book, name: str) -> list[str]:
    """The ids of a set's images."""
    space = _spaces(book, name)[0]
    return [json.loads(line) for line in (book.folder / "features" / space / name / "ids.jsonl").read_text(encoding="utf-8").splitlines()]


def source(book: Book, name: str) -> Any:
    """The images of a set, opened again. Raises: UserError where they are not there any more."""
    told = folders.read_object(book.folder / "features" / _spaces(book, name)[0] / name / "set.json")
    found = opened(told["path"], told["keys"], told["part"], told["resize"])[1]
    if len(found) != told["images"]:
        raise UserError(f"{shown(told['path'])} has {len(found):,} images now, and the set {name!r} was embedded from {told['images']:,}; restore them, or embed in another --out")
    return found


def image(source: Any, row: int) -> Image.Image:
    """An image of a source in RGB. Raises: Broken."""
    data = source.read(row)[0]
    return Image.fromarray(data) if isinstance(data, np.ndarray) else rgb(data, pixel_limit(source))


def about(book: Book, name: str) -> dict:
    """What set.json says of a set."""
    return folders.read_object(book.folder / "features" / _spaces(book, name)[0] / name / "set.json")
