"""The images inside a zip, read where they lie: nothing is extracted, and the archive's directory is read once.

A source carries the offset of each image, so worker processes reopen the file without listing it again, and reads go
through `os.pread`, which has no shared position: one handle serves every thread and survives a fork.
"""
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from jaxssl.data import listing
from jaxssl.data.decode import MAX_BYTES, Broken
from jaxssl.errors import UserError

_LOCAL_HEADER = 30      # bytes, before the name and the extra field, whose lengths stand at 26 and 28
_LONGEST_LINK = 4096    # bytes of a target: PATH_MAX of Linux


def members(path: str) -> dict[str, zipfile.ZipInfo]:
    """The files of the archive by name. Refuses names and links that leave it, and what cannot be read at random."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            return {e.filename: e for e in entries if not e.is_dir() and not _refused(path, archive, e)}
    except PermissionError:
        raise UserError(f"No permission to read {path}; change its mode or run as its owner.") from None
    except (zipfile.BadZipFile, OSError, EOFError, struct.error, zlib.error, NotImplementedError) as error:
        raise UserError(f"{path} is not a readable zip ({error}); it may be truncated: copy or download it again, "
                        "or check it with `python3 -m zipfile -t`.") from None


def _refused(path, archive, entry) -> bool:
    """True for a link inside the archive (its target is listed under its own name). Raises UserError for what is unsafe."""
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or name.parts[:1] and name.parts[0].endswith(":"):
        raise UserError(f"{path}: the entry {entry.filename!r} points out of the archive, which is refused; pack it again with relative names.")
    link = stat.S_ISLNK(entry.external_attr >> 16)
    image = listing.is_image(entry.filename) and not listing.hidden(entry.filename)
    if (link or image) and entry.flag_bits & 1:
        raise UserError(f"{path}: {entry.filename!r} is encrypted; pack the images without a password.")
    if link:
        with archive.open(entry) as file:
            target = file.read(_LONGEST_LINK).decode("utf-8", "replace")
        inside = os.path.normpath(f"{name.parent}/{target}")
        if target.startswith("/") or inside.startswith(".."):
            raise UserError(f"{path}: the link {entry.filename!r} leads out of the archive, which is refused; pack it again with the file itself.")
        return True
    if image and entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: {entry.filename!r} is neither stored nor deflated; pack the images with `zip -0`.")
    return False


class Zip:
    """The images of a zip archive, in the order of their names."""

    def __init__(self, path: str, entries: dict[str, zipfile.ZipInfo] | None = None, below: str = "", depth: int = 1):
        """`entries`: the archive's files, if they are already listed; `below`: only those in this folder of it."""
        entries = members(path) if entries is None else entries
        self.path, self.below = str(path), below
        self.name = f"{path}:{below.rstrip('/')}" if below else str(path)
        self.names = listing.pick(list(entries), str(path), below)
        self.labels, self.classes = listing.label(self.names, depth, below)
        chosen = [entries[n] for n in self.names]
        self.where = np.array([(e.header_offset, e.compress_size, e.file_size, e.CRC) for e in chosen], np.int64)
        self.deflated = np.array([e.compress_type == zipfile.ZIP_DEFLATED for e in chosen])
        self._handle = None

    def __len__(self):
        return len(self.names)

    def __getstate__(self):
        return self.__dict__ | {"_handle": None}

    def read(self, index):
        offset, packed, size, crc = (int(v) for v in self.where[index])
        if max(packed, size) > MAX_BYTES:
            raise Broken(f"larger than {MAX_BYTES >> 20} MiB")
        try:
            handle = self._handle = self._handle or Path(self.path).open("rb")     # held here too: another thread may open its own
            file = handle.fileno()
            header = os.pread(file, _LOCAL_HEADER, offset)
            if header[:4] != b"PK\x03\x04" or len(header) < _LOCAL_HEADER:
                raise Broken("its entry in the archive is damaged")
            start = offset + _LOCAL_HEADER + sum(struct.unpack_from("<HH", header, 26))
            data = os.pread(file, packed, start)
            if self.deflated[index]:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
        except (OSError, zlib.error) as error:
            raise Broken(f"{error}") from error
        if len(data) != size or zlib.crc32(data) != crc:
            raise Broken("its bytes in the archive do not match their checksum")
        label, name = self.entry(index)
        return data, label, name

    def entry(self, index):
        return self.labels[index], self.id(index)

    def id(self, index):
        return self.names[index][len(self.below):]
