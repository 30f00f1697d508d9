"""Config files: Python with `get_config(variant="") -> ConfigDict`. Opening one executes it, so run only files you trust.

It may name its `VARIANTS`, and state in `PUBLISHED` which values are published for them.
"""
import ast
import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxssl.errors import UserError, nearest, shown

# What a config file states of a published value.
PUBLISHED = {"protocol": str, "setting": dict, "value": (int, float), "source": str, "weights": str}


STUDIES, CURATION = "studies", "curation"      # folders of configs/ with tables, which `table` reads
NOWHERE = "run from the repository, where configs/ is, or give a full path"


class File(NamedTuple):
    """A config file that was executed. config: of its variant, with every section, empty where the file leaves it out."""
    path: str
    variant: str
    variants: tuple[str, ...]
    config: ConfigDict
    published: Any


def execute(spec: str, sections: Collection[str]) -> File:
    """`path.py[:variant]`. Raises: UserError for what is no such file, and for whatever it does instead of giving a config."""
    path, _, variant = spec.partition(":")
    file = Path(path).expanduser()
    if not _is_file(file):
        found = list(map(str, files()))
        raise UserError(f"no config file {path!r}{nearest(path, found)}" + ("; python -m jaxssl.main --list names those that are here" if found else f"; {NOWHERE}"))
    if file.suffix != ".py":
        raise UserError(f"{path!r} is no config file: one is Python, ends in .py and defines get_config(variant)"
                        + ("; to resume a run give the --config it was started with, and its --workdir" if file.name == "config.json" else ""))
    module_spec = importlib.util.spec_from_file_location("jaxssl_config", file)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        variants = ("", *getattr(module, "VARIANTS", ()))
        if variant not in variants:
            raise UserError(f"{path} has no variant {variant!r}; it has {', '.join(repr(v) for v in variants[1:]) or 'none'}{nearest(variant, map(str, variants))}")
        config = module.get_config(variant)
        return File(path, variant, variants, _whole(config, path, sections), getattr(module, "PUBLISHED", {}))
    except UserError:
        raise
    except (Exception, SystemExit, GeneratorExit) as error:  # whatever the user's own lines make Python raise
        raise UserError(f"{path} fails as Python ({type(error).__name__}: {' '.join(str(error).split())[:300]}); --debug shows where") from error


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):                            # a name too long, or with a zero byte
        return False


def _whole(config: Any, path: str, sections: Collection[str]) -> ConfigDict:
    """A copy, which the file may have locked or frozen, with every section. Raises: UserError for what is no config."""
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returned a {type(config).__name__}; end it with `return config`, an ml_collections.ConfigDict")
    config = ConfigDict(config).unlock()
    for section in sections:
        if section not in config:
            config[section] = ConfigDict()
        elif not isinstance(config[section], ConfigDict):
            raise UserError(f"{path} sets {section} to {config[section]!r}, but it is a section; write {section}=dict(key=value), or leave it out for its defaults")
    if odd := [key for keys in (config, *(config[section] for section in sections)) for key in keys if not isinstance(key, str) or not key.isidentifier()]:
        raise UserError(f"{path}: {odd[0]!r} is a {type(odd[0]).__name__} that can be no key of a config; keys are names, such as batch_size")
    return config


def table(file: Path, name: str) -> dict:
    """The table `name` = {…} of plain values in a Python file, which is read as data and never executed. Raises: UserError."""
    try:
        module = ast.parse(file.read_text(encoding="utf-8"))
        values = [node.value for node in module.body if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == [name]]
        found = ast.literal_eval(values[-1]) if values else None
    except (SyntaxError, ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read as a preset ({' '.join(str(error).split())[:200]}); it holds {name} = {{…}} of plain values") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} has no table {name} = {{…}}, so it is no preset")
    return found


def files() -> list[Path]:
    """The config files of the working folder; those of `STUDIES` and `CURATION` are tables that other commands read."""
    return sorted(path for path in Path("configs").glob("*/*.py") if path.parent.name not in (STUDIES, CURATION))


def catalogue() -> list[str]:
    """A line for every config file of the working folder, "path:variant|variant  the first line of its docstring", read as text: nothing is executed. Raises: UserError."""
    rows = []
    for path in files():
        try:
            module = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError) as error:
            rows.append((str(path), f"({'it cannot be read' if isinstance(error, OSError) else 'it fails as Python'}: {' '.join(str(error).split())[:100]})"))
            continue
        values = [node.value for node in module.body if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["VARIANTS"]]
        variants = [leaf.value for value in values[-1:] for leaf in ast.walk(value) if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)]
        said = (ast.get_docstring(module) or "").partition("\n")[0]
        rows.append((":".join([str(path), *(["|".join(variants)] if variants else [])]), said))
    if not rows:
        raise UserError(f"no config files here; {NOWHERE}")
    width = max(len(name) for name, _ in rows)
    return [shown(f"{name:{width}}  {said}".rstrip()) for name, said in rows]


def stated(file: File) -> list[dict]:
    """What `PUBLISHED` states for the file's variant: {"protocol", "setting": what the setting of a result must hold, "value", "source"}, with "weights" ("student" or
    "teacher") if it is of these alone. Raises: UserError when something else is stated."""
    path, variant, table = file.path, file.variant, file.published
    if not isinstance(table, dict) or not table.keys() <= set(file.variants):
        raise UserError(f"{path}: PUBLISHED is {table!r}, and should be a dict from variants ({', '.join(map(repr, file.variants))}) to lists of values")
    values = table.get(variant, ())
    if not isinstance(values, (list, tuple)):
        raise UserError(f"{path}: PUBLISHED[{variant!r}] is {values!r}, and should be a list of values")
    for each in values:
        keys = each.keys() if isinstance(each, dict) else set()
        if (not PUBLISHED.keys() - {"weights"} <= keys <= PUBLISHED.keys() or not all(isinstance(each[key], PUBLISHED[key]) for key in keys)
                or each.get("weights", "student") not in ("student", "teacher")):
            raise UserError(f"{path}: PUBLISHED[{variant!r}] holds {each!r}; write dict(protocol=\"knn\", setting=dict(k=200), value=0.9, source=\"where it is printed\"), "
                            "with weights=\"student\" or \"teacher\" if it is of these alone")
    return [dict(each) for each in values]
