"""A value of a setting by the type of its default: from the text of a flag, or as a config file has it."""
import ast
import sys
import types
import typing
from typing import Any

from jaxssl.errors import UserError

# Numbers beyond these are slips: steps, samples and sizes are counted in int32, and float32 cannot divide by much smaller ones.
MOST, LEAST = 2 ** 31 - 1, 1e-30

def read(text: str, default: Any, name: str, kind: Any = None) -> Any:
    """What `text` says, in the type of `default`. kind, name: as for `fit`. Raises: UserError."""
    return fit(literal(text, default, kind), default, name, kind)


def literal(text: Any, default: Any, kind: Any = None) -> Any:
    """`text` as Python would read it, where `default` is no string; true, false and none are known however written, and a tuple needs no brackets."""
    if isinstance(default, str) or not isinstance(text, str):
        return text
    words = typing.get_args(kind)[:1] == (str,) or kind in (None, tuple) and isinstance(default, tuple) and default and isinstance(default[0], str)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
        return tuple(text.split(",")) if value is text and isinstance(default, tuple) and "," in text else value
    bare = not isinstance(value, str) and not text.lstrip().startswith(("(", "["))
    return tuple(text.split(",")) if words and bare else value


def fit(value: Any, default: Any, name: str, kind: Any = None, *, or_tuple: bool = False) -> Any:
    """`value` in the type of the `default` that it replaces; int → float and one value → a tuple of it are the only conversions.

    kind: the annotation of the setting, which says what a default of () and None cannot: tuple[str, ...], float | None. Without one a tuple is so many
    numbers as the default has. name: how the setting is called in a message. or_tuple: a number may also be a tuple of numbers, one a view. Raises: UserError.
    """
    value = tuple(value) if isinstance(value, list) else value
    optional = typing.get_origin(kind) is types.UnionType
    if optional:
        kind, _ = typing.get_args(kind)
        default = _example(kind) if default is None else default
    if default is None or optional and value is None:
        return value
    like = f"a {type(default).__name__} such as {default!r}" + (", or none" if optional else "")
    if isinstance(default, bool):
        good = isinstance(value, bool)
    elif isinstance(default, int):
        good = number(value) and value == int(value)
        value = int(value) if good else value
    elif isinstance(default, float):
        good = number(value) or or_tuple and isinstance(value, tuple) and all(map(number, value))
        value = float(value) if number(value) else value
        like += ", or a tuple of them, one a view" if or_tuple else ""
    elif isinstance(default, tuple):
        value = value if isinstance(value, tuple) else (value,)
        kind = tuple[next(t for t in (bool, int, float, str) if isinstance(default[0], t)), ...] if kind is tuple and default else kind
        open_ended = typing.get_origin(kind) is tuple
        value = _plain(value, kind) if open_ended else value
        good = _fits(value, kind) if open_ended else len(value) == len(default) and all(map(number, value))
        like = f"a tuple such as {_example(kind)!r}" if open_ended else f"{len(default)} numbers such as {default!r}"
    else:
        good = isinstance(value, type(default))
    if not good:
        raise UserError(f"{name} is {_short(value)}, a {type(value).__name__}; it takes {like}")
    return value


def within(value: Any, default: Any, name: str) -> None:
    """Refuses a value with a number that no key has: below 0 where the signature's `default` is not, or beyond reason. Raises: UserError."""
    lowest = min([0, *_numbers(default)])
    if odd := [n for n in _numbers(value) if not (lowest <= n <= MOST and (n == 0 or abs(n) >= LEAST))]:
        raise UserError(f"{name} is {_short(value)}; it takes {'numbers' if isinstance(value, tuple) else 'a number'} from {lowest:g} to {MOST:,}"
                        + (f" that are 0 or at least {LEAST:g}" if abs(odd[0]) < LEAST else ""))


def _short(value: Any) -> str:
    """`value` for a message; of an endless number its length."""
    if isinstance(value, int) and value.bit_length() > 130:
        return f"a number of some {round(value.bit_length() * .30103):,} digits"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _numbers(value: Any) -> list:
    """Every number in a value, in tuples and settings too."""
    if isinstance(value, dict | tuple | list):
        return [number for part in (value.values() if isinstance(value, dict) else value) for number in _numbers(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def number(value: Any) -> bool:
    """Whether it is a finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _fits(value: Any, kind: Any) -> bool:
    """Whether `value` is of the type that an annotation of numbers, words, unions and tuples of them names."""
    if typing.get_origin(kind) is types.UnionType:
        return any(_fits(value, part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is not tuple:
        return number(value) if kind is float else isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    parts = typing.get_args(kind)
    if not isinstance(value, tuple | list):
        return False
    return all(_fits(v, parts[0]) for v in value) if parts[1:] == (...,) else len(value) == len(parts) and all(map(_fits, value, parts))


def _plain(value: tuple, kind: Any) -> tuple:
    """Numbers in the type of the entries of tuple[float, ...] or tuple[int, ...]."""
    entry = typing.get_args(kind)[0]
    return tuple(entry(v) if entry in (int, float) and number(v) and v == entry(v) else v for v in value)


def _example(kind: Any) -> Any:
    """A value that `_fits` the annotation."""
    if typing.get_origin(kind) is types.UnionType:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is not tuple:
        return {float: 0.1, int: 1, str: "bias$", dict: {"decay": 0.0}}[kind]
    return tuple(_example(part) for part in typing.get_args(kind) if part is not ...)
