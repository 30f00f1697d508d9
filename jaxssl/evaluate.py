"""`python -m jaxssl.evaluate --workdir DIR | --weights FILE [--protocols knn,linear,…|all] [--data …]`: what a trained encoder can do, as a table.

Features are computed once and cached with a digest of weights, transform and images (`cache`); every protocol is a file of `protocols`. Settings are
selected on a held-out part of the training images. Results go to `evaluations/*.json` in the workdir.
"""
import argparse
import ast
import dataclasses
import datetime
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from jaxssl.errors import UserError, nearest
from jaxssl.main import guarded

SELECT_BY = ("rankme", "alphareq")
_IMAGES = 25_600        # that --select_by measures, RankMe's number
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scikit-learn", "scipy", "pillow")
_HOME = os.path.join("~", ".cache", "jaxssl")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.evaluate", allow_abbrev=False, description="Evaluate trained encoders. Exit code 2: wrong input.",
                                epilog="Any key of the config's data section can be set: --data.path=test.zip --data.canvas=64. Several --workdir or --weights give a "
                                       "comparison: mean ± std over runs that differ in their seed alone, and paired tests.")
    p.add_argument("--workdir", action="append", nargs="+", default=[], metavar="DIR", help="a run, or several")
    p.add_argument("--weights", action="append", nargs="+", default=[], metavar="FILE", help="an export or a file of weights, or several")
    p.add_argument("--use", default="", metavar="student|teacher", help="which weights of a workdir (default: the teacher where there is one)")
    p.add_argument("--step", type=int, default=None, help="of the checkpoint (default: the newest)")
    p.add_argument("--protocols", default="knn,linear", help="names with commas, or 'all' (default: %(default)s)")
    p.add_argument("--set", action="append", default=[], metavar="PROTOCOL.OPTION=VALUE", help="an option of a protocol")
    p.add_argument("--layer", default="", help="for protocols that look at one layer: backbone, projector.1, … (default: backbone)")
    p.add_argument("--select", default="validation", help="settings are selected on 'validation', a held-out part of train, or on 'test', which is printed and recorded "
                                                          "(default: %(default)s)")
    p.add_argument("--select_by", default="", metavar="rankme|alphareq", help="evaluate only the best of several runs by this measure, which needs no labels")
    p.add_argument("--budget", default="short", help="of protocols that train long: 'short', or 'published', the papers' epochs (default: %(default)s)")
    p.add_argument("--seeds", default="0", metavar="0,1,…", help="seeds of the protocols; several give mean ± std (default: %(default)s)")
    p.add_argument("--data", default="", metavar="SOURCE", help="other data than the run's own: a folder, a zip, a prepared TFDS or packed set, or 'digits'")
    p.add_argument("--precision", default="f32", help="of the arithmetic: f32 or bf16 (default: %(default)s)")
    p.add_argument("--cache", default="", metavar="DIR", help=f"of the features (default: the workdir, or {_HOME})")
    p.add_argument("--out", default="", metavar="DIR", help="where evaluations/*.json go (default: the workdir, or the folder of the weights)")
    p.add_argument("--json", action="store_true", help="print what is written instead of the table")
    p.add_argument("--compilation_cache", default=os.path.join(_HOME, "xla"), metavar="DIR", help="persistent; 'off' turns it off (default: %(default)s)")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


class Plan(NamedTuple):
    """What is to be run, checked before anything is loaded. options: protocol -> its keywords that were set."""
    protocols: list[str]
    options: dict[str, dict]
    seeds: list[int]
    data: str
    data_keys: dict[str, str]
    command: str


class Subject(NamedTuple):
    """One encoder with its data. path: as given. folder: where its results go."""
    path: str
    encoder: Any
    data: Any
    folder: Any
    contexts: list          # one for every seed


