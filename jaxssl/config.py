"""Configurations: load a file, complete it with every default, override, lock, validate, resolve durations.

A config file (`config_file`) lists what a recipe sets. Everything else is completed from the keyword signatures of the functions that use the section, where each default lives
once (`config_keys`). So a resolved config holds every key that something reads, and an unknown one is a typo.
"""
import importlib
import inspect
import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxssl import config_file as files, config_keys, durations, typed
from jaxssl.errors import UserError, nearest

log = logging.getLogger("jaxssl.config")
# Name in the module of a method -> function(config) -> ({path: value}, why), of what a config leaves to the method to choose.
DECIDES = "decided"
# Name in the module of a method -> function(config, training images) -> {path: value}, of what a config leaves to their number.
SIZED = "sized"
# Name in the module of a function that keys go to -> function(**keys of the section) -> {key as it is set: keys that nothing reads then}; and whose counts for all methods.
UNREAD, ALL_METHODS = "unread", "jaxssl.methods.base"
# Functions that know wrong values of a section without its data or workdir: called as soon as the config is complete.
CHECKS = {"augment": "jaxssl.augment:check", "eval": "jaxssl.training.evaluator:check", "checkpoint": "jaxssl.workdir.checkpoint:check"}
# Keys whose default is a number and that also take a tuple, of one a view.
A_VIEW = {f"{section}.{key}" for section in ("augment", "local")
          for key in ("flip", "jitter", "gray", "blur", "solarize", "invert", "flip_vertical", "turns", "channel_jitter", "channel_drop")}
# Keys whose numbers are those of the images' own values, of either sign.
OF_IMAGES = {f"{section}.{key}" for section in ("augment", "local") for key in ("low", "high")}
DURATIONS = ("total", "warmup", "head_warmup", "log_every", "eval_every", "checkpoint_every")
# Keys that came or went since a workdir may have been made -> what it means that a config has no such key: they differ only where they say something else.
TOLD_SINCE = {"contents_sha256", "sampled_sha256"}       # of data.json: a workdir from before says nothing of it
ABSENT = {"optim.exclude": [], "optim.exclude_rank": 1, "optim.stacked": [], "optim.lr_rules": [], "optim.rules": [], "optim.layer_decay": 1.0, "optim.clip_by": "all",
          "optim.momentum": .9, "optim.nesterov": False, "optim.trust_coefficient": 1e-3, "optim.b1": .9, "optim.b2": .999, "optim.rho": .99, "optim.eps": 1e-8,
          "model.drop_path": 0.0, "micro_batch": 0}


