"""Presets: files of configs/studies, each a docstring and one table `STUDY`, which is read as data and never executed."""
import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxssl import config_file
from jaxssl.errors import UserError, nearest

FOLDER = Path("configs/studies")
# What a table may say -> its type.
KEYS = {"config": str, "set": dict, "grid": dict, "search": dict, "cases": dict, "trials": int, "sampler": str, "folds": list, "seeds": list, "objective": str, "best": bool,
        "claim": dict, "reality": dict, "needs": dict}


def read(name: str) -> dict:
    """The table of the preset `name`, or of a file. Raises: UserError."""
    file = Path(name) if name.endswith(".py") else FOLDER / f"{name}.py"
    if not file.is_file():
        known = sorted(path.stem for path in FOLDER.glob("*.py"))
        raise UserError(f"there is no preset {name!r}{nearest(name, known)}; "
                        + (f"choose one of {', '.join(known)}" if known else "run from the repository, where configs/studies is"))
    table = config_file.table(file, "STUDY")
    if odd := [key for key, value in table.items() if key not in KEYS or not isinstance(value, KEYS[key])]:
        raise UserError(f"{file}: STUDY has {odd[0]!r} = {table[odd[0]]!r}{nearest(str(odd[0]), KEYS)}; there are {', '.join(KEYS)}, each of its own type")
    return table


def listed() -> list[str]:
    """A line for every preset. Raises: UserError."""
    files = sorted(FOLDER.glob("*.py"))
    if not files:
        raise UserError("no presets here; run from the repository, where configs/studies is")
    width = max(len(file.stem) for file in files)
    return [f"{file.stem:{width}}  {(ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or '').partition(chr(10))[0]}" for file in files]


def axes(table: Mapping[str, Any]) -> list[str]:
    """{key: "a,b"} as `KEY=a,b`."""
    return [f"{key}={values}" for key, values in table.items()]