def run(flags: argparse.Namespace, plan: Plan) -> list[dict]:
    """Evaluates what the flags name, writes a file for each encoder, prints, and returns what was written. Raises: UserError."""
    from jaxssl.eval import compare, show
    subjects, chosen = load(flags, plan), None
    if flags.select_by:
        subjects, chosen = select_by(flags, subjects)
    documents, groups = [], {}
    for subject in subjects:
        tables, seconds = measure(subject, plan)
        documents.append(document(flags, plan, subject, tables, seconds, chosen))
        seed = subject.encoder.config.get("seed")
        groups.setdefault(_recipe(subject.encoder), []).append(compare.Member(subject.path, seed, tables))
    groups = {(members[0].name if len(members) == 1 else f"{members[0].name} and {len(members) - 1} other seeds"): members for members in groups.values()}
    together = compare.summary(groups) if len(subjects) > 1 or len(plan.seeds) > 1 else []
    for subject, found in zip(subjects, documents):
        found["comparison"] = together
        found["file"] = save(subject.folder, found)
    if flags.json:
        print(json.dumps(documents if len(documents) > 1 else documents[0], indent=1, default=_plain))
        return documents
    for found in documents:
        show.document(found)
    if together:
        show.comparison(together)
    print("\n".join(f"written: {found['file']}" for found in documents))
    return documents


def load(flags: argparse.Namespace, plan: Plan) -> list[Subject]:
    """The encoders with their data, all opened before the first is evaluated."""
    import jax

    from jaxssl import cache, encoder, protocols, sharding, workdir
    mesh, subjects = sharding.make_mesh(devices=jax.devices()), []
    given = [(path, True) for paths in flags.workdir for path in paths] + [(path, False) for paths in flags.weights for path in paths]
    for path, is_run in given:
        if is_run:
            own = encoder.from_workdir(path, weights=flags.use, step=flags.step, precision=flags.precision)
        else:
            own = encoder.load(path, weights=flags.use, precision=flags.precision)
        if flags.layer:
            own.check_layer(flags.layer)
        data = open_data(own.config, plan.data, plan.data_keys)
        if set(plan.protocols) - {"labelfree"}:
            if not data.classes:
                needy = ", ".join(name for name in plan.protocols if name != "labelfree")
                raise UserError(f"{data.train.name} has no labels, which {needy} need; use --protocols labelfree, or another --data")
            cache.find(data, "test")
        root = workdir.path(path)
        folder = workdir.path(flags.out) if flags.out else root if root.is_dir() else root.parent
        features = flags.cache or (str(root) if is_run and isinstance(root, Path) and os.access(root, os.W_OK) else os.path.expanduser(_HOME))
        context = protocols.Context(own, data, mesh, features, select=flags.select, budget=flags.budget, log=_log)
        # Copies share features and decoded images.
        subjects.append(Subject(path, own, data, folder, [dataclasses.replace(context, seed=seed) for seed in plan.seeds]))
    return subjects


def select_by(flags: argparse.Namespace, subjects: list[Subject]) -> tuple[list[Subject], dict]:
    """The subject that the label-free measure prefers, and the record of it. No label is read."""
    from jaxssl.eval import show
    from jaxssl.protocols import labelfree
    values = {}
    for subject in subjects:
        x = subject.contexts[0].features("train", flags.layer or "backbone").x
        values[subject.path] = labelfree.measure(flags.select_by, labelfree.sample(x, _IMAGES))
    best = max(subjects, key=lambda subject: labelfree.better(flags.select_by, values[subject.path]))
    if not flags.json:
        show.selection(flags.select_by, values, best.path)
    return [best], {"by": flags.select_by, "layer": flags.layer or "backbone", "values": values, "chosen": best.path}