def settings(*, seed=0, batch_size=256, micro_batch=0, total="100_epochs", warmup="10_epochs", head_warmup="0_steps", log_every=50, eval_every="10_percent",
             checkpoint_every="10_percent", precision="bf16", ema=0.0, init_from="", init_allow_missing="", init_channels="", sizes: tuple[tuple[float, ...], ...] = (),
             on_nonfinite="stop", stall_seconds=600.0, report=True) -> None:
    """Checks the keys that every config shares; their defaults live here.

    Args:
      seed: of parameters, sample order and views.
      batch_size: global number of images in a step (not of views, not per device).
      micro_batch: images of a part of the batch that is held in memory at a time, for the same gradient as the whole batch's (each part is computed twice, and batch
        norm sees its part); 0 is the whole batch at once.
      total, warmup, head_warmup, log_every, eval_every, checkpoint_every: durations, `"200_epochs"`, `"5000_steps"`, `"1e6_examples"`, `"5_percent"` or a number of steps.
      head_warmup: how long the encoder of init_from stands still while heads, which it may lack, begin to learn; its rate then rises over another `warmup`.
      precision: `bf16` (compute in bfloat16, parameters and statistics in f32) or `f32`.
      ema: decay of a moving average of the encoder kept beside it, in [0, 1); 0 is off.
      init_from: weights to begin with instead of the seed's: a workdir, an export, or a file (jaxssl.load); a resumed run does not read them again.
      init_allow_missing: names of tensors, or folders of names (`projector`), with commas between them, that init_from may lack.
      init_channels: where init_from takes RGB and the images have other channels, whose filters each begins with: `mean` for all, or a word a channel of `r`, `g`, `b` and `mean`,
        with commas between them, such as `b,g,r,mean,mean`; all are multiplied by 3 / channels.
      sizes: (pixels of a view, of a local one, weight) of views that are drawn anew for every step by weight, ((512, 112, .7), (768, 168, .3)); evaluation keeps
        augment.size. () has augment.size and local.size alone.
      on_nonfinite: `stop`, or `rollback:k`: restore the last checkpoint and skip the offending batches, at most k times.
      stall_seconds: a step that takes longer dumps all stacks; 0 is off.
      report: write report.html at the end of the run (one process; several are told the command).
    Raises: UserError.
    """
    for key, value in zip(DURATIONS, (total, warmup, head_warmup, log_every, eval_every, checkpoint_every)):
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
    if init_channels and not init_from:
        raise UserError(f"init_channels is {init_channels!r}, but init_from is empty; give --config.init_from=PATH, or leave both out")
    if wrong := [word for word in init_channels.split(",") if init_channels and word not in ("r", "g", "b", "mean")]:
        raise UserError(f"init_channels names {wrong[0]!r}; it is mean, or a word a channel of r, g, b and mean, such as b,g,r,mean,mean")
    if odd := [size for size in sizes if len(size) != 3 or size[0] != int(size[0]) or size[1] != int(size[1]) or size[0] < 1 or size[1] < 0 or not size[2] > 0]:
        raise UserError(f"sizes holds {odd[0]!r}; each is (pixels of a view, of a local one or 0 where there are none, a weight above 0), such as (512, 112, .3)")
    if on_nonfinite != "stop" and not re.fullmatch(r"rollback:[1-9]\d*", on_nonfinite):
        raise UserError(f"on_nonfinite is {on_nonfinite!r}; choose 'stop' or 'rollback:k' with k ≥ 1, for example 'rollback:3'")
    if stall_seconds < 0:
        raise UserError(f"stall_seconds is {stall_seconds}; use a positive number, or 0 to turn the watchdog off")


def opened(spec: str) -> files.File:
    """The config file of `path.py[:variant]`, executed. Raises: UserError."""
    return files.execute(spec, config_keys.SECTIONS)


def load(spec: str | files.File, overrides: dict[str, str] | None = None) -> ConfigDict:
    """The resolved, locked config of `path.py[:variant]`, or of such a file that is `opened`, with `{"a.b": "text"}` overrides applied.

    Selectors (`method.name`, …) are overridden first, since they decide which keys exist. Raises: UserError.
    """
    overrides = dict(overrides or {})
    config = ConfigDict((opened(spec) if isinstance(spec, str) else spec).config)
    for section in filter(_selects, config_keys.SECTIONS):
        if f"{section}.name" in overrides:
            _select(config, section, "name", overrides[f"{section}.name"])
        for key in config_keys.selectors(section, config):
            if f"{section}.{key}" in overrides:
                _select(config, section, key, overrides[f"{section}.{key}"])
    config = complete(config)
    for path, text in overrides.items():
        _set(config, path, text)
    config = _decided(config, overrides)
    settings(**{key: config[key] for key in config_keys.defaults(settings)})
    for section, off in config_keys.OFF.items():
        unread = [k for k, v in config_keys.section_defaults(section, config).items() if config[section][k] != v]
        if all(config[section][k] == v for k, v in off.items()) and unread:
            key = next(iter(off))
            raise UserError(f"{section}.{unread[0]} is {config[section][unread[0]]!r}, but {section}.{key} is {off[key]!r}, which turns {section} off; set "
                            f"--config.{section}.{key}, or leave it out")
    for section, check in CHECKS.items():
        config_keys.named(check)(**config[section])
    for sentence in turned_off(config):
        log.warning("warning: %s", sentence)
    return config.lock()


