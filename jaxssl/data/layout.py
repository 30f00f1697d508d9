"""What the folders of a set mean: which hold the training and the held-out images, and which are classes; decided from names alone, and said.

Level by level from the root: folders named like splits are splits; a single folder is a wrapper, and the next level is looked at; else folders are classes.
"""
import collections
import re
import unicodedata
from typing import NamedTuple

from jaxssl.data.listing import Listing, many, refuse_empty
from jaxssl.data.sources import UNLABELLED
from jaxssl.errors import UserError, shown

SPLITS = ("auto", "none")
WORDS = {"train": ("train", "training", "trn"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing", "eval")}
HELD = ("val", "test")          # the first of these that is there, and has labels, is held out; the other is left for the end
_ROLES = {word: role for role, words in WORDS.items() for word in words}
# Words beside a split's own that change nothing ("train_images", "Test Set", "seg_train").
_FILL = frozenset(("set", "sets", "data", "dataset", "split", "images", "image", "imgs", "img", "jpeg", "jpegs", "jpg", "png", "photos", "pictures", "seg", "full"))
_LIKELY = re.compile("tr(ai)?n|val|dev|test|eval", re.I)        # in every name that may be a split's: most folders are looked at no further
LAYERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "rgb", "photos", "pictures", "frames"))
NOTES = frozenset(("masks", "mask", "labels", "label", "annotations", "annotation", "segmentation", "segmentations", "segmentationclass", "segmentationobject",
                    "gt", "groundtruth", "depth"))
_PARTS = re.compile(r"(fold|split|partition|subset)[ _.-]?\d+", re.I)
_NAMED = 5          # names in a sentence


class Part(NamedTuple):
    """The images below the folder `below` ("" = all; ids are relative to it), whose classes are the folders right below `top`."""
    below: str
    top: str


class Layout(NamedTuple):
    train: Part
    held: Part | None
    said: tuple[str, ...]       # how the folders were read, a sentence each, without the path of the set
    other: Part | None = None   # of val and test the one that is not held out, where it is asked for


def words(name: str) -> list[str]:
    """The words of a folder's name, lower case, without numbers: "Train_Images2017" -> train, images; none where no split's word is among them."""
    if not _LIKELY.search(name):
        return []
    found = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return [word.removesuffix("set") if word.removesuffix("set") in _ROLES else word for word in found if word]


def role(name: str) -> str:
    """The split that a folder of that name holds: train, val or test; "" for none."""
    rest = [word for word in words(name) if word not in _FILL]
    return _ROLES.get(rest[0], "") if len(rest) == 1 and name.isascii() else ""


def decide(found: Listing, *, depth: int = 1, splits: str = "auto", held: bool = True, test_split: str = "", every: bool = False) -> Layout:
    """held: whether the held-out images are looked for here. splits: "none" takes every folder for a class. test_split: a word for the split that is rather held out
    where there are two. every: the other one is wanted too. Raises UserError."""
    if not found.images:
        refuse_empty(found)
    top, said = "", []              # said: (folder, images in it, images beside it) of each wrapper
    while True:
        level, loose = _level(found.counts, top)
        names = {name for name in found.hollow if name.startswith(top) and name.count("/") == top.count("/") + 1}
        roles = _roles(found, top, {*names, *level}) if splits == "auto" else {}
        if parts := _parts(found, top, level, roles, held):
            return _split(found, parts, level, loose + sum(beside for *_, beside in said), depth, held, role(test_split), every)
        if len(level) != 1:
            break
        name = next(iter(level))
        # An empty train/ beside test/: the one folder that holds images is not what it seems.
        if (empty := roles.get("train")) and empty not in level and name in roles.values():
            raise UserError(f"{_place(found, empty)} holds no images, but {_place(found, name)} does; put the training images there, or point data.path at {name.rstrip('/')}.")
        said.append((name, level[name], loose))
        top = name
    part = Part("", top)
    said = [f"{shown(name)} holds {'all' if not loose else f'{inside:,} of the'} images, and is no class" + (f"; {many(loose, 'image')} beside it: no label" if loose else "")
            for name, inside, loose in said]
    if splits == "auto":
        _check_classes(found, part, level, alone=True)
    said += _classes_said(found, part, level, loose, depth)
    return Layout(part, None, (*said, *found.said()))