def measure(subject: Subject, plan: Plan) -> tuple[list[list], float]:
    """Rows of every protocol, a list for each seed, and the seconds they took.

    Raises: UserError; RuntimeError when a protocol changed the encoder, or chose on test images without being asked to.
    """
    from jaxssl import protocols, tree
    start, tables, before = time.monotonic(), [], subject.encoder.digest
    for context in subject.contexts:
        rows = []
        for name in plan.protocols:
            _log(f"{subject.path}: {name}" + (f", seed {context.seed}" if len(subject.contexts) > 1 else ""))
            try:
                own = protocols.find(name).run(context, **plan.options[name])
            except (ValueError, TypeError) as error:
                if not plan.options[name]:
                    raise
                raise UserError(f"{name} with {plan.options[name]}: {error}") from error
            if tree.digest(subject.encoder.variables) != before:
                raise RuntimeError(f"protocol {name} changed the weights of the encoder it was to measure")
            if context.select != "test" and any(row.selected == "test" for row in own):
                raise RuntimeError(f"protocol {name} chose on the test images without --select=test")
            rows += own
        tables.append(rows)
    return tables, time.monotonic() - start


def document(flags: argparse.Namespace, plan: Plan, subject: Subject, tables: list[list], seconds: float, chosen: dict | None) -> dict:
    """What is written for one encoder."""
    from jaxssl import cache
    from jaxssl.eval import compare, published
    encoder, data = subject.encoder, subject.data
    own_data = not plan.data and not plan.data_keys
    rows = []
    for context, table in zip(subject.contexts, tables):
        for row, mark in zip(table, compare.overlapping(table)):
            rows.append({**row._asdict(), "interval": row.interval and list(row.interval), "interval_classes": getattr(row.interval, "classes", None),
                         "overlaps_best": mark, "seed": context.seed, "published": published.value(encoder.config, row) if own_data else None})
    return {"version": 1, "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "subject": {"name": encoder.name, "weights": encoder.weights, "step": encoder.step, "digest": encoder.digest, "path": subject.path},
            "data": {"name": data.train.name, "train": _named(data.train), "test": _named(data.test), "classes": len(data.classes),
                     "digest": "-".join(cache.identity(source) for source in (data.train, data.test) if source is not None)},
            "transform": {**encoder.preprocessing, "canvas": data.canvas}, "command": plan.command, "select": flags.select, "select_by": chosen,
            "budget": flags.budget, "precision": flags.precision, "seeds": plan.seeds, "seconds": round(seconds, 1), "rows": rows,
            "packages": {name: _version(name) for name in _PACKAGES}}


def save(folder: Any, found: dict) -> str:
    """Writes `evaluations/<time>.json` under the folder and returns its path. Raises: UserError when that cannot be written."""
    from jaxssl import workdir
    text = json.dumps(json.loads(json.dumps(found, default=_plain)), indent=1)
    place = folder / "evaluations"
    try:
        place.mkdir(parents=True, exist_ok=True)
        stem, number = found["created"].replace(":", "").replace("-", "").partition("+")[0], 1
        while (file := place / f"{stem}{'' if number == 1 else f'-{number}'}.json").exists():
            number += 1
        workdir.write(file, text)
    except OSError as error:
        raise UserError(f"cannot write to {place} ({error.strerror or error}); give another folder with --out") from error
    return str(file)


def open_data(config: dict, source: str, keys: dict[str, str]) -> Any:
    """The data to evaluate on: those of the config, with `keys` changed; or those at `source` with the keys' or training's defaults. Raises: UserError."""
    from jaxssl import data as datas
    from jaxssl.data import open as opening
    defaults = datas.make.__kwdefaults__
    unknown = [key for key in keys if key not in defaults]
    if unknown:
        raise UserError(f"--data.{unknown[0]}: there is no such key (there are {', '.join(defaults)}){nearest(unknown[0], defaults)}")
    changed = {key: typed(text, defaults[key], f"--data.{key}") for key, text in keys.items()}
    own = dict(config.get("data", {}))
    if not (source or own or changed):
        raise UserError("these weights do not say which images they were trained on; name some with --data")
    if source:
        kind = changed.get("source") or opening.detect(source)
        changed = {"source": kind, "path": "" if kind == "digits" else source, **changed}
    if changed.get("source", own.get("source")) != own.get("source") or source:
        own = {"canvas": own.get("canvas", defaults["canvas"])}      # what else the run says is of its own images
    if changed.keys() & {"source", "path", "split"}:
        own.update(examples=0, classes=0)           # declared for other images
    return datas.make(**{**own, **changed})


