"""Sets packed by `python -m jaxssl.data pack`: ArrayRecord shards, an index of labels and ids, and a manifest.

A record is b"jxs1", the label (int32, little-endian, -1 = unlabelled), the length of the id (uint16), the id (UTF-8),
and the encoded image: no pickle, no schema to install. Shards hold consecutive samples, so sample i of the source is
sample i of the pack. A CRC-32 of every record lies beside them, and the manifest has a digest of that file and of the
index: what is read is what was packed, or it is said. Packs of earlier versions have none, and are told by samples.
"""
import functools
import hashlib
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np

from jaxssl.data.decode import Broken
from jaxssl.data.order import evenly
from jaxssl.data.sources import UNLABELLED
from jaxssl.errors import UserError, shown

MANIFEST, FORMAT = "manifest.json", "jaxssl.records.1"
WRITER_OPTIONS = "group_size:1,uncompressed"       # one record a group: random access; images are compressed already
SAMPLES = 256       # records that are compared when a set is opened, spread evenly over the shards
_HEADER = struct.Struct("<4siH")
_MAGIC = b"jxs1"
_AGAIN = "copy the whole directory again, or pack the set again."
MOST_SHARDS, _MOST = 99_999, 10**12     # more than any set has


def encode(image: bytes, label: int, name: str) -> bytes:
    """One record."""
    raw = name.encode("utf-8", "surrogateescape")
    return _HEADER.pack(_MAGIC, label, len(raw)) + raw + image


def decode(record: bytes) -> tuple[bytes, int, str]:
    """-> (encoded image, label, id). Raises `Broken`."""
    if len(record) < _HEADER.size or record[:4] != _MAGIC:
        raise Broken("not a record of this program")
    _, label, length = _HEADER.unpack_from(record)
    start = _HEADER.size + length
    if start > len(record):
        raise Broken("its record is cut")
    return record[start:], label, shown(record[_HEADER.size:start].decode("utf-8", "surrogateescape"))


def shard_name(split: str, shard: int, shards: int) -> str:
    return f"{split}-{shard:05d}-of-{shards:05d}.array_record"


def index_name(split: str) -> str:
    return f"{split}.index.jsonl"


def checksums_name(split: str) -> str:
    return f"{split}.crc32"             # uint32, little-endian, one a record


def library():
    """The array_record modules (reader source, writer). Raises UserError when they are not installed."""
    try:
        from array_record.python import array_record_data_source, array_record_module
    except ImportError:
        raise UserError("data.source='array_record' needs the package array_record, which is not installed; pip install array_record, "
                        "or choose data.source='folder' or 'zip'.") from None
    return array_record_data_source, array_record_module