def _level(counts, top: str) -> tuple[dict[str, int], int]:
    """({folder right below `top`: images at any depth in it}, images right in `top`)."""
    level, start = collections.Counter(), len(top)
    for folder, count in counts.items():
        if len(folder) > start and folder.startswith(top):
            level[folder[:folder.index("/", start) + 1]] += count
    return dict(level), counts.get(top, 0)


def _roles(found, top: str, names) -> dict[str, str]:
    """{split: its folder} among the folders `names`. Raises UserError where two would be the same split."""
    roles = {}
    for name in sorted(names):
        if its := role(name[len(top):-1]):
            other = roles.get(its)
            if other and _full(found, other) and _full(found, name):
                raise UserError(f"{shown(found.where)} holds {shown(other)} and {shown(name)}, and both look like its {its} images; "
                                "merge them, rename one, or set data.path and data.test_path to the folders that are meant.")
            if not other or not _full(found, other):
                roles[its] = name
    return roles


def _parts(found, top, level, roles, held: bool) -> dict[str, str]:
    """`roles` where they make a training set and, if wanted, a held-out one; {} where there are no splits. Raises UserError where one is empty."""
    if roles.get("train") not in level or len(roles) < 2:
        return {}
    full = {its: folder for its, folder in roles.items() if folder in level}
    if len(full) == 1 and held:
        empty = next(folder for its, folder in roles.items() if its not in full)
        raise UserError(f"{_place(found, empty)} holds no images; put some there, or set data.test_path=none to hold out training images instead.")
    return full


def _split(found, parts, level, loose, depth, wanted: bool, rather: str, every: bool) -> Layout:
    """The layout of a set with splits."""
    read = {its: Part(folder, _inner(found.counts, folder)) for its, folder in parts.items()}
    for its, part in read.items():
        _check_classes(found, part, _level(found.counts, part.top)[0], alone=False)
    labelled = {its for its, part in read.items() if _level(found.counts, part.top)[0]}
    there = [its for its in HELD if its in read and wanted]
    chosen = rather if rather in there else next((its for its in there if its in labelled or "train" not in labelled), there[0] if there else None)
    train, held = read["train"], read[chosen] if chosen else None
    count = {its: f"{shown(folder)} ({many(level[folder], 'image')})" for its, folder in parts.items()}
    said = [f"training images: {count['train']}" + (f"; held out: {count[chosen]}" if chosen else "")]
    if other := [its for its in there if its != chosen]:
        said.append(f"{count[other[0]]} too" if every else f"{count[other[0]]} is not used yet: evaluate on it with --data.test_split={other[0]}")
    used = [folder for its, folder in parts.items() if wanted or its == "train"]
    unused = {folder: n for folder, n in level.items() if folder not in used}
    if unused or loose:
        names = [f"{shown(folder)} ({many(n, 'image')})" for folder, n in sorted(unused.items())] + ([f"{many(loose, 'image')} beside them"] if loose else [])
        said.append(f"not used: {_listed(names)}")
    for part in filter(None, (train, held)):
        if part.top != part.below:
            said.append(f"{shown(part.top)} is the one folder of {shown(part.below)}, and no class")
    inner, bare = _level(found.counts, train.top)
    said += _classes_said(found, train, inner, bare, depth)
    return Layout(train, held, (*said, *found.said()), read[other[0]] if other and every else None)


def _inner(counts, below: str) -> str:
    """The folder below `below` whose folders are the classes: a single one is a layer."""
    top = below
    while True:
        level, _ = _level(counts, top)
        if len(level) != 1:
            return top
        top = next(iter(level))


