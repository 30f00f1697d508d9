"""Containers of tensors: safetensors in and out, `.npz` without objects and torch's files with `weights_only` in. No pickle is read."""
import contextlib
import filecmp
import glob
import importlib
import json
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import safetensors
import safetensors.numpy

from jaxssl.errors import UserError

WEIGHTS = "model.safetensors"           # the name that timm, transformers and this program look for in a folder
CARD = "README.md"                      # the model card beside it
NAMES = (WEIGHTS, "pytorch_model.bin")  # in a folder, the first there is
TORCH_ENDINGS = (".pth", ".pt", ".bin", ".tar")
TORCH = (2, 10)                         # older ones run code from a file in spite of weights_only (CVE-2025-32434, CVE-2026-24747)
NESTED = ("state_dict", "model_state_dict", "model")     # keys under which training programs keep the tensors


def library(name: str, purpose: str) -> ModuleType:
    """An optional package. Raises: UserError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{purpose} needs {name.partition('.')[0]}, which cannot be imported here ({error}); pip install 'jaxssl[export]'") from error


@contextlib.contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Raises: UserError for what the file system refuses inside the block."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check its permissions and its name, or copy it to another place") from error


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors by name and the metadata of a `.safetensors`, `.npz` or torch file. Raises: UserError."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; give a .safetensors file, an .npz, a .pth, or a folder with {WEIGHTS} in it")
    ending = path.suffix.lower()
    if ending == ".safetensors":
        return _safetensors(path)
    if ending == ".npz":
        return _npz(path), {}
    if ending in TORCH_ENDINGS:
        return _torch(path), {}
    raise UserError(f"{path.name} is none of .safetensors, .npz, {', '.join(TORCH_ENDINGS)}; pickles and other formats are not read, because reading them can run code: "
                    "save the tensors as safetensors")


@contextlib.contextmanager
def fresh(folder: str | Path) -> Iterator[Path]:
    """A new folder under a name of its own, hidden, which becomes `folder` at the end of the block; after an error nothing is left.

    A folder that is there already stays as it is, and must hold the same, byte for byte: so the command that made it may be given again.
    What a process that was killed on the way to `folder` left behind is removed first: it holds no lock on it any more.
    Raises: UserError when `folder` is there already and holds anything else, cannot be made, or the block cannot write.
    """
    given, folder = folder, Path(os.path.abspath(folder))       # "new/.." has no name of its own
    there = os.path.lexists(folder)
    if there and not any((folder / name).is_file() for name in (WEIGHTS, CARD)):
        raise UserError(f"{given} exists already; choose a new folder")
    partial, absent, held = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.unchecked"), [], contextlib.ExitStack()
    try:
        try:
            absent = [parent for parent in folder.parents if not parent.exists()]
            partial.mkdir(parents=True)
            held.enter_context(_locked(partial))
            for left in folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}.unchecked"):
                with _locked(left) as ours:
                    if ours and left != partial:
                        shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError) as error:          # of a name: too long, or with a character that none may have
            raise UserError(f"cannot make the folder {given} ({getattr(error, 'strerror', None) or error}); choose another place for it") from error
        yield partial
        if there:
            if other := unlike(partial, folder):
                raise UserError(f"{given} exists already and holds something else ({other} differs); choose a new folder")
            shutil.rmtree(partial)
        else:
            partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError, ValueError):
            for parent in absent:       # the deepest first; one that holds anything else stays
                parent.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{given} was not written ({error}); make room for it, mend what this names, or choose another place") from error
        raise
    finally:
        held.close()


def unlike(one: Path, other: Path) -> str:
    """The first file that two folders do not both hold with the same bytes; "" where there is none."""
    names = {str(file.relative_to(folder)) for folder in (one, other) for file in folder.rglob("*") if not file.is_dir()}
    same = lambda name: (one / name).is_file() and (other / name).is_file() and filecmp.cmp(one / name, other / name, shallow=False)
    return next((name for name in sorted(names) if not same(name)), "")


@contextlib.contextmanager
def _locked(folder):
    """Whether this process has `folder` for itself, for the length of the block; the system lets go of it when the process ends, however it ends."""
    try:
        place = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            import fcntl             # Windows has none
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except (OSError, ImportError):              # another's, or a file system without locks
            ours = False
        yield ours
    finally:
        os.close(place)


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, the same bytes for the same content; a reader sees the whole of it or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    data = safetensors.numpy.save(tensors, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))   # the library gives them in an order that changes from call to call
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(partial, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(data)[end:])
    os.replace(partial, path)


def _safetensors(path):
    with open(path, "rb") as file:
        start = file.read(9)
    header = start[8:] == b"{"                    # behind eight bytes with its length, which may be anything
    if not header and re.match(rb"PK|\x80[\x02-\x05]", start):
        raise UserError(f"{path} is a {'torch or zip archive' if start[:2] == b'PK' else 'pickle'} under a .safetensors name; it is not read")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is no whole safetensors file ({error}); it is truncated or corrupted: copy or download it again") from error
    except (TypeError, AttributeError, ValueError) as error:          # numpy has no bfloat16 or float8
        raise UserError(f"{path} holds a number format that numpy lacks ({error}); save it in float32 or float16") from error


def _npz(path):
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:      # numpy opens a lone array too
            content = {name: file[name] for name in file.files}
    except Exception as error:      # of zip, deflate, and numpy's headers and memory: all mean the same to the user
        raise UserError(f"{path} is no readable .npz of plain arrays ({type(error).__name__}: {error}); arrays of objects are pickles and not read") from error
    return {name: value for name, value in content.items() if isinstance(value, np.ndarray)}


def _torch(path):
    torch = library("torch", f"reading {path.name}")
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < TORCH:
        raise UserError(f"reading {path.name} needs torch {'.'.join(map(str, TORCH))} or newer, here is {torch.__version__}: older ones can be made to run code "
                        "by a file; save the state dict as safetensors instead")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:      # unpickling errors, zip errors, runtime errors of torch's reader: all mean the same to the user
        reason = str(error).partition("\n")[0][:150]
        raise UserError(f"{path} cannot be read with weights_only ({reason}); it is damaged, or holds more than tensors: save its state dict as safetensors") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not tensors by name; save the state dict")
    while key := next((key for key in NESTED if isinstance(content.get(key), dict)), ""):
        content = content[key]
    groups = _groups(content, torch.Tensor)
    if len(groups) == 1:
        groups = {"": next(iter(groups.values()))}
    return {place + name: _array(tensor, place + name, path) for place, group in groups.items() for name, tensor in group.items()}


def _groups(content, kind, place=""):
    """Every dict that holds tensors of the type `kind`: its place among the keys, with dots, → the tensors. An optimizer's lie under numbers and stay out."""
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    own = {name: value for name, value in named.items() if isinstance(value, kind)}
    found = {place: own} if own else {}
    for key, value in named.items():
        found |= _groups(value, kind, f"{place}{key}.") if isinstance(value, dict) else {}
    return found


def _array(tensor, name, path):
    tensor = tensor.detach().to_dense()
    try:
        return (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).numpy()      # numpy has no bfloat16 or float8
    except (TypeError, RuntimeError) as error:
        raise UserError(f"tensor {name} of {path} is {tensor.dtype}, which numpy lacks; save it in float32 or float16") from error