def turned_off(config: Mapping[str, Any]) -> list[str]:
    """A sentence for each key of a complete config that turns off others which are not as by default."""
    said = []
    for section in (each for each in config_keys.SECTIONS if not (each in config_keys.OFF and config_keys.OFF[each].items() <= dict(config[each]).items())):
        modules = dict.fromkeys([*(f.__module__ for f in config_keys.functions(section, config)), *([ALL_METHODS] if section == "method" else [])])
        default, own = config_keys.section_defaults(section, config), dict(config[section])
        for ask in filter(None, (getattr(importlib.import_module(module), UNREAD, None) for module in modules)):
            for switch, keys in ask(**own).items():
                if unread := [f"{section}.{key}={own[key]!r}" for key in keys if key in default and own[key] != default[key]]:
                    said.append(f"{section}.{switch} is {own[switch]!r}, with which nothing reads {', '.join(unread)}")
    return said


def _decided(config, overrides):
    """`config` with what its method chooses, where it is left to it. Raises: UserError for what a flag or the file says otherwise."""
    decide = getattr(importlib.import_module(config_keys.function("method", config).__module__), DECIDES, None)
    chosen, why = decide(config) if decide else ({}, "")
    for path, value in chosen.items():
        section, _, key = path.rpartition(".")
        selects, given = key in config_keys.selectors(section, config), config_get(config, path) if key in config[section] else value
        default = config_keys.section_defaults(section, config).get(key)
        if given != value and (path in overrides or given != default) and not (selects and given == "auto"):
            raise UserError(f"{path} is {given!r}, but {why}: that takes {value!r}; leave it out, or choose method.loss yourself")
        if selects:
            _select(config, section, key, value)
            config = complete(config)
        else:
            _put(config, path, value, value)
    if chosen:
        log.info("method: %s: %s", why, ", ".join(f"{path}={value}" for path, value in chosen.items()))
    return config


def sized(config: ConfigDict, examples: int) -> ConfigDict:
    """`config`, locked, with what its method leaves to the number of training images (`SIZED` in its module) filled in."""
    fit = getattr(importlib.import_module(config_keys.function("method", config).__module__), SIZED, None)
    chosen = fit(config, examples) if fit else {}
    if not chosen:
        return config
    config = config.copy_and_resolve_references().unlock()
    for path, value in chosen.items():
        _put(config, path, value, value)
    return config.lock()


def published(file: files.File) -> tuple[ConfigDict | None, list[dict]]:
    """(the completed config of a file without overrides, what its `PUBLISHED` states for it); (None, []) where it states nothing. Raises: UserError."""
    values = files.stated(file)
    return (complete(file.config), values) if values else (None, [])


def complete(config: ConfigDict) -> ConfigDict:
    """`config` with every missing key filled from the signatures; a key that no function knows is a UserError."""
    known = {section: config_keys.section_defaults(section, config) for section in config_keys.SECTIONS}
    top = config_keys.defaults(settings)
    names = set(top) | set(config_keys.SECTIONS) | {f"{s}.{k}" for s, keys in known.items() for k in keys}
    unknown = [path for path in paths(config) if path not in names]
    if unknown:
        raise UserError(f"the config file sets {unknown[0]!r}, which {config_keys.readers(unknown[0], config) or f'nothing reads{nearest(unknown[0], names)}'}")
    full = ConfigDict({**top, **{s: ConfigDict(keys) for s, keys in known.items()}}, convert_dict=False)
    for path in sorted(paths(config), key=lambda path: not path.endswith(".name")):     # names first: they decide which types the other keys have
        if path not in config_keys.SECTIONS:
            _put(full, path, config_get(config, path), config_get(full, path))
    return full


def describe(config: ConfigDict) -> str:
    """The resolved config as JSON text with sorted keys; equal configs give equal text."""
    return json.dumps(json.loads(config.to_json()), indent=1, sort_keys=True)


