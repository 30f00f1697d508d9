"""Which files of a folder or an archive are images, and what the others are: shared by both."""
import collections
import dataclasses
import os
import posixpath
import re

from jaxssl.data.decode import EXTENSIONS
from jaxssl.data.native import ARRAYS, DICOM, DICOM_AT, NUMPY
from jaxssl.errors import UserError, shown

SNIFFED = 132       # bytes by which a file without extension is told
_DEPTH = 4          # folders without images are kept down to this depth: a set's splits lie above it
# What systems and network drives leave behind, thumbnails and bins included (lower case); names that begin with a dot are left out anyway.
SYSTEM = frozenset(("__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler",
                    "system volume information", "lost+found", "found.000", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__pycache__"))
_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)       # lengths that the header behind a bitmap's first 14 bytes has
_EXTENSION = re.compile(r"\.[a-z][a-z0-9]{0,9}")
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz")


@dataclasses.dataclass
class Listing:
    """What lies below `where`: paths are relative and '/'-separated, folders end in '/'. skipped: files that are no images, by kind. left: by name."""
    where: str
    images: list[str] = dataclasses.field(default_factory=list)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)            # folder -> images right in it
    hollow: set[str] = dataclasses.field(default_factory=set)                   # folders, down to `_DEPTH`, whether or not they hold images
    skipped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    left: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    notes: list[str] = dataclasses.field(default_factory=list)
    arrays: list[str] = dataclasses.field(default_factory=list)                 # files of `native.ARRAYS`: images where there are no others

    def folder(self, path: str) -> None:
        """Notes that there is the folder `path`."""
        if path.count("/") <= _DEPTH:
            self.hollow.add(path)

    def adopt(self) -> None:
        """Takes the arrays for the images where there are no others; else they are files of another kind."""
        if not self.images:
            self.images = self.arrays
            for name in self.arrays:
                folder = name[:name.rfind("/") + 1]
                self.counts[folder] = self.counts.get(folder, 0) + 1
        else:
            self.skipped.update(map(kind, self.arrays))
        self.arrays = []

    def said(self) -> list[str]:
        """Sentences on what was skipped and left out."""
        lines = list(self.notes)
        if self.skipped:
            lines.append(f"skipped {many(self.skipped.total(), 'file')} of other kinds than the images this program reads: {counted(self.skipped)}")
        if self.left:
            lines.append(f"left out: {counted(self.left)}")
        return lines


def many(n: int, what: str) -> str:
    """`1 image`, `1,200 images`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def counted(kinds: collections.Counter, most: int = 6) -> str:
    """`.txt (12), .json (3)`, the most frequent first."""
    order = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{shown(kind)} ({count:,})" for kind, count in order[:most]) + (", …" if len(order) > most else "")


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def is_array(name: str) -> bool:
    return name.lower().endswith(ARRAYS)


def sniff_array(head: bytes) -> bool:
    """Whether a file that begins with `head` is one of `native.ARRAYS`."""
    return head.startswith(NUMPY) or head[DICOM_AT:DICOM_AT + 4] == DICOM


def kind(name: str) -> str:
    """The extension in lower case, or "no extension", for which a file's first bytes say what it is."""
    extension = posixpath.splitext(name)[1].lower()
    return extension if _EXTENSION.fullmatch(extension) else "no extension"


def sniff(head: bytes) -> bool:
    """Whether a file that begins with `head` (`SNIFFED` bytes) is an image of a kind that is read."""
    if head.startswith(b"BM"):
        return int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    return head.startswith(_HEADS) or head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def hidden(name: str) -> str:
    """Why a file or folder of that name (one part of a path) is left out: what it is counted under, or ""."""
    if name.startswith("."):
        return name if name in (".git", ".DS_Store", ".ipynb_checkpoints", ".thumbnails") or name.startswith(".Trash") else "hidden files and folders"
    return name if name.lower() in SYSTEM else ""


def hidden_path(path: str) -> str:
    """The same for a whole path: of its first part that is left out."""
    return next(filter(None, map(hidden, path.split("/"))), "")


def refuse_empty(found: Listing, below: str = ""):
    """Raises the UserError that there are no images."""
    place = shown(f"{found.where} ({below.rstrip('/')})" if below else found.where)
    if not found.skipped:
        raise UserError(f"{place} holds no images{f' (left out: {counted(found.left)})' if found.left else ''}; "
                        f"put {', '.join(EXTENSIONS)} files there, as class/name.jpg or side by side.")
    packed = next((k for k in found.skipped if k in _PACKED), "")
    hint = ("; open an archive with data.source='zip' and its path, a held-out one with data.test_path." if packed == ".zip" and os.path.isdir(found.where) else
            "; read shards with data.source='tar' and their path." if packed == ".tar" else f"; unpack the {packed} files first." if packed else ".")
    raise UserError(f"{place} holds no image this program reads: found {counted(found.skipped)}; supported are {', '.join(EXTENSIONS)}{hint}")