def manifest(root: Path) -> dict:
    """The manifest of a packed set. Raises UserError."""
    path = root / MANIFEST
    if not path.is_file():
        raise UserError(f"data.path='{root}' is not a packed set (no {MANIFEST} in it); make one with `python -m jaxssl.data pack SRC DST`.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == FORMAT:
            _check(content)
            return content
        found = f"format {content['format']!r}"
    except KeyError as error:
        found = f"it has no {error}"
    except (ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        found = str(error)
    raise UserError(f"{shown(str(path))} is not a manifest of format {FORMAT} ({shown(found)[:300]}); pack the set again.")


def _check(content):
    """Raises ValueError or KeyError for a manifest with numbers or types that no packed set has."""
    if not (isinstance(content["classes"], list) and all(isinstance(name, str) for name in content["classes"])):
        raise ValueError("classes is no list of names")
    if len(set(content["classes"])) < len(content["classes"]):
        raise ValueError("classes has a name twice")
    if not isinstance(content["splits"], dict) or "train" not in content["splits"]:
        raise ValueError("splits has no train")
    for split in ("train", "test"):
        for key, most in (("examples", _MOST), ("shards", MOST_SHARDS)) if split in content["splits"] else ():
            number = content["splits"][split][key]
            if type(number) is not int or not 1 <= number <= most:
                raise ValueError(f"splits.{split}.{key} is {str(number)[:40]}, not a whole number from 1 to {most:,}")
        if not isinstance(content["splits"].get(split, {}).get("files_sha256", {}), dict):
            raise ValueError(f"splits.{split}.files_sha256 is no object of names and digests")


def open_splits(root: Path):
    """-> (training source, held-out source or None)."""
    content = manifest(root)
    train, test = Packed(root, content, "train"), Packed(root, content, "test") if "test" in content["splits"] else None
    train.said = (f"training images: the {len(train):,} of the pack" + (f"; held out: its {len(test):,} test images" if test else ""),
                  f"{len(train.classes):,} classes" if train.classes else "no classes")
    return train, test


class Packed:
    """One split of a packed set."""
    said: tuple[str, ...] = ()

    def __init__(self, root: Path, content: dict, split: str):
        self.name, self.classes = f"{root} ({split})", tuple(map(shown, content["classes"]))
        self.root, self.split, self.count, self.digest = root, split, content["splits"][split]["examples"], str(content["splits"][split].get("sha256"))
        shards, self.sealed = content["splits"][split]["shards"], content["splits"][split].get("files_sha256")
        paths = [root / shard_name(split, i, shards) for i in range(shards)]
        beside = [root / name for name in (index_name(split), *([checksums_name(split)] if self.sealed else []))]
        missing = [p.name for p in (*paths, *beside) if not p.is_file()]
        if missing:
            raise UserError(f"{shown(str(root))} lacks {len(missing)} of the {shards + len(beside)} files of its {split} set ({missing[0]}{', …' if missing[1:] else ''}); "
                            "copy the whole directory again.")
        try:
            self.records = library()[0].ArrayRecordDataSource([str(p) for p in paths])
            found = len(self.records)
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(f"{shown(str(root))} cannot be read ({shown(str(error))}); a shard may be truncated: copy it again.") from error
        if found != self.count:
            raise UserError(f"{shown(str(root))} holds {found:,} {split} records where its manifest says {self.count:,}; copy the whole directory again.")
        self._compare()

    def _demand(self, name: str, data: bytes) -> bytes:
        """`data` of that file beside the shards. Raises UserError when it is not what the manifest knows it to be."""
        if self.sealed and hashlib.sha256(data).hexdigest() != self.sealed.get(name):
            raise UserError(f"{shown(str(self.root / name))} is not the file that the manifest beside it was written with; {_AGAIN}")
        return data

    def _compare(self):
        """Reads the checksums. Raises UserError where they, or the records at `SAMPLES` places, are not those that were packed."""
        if not self.sealed:
            return
        name = checksums_name(self.split)
        try:
            data = self._demand(name, (self.root / name).read_bytes())
        except OSError as error:
            raise UserError(f"{shown(str(self.root / name))} cannot be read ({error.strerror or error}); {_AGAIN}") from error
        self.checksums = np.frombuffer(data, "<u4", len(data) // 4)
        if len(self.checksums) != self.count:
            raise UserError(f"{shown(str(self.root / name))} has {len(self.checksums):,} checksums for {self.count:,} records; {_AGAIN}")
        for place in evenly(self.count, SAMPLES):
            if self._checksum(int(place)) not in (None, self.checksums[place]):
                raise UserError(f"{shown(str(self.root))}: the {self.split} record {place:,} is not the one that was packed, so a shard was replaced; {_AGAIN}")

    def _checksum(self, place: int) -> int | None:
        """None for a record that cannot be read, which reading it will say."""
        try:
            return zlib.crc32(self.records[place])
        except (ValueError, RuntimeError, OSError):
            return None

    def __len__(self):
        return self.count

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "index"}

    @functools.cached_property
    def index(self) -> list:
        """[(label, id)], from the index beside the shards. Raises UserError."""
        file, last = self.root / index_name(self.split), len(self.classes) - 1
        try:
            data = file.read_bytes()
            entries = [_entry(line, last) for line in io.TextIOWrapper(io.BytesIO(data), "utf-8")]
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{shown(str(file))} cannot be read ({type(error).__name__}: {shown(str(error))[:300]}); copy the whole directory again.") from error
        if len(entries) != self.count:
            raise UserError(f"{shown(str(file))} lists {len(entries):,} images where the manifest says {self.count:,}; copy the whole directory again.")
        self._demand(file.name, data)
        return entries

    def contents(self) -> str:
        """The digest of the records in the manifest, and the sizes of the shards."""
        return self.digest + "".join(f" {path.stat().st_size}" for path in sorted(self.root.glob(f"{self.split}-*.array_record")))

    def sampled(self) -> str:
        """Of a pack without checksums, a digest of the records at `SAMPLES` places; else "": every record is compared when it is read."""
        return "" if self.sealed else hashlib.sha256(repr([self._checksum(int(i)) for i in evenly(self.count, SAMPLES)]).encode()).hexdigest()

    def read(self, index):
        try:
            record = self.records[index]
        except (ValueError, RuntimeError, OSError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        if self.sealed and zlib.crc32(record) != self.checksums[index]:
            raise Broken("its record is not the one that was packed")
        image, label, name = decode(record)
        if not UNLABELLED <= label < max(len(self.classes), 1):
            raise Broken(f"its record has label {label}, and there are {len(self.classes)} classes")
        return image, label if self.classes else UNLABELLED, name

    def entry(self, index):
        label, name = self.index[index]
        return label if self.classes else UNLABELLED, name

    def id(self, index):
        return self.index[index][1]


def _entry(line: str, last: int) -> tuple[int, str]:
    """(label, id) of a line of an index. last: label of the last class."""
    label, name = json.loads(line)
    if type(label) is not int or not isinstance(name, str):
        raise TypeError(f"{line.strip()[:60]!r} is not a label and a name")
    if not UNLABELLED <= label <= max(last, 0):
        raise ValueError(f"label {str(label)[:40]} of {name[:60]!r}, where there are {last + 1} classes")
    return label, shown(name)
