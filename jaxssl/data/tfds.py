"""Sets prepared by tensorflow_datasets, read without TensorFlow: the prepared directory must hold ArrayRecord files."""
import json
from pathlib import Path

from jaxssl.data.decode import Broken
from jaxssl.data.order import evenly
from jaxssl.data.sources import UNLABELLED
from jaxssl.errors import UserError, nearest, shown

TESTS = ("test", "validation")
LOOKS = 8           # records read to see whether a split has labels
INFO, FEATURES = "dataset_info.json", "features.json"
_CLASS_KEYS = ("type", "pythonClassName", "python_class_name")      # under which features.json names a class: of the old format, and two spellings of the new


def prepared(root: Path) -> Path:
    """The directory of one prepared version at or below `root` (name/version or name/config/version). Raises UserError."""
    if (root / INFO).is_file():
        return root
    found = sorted({p.parent for depth in ("*", "*/*", "*/*/*") for p in root.glob(f"{depth}/{INFO}")})
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(p.relative_to(root)) for p in found[:6])
        raise UserError(f"data.path='{root}' holds {len(found)} prepared sets ({names}{', …' if len(found) > 6 else ''}); give the path of one.")
    raise UserError(f"data.path='{root}' holds no prepared TFDS set (no {INFO}); prepare it with "
                    "tfds.builder(name, data_dir=…, file_format='array_record').download_and_prepare(), then give its name/version directory.")


def _builder(directory: Path):
    try:
        import tensorflow_datasets
    except ImportError:
        raise UserError("data.source='tfds' needs tensorflow_datasets, which is not installed; pip install tensorflow-datasets array_record, "
                        "or choose data.source='folder', 'zip' or 'array_record'.") from None
    _check_classes(directory)
    try:
        return tensorflow_datasets.builder_from_directory(directory)
    except Exception as error:      # whatever a damaged directory makes the library raise
        raise UserError(f"{shown(str(directory))} is not a readable TFDS set ({type(error).__name__}: {shown(str(error))}); prepare it again.") from error


def _check_classes(directory: Path):
    """Raises UserError when features.json names a class that is not one of tensorflow_datasets' own features: the library would import, and so run, its module."""
    from tensorflow_datasets import features
    file, known = directory / FEATURES, _names(features.FeatureConnector)
    try:
        if not file.is_file():      # a pipe would be waited for
            raise FileNotFoundError(f"no {FEATURES}")
        named = _classes(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{shown(str(directory))} is not a readable TFDS set ({FEATURES}: {shown(str(error))}); prepare it again.") from error
    for name in named:
        if name not in known:
            raise UserError(f"{shown(str(file))} names the class {shown(name)[:200]!r}, which is no feature of tensorflow_datasets, and is not imported; "
                            "prepare the set with the library's own features, or pack its images with `python -m jaxssl.data pack` where it was made.")


def _names(kind) -> set[str]:
    """The full names of the library's classes of features that are loaded."""
    below = {f"{kind.__module__}.{kind.__qualname__}"} if kind.__module__.startswith("tensorflow_datasets.") else set()
    return below.union(*map(_names, kind.__subclasses__()))


def _classes(content) -> list[str]:
    """Every text under a key that may name a class, at any depth; texts that are JSON themselves are looked into."""
    found, waiting = [], [content]
    while waiting:
        here = waiting.pop()
        if isinstance(here, list):
            waiting += here
        elif isinstance(here, dict):
            found += [value for key, value in here.items() if key in _CLASS_KEYS and isinstance(value, str)]
            waiting += here.values()
        elif isinstance(here, str) and any(key in here for key in _CLASS_KEYS):
            try:
                waiting.append(json.loads(here))
            except ValueError:
                continue
    return found


def open_splits(root: Path, split: str, test_split: str):
    """-> (source of `split`, source of `test_split` or None); `test_split` "" = test or validation, whichever there is, and rather one with labels."""
    directory = prepared(root)
    builder = _builder(directory)
    splits = list(builder.info.splits)
    for key, name in (("split", split), ("test_split", test_split)):
        if name and name.split("[")[0] not in splits:
            raise UserError(f"data.{key}='{name}' is not a split of {builder.info.full_name}; choose one of {', '.join(splits)}{nearest(name, splits)}")
    names = (test_split,) if test_split else tuple(name for name in TESTS if name in splits and name != split)
    held = [TFDS(builder, name, directory) for name in names]
    if len(held) > 1:               # a contest's test split has no labels (imagenet2012's are all -1)
        held.sort(key=lambda source: not source.labelled())
    train = TFDS(builder, split, directory)
    unused = [name for name in splits if name != split.split("[")[0] and (not held or name != held[0].split.split("[")[0])]
    train.said = (f"training images: split {split} ({len(train):,})" + (f"; held out: split {held[0].split} ({len(held[0]):,})" if held else ""),
                  *([f"splits not used: {', '.join(unused)}"] if unused else []))
    return train, held[0] if held else None


class TFDS:
    """One split of a prepared set: encoded images, at random. directory: of the set, with its records and what describes them."""
    said: tuple[str, ...] = ()

    def __init__(self, builder, split: str, directory: Path):
        from tensorflow_datasets import decode, features
        self.name, self.split, self.directory = f"{builder.info.full_name} ({split})", split, directory
        self.image = _feature(builder.info, features.Image, "image")
        self.label = _feature(builder.info, features.ClassLabel, "label", required=False)
        self.classes = tuple(map(shown, builder.info.features[self.label].names)) if self.label else ()
        try:
            self.records = builder.as_data_source(split, decoders={self.image: decode.SkipDecoding()})
        except Exception as error:
            raise UserError(f"{self.name} cannot be read at random ({error}); prepare it with file_format='array_record'.") from error

    def __len__(self):
        return len(self.records)

    def read(self, index):
        try:
            record = self.records[index]
        except Exception as error:      # the reader's errors are those of its C++ library
            raise Broken(f"{type(error).__name__}: {error}") from error
        return record[self.image], self._label(record), self.id(index)

    def entry(self, index):
        try:
            return self._label(self.records[index]), self.id(index)
        except Exception:               # a record that cannot be read has an id all the same; `read` says what is wrong with it
            return UNLABELLED, self.id(index)

    def contents(self) -> str:
        """The names and sizes of the set's files."""
        return " ".join(f"{path.name} {path.stat().st_size}" for path in sorted(self.directory.iterdir()) if path.is_file())

    def labelled(self) -> bool:
        """Whether any of a few samples, evenly spaced, has a label."""
        few = evenly(len(self), LOOKS)
        return any(self.entry(int(i))[0] != UNLABELLED for i in few)

    def _label(self, record):
        return int(record[self.label]) if self.label else UNLABELLED

    def id(self, index):
        return f"{self.split}/{index}"


def _feature(info, kind, usual: str, required: bool = True) -> str | None:
    """The name of the feature of that kind: the usual one, or the only one."""
    names = [name for name, feature in info.features.items() if isinstance(feature, kind)]
    if usual in names:
        return usual
    if len(names) == 1:
        return names[0]
    if names or required:
        raise UserError(f"{shown(info.full_name)} has {len(names)} features of kind {kind.__name__} ({', '.join(names) or 'none'}), and none is named "
                        f"'{usual}'; pack the one you want from a folder instead.")
    return None
