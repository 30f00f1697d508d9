"""A run's folder: claimed by one config and its images, described by config.json, data.json and environment.json, closed by run.json."""
import contextlib
import fcntl
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jaxssl.errors import Temporary, UserError
from jaxssl.workdir import environment

IDENTITY = ".run.json"
RUN = ("model", "method", "data", "augment")     # sections of a run's config


class Torn(UserError):
    """A file of a run that is there and does not hold what was written."""


EARLY = "ended_early"        # of run.json, where the run ended so (`training.patience`)
BELOW = "below_start"        # of run.json, where the run ended below the weights it began with (`training.continued`)


def ended_early(run: Mapping[str, Any] | None) -> bool:
    """Whether a run.json is of a run that ended before its last step, since its evaluations got no better."""
    return isinstance((run or {}).get(EARLY), dict)


class Claim(NamedTuple):
    """What `look` found. former: what run.json holds, or None. finished: it is of a run with so many steps, or that ended early by this config, and stays as it is. texts: name →
    content of the files that are to be written. said: sentences for a person. run: by which the run knows its checkpoints from another's; None where it has none yet."""
    former: dict | None
    finished: bool
    texts: dict[str, str]
    said: list[str]
    run: str | None


def make(workdir: str) -> list[Path]:
    """Makes the folder `workdir` and returns the folders that were made for it, the innermost first. Raises: UserError when that is not allowed."""
    folder = path(workdir)
    fresh = [each for each in (folder, *folder.parents) if not each.exists()] if isinstance(folder, Path) else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, NotADirectoryError) as error:
        raise UserError(f"cannot make workdir {workdir}: {getattr(error, 'strerror', None) or error}; choose a folder you may write to") from error
    if isinstance(folder, Path) and not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"no permission to write in workdir {workdir}; choose another folder")
    return fresh


def look(workdir: str, config_text: str, images: dict, *, described: dict | None = None, total: int, allow_change: bool, seam: str = "") -> Claim:
    """Whether `workdir` is this run's, or can be; writes nothing.

    images: `jaxssl.data.Data.images` of the run. described: the same, and what is told beside them, which is written and never compared. seam: what the
    learning rate would do where the run goes on, for the sentence that refuses another config.
    Raises: UserError when it holds foreign files, or a run with another config or on other images (the differences are listed).
    """
    folder = path(workdir)
    texts = {"config.json": config_text, "data.json": json.dumps(described or images, indent=1)}
    there = {name for name in texts if (folder / name).exists()}         # a run of an earlier version has no data.json, and gets one
    former, said, changed = None, [], {}
    if "config.json" in there:
        told = (described or images).keys() - images.keys()
        changed = {name: _differences(folder / name, texts[name], told, rebuilt=allow_change and name == "data.json") for name in sorted(there)}
        for name, what in (("config.json", "with another config"), ("data.json", "on other images")):
            if (lines := changed.get(name)) and not allow_change:
                raise UserError(f"workdir {workdir} belongs to a run {what} ({'; '.join(lines[:12])}{f'; and {len(lines) - 12} more' if len(lines) > 12 else ''}{seam}); "
                                "use another workdir, or --allow_config_change to go on with the new values")
        there = {name for name in there if not changed[name]}
        try:
            former = read_json(folder / "run.json")
            if former is not None and not isinstance(former.get("steps"), int):
                raise Torn(f"{folder / 'run.json'} does not say how many steps the run had")
        except Torn as error:                        # its end is trained again from the last checkpoint
            former = None
            said.append(f"note: {str(error).partition(';')[0]}; it is written again at the end of the run")
    elif folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):      # a bucket has no empty folders
        raise UserError(f"workdir {workdir} is not empty and has no config.json, so it is not a run of this program; choose a new folder")
    finished = former is not None and (former["steps"] >= total or ended_early(former) and not changed.get("config.json"))
    return Claim(former, finished, {name: text for name, text in texts.items() if name not in there}, said,
                 identity(folder))


