"""`python -m jaxssl.data pack`: any source into ArrayRecord shards with a manifest."""
import collections
import contextlib
import hashlib
import io
import json
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from jaxssl.data import array_record, native
from jaxssl.data.decode import Broken, pixel_limit, pixels_of, rgb
from jaxssl.data.pipeline import Tally, ahead, cores
from jaxssl.errors import UserError, shown

JPEG_QUALITY = 95


def pack(train, test, destination: str, *, size: int = 0, shards: int = 1, max_broken: float = .01, options=None, progress=None) -> dict:
    """Writes `train` (and `test`) below `destination`, which must not exist or be empty; returns the manifest.

    Without `size` the encoded bytes are kept as they are. With it, images whose longer side exceeds `size` pixels are
    shrunk to it and encoded again (JPEG stays JPEG, quality 95, 4:4:4; the rest becomes PNG). Images that cannot be
    decoded are left out and listed. The set appears under its name only when it is complete. `options` goes into the
    manifest; `progress(done, total)` is called after each image. Raises UserError.
    """
    if size and pixels_of(train).native:
        raise UserError(f"--size {size} encodes images again as RGB, and those of {shown(train.name)} are read as they are; leave --size out: "
                        "data.canvas shrinks them in training.")
    if size < 0 or shards < 1:
        raise UserError(f"--size {size} and --shards {shards} make no sense; the size is a number of pixels (0 = as they are), and there is at least one shard.")
    final = Path(os.path.abspath(os.path.expanduser(destination)))          # "." has no name to put a partial one beside
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise UserError(f"{shown(str(final))} exists and is not an empty folder; choose another DST, or delete it first.")
    _, writers = array_record.library()
    splits = {"train": train} | ({"test": test} if test is not None else {})
    partial = final.with_name(f".{final.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        content = {"format": array_record.FORMAT, "classes": list(train.classes), "options": {"size": size, **(options or {})}, "splits": {}}
        total, before = sum(len(s) for s in splits.values()), 0
        for split, source in splits.items():
            step = None if progress is None else lambda done, before=before: progress(before + done, total)
            content["splits"][split] = _split(source, split, partial, writers, size, min(shards, len(source)), max_broken, step)
            before += len(source)
        (partial / array_record.MANIFEST).write_text(json.dumps(content, indent=1) + "\n")
        if final.exists():                              # an empty folder, in which the user's shell may be: it stays, and the manifest comes last
            for file in sorted(partial.iterdir(), key=lambda file: file.name == array_record.MANIFEST):
                os.replace(file, final / file.name)
        else:
            os.replace(partial, final)
    except OSError as error:
        raise UserError(f"Cannot write {shown(str(final))}: {error.strerror or error}; choose another DST or make room.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return content


def _split(source, split, folder, writers, size, shards, max_broken, progress) -> dict:
    """Writes one split; returns its entry of the manifest."""
    tally, digest, sizes, labels, broken, lines = Tally(source, max_broken, fate="left out"), hashlib.sha256(), [], collections.Counter(), [], []
    checksums = []
    bounds = np.linspace(0, len(source), shards + 1).round().astype(int)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(cores()))
        results = stack.enter_context(contextlib.closing(ahead(pool, lambda i: _one(source, i, size), len(source))))
        for shard in range(shards):
            writer = writers.ArrayRecordWriter(str(folder / array_record.shard_name(split, shard, shards)), array_record.WRITER_OPTIONS)
            try:
                for index in range(bounds[shard], bounds[shard + 1]):
                    result = next(results)
                    if isinstance(result, Broken):
                        broken.append([source.entry(index)[1], str(result)])
                        tally.add(1, [(index, str(result))])
                    else:
                        record, label, name, shape = result
                        writer.write(record)
                        digest.update(hashlib.sha256(record).digest())
                        checksums.append(zlib.crc32(record))
                        sizes.append(shape)
                        labels[label] += 1
                        lines.append(json.dumps([label, name]))
                        tally.add(1, [])
                    if progress is not None:
                        progress(index + 1)
            finally:
                writer.close()
    if not sizes:
        raise UserError(f"None of the images of {shown(source.name)} can be decoded; see why with `python -m jaxssl.data inspect`.")
    beside = {array_record.index_name(split): "".join(f"{line}\n" for line in lines).encode(), array_record.checksums_name(split): np.array(checksums, "<u4").tobytes()}
    for name, data in beside.items():
        (folder / name).write_bytes(data)
    sides = np.array(sizes)
    return {"examples": len(sizes), "shards": shards, "sha256": digest.hexdigest(), "broken": broken,
            "files_sha256": {name: hashlib.sha256(data).hexdigest() for name, data in beside.items()},
            "examples_per_class": {source.classes[i] if i >= 0 else "unlabelled": n for i, n in sorted(labels.items())},
            "height": _three(sides[:, 0]), "width": _three(sides[:, 1])}


def _three(values):
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _one(source, index, size):
    """-> (record, label, id, (height, width)), or the Broken that says why not."""
    try:
        image, label, name = source.read(index)
        if pixels_of(source).native:
            array = native.agreed(native.read(image, pixel_limit(source)), pixels_of(source))
            return array_record.encode(image, label, name), label, name, array.shape[:2]
        if isinstance(image, np.ndarray):
            picture, jpeg = Image.fromarray(image), False
            image = _encoded(picture, jpeg)
        else:
            picture, jpeg = rgb(image, pixel_limit(source)), image[:2] == b"\xff\xd8"
        if size and max(picture.size) > size:
            scale = size / max(picture.size)
            picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.BICUBIC)
            image = _encoded(picture, jpeg)
        return array_record.encode(image, label, name), label, name, picture.size[::-1]
    except Broken as error:
        return error


def _encoded(picture, jpeg: bool) -> bytes:
    out = io.BytesIO()
    picture.save(out, **({"format": "JPEG", "quality": JPEG_QUALITY, "subsampling": 0} if jpeg else {"format": "PNG"}), exif=b"")
    return out.getvalue()