def typed(text: str, default: Any, name: str) -> Any:
    """`text` in the type of `default`; a tuple is written with commas. Raises: UserError."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), tuple(text.split(",")) if isinstance(default, tuple) else text)
    if isinstance(default, str):
        return text
    if isinstance(default, tuple):
        value = tuple(value) if isinstance(value, tuple | list) else (value,)
        return tuple(typed(v if isinstance(v, str) else repr(v), default[0], name) for v in value) if default else value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    good = {bool: isinstance(value, bool), int: number and float(value).is_integer(), float: number}.get(type(default), True)
    if not good:
        raise UserError(f"{name} is {text!r}; it takes a {type(default).__name__} such as {default!r}")
    return type(default)(value) if type(default) in (int, float) else value


def plan(flags: argparse.Namespace, rest: Sequence[str], argv: Sequence[str]) -> Plan:
    """The flags checked against what there is. Raises: UserError."""
    from jaxssl import protocols
    if not (flags.workdir or flags.weights):
        raise UserError("nothing to evaluate: give --workdir DIR (a run) or --weights FILE (an export)")
    for name, value, choices in (("select", flags.select, protocols.SELECT), ("budget", flags.budget, protocols.BUDGETS),
                                 ("select_by", flags.select_by, ("", *SELECT_BY)), ("precision", flags.precision, ("f32", "bf16"))):
        if value not in choices:
            raise UserError(f"--{name} is {value!r}; choose one of {', '.join(filter(None, choices))}{nearest(value, choices)}")
    names = protocols.names() if flags.protocols == "all" else list(dict.fromkeys(filter(None, flags.protocols.split(","))))
    known = {name: protocols.options(name) for name in names}
    options = {name: {"layer": flags.layer} if flags.layer and "layer" in known[name] else {} for name in names}
    for text in flags.set:
        path, equals, value = text.partition("=")
        name, _, option = path.partition(".")
        if not equals or name not in known:
            raise UserError(f"--set {text!r}: write protocol.option=value, with one of the protocols that are run ({', '.join(names)}){nearest(name, names)}")
        if option not in known[name]:
            raise UserError(f"--set {path}: {name} has no such option (it has {', '.join(known[name]) or 'none'}){nearest(option, known[name])}")
        options[name][option] = typed(value, known[name][option], f"--set {path}")
    try:
        seeds = [int(seed) for seed in flags.seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds is {flags.seeds!r}; write whole numbers with commas: 0,1,2") from None
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds is {flags.seeds!r}; write different numbers from 0")
    data_keys = {}
    for argument in rest:
        key, equals, value = argument.removeprefix("--data.").partition("=")
        if not argument.startswith("--data.") or not equals:
            raise UserError(f"unknown argument {argument!r}; keys of the data are written --data.key=value, and --help lists the flags")
        data_keys[key] = value
    return Plan(names, options, seeds, flags.data, data_keys, shlex.join(["python", "-m", "jaxssl.evaluate", *argv]))


def _recipe(encoder):
    """What two runs of one recipe share: the config without its seed."""
    if "seed" not in encoder.config:
        return encoder.digest
    return json.dumps({k: v for k, v in encoder.config.items() if k != "seed"}, sort_keys=True, default=str)


def _named(source):
    return "" if source is None else f"{source.name}, {len(source):,} images"


def _plain(value):
    """numpy's numbers and arrays, and whatever else a setting holds, as JSON has them."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _log(sentence):
    print(sentence, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    flags, rest = parser().parse_known_args(argv)

    def body():
        checked = plan(flags, rest, argv)
        from jaxssl import train
        train.configure(flags.compilation_cache)
        run(flags, checked)

    return guarded(body, flags.debug)


if __name__ == "__main__":
    sys.exit(main())
