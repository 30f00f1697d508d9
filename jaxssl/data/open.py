"""A path and the name of a kind of source -> the source, or one sentence that says what is wrong."""
import os
import zipfile
from pathlib import Path

from jaxssl.data import array_record, listing, tfds
from jaxssl.data.digits import Digits
from jaxssl.data.folder import Folder, walk
from jaxssl.data.zip import Zip, members
from jaxssl.errors import UserError, nearest

SOURCES = ("digits", "folder", "zip", "tfds", "array_record")
VARIANTS = ("cluttered", "clean")
NO_TEST = "none"


class Absent(UserError):
    """The data are not on this machine."""


def open_source(source, path, *, test_path="", variant="cluttered", canvas=32, split="train", test_split="", depth=1):
    """-> (training source, held-out source or None). Raises UserError."""
    if source not in SOURCES:
        raise UserError(f"data.source='{source}' is not known; choose one of {', '.join(SOURCES)}{nearest(source, SOURCES)}")
    if source == "digits":
        if path or test_path:
            raise UserError(f"data.path='{path or test_path}' has no use with data.source='digits', which is built in, held-out glyphs included; did you mean data.source='folder'?")
        if variant not in VARIANTS:
            raise UserError(f"data.variant='{variant}' is not known; choose one of {', '.join(VARIANTS)}{nearest(variant, VARIANTS)}")
        return Digits(variant, canvas, test=False), Digits(variant, canvas, test=True)
    root = existing(path, source, "data.path")
    train, test = _splits(source, root, split, test_split, depth)
    if not test_path:
        hollow = [name for name in listing.TESTS if (root / name).is_dir()] if source == "folder" and test is None and (root / listing.TRAIN).is_dir() else []
        if hollow:
            raise UserError(f"{root / hollow[0]} holds no images; put some there, or set data.test_path=none to hold out training images instead")
        return train, test
    if test_path == NO_TEST:
        return train, None
    whole, test = _splits(source, existing(test_path, source, "data.test_path"), test_split or split, "", depth)
    return train, whole if test_split or test is None else test


def _splits(source, root, split, test_split, depth):
    """-> (training source, held-out source or None) at one path."""
    if source == "tfds":
        return tfds.open_splits(root, split, test_split)
    if source == "array_record":
        return array_record.open_splits(root)
    kind, files = (Zip, members(str(root))) if source == "zip" else (Folder, walk(root))
    train, test = listing.split_folders(list(files))
    return kind(str(root), files, train, depth), kind(str(root), files, test, depth) if test else None


def existing(path: str, source: str, key: str) -> Path:
    """`path` as the kind of thing that `source` reads. Raises Absent when nothing is there, UserError when it is the wrong kind."""
    if not path:
        raise Absent(f"{key} is empty; data.source='{source}' needs the path of the data, for instance --config.{key}=/data/images.")
    if "://" in path:
        raise Absent(f"{key}='{path}' is a URL, and images are read from a file system; copy the data to a disk, or mount the bucket (gcsfuse).")
    root = Path(path).expanduser()
    if not root.exists():
        around = root.parent
        hint = nearest(root.name, os.listdir(around)) if around.is_dir() and os.access(around, os.R_OK) else ""
        raise Absent(f"{key}='{path}' does not exist (looked in {around.absolute()}){hint or '; check the path.'}")
    if source == "zip" and root.is_dir():
        raise UserError(f"{key}='{path}' is a folder, not a zip; use data.source='folder'.")
    if source in ("folder", "tfds") and not root.is_dir():
        other = "zip" if root.suffix.lower() == ".zip" else "folder"
        raise UserError(f"{key}='{path}' is a file, and data.source='{source}' reads a folder" + ("; use data.source='zip'." if other == "zip" else "; give the folder that holds it."))
    if not os.access(root, os.R_OK | (os.X_OK if root.is_dir() else 0)):
        raise UserError(f"No permission to read {key}='{path}'; change its mode or run as its owner.")
    return root


def detect(path: str) -> str:
    """The kind of source that lies at `path`, or "digits" for that word. Raises UserError."""
    if path == "digits":
        return path
    root = existing(path, "path", "SRC")
    if root.is_file():
        if root.suffix.lower() == ".zip" or zipfile.is_zipfile(root):
            return "zip"
        raise UserError(f"SRC '{path}' is a file that is no zip; give a folder, a zip, a prepared TFDS directory or a packed set.")
    if (root / array_record.MANIFEST).is_file():
        return "array_record"
    if any(next(root.glob(f"{depth}{tfds.INFO}"), None) for depth in ("", "*/", "*/*/")):
        return "tfds"
    return "folder"


def same_classes(train, test):
    """Raises UserError unless both sets have the same classes."""
    if test.classes == train.classes:
        return
    missing, extra = sorted(set(train.classes) - set(test.classes)), sorted(set(test.classes) - set(train.classes))
    parts = [f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
             for what, names in (("missing", missing), ("unknown", extra)) if names]
    raise UserError(f"The held-out set {test.name} has other classes than {train.name}: {' and '.join(parts) or 'in another order'}; "
                    "name its folders alike, give another data.test_path, or set data.test_path=none.")
