"""The images inside a zip, read where they lie: nothing is extracted, and the archive's directory is read once.

A source carries the offset of each image, so worker processes reopen the file without listing it again, and reads go
through `os.pread`, which has no shared position: one handle serves every thread and survives a fork.
"""
import contextlib
import hashlib
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from jaxssl.data import layout, listing
from jaxssl.data.decode import MAX_BYTES, Broken
from jaxssl.data.layout import Part
from jaxssl.data.listing import Listing
from jaxssl.errors import UserError, shown

_LOCAL_HEADER = 30      # bytes, before the name and the extra field, whose lengths stand at 26 and 28
_UTF8 = 0x800           # the flag that says that a name is UTF-8
_LONGEST_LINK = 4096    # bytes of a target: PATH_MAX of Linux


class Archive(Listing):
    """What an archive holds. entries: the archive's own record of each image."""
    entries: dict[str, zipfile.ZipInfo]


def members(path: str) -> Archive:
    """The images of the archive, and what else is in it. Refuses names and links that leave it, and what cannot be read at random."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _listed(path, archive, os.path.getsize(path))
    except PermissionError:
        raise UserError(f"No permission to read {shown(path)}; change its mode or run as its owner.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(path)}: the name {error.object!r} of an entry says that it is UTF-8, and is not; pack the images again with another program.") from None
    # Absurd numbers in its directory make the library raise the last few.
    except (zipfile.BadZipFile, OSError, EOFError, struct.error, zlib.error, NotImplementedError, ValueError, OverflowError, RuntimeError, MemoryError) as error:
        raise UserError(f"{shown(path)} is not a readable zip ({shown(str(error)) or type(error).__name__}); it may be truncated: copy or download it again, "
                        "or check it with `python3 -m zipfile -t`.") from None


def _listed(path, archive, size) -> Archive:
    found = Archive(path)
    found.entries, arrays, left, twice = {}, {}, {}, 0
    for entry in archive.infolist():
        name, is_folder = _name(entry), entry.filename.endswith(("/", "\\"))
        inner_link = _refused(path, archive, entry, name)
        if not name:
            continue
        base = name.rfind("/") + 1
        folder, last = name[:base], name[base:]
        if folder not in left:
            left[folder] = listing.hidden_path(folder)
            for at in (i + 1 for i, letter in enumerate(folder) if letter == "/"):
                found.folder(folder[:at])
        if is_folder:
            found.folder(name + "/")
        elif why := left[folder] or listing.hidden(last):
            found.left[why] += 1
        elif inner_link:
            found.left["links inside the archive"] += 1
        elif listing.is_image(last) or (bare := listing.kind(last) == "no extension") and listing.sniff(head := _head(archive, entry)):
            _check(path, entry, name, size)
            twice += name in found.entries
            found.entries[name] = entry
        elif listing.is_array(last) or bare and listing.sniff_array(head):
            _check(path, entry, name, size)
            arrays[name] = entry
        else:
            found.skipped[listing.kind(last)] += 1
    if found.entries:
        found.skipped.update(map(listing.kind, arrays))
    found.entries = found.entries or arrays
    found.images = sorted(found.entries)
    for name in found.images:
        folder = name[:name.rfind("/") + 1]
        found.counts[folder] = found.counts.get(folder, 0) + 1
    if twice:
        found.notes.append(f"{twice:,} image{'s' if twice > 1 else ''} of the archive under the name of another; the last of each counts, as when it is unpacked")
    return found


def _name(entry) -> str:
    """The name of an entry, '/'-separated, without "." and empty parts: as packers of other systems meant it."""
    name = entry.filename
    if not entry.flag_bits & _UTF8 and not name.isascii():      # the format's old code page, by which nobody packs; macOS packs UTF-8 and does not say so
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    if "\\" in name or "./" in name or "//" in name or name.endswith(("/", "/.")):
        name = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    return name


def _head(archive, entry) -> bytes:
    """The first bytes of an entry; none when it cannot be read."""
    try:
        with archive.open(entry) as file:
            return file.read(listing.SNIFFED)
    except Exception:               # encrypted, damaged, of an unknown method: the library raises as many kinds
        return b""


def _check(path, entry, name, size):
    """Raises UserError for an image that cannot be read at random, or whose numbers point out of the archive."""
    if entry.flag_bits & 1:
        raise UserError(f"{shown(path)}: {name!r} is encrypted; pack the images without a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{shown(path)}: {name!r} is neither stored nor deflated; pack the images with `zip -0`.")
    if entry.header_offset < 0 or entry.header_offset + entry.compress_size > size or entry.file_size >= 2**63:
        raise UserError(f"{shown(path)}: {name!r} claims {entry.compress_size:,} bytes at {entry.header_offset:,} for an image of {entry.file_size:,}, "
                        f"and the archive has {size:,}; it is damaged: copy or download it again.")


def _refused(path, archive, entry, name) -> bool:
    """True for a link inside the archive (its target is listed under its own name). Raises UserError for what is unsafe."""
    if name == entry.filename and ".." not in name and ":" not in name and name[:1] != "/" and not stat.S_ISLNK(entry.external_attr >> 16):
        return False                # most are
    place = PurePosixPath(entry.filename.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or place.parts[:1] and place.parts[0].endswith(":"):
        raise UserError(f"{shown(path)}: the entry {entry.filename!r} points out of the archive, which is refused; pack it again with relative names.")
    if not stat.S_ISLNK(entry.external_attr >> 16):
        return False
    if entry.flag_bits & 1:
        raise UserError(f"{shown(path)}: {name!r} is encrypted; pack the images without a password.")
    with archive.open(entry) as file:
        target = file.read(_LONGEST_LINK).decode("utf-8", "replace")
    inside = os.path.normpath(f"{place.parent}/{target}")
    if target.startswith("/") or inside.startswith(".."):
        raise UserError(f"{shown(path)}: the link {name!r} leads out of the archive, which is refused; pack it again with the file itself.")
    return True


class Zip:
    """The images of a zip archive, in the order of their names."""
    said: tuple[str, ...] = ()

    def __init__(self, path: str, found: Archive, part: Part, depth: int = 1):
        """`found`: what the archive holds; `part`: which of it."""
        self.path, self.below = str(path), part.below
        self.name = f"{path}:{part.below.rstrip('/')}" if part.below else str(path)
        self.names, self.labels, self.classes = layout.label(found, part, depth)
        chosen = [found.entries[n] for n in self.names]
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
        return shown(self.names[index][len(self.below):])

    def contents(self) -> str:
        """A digest of every name, and of the size and checksum that the archive's directory has of each image."""
        return hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape") + self.where[:, 2:].tobytes()).hexdigest()
