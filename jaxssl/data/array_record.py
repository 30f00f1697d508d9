"""Sets packed by `python -m jaxssl.data pack`: ArrayRecord shards, an index of labels and ids, and a manifest.

A record is b"jxs1", the label (int32, little-endian, -1 = unlabelled), the length of the id (uint16), the id (UTF-8),
and the encoded image: no pickle, no schema to install. Shards hold consecutive samples, so sample i of the source is
sample i of the pack.
"""
import functools
import json
import struct
from pathlib import Path

from jaxssl.data.decode import Broken
from jaxssl.data.sources import UNLABELLED
from jaxssl.errors import UserError

MANIFEST, FORMAT = "manifest.json", "jaxssl.records.1"
WRITER_OPTIONS = "group_size:1,uncompressed"       # one record a group: random access; images are compressed already
_HEADER = struct.Struct("<4siH")
_MAGIC = b"jxs1"


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
    return record[start:], label, record[_HEADER.size:start].decode("utf-8", "surrogateescape")


def shard_name(split: str, shard: int, shards: int) -> str:
    return f"{split}-{shard:05d}-of-{shards:05d}.array_record"


def index_name(split: str) -> str:
    return f"{split}.index.jsonl"


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
        content = json.loads(path.read_text())
        if content["format"] == FORMAT:
            return content
        found = content["format"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        found = f"{type(error).__name__}: {error}"
    raise UserError(f"{path} is not a manifest of format {FORMAT} ({found}); pack the set again.")


def open_splits(root: Path):
    """-> (training source, held-out source or None)."""
    content = manifest(root)
    test = Packed(root, content, "test") if "test" in content["splits"] else None
    return Packed(root, content, "train"), test


class Packed:
    """One split of a packed set."""

    def __init__(self, root: Path, content: dict, split: str):
        self.name, self.classes = f"{root} ({split})", tuple(content["classes"])
        self.root, self.split, self.count = root, split, content["splits"][split]["examples"]
        shards = content["splits"][split]["shards"]
        paths = [root / shard_name(split, i, shards) for i in range(shards)]
        missing = [p.name for p in (*paths, root / index_name(split)) if not p.is_file()]
        if missing:
            raise UserError(f"{root} lacks {len(missing)} of the {shards + 1} files of its {split} set ({missing[0]}{', …' if missing[1:] else ''}); copy the whole directory again.")
        try:
            self.records = library()[0].ArrayRecordDataSource([str(p) for p in paths])
            found = len(self.records)
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(f"{root} cannot be read ({error}); a shard may be truncated: copy it again.") from error
        if found != self.count:
            raise UserError(f"{root} holds {found:,} {split} records where its manifest says {self.count:,}; copy the whole directory again.")

    def __len__(self):
        return self.count

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "index"}

    @functools.cached_property
    def index(self) -> list:
        """[(label, id)], from the index beside the shards. Raises UserError."""
        file = self.root / index_name(self.split)
        try:
            with open(file) as lines:
                entries = [(int(label), str(name)) for label, name in map(json.loads, lines)]
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{file} cannot be read ({type(error).__name__}: {error}); copy the whole directory again.") from error
        if len(entries) != self.count:
            raise UserError(f"{file} lists {len(entries):,} images where the manifest says {self.count:,}; copy the whole directory again.")
        return entries

    def read(self, index):
        try:
            record = self.records[index]
        except (ValueError, RuntimeError, OSError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        return decode(record)

    def entry(self, index):
        label, name = self.index[index]
        return label if self.classes else UNLABELLED, name

    def id(self, index):
        return self.index[index][1]
