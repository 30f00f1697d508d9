"""Which functions the keys of a config's sections go to: a section's keys are their keyword arguments, and each default lives in a signature, once."""
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
# Sections whose `name` selects a function with further keys -> what gives {name: function}.
FAMILIES = {"model": "jaxssl.models:families", "optim": "jaxssl.optim:families"}
# Name in the module of a method -> {key of the method that selects a function with further keys: {name: function}}; "" among the names is none.
CHOICES = "CHOICES"
# Arguments that the program itself passes: they follow from other keys and are no keys of their own.
INJECTED = {"model": {"precision"}, "optim": {"ahead", "networks", "numbers"}, "augment": {"dtype", "return_params"}, "local": {"dtype", "return_params"}, "log": {"process_index"}}
# Arguments of the functions of `CHOICES` that the method passes.
PASSED = {"id", "reference", "weight", "metrics", "only", "mesh"}
# What is off unless a config turns it on: the smaller views of multi-crop, made by the function that makes the others.
OFF = {"local": {"views": 0}}


def function(section: str, config: Mapping[str, Any]) -> Callable:
    """The function that `section` configures. An unknown method is a UserError that lists the methods."""
    module, name = SECTIONS[section].split(":")
    if "{name}" in module:
        selected = config[section].get("name", "")
        choices = sorted(p.stem for p in (Path(__file__).parent / section_folder(section)).glob("*.py") if p.stem not in ("__init__", "base"))
        _choose(section, selected, choices)
        module = module.format(name=selected)
    return named(f"{module}:{name}")


def functions(section: str, config: Mapping[str, Any]) -> list[Callable]:
    """All functions that keys of `section` go to: the one that it configures, and those that its name and its further selectors select."""
    found = [function(section, config)]
    for key, known in selectors(section, config).items():
        selected = config.get(section, {}).get(key, defaults(found[0])[key])
        _choose(section if key == "name" else f"{section}.{key}", selected, known)
        if known[selected] is not None:
            found.append(known[selected])
    return found


def selectors(section, config):
    """{key of `section` that selects a function with further keys: {name: function, or None}}."""
    if section in FAMILIES:
        return {"name": named(FAMILIES[section])()}
    return {} if "{name}" not in SECTIONS[section] else getattr(importlib.import_module(function(section, config).__module__), CHOICES, {})


def _choose(section, selected, choices):
    if not isinstance(selected, str) or selected not in choices:
        raise UserError(f"unknown {section} {selected!r}; choose one of {', '.join(filter(None, choices))}{nearest(str(selected), choices)}")


def readers(path, config):
    """Who reads a key that the section's own name does not: "adam and adamw read, and lars does not"; "" where nobody does."""
    section, _, key = path.partition(".")
    for selector, known in selectors(section, config).items() if section in SECTIONS and key not in _passed(section) else ():
        names: dict[Callable, str] = {}
        for name, f in known.items():
            if f is not None:
                names.setdefault(f, name if section not in FAMILIES or f.__name__ == name else f.__module__.rpartition(".")[2])
        own = known[config.get(section, {}).get(selector, defaults(function(section, config))[selector])]
        if readers := [name for f, name in names.items() if key in defaults(f)]:
            other = f"{names[own]} does not" if own else f"{section}.{selector} chooses none of them"
            return f"{' and '.join(readers)} read{'s' if len(readers) == 1 else ''}, and {other}; leave it out"
    return ""


def named(spec):
    module, name = spec.split(":")
    return getattr(importlib.import_module(module), name)


def section_folder(section: str) -> str:
    return SECTIONS[section].split(".")[1]


def section_defaults(section, config):
    first, *chosen = functions(section, config)
    keys = {**{key: default for f in chosen for key, default in defaults(f).items() if key not in _passed(section)}, **defaults(first)}
    if "{name}" in SECTIONS[section]:
        keys = {"name": config[section]["name"], **keys}
    return {k: v for k, v in {**keys, **OFF.get(section, {})}.items() if k not in INJECTED.get(section, ())}


def _passed(section):
    """Arguments of the functions that keys of `section` select which are no keys."""
    return INJECTED.get(section, ()) if section in FAMILIES else PASSED


@functools.cache
def _parameters(f):
    return inspect.signature(f).parameters


def defaults(f):
    return {p.name: p.default for p in _parameters(f).values() if p.default is not p.empty}


def annotation(config, path):
    """What the signature that a key comes from says of it; None for a selector and for keys that every config shares."""
    section, _, key = path.rpartition(".")
    signatures = [_parameters(f) for f in functions(section, config)] if section and key != "name" else []
    return next((parameters[key].annotation for parameters in signatures if key in parameters), None)