def differences(old: str, new: str) -> list[str]:
    """Human-readable differences between two `describe` texts, one per key.

    A key that came or went in between is none where its absence is known to mean the same: what came has its default, what went is in `ABSENT`; nor is
    any in a section that is `OFF` in both.
    """
    off = config_keys.OFF
    a, b = (_flat({section: keys for section, keys in json.loads(text).items() if section not in off or not off[section].items() <= keys.items()}) for text in (old, new))
    missing, meant = "(absent)", {**_usual(json.loads(new)), **ABSENT}
    changed = [k for k in sorted(a.keys() | b.keys()) if not (k in TOLD_SINCE and k not in a) and a.get(k, meant.get(k, missing)) != b.get(k, meant.get(k, missing))]
    return [f"{k}: {a.get(k, missing)} → {b.get(k, missing)}" for k in changed]


def _usual(config: dict) -> dict:
    """{"section.key": default as JSON has it} of a resolved config's keys; {} for another object."""
    if not all(isinstance(config.get(section), dict) for section in config_keys.SECTIONS):
        return {}
    usual = {**config_keys.defaults(settings), **{section: config_keys.section_defaults(section, ConfigDict(config)) for section in config_keys.SECTIONS}}
    return _flat(json.loads(json.dumps(usual)))


def config_get(config: ConfigDict, path: str) -> Any:
    for part in path.split("."):
        config = config[part]
    return config


def _selects(section):
    return section in config_keys.FAMILIES or "{name}" in config_keys.SECTIONS[section]


def _select(config, section, selector, name):
    """Sets the name of a section, or another key that selects a function; keys of the file that only the former name's function reads, or that mean something of
    another type to the new one (a ResNet's width is a factor, a ViT's a number of channels), are left out, and a sentence says so."""
    try:
        former = config_keys.section_defaults(section, config)
    except UserError:       # the file names none, or one that there is not
        former = {}
    config[section][selector] = name
    now = config_keys.section_defaults(section, config)
    left = [key for key in config[section] if key in former and (key not in now or type(former[key]) is not type(now[key]))]
    for key in left:
        del config[section][key]
    if left:
        log.warning("--config.%s.%s=%s does not read what the config file sets for another: left out %s", section, selector, name, ", ".join(f"{section}.{key}" for key in left))


def _set(config, path, text):
    keys = [key for key in paths(config) if key not in config_keys.SECTIONS]
    if path not in keys:
        section = path.partition(".")[0]
        below = [key for key in keys if key.startswith(section + ".")] or [key for key in keys if "." not in key] + [f"{name}.…" for name in config_keys.SECTIONS]
        near = "" if path in config_keys.SECTIONS else nearest(path, keys)
        if unread := config_keys.readers(path, config):
            raise UserError(f"--config.{path}: {unread}")
        raise UserError(f"--config.{path}: there is no such key{near or '; choose one of ' + ', '.join(sorted(below))}")
    section, _, key = path.rpartition(".")
    default = (config_keys.section_defaults(section, config) if section else config_keys.defaults(settings))[key]
    _put(config, path, typed.literal(text, config_get(config, path), _annotation(config, path)), default)


def _put(config, path, value, default):
    """Sets a key, from the text of a flag or as the file has it, in the type of what it replaces and in the range of its default."""
    section, _, key = path.rpartition(".")
    owner = config[section] if section else config
    if path in DURATIONS:
        durations.parse(value if typed.number(value) else str(value), path)
    else:
        value = typed.fit(value, owner[key], path, _annotation(config, path), or_tuple=path in A_VIEW)
        if path not in OF_IMAGES:
            typed.within(value, default, path)
    with owner.ignore_type():  # a duration may be a number or a string, an optional value anything
        owner[key] = value


def _annotation(config, path):
    """What a signature says of a key; of those that every config shares, `settings`."""
    own = inspect.signature(settings).parameters.get(path)
    return config_keys.annotation(config, path) if own is None else own.annotation if own.annotation is not own.empty else None


def paths(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """The sections and keys of a config, "section" and "section.key"."""
    for key in config:
        yield prefix + key
        if isinstance(config[key], ConfigDict):
            yield from paths(config[key], prefix + key + ".")


def _flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key in tree for k, v in _flat(tree[key], f"{prefix}{key}.").items()}
