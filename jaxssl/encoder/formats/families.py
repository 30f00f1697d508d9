"""Families of encoders: what a format asks of a network's kind is answered by the module of its family, `resnets`, `vits`, `convnexts` or
`efficientnets`.

Each has WORD, MODULE and NAMES (of the models), LAYOUTS that are read and FORMATS that are written, UNSEEN (keys that shapes do not show), OPTIONAL
(tensors that features do not depend on), and functions: `renamed`, `prefixes`, `network`, `assumption`, `usual`, `differs`, `described`, `fitted`.
"""
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from jaxssl.errors import UserError, nearest
from jaxssl.encoder.formats import convnexts, efficientnets, names, records, resnets, vits

FAMILIES = (resnets, vits, convnexts, efficientnets)
NAMES = tuple(name for family in FAMILIES for name in family.NAMES)
ANY = ("safetensors", "stablehlo")       # formats that take whatever computes features


def of(module) -> ModuleType:
    """The family of an encoder module. Raises: UserError when it has none here."""
    for family in FAMILIES:
        if isinstance(module, family.MODULE):
            return family
    raise UserError(f"the names of a {type(module).__name__} in other libraries are not known here; only those of {', '.join(f.WORD + 's' for f in FAMILIES)} are: "
                    f"use --format {' or '.join(ANY)}")


def named(model: str) -> ModuleType:
    """The family of a model's name. Raises: UserError for an unknown one."""
    for family in FAMILIES:
        if model in family.NAMES:
            return family
    raise UserError(f"model {model!r} is not one of {', '.join(NAMES)}{nearest(model, NAMES)}")


def described(model) -> str:
    """A model's config in a few words."""
    return next((family.described(model) for family in FAMILIES if model["name"] in family.NAMES), str(model["name"]))


def demand(module, format: str) -> None:
    """Raises: UserError when a format cannot hold a network of this kind."""
    family = next((family for family in FAMILIES if isinstance(module, family.MODULE)), None)
    formats, word = (family.FORMATS, f"a {family.WORD}") if family else (ANY, f"a {type(module).__name__}")
    if format not in formats:
        raise UserError(f"--format {format} cannot hold {word}; use --format {', '.join(formats[:-1])} or {formats[-1]}")


def write(encoder, folder: Path, sides: Mapping[ModuleType, names.Side]) -> None:
    """The encoder under a library's names (`sides`: family → `Side`) as a torch state dict in `folder`. Raises: UserError when a tensor has no place there."""
    side, module = sides[of(encoder.module)], encoder.module
    records.write_torch(encoder, folder, side.layout, side.table(module), side.constants(module, encoder.preprocessing["size"]))
