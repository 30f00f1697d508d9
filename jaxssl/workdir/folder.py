"""A run's folder: claimed by one config and its images, described by config.json, data.json and environment.json, closed by run.json."""
import json
import math
import os
from collections.abc import Set
from pathlib import Path
from typing import Any

from jaxssl.errors import Temporary, UserError
from jaxssl.workdir import environment

RUN = ("model", "method", "data", "augment")     # sections of a run's config


def claim(workdir: str, config_text: str, images: dict, *, described: dict | None = None, total: int, allow_change: bool, leader: bool) -> dict | None:
    """Makes `workdir` this run's own, or finds that it already is; returns what its run.json holds, or None.

    The run of a run.json with `total` steps is finished, and stays as it is.
    images: `jaxssl.data.Data.images` of the run. described: the same, and what is told beside them, which is written and never compared.
    Raises: UserError when it cannot be written, holds foreign files, or a run with another config or on other images (the differences are listed).
    """
    folder = path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, NotADirectoryError) as error:
        raise UserError(f"cannot make workdir {workdir}: {getattr(error, 'strerror', None) or error}; choose a folder you may write to") from error
    if isinstance(folder, Path) and not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"no permission to write in workdir {workdir}; choose another folder")
    texts = {"config.json": config_text, "data.json": json.dumps(described or images, indent=1)}
    there = {name for name in texts if (folder / name).exists()}         # a run of an earlier version has no data.json, and gets one
    former = None
    if "config.json" in there:
        told = (described or images).keys() - images.keys()
        changed = {name: _differences(folder / name, texts[name], told) for name in sorted(there)}
        for name, what in (("config.json", "with another config"), ("data.json", "on other images")):
            if (lines := changed.get(name)) and not allow_change:
                raise UserError(f"workdir {workdir} belongs to a run {what} ({'; '.join(lines[:12])}{f'; and {len(lines) - 12} more' if len(lines) > 12 else ''}); "
                                "use another workdir, or --allow_config_change to go on with the new values")
        there = {name for name in there if not changed[name]}
        former = read_json(folder / "run.json")
    elif leader and folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):      # a bucket has no empty folders
        raise UserError(f"workdir {workdir} is not empty and has no config.json, so it is not a run of this program; choose a new folder")
    if leader and not (former and former["steps"] >= total):
        try:
            for name, text in texts.items():
                if name not in there:
                    write(folder / name, text)
            if "config.json" not in there:
                write(folder / "environment.json", json.dumps(environment.now(), indent=1))
        except OSError as error:
            raise UserError(f"cannot write in workdir {workdir} ({error.strerror or error}); make room or get the right to write there, or choose another folder") from error
    return former


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
    """The JSON object in `file`. Raises: UserError when it is torn, or something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}); it is torn or damaged: restore it from a copy, or write it again with the program that made it") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds a JSON {type(found).__name__} where an object of settings was expected; write it again with the program that made it")
    return found


def set_aside(workdir: str, former: dict) -> None:
    """Renames run.json, which holds `former`, to run-<steps>.json: the run goes on, and is not finished until it writes another."""
    folder = path(workdir)
    write(folder / f"run-{former['steps']}.json", json.dumps(former, indent=1))
    (folder / "run.json").unlink()


def _differences(file, text: str, told: Set[str]) -> list[str]:
    try:
        from jaxssl import config as configs              # here, so that reading a run's folder goes without ml_collections
        return configs.differences(*(json.dumps({key: value for key, value in json.loads(each).items() if key not in told}) for each in (file.read_text(), text)))
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({error}), so it is not known whose run this is; restore it from a copy, or use another workdir") from error


def path(workdir: str):
    """A pathlib-like path; bucket addresses (gs://…) go through etils.epath. Raises: UserError for an address that cannot be looked at, Temporary
    where the network may be to blame."""
    if "://" not in workdir:
        return Path(workdir)
    from etils import epath
    try:
        place = epath.Path(workdir)
        place.exists()
    except Exception as error:  # the package of that file system is missing, or it refuses: each raises its own kind
        passing = isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)     # a name server, a connection, a time-out
        raise (Temporary if passing else UserError)(f"{workdir} cannot be reached ({type(error).__name__}: {error}); "
                                                    "gs:// needs one more package (pip install gcsfs) and your rights to the bucket; or choose a folder") from error
    return place


def write(file, text: str) -> None:
    """Writes a small text file atomically (a reader sees the old one or the new one), as UTF-8; "?" stands for bytes of a file's name that are no text.

    Raises: OSError, whatever a bucket's own kind of error is.
    """
    data = text.encode("utf-8", "replace")
    if isinstance(file, Path):
        partial = file.parent / f".{file.name}.partial"
        partial.write_bytes(data)
        os.replace(partial, file)
        return
    try:
        file.write_bytes(data)                       # an object of a bucket appears whole or not at all, and takes the place of the old one
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def read_json(file) -> dict | None:
    return json.loads(file.read_text()) if file.exists() else None


def nulled(values: dict) -> dict:
    """`values` with None for each number that is not finite, which JSON has no word for."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}
