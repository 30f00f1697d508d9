"""A folder of images: `class/*.jpg` at any depth, or images side by side without labels."""
import errno
import functools
import os
import stat
from pathlib import Path

import numpy as np

from jaxssl.data import layout, listing
from jaxssl.data.decode import EXTENSIONS, MAX_BYTES, Broken
from jaxssl.data.files import Files, OnDisk
from jaxssl.data.layout import Part
from jaxssl.data.listing import Listing
from jaxssl.errors import UserError, shown

_REGULAR = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)       # a pipe in a file's place must not be waited for


def walk(root: Path, outside_links: bool = False) -> Listing:
    """Every image below `root`, and what else is there. Refuses links that leave it (unless `outside_links`) or lead in a circle.

    Links to folders inside the root are not followed: what they show is listed under its own name already.
    """
    found, real, waiting = Listing(str(root)), root.resolve(), [""]
    top, images = str(root), found.images
    while waiting:
        below, before = waiting.pop(), len(images)
        try:
            with os.scandir(f"{top}/{below[:-1]}" if below else top) as entries:
                for entry in entries:
                    name = entry.name
                    low = name.lower()
                    if why := name.startswith(".") and listing.hidden(name) or low in listing.SYSTEM and name:
                        found.left[why] += 1
                        continue
                    what = _linked(entry, below + name, root, real, outside_links) if entry.is_symlink() else ""
                    if what == "folder" or not what and entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{below}{name}/")
                        found.folder(f"{below}{name}/")
                    elif what == "inside":
                        found.left["links to folders of the set"] += 1
                    elif what == "special" or not what and not entry.is_file(follow_symlinks=False):
                        found.skipped["pipes, sockets and devices"] += 1
                    elif low.endswith(EXTENSIONS) or (bare := listing.kind(low) == "no extension") and listing.sniff(head := _head(entry.path)):
                        images.append(below + name)
                    elif listing.is_array(low) or bare and listing.sniff_array(head):
                        found.arrays.append(below + name)
                    else:
                        found.skipped[listing.kind(low)] += 1
        except PermissionError:
            raise UserError(f"No permission to read the folder {shown(str(root / below))}; change its mode or run as its owner.") from None
        except OSError as error:
            raise UserError(f"The folder {shown(str(root / below))} cannot be listed ({error.strerror or error}); "
                            "see that its disk is there and that nothing moves it, and try again.") from error
        if len(images) > before:
            found.counts[below] = len(images) - before
    found.adopt()
    found.images.sort()
    return found


def _linked(entry: os.DirEntry, name: str, root: Path, real: Path, outside: bool) -> str:
    """What a link leads to: "folder" (to be followed), "inside" (a folder listed elsewhere), "file", "special", or "gone". Raises UserError for one that is refused."""
    mode = 0
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{shown(str(root))}: the link {shown(name)} leads in a circle; delete it, or replace it by the file that was meant.") from None
    target = Path(os.path.realpath(entry.path))
    if not target.is_relative_to(real):
        if not outside:
            raise UserError(f"{shown(str(root))}: the link {shown(name)} leads out of the folder, which is refused; "
                            "copy what it points to into the folder, point data.path at it, or set data.outside_links=true to allow such links.")
        if stat.S_ISDIR(mode) and (Path(os.path.realpath(os.path.dirname(entry.path))).is_relative_to(target) or real.is_relative_to(target)):
            raise UserError(f"{shown(str(root))}: the link {shown(name)} leads to a folder that holds it, a circle; delete it.")
    elif stat.S_ISDIR(mode):
        return "inside"
    if not mode:
        return "gone"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "special"


def _head(path: str) -> bytes:
    """The first bytes of a file; none when it cannot be read."""
    try:
        return read_file(path, listing.SNIFFED)
    except OSError:
        return b""


def read_file(path, most: int) -> bytes:
    """At most `most` bytes of a regular file. Raises OSError, and for anything else than a regular file too."""
    number = os.open(path, _REGULAR)
    with open(number, "rb") as file:
        facts = os.fstat(number)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        return file.read(min(most, facts.st_size + 1))      # room for `most` bytes need not be found for a small one


class Folder(OnDisk):
    """The images of a folder, in the order of their names."""
    said: tuple[str, ...] = ()
    answers: list[str] = []         # of a dense set, relative to the root as `paths` are

    def __init__(self, root: str, found: Listing, part: Part, depth: int = 1):
        """`found`: what lies below `root`; `part`: which of it."""
        self.root, self.below = Path(root), part.below
        self.name = str(self.root / part.below)
        self.paths, self.labels, self.classes = layout.label(found, part, depth)

    def __len__(self):
        return len(self.paths)

    def read(self, index):
        label, name = self.entry(index)
        try:
            data = read_file(self.root / self.paths[index], MAX_BYTES + 1)
        except OSError as error:
            raise Broken(f"{error.strerror or error}") from error
        if len(data) > MAX_BYTES:
            raise Broken(f"larger than {MAX_BYTES >> 20} MiB")
        return data, label, name

    def entry(self, index):
        return self.labels[index], self.id(index)

    def id(self, index):
        return shown(self.paths[index][len(self.below):])

    @functools.cached_property
    def files(self) -> Files:
        """Of its images, and of what a dense set says of their places."""
        return Files(str(self.root), [*self.paths, *self.answers] if self.answers else self.paths, read_file)

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "files"}

    def contents(self) -> str:
        return self.files.contents()
