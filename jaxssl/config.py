"""Configurations: load a file, complete it with every default, override, lock, validate, resolve durations.

A config file is Python with `get_config(variant="") -> ConfigDict`; loading one executes it, so run only files you trust.
It lists what a recipe sets. Everything else is completed from the keyword signature of the function that uses the section,
where each default lives once (`SECTIONS`), so a resolved config holds every key of the program and an unknown one is a typo.
"""
import ast
import importlib
import importlib.util
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxssl import durations
from jaxssl.errors import UserError, nearest

# section -> the function whose keyword defaults are the section's keys; "{name}" is the section's own selector.
SECTIONS = {
    "data": "jaxssl.data:make",
    "augment": "jaxssl.augment:make",
    "local": "jaxssl.augment:make",
    "model": "jaxssl.models:make",
    "method": "jaxssl.methods.{name}:make",
    "optim": "jaxssl.optim:make",
    "mesh": "jaxssl.parallel.mesh:make_mesh",
    "eval": "jaxssl.training.evaluator:make",
    "checkpoint": "jaxssl.workdir.checkpoint:open_manager",
    "log": "jaxssl.workdir.writers:Writers",
}
# Arguments that the program itself passes: they follow from other keys and are no keys of their own.
INJECTED = {"model": {"precision"}, "augment": {"dtype", "return_params"}, "local": {"dtype", "return_params"}, "log": {"process_index"}}
# What is off unless a config turns it on: the smaller views of multi-crop, made by the function that makes the others.
OFF = {"local": {"views": 0}}
# Functions that know wrong values of a section without its data or workdir: called as soon as the config is complete.
CHECKS = {"eval": "jaxssl.training.evaluator:check", "checkpoint": "jaxssl.workdir.checkpoint:check"}
# Keys whose default is a number and that also take a tuple, of one a view.
A_VIEW = {f"{section}.{key}" for section in ("augment", "local") for key in ("flip", "jitter", "gray", "blur", "solarize", "invert")}
DURATIONS = ("total", "warmup", "log_every", "eval_every", "checkpoint_every")


def settings(*, seed=0, batch_size=256, micro_batch=0, total="100_epochs", warmup="10_epochs", log_every=50, eval_every="10_percent",
             checkpoint_every="10_percent", precision="bf16", ema=0.0, init_from="", init_allow_missing="", on_nonfinite="stop",
             stall_seconds=600.0, report=True) -> None:
    """Checks the keys that every config shares; their defaults live here.

    Args:
      seed: of parameters, sample order and views.
      batch_size: global number of images in a step (not of views, not per device).
      micro_batch: images of a part of the batch that is held in memory at a time, for the same gradient as the whole batch's (each part is computed twice, and batch
        norm sees its part); 0 is the whole batch at once.
      total, warmup, log_every, eval_every, checkpoint_every: durations, `"200_epochs"`, `"5000_steps"`, `"1e6_examples"`, `"5_percent"` or a number of steps.
      precision: `bf16` (compute in bfloat16, parameters and statistics in f32) or `f32`.
      ema: decay of a moving average of the encoder kept beside it, in [0, 1); 0 is off.
      init_from: weights to begin with instead of the seed's: a workdir, an export, or a file (jaxssl.load); a resumed run does not read them again.
      init_allow_missing: names of tensors, or folders of names (`projector`), with commas between them, that init_from may lack.
      on_nonfinite: `stop`, or `rollback:k`: restore the last checkpoint and skip the offending batches, at most k times.
      stall_seconds: a step that takes longer dumps all stacks; 0 is off.
      report: write report.html at the end of the run (one process; several are told the command).
    Raises: UserError.
    """
    for key, value in zip(DURATIONS, (total, warmup, log_every, eval_every, checkpoint_every)):
        durations.parse(value, key)
    if batch_size < 2:
        raise UserError(f"batch_size is {batch_size}; it is the global number of images in a step and must be at least 2")
    if micro_batch < 0:
        raise UserError(f"micro_batch is {micro_batch}; it is a number of images, or 0 for the whole batch at once")
    if seed < 0 or seed >= 2 ** 31:
        raise UserError(f"seed is {seed}; use a whole number from 0 to 2147483647")
    if precision not in ("bf16", "f32"):
        raise UserError(f"precision is {precision!r}; choose 'bf16' or 'f32'{nearest(precision, ['bf16', 'f32'])}")
    if not 0 <= ema < 1:
        raise UserError(f"ema is {ema}; it is a decay in [0, 1), 0 turns it off")
    if init_allow_missing and not init_from:
        raise UserError(f"init_allow_missing is {init_allow_missing!r}, but init_from is empty; give --config.init_from=PATH, or leave both out")
    if on_nonfinite != "stop" and not re.fullmatch(r"rollback:[1-9]\d*", on_nonfinite):
        raise UserError(f"on_nonfinite is {on_nonfinite!r}; choose 'stop' or 'rollback:k' with k ≥ 1, for example 'rollback:3'")
    if stall_seconds < 0:
        raise UserError(f"stall_seconds is {stall_seconds}; use a positive number, or 0 to turn the watchdog off")


