"""From the names of image files, in a folder or an archive, to labels: shared by both."""
import collections
import posixpath

from jaxssl.data.decode import EXTENSIONS
from jaxssl.data.sources import UNLABELLED
from jaxssl.errors import UserError

TRAIN, TESTS = "train", ("test", "val", "validation")


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def hidden(name: str) -> bool:
    """Names that file managers leave behind: never images, whatever they end in."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def pick(names: list[str], where: str, below: str = "") -> list[str]:
    """The image files of `names` ('/'-separated, relative) that lie below the folder `below`, sorted. Raises UserError if none."""
    inside = [n for n in names if n.startswith(below) and not hidden(n)]
    images = sorted(n for n in inside if is_image(n))
    if images:
        return images
    place = f"{where} ({below.rstrip('/')})" if below else where
    if not inside:
        raise UserError(f"{place} holds no images; put {', '.join(EXTENSIONS)} files there, as class/name.jpg or side by side.")
    seen = collections.Counter(posixpath.splitext(n)[1].lower() or "no extension" for n in inside)
    found = ", ".join(f"{ext} ({count})" for ext, count in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:6])
    raise UserError(f"{place} holds no image this program reads: found {found}; supported are {', '.join(EXTENSIONS)}.")


def common_folder(names: list[str]) -> str:
    """The folders that wrap everything ("archive/images/" when every name lies below), which are no classes."""
    if not names:
        return ""
    low, high = min(names).split("/")[:-1], max(names).split("/")[:-1]
    shared = []
    for a, b in zip(low, high):
        if a != b:
            break
        shared.append(a)
    return "".join(part + "/" for part in shared)


def split_folders(names: list[str]) -> tuple[str, str]:
    """The folders of the training and the test images: ("…/train/", "…/test/"), each "" when the set has no such folders."""
    top = common_folder([n for n in names if is_image(n) and not hidden(n)])
    folders = {n[len(top):].split("/")[0] for n in names if n.startswith(top) and "/" in n[len(top):]}
    for test in TESTS:
        if TRAIN in folders and test in folders:
            return f"{top}{TRAIN}/", f"{top}{test}/"
    return "", ""


def label(names: list[str], depth: int, below: str = "") -> tuple[list[int], tuple[str, ...]]:
    """The label of each name, and the classes, sorted: the first `depth` folders below `below`.

    Without `below`, below the folders that wrap everything: one folder holding all images is no class. Images that lie
    above that depth are unlabelled (-1); without any class folder there are no classes.
    """
    top = len(below or common_folder(names))
    folders = ["/".join(n[top:].split("/")[:-1][:depth]) for n in names]
    full = [f if f and f.count("/") == depth - 1 else "" for f in folders]
    classes = tuple(sorted(set(full) - {""}))
    number = {c: i for i, c in enumerate(classes)} | {"": UNLABELLED}
    return [number[f] for f in full], classes
