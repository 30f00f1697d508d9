"""Images with an answer for each place: `images/` beside `masks/` or `depth/`, matched by name.

    set/images/a.jpg, set/masks/a.png                       held out: a share, by a hash of each name
    set/images/train/a.jpg, set/masks/train/a.png           the splits inside, or outside (set/train/images/a.jpg); named as `layout` has them

Folders may be called as people call them (JPEGImages, SegmentationClass, annotations, labels, …). A mask is a palette or grey PNG whose numbers are
classes; 255 (of 8 bits) and 65535 (of 16) say nothing. Names of classes stand in `classes.txt`, a line each, or are the numbers. Depth is a 16-bit grey PNG, 0
where nothing is known; the measure says what a step of it is.
"""
import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from jaxssl.data import layout
from jaxssl.data.decode import MAX_BYTES
from jaxssl.data.folder import Folder, read_file, walk
from jaxssl.data.listing import many
from jaxssl.data.sources import UNLABELLED
from jaxssl.errors import UserError, listed, shown

KINDS = {"depth": ("depth", "depths"), "masks": tuple(sorted(layout.NOTES - {"depth"}))}        # depth first: such sets often hold masks too, and say so by the folder
NAMES = "classes.txt"
_ENDS = re.compile(r"[_-](masks?|labels?|seg|segmentation|gt|groundtruth|depth)$", re.I)        # of a mask's name, beyond its image's


class Dense(Folder):
    """Images of a folder with a mask or a map of depth each."""

    def __init__(self, root: Path, pairs: list[tuple[str, str]], targets: str, places: tuple[str, ...]):
        """pairs: (image, its target), relative to `root`. targets: "masks" or "depth". places: names of classes, () for numbers."""
        self.root, self.below, self.name = root, "", str(root)
        self.paths, self.answers = [image for image, _ in pairs], [answer for _, answer in pairs]
        self.labels, self.classes = [UNLABELLED] * len(pairs), ()
        self.targets, self.places = targets, places

    def target(self, index: int) -> np.ndarray:
        """int32 classes [h, w], -1 where nothing is said, or float32 depth [h, w] as the file has it. Raises: UserError for a file that is neither."""
        path = self.root / self.answers[index]
        try:
            data = read_file(path, MAX_BYTES)
            with Image.open(io.BytesIO(data), formats=("PNG", "BMP", "TIFF", "GIF")) as picture:
                mode, values = picture.mode, np.asarray(picture)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UserError(f"{shown(str(path))} cannot be read ({str(error) or type(error).__name__}); mend it, or take it and its image away") from error
        if values.ndim != 2 or not (mode in ("1", "P", "L") or mode.startswith("I")):
            raise UserError(f"{shown(str(path))} is a picture of mode {mode}, whose colours are no classes; save masks as palette or grey PNGs whose numbers are classes, "
                            "and depth as 16-bit grey")
        if self.targets == "depth":
            return values.astype(np.float32)
        found = values.astype(np.int32)
        found[found == (65535 if mode.startswith("I") else 255)] = -1
        return found


def is_one(root: Path) -> bool:
    """Whether a folder looks like such a set: images and masks beside each other, here or in a split's folder."""
    return any(_kinds(folder) for folder in (root, *_splits(root).values()))


def open_splits(root: Path, test_split: str = "", held: bool = True, outside_links: bool = False) -> tuple[Dense, Dense | None]:
    """-> (training set, held-out set or None). What does not match is told in `said` of the first. Raises UserError."""
    outer, said = _splits(root), []
    outer = {role: folder for role, folder in outer.items() if _kinds(folder)}
    here = _kinds(root)
    if not (here or outer):
        raise UserError(f"{shown(str(root))} has no folder of images beside one of masks or depth; name them images/ and masks/ (or depth/), with files of the same names")
    names = _class_names(root)
    if outer:
        read = {role: _pairs(root, folder.relative_to(root), _kinds(folder), outside_links, said) for role, folder in outer.items()}
    else:
        pairs, kind = _pairs(root, Path(""), here, outside_links, said)
        by_role = {}
        for image, answer in pairs:
            parts = image.split("/")
            by_role.setdefault(layout.role(parts[1]) if len(parts) > 2 else "", []).append((image, answer))
        read = {role: (own, kind) for role, own in by_role.items()} if "train" in by_role else {"train": (pairs, kind)}
    if "train" not in read:
        raise UserError(f"{shown(str(root))} has {' and '.join(sorted(read))} but no training set; name its folder train/, or set data.path to a folder "
                        "with images/ and masks/ alone")
    there = [role for role in ((test_split,) if test_split in read and test_split else layout.HELD) if role in read and held]
    made = {role: Dense(root, own, kind, names) for role, (own, kind) in read.items()}
    train = made["train"]
    train.said = (f"{many(len(train), 'training image')} with {train.targets}" + (f"; held out: {there[0]} ({many(len(made[there[0]]), 'image')})" if there else ""), *said)
    return train, made[there[0]] if there else None


def _splits(root):
    """role -> folder of the splits right below `root`."""
    return {role: Path(entry.path) for entry in sorted(os.scandir(root), key=lambda e: e.name, reverse=True) if entry.is_dir() and (role := layout.role(entry.name))}


def _kinds(folder):
    """(folder of images, folder of targets, kind) right below `folder`, or None."""
    below = {entry.name.lower(): entry.name for entry in sorted(os.scandir(folder), key=lambda e: e.name, reverse=True) if entry.is_dir()}
    images = next((below[name] for name in ("images", *sorted(layout.LAYERS)) if name in below), None)
    found = next(((below[name], kind) for kind, names in KINDS.items() for name in (kind, *names) if name in below), None)
    return (images, *found) if images and found else None


def _pairs(root, below, kinds, outside_links, said):
    """([(image, target)] in the order of images' names, kind) of the folder root / below; what does not match goes to `said`."""
    images, answers, kind = kinds
    pictures = {_stem(name): name for name in walk(root / below / images, outside_links).images}
    targets = {_stem(name): name for name in walk(root / below / answers, outside_links).images}
    for stem in list(targets):
        if stem not in pictures and (short := _ENDS.sub("", stem)) in pictures:
            targets.setdefault(short, targets.pop(stem))
    both = [stem for stem in pictures if stem in targets]
    lone, odd = [pictures[s] for s in pictures if s not in targets], [targets[s] for s in targets if s not in pictures]
    what = "a map of depth" if kind == "depth" else "a mask"
    unmatched = " and ".join(filter(None, (f"{many(len(lone), 'image')} without {what} ({listed(map(shown, lone), 3)})" if lone else "",
                                           f"{len(odd)} of {shown(answers)}/ without an image ({listed(map(shown, odd), 3)})" if odd else "")))
    if not both:
        raise UserError(f"{shown(str(root / below))}: no file of {shown(images)}/ has its name in {shown(answers)}/ ({unmatched or 'both are empty'}); "
                        f"give {what} the name of its image")
    if unmatched:
        said.append(f"left out: {unmatched}")
    place = "" if str(below) == "." else f"{below.as_posix()}/"
    return sorted((f"{place}{images}/{pictures[stem]}", f"{place}{answers}/{targets[stem]}") for stem in both), kind


def _stem(name):
    return name.rpartition(".")[0] or name


def _class_names(root):
    try:
        lines = (root / NAMES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown(str(root / NAMES))} cannot be read as text ({error}); write a class a line, or delete it") from error
    return tuple(shown(line.strip()) for line in lines if line.strip())