def load(spec: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """The resolved, locked config of `path.py[:variant]` with `{"a.b": "text"}` overrides applied.

    Selectors (`method.name`, …) are overridden first, since they decide which keys exist.
    """
    overrides = dict(overrides or {})
    config = _execute(spec)
    for section in SECTIONS:
        if section not in config:
            config[section] = ConfigDict()
    if "method.name" in overrides:
        config.method.name = overrides["method.name"]
    config = complete(config)
    for path, text in overrides.items():
        _set(config, path, text)
    settings(**{key: config[key] for key in _defaults(settings)})
    for section, off in OFF.items():
        unread = [k for k, v in _section_defaults(section, config).items() if config[section][k] != v]
        if all(config[section][k] == v for k, v in off.items()) and unread:
            key = next(iter(off))
            raise UserError(f"{section}.{unread[0]} is {config[section][unread[0]]!r}, but {section}.{key} is {off[key]!r}, which turns {section} off; set --config.{section}.{key}, or leave it out")
    for section, check in CHECKS.items():
        _named(check)(**config[section])
    return config.lock()


def complete(config: ConfigDict) -> ConfigDict:
    """`config` with every missing key filled from the signatures; a key that no function knows is a UserError."""
    known = {section: _section_defaults(section, config) for section in SECTIONS}
    top = _defaults(settings)
    names = set(top) | set(SECTIONS) | {f"{s}.{k}" for s, keys in known.items() for k in keys}
    unknown = [path for path in _paths(config) if path not in names]
    if unknown:
        raise UserError(f"the config file sets {unknown[0]!r}, which nothing reads{nearest(unknown[0], names)}")
    full = ConfigDict({**top, **{s: ConfigDict(keys) for s, keys in known.items()}}, convert_dict=False)
    for path in _paths(config):
        if path not in SECTIONS:
            _put(full, path, config_get(config, path))
    return full


def defaults(method: str, *sections: str) -> dict[str, dict]:
    """{section: {key: default}} of some `SECTIONS`, with this method's own. Raises: UserError when there is no such method."""
    config = ConfigDict({"method": {"name": method}})
    return {section: _section_defaults(section, config) for section in sections}


def describe(config: ConfigDict) -> str:
    """The resolved config as JSON text with sorted keys; equal configs give equal text."""
    return json.dumps(json.loads(config.to_json()), indent=1, sort_keys=True)


def differences(old: str, new: str) -> list[str]:
    """Human-readable differences between two `describe` texts, one per key."""
    a, b = _flat(json.loads(old)), _flat(json.loads(new))
    missing = "(absent)"
    return [f"{k}: {a.get(k, missing)} → {b.get(k, missing)}" for k in sorted(a.keys() | b.keys()) if a.get(k, missing) != b.get(k, missing)]


def config_get(config: ConfigDict, path: str) -> Any:
    for part in path.split("."):
        config = config[part]
    return config


def function(section: str, config: ConfigDict) -> Callable:
    """The function that `section` configures. An unknown method is a UserError that lists the methods."""
    module, name = SECTIONS[section].split(":")
    if "{name}" in module:
        selected = config[section].get("name", "")
        choices = sorted(p.stem for p in (Path(__file__).parent / section_folder(section)).glob("*.py") if p.stem not in ("__init__", "base"))
        if selected not in choices:
            raise UserError(f"unknown {section} {selected!r}; choose one of {', '.join(choices)}{nearest(str(selected), choices)}")
        module = module.format(name=selected)
    return _named(f"{module}:{name}")


def _named(spec):
    module, name = spec.split(":")
    return getattr(importlib.import_module(module), name)


def section_folder(section: str) -> str:
    return SECTIONS[section].split(".")[1]


def _section_defaults(section, config):
    keys = _defaults(function(section, config))
    if "{name}" in SECTIONS[section]:
        keys = {"name": config[section].name, **keys}
    return {k: v for k, v in {**keys, **OFF.get(section, {})}.items() if k not in INJECTED.get(section, ())}


def _defaults(f):
    return {p.name: p.default for p in inspect.signature(f).parameters.values() if p.default is not p.empty}


def _execute(spec):
    path, _, variant = spec.partition(":")
    file = Path(path)
    if not file.is_file():
        found = sorted(str(p) for p in Path("configs").glob("*/*.py"))
        raise UserError(f"no config file {path!r}{nearest(path, found)}" + (f" (here are {', '.join(found)})" if found else "; run from the repository, where configs/ is, or give a full path"))
    if file.suffix != ".py":
        raise UserError(f"{path!r} is no config file: one is Python, ends in .py and defines get_config(variant)"
                        + ("; to resume a run give the --config it was started with, and its --workdir" if file.name == "config.json" else ""))
    module_spec = importlib.util.spec_from_file_location("jaxssl_config", file)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        variants = ("", *getattr(module, "VARIANTS", ()))
        if variant not in variants:
            raise UserError(f"{path} has no variant {variant!r}; it has {', '.join(repr(v) for v in variants[1:]) or 'none'}{nearest(variant, variants)}")
        config = module.get_config(variant)
    except UserError:
        raise
    except Exception as error:  # whatever the user's own lines make Python raise
        raise UserError(f"{path} fails as Python ({type(error).__name__}: {error}); --debug shows where") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returned a {type(config).__name__}; end it with `return config`, an ml_collections.ConfigDict")
    config = ConfigDict(config).unlock()                # a copy: the file may have locked or frozen its own
    for section in SECTIONS:
        if section in config and not isinstance(config[section], ConfigDict):
            raise UserError(f"{path} sets {section} to {config[section]!r}, but it is a section; write {section}=dict(key=value), or leave it out for its defaults")
    return config


def _set(config, path, text):
    keys = [key for key in _paths(config) if key not in SECTIONS]
    if path not in keys:
        section = path.partition(".")[0]
        below = [key for key in keys if key.startswith(section + ".")] or [key for key in keys if "." not in key] + [f"{name}.…" for name in SECTIONS]
        near = "" if path in SECTIONS else nearest(path, keys)
        raise UserError(f"--config.{path}: there is no such key{near or '; choose one of ' + ', '.join(sorted(below))}")
    _put(config, path, _literal(text, config_get(config, path)))


def _put(config, path, value):
    section, _, key = path.rpartition(".")
    owner = config[section] if section else config
    kind = inspect.signature(function(section, config)).parameters[key].annotation if section and key != "name" else None
    value = _typed(value, owner[key], path, kind)
    with owner.ignore_type():  # a duration may be a number or a string, an optional value anything
        owner[key] = value


def _literal(text, current):
    if isinstance(current, str) or not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _typed(value, current, path, kind):
    """`value` in the type of the default `current` that it replaces; int → float and scalar → tuple of itself are the only conversions.

    kind: the annotation of the key, which says what an empty tuple and None cannot: tuple[str, ...], float | None.
    """
    if path in DURATIONS:
        durations.parse(value if _number(value) else str(value), path)
        return value
    value = tuple(value) if isinstance(value, list) else value
    optional = typing.get_origin(kind) is types.UnionType
    if optional:
        kind, _ = typing.get_args(kind)
        if value is None:
            return value
        current = _example(kind) if current is None else current
    like = f"a {type(current).__name__} such as {current!r}" + (", or none" if optional else "")
    if isinstance(current, bool):
        good = isinstance(value, bool)
    elif isinstance(current, int):
        good = _number(value) and value == int(value)
        value = int(value) if good else value
    elif isinstance(current, float):
        good = _number(value) or path in A_VIEW and isinstance(value, tuple) and all(map(_number, value))
        value = float(value) if _number(value) else value
        like += ", or a tuple of them, one a view" if path in A_VIEW else ""
    elif isinstance(current, tuple):
        value = value if isinstance(value, tuple) else (value,)
        open_ended = typing.get_origin(kind) is tuple
        good = _fits(value, kind) if open_ended else len(value) == len(current) and all(map(_number, value))
        like = f"a tuple such as {_example(kind)!r}" if open_ended else f"{len(current)} numbers such as {current!r}"
    else:
        good = isinstance(value, type(current))
    if not good:
        raise UserError(f"{path} is {value!r}, a {type(value).__name__}; it takes {like}")
    return value


def _number(value):
    """Whether it is a finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _fits(value, kind):
    """Whether `value` is of the type that an annotation of float, str and tuples of them names."""
    if typing.get_origin(kind) is not tuple:
        return _number(value) if kind is float else isinstance(value, kind)
    parts = typing.get_args(kind)
    if not isinstance(value, (tuple, list)):
        return False
    return all(_fits(v, parts[0]) for v in value) if parts[1:] == (...,) else len(value) == len(parts) and all(map(_fits, value, parts))


def _example(kind):
    """A value that `_fits` the annotation."""
    if typing.get_origin(kind) is not tuple:
        return {float: 0.1, str: "bias"}[kind]
    return tuple(_example(part) for part in typing.get_args(kind) if part is not ...)


def _paths(config, prefix=""):
    for key in config:
        yield prefix + key
        if isinstance(config[key], ConfigDict):
            yield from _paths(config[key], prefix + key + ".")


def _flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key in tree for k, v in _flat(tree[key], f"{prefix}{key}.").items()}
