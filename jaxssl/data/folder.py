"""A folder of images: `class/*.jpg` at any depth, or images side by side without labels."""
import errno
import os
from pathlib import Path

from jaxssl.data import listing
from jaxssl.data.decode import MAX_BYTES, Broken
from jaxssl.errors import UserError


def walk(root: Path) -> list[str]:
    """Every file below `root`, relative, '/'-separated. Refuses links that leave it or lead in a circle.

    Links to folders inside the root are not followed: what they show is listed under its own name already.
    """
    real = root.resolve()
    found, waiting = [], [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(root / below) as entries:
                for entry in entries:
                    name = below + entry.name
                    if listing.hidden(entry.name):
                        continue
                    if entry.is_symlink():
                        _check_link(entry, name, root, real)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name + "/")
                    elif entry.is_file() or entry.is_symlink() and not entry.is_dir():
                        found.append(name)
        except PermissionError:
            raise UserError(f"No permission to read the folder {root / below}; change its mode or run as its owner.") from None
    return sorted(found)


def _check_link(entry: os.DirEntry, name: str, root: Path, real: Path):
    """Raises UserError for a link that leaves the folder, or that leads in a circle."""
    try:
        entry.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{root}: the link {name} leads in a circle; delete it, or replace it by the file that was meant.") from None
    if not Path(os.path.realpath(entry.path)).is_relative_to(real):
        raise UserError(f"{root}: the link {name} leads out of the folder, which is refused; "
                        "copy what it points to into the folder, or point data.path at it.")


class Folder:
    """The images of a folder, in the order of their names."""

    def __init__(self, root: str, names: list[str] | None = None, below: str = "", depth: int = 1):
        """`names`: the files below `root`, if they are already known; `below`: only those in this folder."""
        self.root = Path(root)
        self.paths = listing.pick(walk(self.root) if names is None else names, str(root), below)
        self.name = str(self.root / below)
        self.labels, self.classes = listing.label(self.paths, depth, below)
        self.below = below

    def __len__(self):
        return len(self.paths)

    def read(self, index):
        label, name = self.entry(index)
        try:
            with open(self.root / self.paths[index], "rb") as f:
                data = f.read(MAX_BYTES + 1)
        except OSError as error:
            raise Broken(f"{error.strerror or error}") from error
        if len(data) > MAX_BYTES:
            raise Broken(f"larger than {MAX_BYTES >> 20} MiB")
        return data, label, name

    def entry(self, index):
        return self.labels[index], self.id(index)

    def id(self, index):
        return self.paths[index][len(self.below):]