def identity(folder: Any) -> str | None:
    """By what the run in `folder` knows its checkpoints from another's; None where that is not there or torn: they say it too. Raises: UserError."""
    try:
        return (read_json(folder / IDENTITY) or {}).get("run")
    except Torn:
        return None


def claim(workdir: str, found: Claim, run: str = "", kept: dict[str, str] | None = None) -> None:
    """Makes `workdir` the run's own, as `look` found that it may, known to its checkpoints as `run`. A finished run stays as it is, and the run.json of one that goes on
    is set aside. kept: name → text of files that the run keeps beside its own. Raises: UserError."""
    if found.finished:
        return
    folder = path(workdir)
    try:
        for name, text in {**found.texts, **(kept or {})}.items():
            write(folder / name, text)
        if "config.json" in found.texts:
            write(folder / "environment.json", json.dumps(environment.now(), indent=1))
        if not found.run and run:
            write(folder / IDENTITY, json.dumps({"run": run}))
        if found.former:
            set_aside(workdir, found.former)
    except OSError as error:
        raise UserError(f"cannot write in workdir {workdir} ({error.strerror or error}); make room or get the right to write there, or choose another folder") from error


def demand(workdir: str) -> None:
    """Raises: UserError when the workdir of a run under way is no longer there: whoever saves would make half of one anew."""
    if not (path(workdir) / "config.json").exists():
        raise UserError(f"workdir {workdir} was moved or deleted while its run was under way, so the run ends here; put it back, and the same command goes on from its "
                        "last checkpoint")


def read_config(workdir: str) -> dict:
    """The resolved config of a workdir. Raises: UserError when there is none, it is torn, or it is not a run's."""
    file = path(workdir) / "config.json"
    if not file.exists():
        raise UserError(f"{workdir} has no config.json, so it is not a workdir of this program; give the --workdir that a run was started with")
    config = read_object(file)
    if not is_run(config):
        stated = next((f" (of {config[key]})" for key in ("architecture", "model_type", "architectures") if config.get(key)), "")
        raise UserError(f"{workdir} is no workdir of this program: its config.json{stated} has no {', '.join(s for s in RUN if not isinstance(config.get(s), dict))} "
                        "of a run; give the --workdir that a run was started with, or to evaluate and export weights from elsewhere, --weights")
    return config


def is_run(config: dict) -> bool:
    """Whether a config.json is that of a run of this program; timm and transformers name theirs alike."""
    return all(isinstance(config.get(section), dict) for section in RUN)


def read_object(file: Any) -> dict:
    """The JSON object in `file`: every JSON of a run is read by this. Raises: UserError when there is none or it cannot be read, Torn when it holds something else."""
    found = read_json(file)
    if found is None:
        raise UserError(f"{file} is not there; restore it from a copy, or write it again with the program that makes it")
    return found


def read_json(file: Any) -> dict | None:
    """The same, or None where there is no such file."""
    remedy = "restore it from a copy, or write it again with the program that made it"
    try:
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):      # a pipe would never end
            raise UserError(f"{file} is no file but {'a folder' if file.is_dir() else 'a device or pipe'}; move it away, and {remedy}")
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise Torn(f"{file} cannot be read ({str(error)[:200] or type(error).__name__}); it is torn or damaged: {remedy}") from error
    except Exception as error:                       # of a disk, or whatever a bucket's file system raises
        raise UserError(f"{file} cannot be read ({getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'}); get the right to read it, or {remedy}") from error
    if not isinstance(found, dict):
        raise Torn(f"{file} holds a JSON {type(found).__name__} where an object of settings was expected; {remedy}")
    return found


def readable(file: Any) -> dict | None:
    """The same for what can be gone without: None also when it cannot be read."""
    try:
        return read_json(file)
    except UserError:
        return None


def set_aside(workdir: str, former: dict) -> None:
    """Renames run.json, which holds `former`, to run-<steps>.json: the run goes on, and is not finished until it writes another."""
    folder = path(workdir)
    write(folder / f"run-{former['steps']}.json", json.dumps(former, indent=1))
    (folder / "run.json").unlink()