def _check_classes(found, part: Part, level, alone: bool):
    """Raises UserError where folders that would be classes look like splits, or like images and what belongs to them. alone: no splits were found above."""
    names = {folder[len(part.top):-1] for folder in level}
    if len(names) < 2:
        names = set()
    way_out = "set data.splits=none if they are classes"
    certain = {name: role(name) for name in sorted(names) if role(name)}
    likely = {name: {_ROLES[word] for word in words(name) if word in _ROLES} for name in sorted(names)}
    roles = set().union(*likely.values())
    if certain and (alone or len(set(certain.values())) > 1) or len(roles) > 1 and "train" in roles:
        which = sorted(certain) if certain else [name for name, its in likely.items() if its]
        missing = "no folder is named train" if "train" not in certain.values() else "no folder is named val or test"
        raise UserError(f"{_place(found, part.top)} holds {_listed([shown(name) + '/' for name in which])} among {len(names)} folders with images, "
                        f"which looks like splits, but {missing} beside the others; "
                        f"name them train/, val/ and test/, set data.path and data.test_path to the folders that are meant, or {way_out}.")
    if pieces := sorted(name for name in names if _PARTS.fullmatch(name)):
        raise UserError(f"{_place(found, part.top)} holds {_listed([shown(name) + '/' for name in pieces])}, which looks like parts of a set and not like classes; "
                        f"set data.path to one of them, move their class folders together, or {way_out}.")
    if (layer := {n for n in names if n.lower() in LAYERS}) and (notes := {n for n in names if n.lower() in NOTES}):
        raise UserError(f"{_place(found, part.top)} holds {shown(min(layer))}/ and {shown(min(notes))}/, which looks like images and their annotations, not like classes; "
                        f"set data.source=dense to read both, data.path to the folder of the images alone, or {way_out}.")
    below = {}
    for folder in found.counts:
        if folder.startswith(part.top) and folder.count("/") >= part.top.count("/") + 2:
            first, second = folder[len(part.top):].split("/")[:2]
            if its := role(second):
                below.setdefault(first, set()).add(its)
    inside = sorted(first for first, its in below.items() if len(its) > 1 and "train" in its)
    if inside:
        raise UserError(f"{_place(found, part.top)}: {_listed([shown(name) + '/' for name in inside])} {'holds' if len(inside) == 1 else 'hold'} train and test folders; "
                        f"put the splits above the classes (train/{shown(inside[0])}/), set data.path to one of the folders, or {way_out}.")


def _classes_said(found, part: Part, level, loose: int, depth: int) -> list[str]:
    numbers, classes = classes_of(found.counts, depth, part)
    if not classes:
        return [f"no classes: {'the images lie side by side' if not level else f'no folder lies {depth} below another'}"]
    where = f"the folders of {shown(part.top)}" if part.top else "the folders"
    lines = [f"{len(classes):,} class{'es' if len(classes) > 1 else ''}, {where}{f' and those in them, {depth} levels' if depth > 1 else ''}: {_listed(list(classes))}"]
    bare = sum(n for folder, n in found.counts.items() if folder.startswith(part.top) and numbers[folder] == UNLABELLED)
    if bare:
        lines.append(f"{many(bare, 'image')} above the class folders: no label")
    raw = {folder[len(part.top):] for folder in found.counts if folder.startswith(part.top) and not folder.isascii()}
    if len({unicodedata.normalize("NFC", name) for name in raw}) < len(raw):
        lines.append("folders whose names differ only in how accents are stored (NFC, NFD) are one class")
    return lines


def classes_of(counts, depth: int, part: Part) -> tuple[dict[str, int], tuple[str, ...]]:
    """({folder: its label}, class names): a class is the first `depth` folders below `part.top`; what lies above has none (-1)."""
    named, start = {}, len(part.top)
    for folder in counts:
        if not folder.startswith(part.below):
            continue
        inner = folder[start:-1].split("/", depth) if len(folder) > start and folder.startswith(part.top) else []
        name = "/".join(inner[:depth]) if len(inner) >= depth else ""
        named[folder] = name if name.isascii() and name.isprintable() else shown(unicodedata.normalize("NFC", name))
    classes = tuple(sorted(set(named.values()) - {""}))
    number = {name: i for i, name in enumerate(classes)} | {"": UNLABELLED}
    return {folder: number[name] for folder, name in named.items()}, classes


def label(found: Listing, part: Part, depth: int) -> tuple[list[str], list[int], tuple[str, ...]]:
    """(the images of `part`, sorted; their labels; the classes). Raises UserError where there are none."""
    images = [name for name in found.images if name.startswith(part.below)] if part.below else found.images
    if not images:
        refuse_empty(found, part.below)
    numbers, classes = classes_of(found.counts, depth, part)
    return images, [numbers[name[:name.rfind("/") + 1]] for name in images], classes


def _full(found, folder: str) -> bool:
    return any(name.startswith(folder) for name in found.counts)


def _place(found, folder: str) -> str:
    return shown(f"{found.where.rstrip('/')}/{folder}".rstrip("/"))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f", … ({len(names):,} in all)" if len(names) > _NAMED else "")
