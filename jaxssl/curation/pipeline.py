"""Whole curations as tables of configs/curation: the steps one after another, with what differs from set to set left open."""
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxssl import config_file
from jaxssl.errors import UserError, nearest, shown

NAME = "CURATION"
KEYS = {"needs": dict, "may": dict, "steps": list}     # of the table: {name: what it is} that must be given, that may be given, and the arguments of each step


def read(path: str) -> dict:
    """The table of a file. Raises: UserError."""
    file = Path(path)
    if not file.is_file():
        known = sorted(map(str, (Path("configs") / config_file.CURATION).glob("*.py")))
        raise UserError(f"no file {shown(path)!r}{nearest(path, known)}; there are {', '.join(known) or 'none here: run from the repository, where configs/ is'}")
    table = config_file.table(file, NAME)
    typed = table.keys() == KEYS.keys() and all(isinstance(table[key], kind) for key, kind in KEYS.items())
    if not (typed and all(isinstance(step, list) and step and all(isinstance(word, str) for word in step) for step in table["steps"])):
        raise UserError(f"{shown(path)}: {NAME} holds {', '.join(KEYS)}: two dicts of names, and a list of the arguments of each step")
    return table


def given(pairs: Sequence[str], table: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """`name=value` as {name: value}. Raises: UserError for a name that the table does not have, and for one that it needs and that is not there."""
    known, found = {**table["needs"], **table["may"]}, {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not value or name not in known:
            raise UserError(f"--set {shown(pair)[:100]} is not known; write NAME=VALUE of {', '.join(known)}{nearest(name, known)}")
        found[name] = value
    if missing := [name for name in table["needs"] if name not in found]:
        raise UserError(f"--set {missing[0]}=… is missing: {table['needs'][missing[0]]}")
    return found


def steps(table: Mapping, values: Mapping[str, str]) -> tuple[list[list[str]], list[list[str]]]:
    """(arguments of each step with `{name}` replaced by its value, [step, names that were not given] of those that are left out for want of a name or of a set left out before)."""
    made, out, lost = [], [], {}
    for step in table["steps"]:
        names = [name for name in {**table["needs"], **table["may"]} if any("{" + name + "}" in word for word in step)]
        missing = [name for name in names if name not in values] + [name for word in step if word in lost for name in lost[word]]
        if missing:
            out.append([step[0], *missing])
            if "--name" in step:
                lost[step[step.index("--name") + 1]] = missing
            continue
        words = list(step)
        for name in names:
            words = [word.replace("{" + name + "}", values[name]) for word in words]
        made.append(words)
    return made, out
