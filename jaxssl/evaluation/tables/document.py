"""What an evaluation leaves in `evaluations/*.json`: subject, data, transform, rows with their intervals and published values, and how they came about."""
import datetime
import json
from importlib import metadata
from typing import Any

from jaxssl import durations
from jaxssl.workdir import folder as workdir, published as recipes
from jaxssl.errors import UserError
from jaxssl.evaluation.request import Request
from jaxssl.evaluation.tables import compare, published

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scikit-learn", "scipy", "pillow")


def begin(request: Request, subject: Any, chosen: dict | None) -> dict:
    """What is written for one encoder, before anything is measured."""
    encoder, data = subject.encoder, subject.data
    return {"version": 1, "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "subject": {"name": encoder.name, "weights": encoder.weights, "step": encoder.step, "digest": encoder.digest, "path": subject.path},
            "data": {"name": data.train.name, "train": named(data.train), "test": named(data.test), "classes": len(data.classes), "digest": subject.contexts[0].digest},
            "transform": {**encoder.preprocessing, "canvas": data.canvas}, "notes": encoder.origin.notes, "unused": encoder.origin.unused,
            "command": request.command, "select": request.select, "select_by": chosen,
            "budget": request.budget, "precision": request.precision, "seeds": list(request.seeds), "seconds": 0., "rows": [], "failed": [], "unfinished": list(request.protocols),
            "packages": {name: _version(name) for name in _PACKAGES}}


def rows(subject: Any, request: Request, tables: list[list]) -> list[dict]:
    """The rows of all seeds as they are written: with seed, marks of overlap, and the published value where these are the data and the last step of its recipe."""
    stated = stated_for(subject) if not (request.data or request.gallery or request.data_keys) else []
    return [{**row._asdict(), "interval": row.interval and list(row.interval), "interval_classes": getattr(row.interval, "classes", None), "overlaps_best": mark,
             "seed": context.seed, "published": published.value(stated, row, subject.encoder.weights)}
            for context, table in zip(subject.contexts, tables) for row, mark in zip(table, compare.overlapping(table))]


def plain_rows(table: list) -> list[dict]:
    """The rows of several encoders together, as they are written."""
    return [{**row._asdict(), "interval": row.interval and list(row.interval), "interval_classes": getattr(row.interval, "classes", None)} for row in table]


def stated_for(subject: Any) -> list[dict]:
    """The published values of the recipe that the subject finished; none before its last step."""
    encoder = subject.encoder
    stated = recipes.read(subject.path, encoder.config)
    if stated and encoder.step != durations.steps(encoder.config["total"], "total", examples=encoder.config["data"]["examples"], batch_size=encoder.config["batch_size"]):
        return []
    return stated


def new_file(folder: Any, created: str) -> str:
    """A name in `evaluations/` of the folder that is not taken: the time of creation, with a number if need be."""
    stem, number = created.replace(":", "").replace("-", "").partition("+")[0], 1
    while (file := folder / "evaluations" / f"{stem}{'' if number == 1 else f'-{number}'}.json").exists():
        number += 1
    return str(file)


def save(found: dict) -> None:
    """Writes what was found to its file, atomically; the file itself is not named in it. Raises: UserError when that cannot be done."""
    text = json.dumps({key: value for key, value in found.items() if key != "file"}, indent=1, default=plain)
    try:
        workdir.write(workdir.path(found["file"]), text)
    except OSError as error:
        raise UserError(f"cannot write {found['file']} ({error.strerror or error}); give another folder with --out") from error


def named(source: Any) -> str:
    """The name of a source and how many images it has; "" for None."""
    return "" if source is None else f"{source.name}, {len(source):,} images"


def plain(value):
    """numpy's numbers and arrays, and whatever else a setting holds, as JSON has them."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
