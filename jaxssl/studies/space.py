"""What a study varies: an axis is a key of the config with a list of values, or with a range that a search draws from."""
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxssl import config as configs, config_keys
from jaxssl.errors import UserError, listed, nearest

RANGES = ("log", "lin", "int")
MOST = 10_000            # settings of a grid
PLACE = "@"              # where a template has the number
BRACKETS = {"(": ")", "[": "]", "{": "}"}


class Axis(NamedTuple):
    """One key and what it may be. kind: "values" (texts of flags, in `values`), or one of `RANGES` from `low` to `high`. template: the text of the flag, with `PLACE` where
    the number stands."""
    key: str
    kind: str
    values: tuple[str, ...] = ()
    low: float = 0.
    high: float = 0.
    template: str = PLACE

    def text(self, number: float) -> str:
        """What the flag says for a number of the range."""
        return self.template.replace(PLACE, str(int(number)) if self.kind == "int" else f"{float(number):.6g}")

    @property
    def ends(self) -> tuple[str, ...]:
        """The texts that are tried before a study begins: all of a list, or both ends."""
        return self.values if self.kind == "values" else (self.text(self.low), self.text(self.high))

    @property
    def told(self) -> str:
        """As it is written on a command line."""
        if self.kind == "values":
            return f"{self.key}={','.join(self.values)}"
        return f"{self.key}={self.kind}:{self.low:g}:{self.high:g}" + ("" if self.template == PLACE else f"|{self.template}")


def axes(texts: Sequence[str], flag: str, *, ranges: bool) -> tuple[Axis, ...]:
    """`KEY=a,b,c` and, where `ranges` are taken, `KEY=log:low:high` (lin, int), each with `|template` if the number is only a part of what the flag says.

    flag: how it is called in a message. Raises: UserError.
    """
    found = []
    for text in texts:
        key, equals, rest = text.partition("=")
        key = key.removeprefix("--").removeprefix("config.")
        if not equals or not re.fullmatch(r"[\w.]+", key) or not rest:
            raise UserError(f"{flag} {text[:80]!r}: write KEY=value,value" + (" or KEY=log:low:high (lin and int too)" if ranges else ""))
        if key in [axis.key for axis in found]:
            raise UserError(f"{flag} names {key} twice; write all its values in one list")
        kind = rest.partition(":")[0]
        if kind in RANGES and ranges:
            found.append(_range(flag, key, kind, rest))
            continue
        if kind in RANGES:
            raise UserError(f"{flag} {text[:80]!r} is a range, which a grid has no end of; list values, or give it to --search")
        values = tuple(_split(rest))
        if "" in values or len(set(values)) < len(values):
            raise UserError(f"{flag} {text[:80]!r} has an empty value or one twice; write each once, with commas between them")
        found.append(Axis(key, "values", values))
    return tuple(found)


def _range(flag, key, kind, text):
    numbers, _, template = text.partition("|")
    try:
        low, high = (float(number) for number in numbers.split(":")[1:])
    except ValueError:
        low = high = math.nan
    said = f"{flag} {key}={text[:60]}"
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{said}: write {kind}:low:high with two numbers, the smaller one first")
    if kind == "log" and low <= 0:
        raise UserError(f"{said}: a logarithmic range begins above 0; raise {low:g}, or write lin")
    if kind == "int" and not (low.is_integer() and high.is_integer()):
        raise UserError(f"{said}: int takes whole numbers")
    if template and PLACE not in template:
        raise UserError(f"{said}: what stands behind | is the value of the flag, with {PLACE} where the number goes")
    return Axis(key, kind, low=low, high=high, template=template or PLACE)


def _split(text):
    """At the commas that lie in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        quote = "" if letter == quote else quote or (letter if letter in "'\"" else "")
        depth += (letter in BRACKETS) - (letter in BRACKETS.values()) if not quote else 0
        if letter == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def grid(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Every setting of a grid, {key: text}; the last axis changes fastest. Raises: UserError."""
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise UserError(f"the grid has {count:,} settings, more than {MOST:,}; leave values out, or use --search")
    return [dict(zip([axis.key for axis in axes], values)) for values in itertools.product(*(axis.values for axis in axes))]


def check(file: Any, overrides: Mapping[str, str], axes: Sequence[Axis], settings: Sequence[Mapping[str, str]], own: Sequence[str]) -> None:
    """Loads the config with every setting, and with the ends of every range. own: keys that the study itself sets (folds, seeds). Raises: UserError that names the setting."""
    for axis in axes:
        if axis.key in own:
            raise UserError(f"{axis.key} is varied twice: by --{'folds' if axis.key == 'data.fold' else 'seeds'} and as {axis.told}; leave one of them out")
        if axis.key in overrides:
            raise UserError(f"{axis.key} is varied ({axis.told}) and set (--config.{axis.key}={overrides[axis.key]}); leave one of them out")
    lowest = {axis.key: axis.ends[0] for axis in axes}
    tried = list(settings) or [lowest, *({**lowest, axis.key: text} for axis in axes for text in axis.ends[1:])]
    for setting in tried:
        try:
            configs.load(file, {**overrides, **setting})
        except UserError as error:
            known = [path for path in configs.paths(configs.load(file, dict(overrides))) if path not in config_keys.SECTIONS]
            if wrong := next((axis.key for axis in axes if axis.key not in known and f"config.{axis.key}:" in str(error)), None):
                raise UserError(f"there is no key {wrong} to vary{nearest(wrong, known) or '; keys are ' + listed(known)}") from error
            raise UserError(f"the setting {said(setting)} is none: {error}") from error


def said(setting: Mapping[str, str]) -> str:
    """A setting in words."""
    return ", ".join(f"{key}={value}" for key, value in setting.items()) or "as the config has it"