def _differences(file: Any, text: str, told: Set[str], *, rebuilt: bool) -> list[str]:
    """What `text` says otherwise than `file`. rebuilt: a torn file is written anew, so all of it counts as other."""
    from jaxssl import config as configs              # here, so that reading a run's folder goes without ml_collections
    new = json.loads(text)
    try:
        old = read_object(file)
        if odd := [name for name, value in new.items() if isinstance(value, dict) and not isinstance(old.get(name, {}), dict)]:
            raise Torn(f"{file} cannot be read ({odd[0]} is no section of settings); it is torn or damaged: restore it from a copy")
    except Torn as error:
        if rebuilt:
            return ["it is torn"]
        advice = "use --allow_config_change to go on with the images at hand" if file.name == "data.json" else "use another workdir"
        raise UserError(f"{error}, or {advice}") from error
    return configs.differences(*(json.dumps({key: value for key, value in each.items() if key not in told}) for each in (old, new)))


def path(workdir: str):
    """A pathlib-like path; bucket addresses (gs://…) go through etils.epath. Raises: UserError for an address that cannot hold a run or be looked at, Temporary
    where the network may be to blame."""
    if "://" not in workdir:
        return Path(workdir).expanduser()
    if not re.match("gs://[^/]{3,}", workdir):       # orbax takes the others' addresses for folders of this machine, at the first save; names of buckets have 3 letters and more
        raise UserError(f"{workdir} is no place for a run: checkpoints go to folders, and to buckets of Google Cloud Storage (gs://bucket/folder); mount another store as a folder")
    from etils import epath
    _see_what_others_write()
    try:
        place = epath.Path(workdir)
        place.exists()
    except Exception as error:  # the package of that file system is missing, or it refuses: each raises its own kind
        passing = isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)     # a name server, a connection, a time-out
        raise (Temporary if passing else UserError)(f"{workdir} cannot be reached ({type(error).__name__}: {error}); "
                                                    "gs:// needs one more package (pip install gcsfs) and your rights to the bucket; or choose a folder") from error
    return place


def _see_what_others_write():
    """gcsfs keeps every listing for ever and takes what is not in it for not there: no process would see what another wrote since."""
    with contextlib.suppress(ImportError):
        from fsspec import config
        for protocol in ("gcs", "gs"):
            config.conf.setdefault(protocol, {})["use_listings_cache"] = False


def write(file, text: str) -> None:
    """Writes a small text file atomically (a reader sees the old one or the new one), as UTF-8; "?" stands for bytes of a file's name that are no text.

    Raises: OSError, whatever a bucket's own kind of error is.
    """
    data = text.encode("utf-8", "replace")
    if isinstance(file, Path):
        with whole(file) as stream:
            stream.write(data)
        return
    try:
        file.write_bytes(data)                       # an object of a bucket appears whole or not at all, and takes the place of the old one
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def whole(file: Path) -> Iterator[BinaryIO]:
    """A stream whose content stands under the name `file` of a disk once it is all there: a reader sees the old file or the new one. Raises: OSError, and leaves the old one."""
    partial = file.parent / f".{file.name}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())                # else a machine that goes down may leave the new name with nothing in it
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def alone(folder: Path, busy: str) -> Iterator[None]:
    """While this process alone changes a folder on a disk. Raises: UserError with the sentence `busy` when another one does."""
    with open(folder / ".lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        yield


def move(folder: Any, place: Any) -> None:
    """Moves a folder with all that is in it; `place` is new. In a bucket, which cannot rename, file by file. Raises: OSError, or a bucket's own kinds."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(folder, Path):
        folder.rename(place)
        return
    _copy(folder, place)
    folder.rmtree()


def _copy(folder: Any, place: Any) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            _copy(entry, place / entry.name)
        else:
            (place / entry.name).write_bytes(entry.read_bytes())


def nulled(values: dict) -> dict:
    """`values` with None for each number that is not finite, which JSON has no word for."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}
