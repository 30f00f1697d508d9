"""A path and the name of a kind of source -> the source, or one sentence that says what is wrong."""
import functools
import os
import stat
import zipfile
from pathlib import Path

from jaxssl.data import array_record, dense, disjoint, layout, tar, tfds
from jaxssl.data.digits import Digits
from jaxssl.data.folder import Folder, walk
from jaxssl.data.zip import Zip, members
from jaxssl.errors import UserError, nearest, shown

SOURCES = ("digits", "folder", "zip", "tfds", "array_record", "dense", "tar")
VARIANTS = ("cluttered", "clean")
NO_TEST = "none"


class Absent(UserError):
    """The data are not on this machine."""


def open_source(source, path, *, test_path="", variant="cluttered", canvas=32, split="train", test_split="", depth=1, splits="auto", outside_links=False,
                every=False):
    """-> (training source, held-out source or None). every: of three folders the third is held out too. The `said` of the first tells how folders were read. Raises UserError."""
    if source not in SOURCES:
        raise UserError(f"data.source='{shown(source)}' is not known; choose one of {', '.join(SOURCES)}{nearest(source, SOURCES)}")
    if source == "digits":
        if path or test_path:
            raise UserError(f"data.path='{shown(path or test_path)}' has no use with data.source='digits', which is built in, held-out glyphs included; "
                            "did you mean data.source='folder'?")
        if variant not in VARIANTS:
            raise UserError(f"data.variant='{variant}' is not known; choose one of {', '.join(VARIANTS)}{nearest(variant, VARIANTS)}")
        return Digits(variant, canvas, test=False), Digits(variant, canvas, test=True)
    if splits not in layout.SPLITS:
        raise UserError(f"data.splits='{splits}' is not known; choose one of {', '.join(layout.SPLITS)}{nearest(splits, layout.SPLITS)}")
    opened = functools.partial(_splits, source, depth=depth, splits=splits, outside_links=outside_links, every=every)
    train, test = opened(existing(path, source, "data.path"), split, test_split, held=not test_path)
    if not test_path:
        return train, test
    if test_path == NO_TEST:
        return train, None
    whole, test = opened(existing(test_path, source, "data.test_path"), test_split or split, test_split if source in ("folder", "zip", "tar") else "", held=True)
    test = whole if test is None or test_split and source in ("tfds", "array_record") else test
    train.said = (*train.said, *(f"data.test_path: {sentence}" for sentence in whole.said))
    return train, test


def _splits(source, root, split, test_split, *, held, depth, splits, outside_links, every):
    """-> (training source, held-out source or None) at one path. held: whether the held-out one is wanted."""
    if source == "tfds":
        return tfds.open_splits(root, split, test_split)
    if source == "array_record":
        return array_record.open_splits(root)
    if source == "dense":
        return dense.open_splits(root, test_split, held, outside_links)
    if source == "tar":
        return tar.open_splits(root, depth=depth, splits=splits, held=held, test_split=test_split)
    kind, found = (Zip, members(str(root))) if source == "zip" else (Folder, walk(root, outside_links))
    read = layout.decide(found, depth=depth, splits=splits, held=held, test_split=test_split, every=every)
    train = kind(str(root), found, read.train, depth)
    train.said = read.said
    parts = [kind(str(root), found, part, depth) for part in (read.held, read.other) if part]
    return train, disjoint.Pool(parts) if len(parts) > 1 else parts[0] if parts else None


def existing(path: str, source: str, key: str) -> Path:
    """`path` as the kind of thing that `source` reads. Raises Absent when nothing is there, UserError when it is the wrong kind."""
    name = shown(path)
    if not path:
        raise Absent(f"{key} is empty; data.source='{source}' needs the path of the data, for instance --config.{key}=/data/images.")
    if "://" in path:
        raise Absent(f"{key}='{name}' is a URL, and images are read from a file system; copy the data to a disk, or mount the bucket (gcsfuse).")
    root = Path(os.path.expanduser(path))
    try:
        mode = os.stat(root).st_mode
    except FileNotFoundError:
        around = root.parent
        hint = nearest(root.name, os.listdir(around)) if around.is_dir() and os.access(around, os.R_OK) else ""
        raise Absent(f"{key}='{name}' does not exist (looked in {shown(str(around.absolute()))}){shown(hint) or '; check the path.'}") from None
    except (OSError, ValueError) as error:      # ValueError: a zero byte
        raise Absent(f"{key}='{name}' cannot be looked at ({getattr(error, 'strerror', None) or error}); check the path and the right to enter the folders above it.") from None
    folder = stat.S_ISDIR(mode)
    if not folder and not stat.S_ISREG(mode):
        raise UserError(f"{key}='{name}' is a pipe, a socket or a device, which is not read; give a folder of images, or a file on a disk.")
    if source == "zip" and folder:
        raise UserError(f"{key}='{name}' is a folder, not a zip; use data.source='folder'.")
    if source in ("folder", "tfds", "dense") and not folder:
        other = root.suffix.lower()[1:]
        hint = f"use data.source='{other}'." if other in ("zip", "tar") else "give the folder that holds it."
        raise UserError(f"{key}='{name}' is a file, and data.source='{source}' reads a folder; {hint}")
    if not os.access(root, os.R_OK | (os.X_OK if folder else 0)):
        raise UserError(f"No permission to read {key}='{name}'; change its mode or run as its owner.")
    return root


def detect(path: str) -> str:
    """The kind of source that lies at `path`, or "digits" for that word. Raises UserError."""
    if path == "digits":
        return path
    root = existing(path, "path", "SRC")
    if root.is_file():
        if root.suffix.lower() == ".zip" or zipfile.is_zipfile(root):
            return "zip"
        if root.suffix.lower() == ".tar":
            return "tar"
        raise UserError(f"SRC '{shown(path)}' is a file that is no zip and no .tar; give a folder, a zip, tar shards, a prepared TFDS directory or a packed set.")
    if (root / array_record.MANIFEST).is_file():
        return "array_record"
    if any(next(root.glob(f"{depth}{tfds.INFO}"), None) for depth in ("", "*/", "*/*/")):
        return "tfds"
    if dense.is_one(root):
        return "dense"
    return "tar" if tar.only(root) else "folder"


def same_classes(train, test):
    """Raises UserError unless both sets have the same classes."""
    if test.classes == train.classes:
        return
    missing, extra = sorted(set(train.classes) - set(test.classes)), sorted(set(test.classes) - set(train.classes))
    parts = [f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
             for what, names in (("missing", missing), ("unknown", extra)) if names]
    raise UserError(f"The held-out set {shown(test.name)} has other classes than {shown(train.name)}: {' and '.join(parts) or 'in another order'}; "
                    "name its folders alike, give another data.test_path, or set data.test_path=none.")
