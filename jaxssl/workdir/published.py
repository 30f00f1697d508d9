"""What is published for a run's recipe: `published.json` beside config.json, tied to it by a digest of the sections that make the recipe.

A config file states the values (`PUBLISHED`). They go with a run that was started as the file has it, and with its exports; whoever reads them later asks for
the digest of the config at hand, so that they never stand beside another recipe.
"""
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jaxssl.errors import UserError
from jaxssl.workdir import folder as folders

FILE = "published.json"
# What makes a recipe. The rest of a config says where it runs, how often it is looked at, or with which seed.
KEYS = ("batch_size", "micro_batch", "total", "warmup", "ema")
SECTIONS = ("augment", "local", "model", "method", "optim")
DATA = ("examples", "classes")
FREE = {"model.remat", "method.block"}      # how something is computed, and not what


def recipe(config: Mapping[str, Any]) -> str:
    """sha256 over what makes the recipe of a resolved config (nested dicts); a key that the config does not have counts as none."""
    made = {key: config.get(key) for key in KEYS} | {"begun": bool(config.get("init_from"))}
    made["data"] = {key: config.get("data", {}).get(key) for key in DATA}
    for section in SECTIONS:
        made[section] = {key: value for key, value in config.get(section, {}).items() if f"{section}.{key}" not in FREE}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def of(file: Any, config: Any) -> dict | None:
    """{"recipe", "values"} for a run of the resolved `config`, loaded from a `config_file.File` with overrides: None where it states no value, or they made another recipe.

    Raises: UserError when what the file states is not as it should be.
    """
    from jaxssl import config as configs              # here, so that reading a run's folder goes without ml_collections
    stated, values = configs.published(file)
    if not values:
        return None
    own, as_stated = (recipe(json.loads(configs.describe(each))) for each in (config, stated))
    return {"recipe": own, "values": values} if own == as_stated else None


def keep(workdir: str, found: dict | None, *, new: bool) -> None:
    """Writes what `of` found for a new run; takes it from one that goes on by another recipe, which then trained by two. Raises: UserError when it cannot."""
    file = folders.path(workdir) / FILE
    try:
        if new and found:
            folders.write(file, json.dumps(found, indent=1, ensure_ascii=False))
        elif not new and file.exists() and not read(workdir, folders.read_config(workdir)):
            file.unlink()
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror or error}); make room or get the right to write there, or choose another folder") from error


def beside(path: Any) -> Any:
    """Where published.json lies for a workdir, an export, or a file of one."""
    place = folders.path(str(path))
    return (place if place.is_dir() else place.parent) / FILE


def read(path: Any, config: Mapping[str, Any]) -> list[dict]:
    """The values for the `config` (nested dicts) of the encoder at `path`; none where the file is missing, torn, or of another recipe."""
    found = folders.readable(beside(path))
    return found["values"] if found and found.get("recipe") == recipe(config) and isinstance(found.get("values"), list) else []
