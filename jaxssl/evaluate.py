"""`python -m jaxssl.evaluate --workdir DIR | --weights FILE [--protocols knn,linear,…|all] [--data …]`: what a trained encoder can do, as a table.

Features are computed once and cached with a digest of weights, transform and images (`cache`); every protocol is a file of `protocols`. Settings are
selected on a held-out part of the training images. Results go to `evaluations/*.json` in the workdir, after every protocol; one that fails is recorded
there and the others go on.
"""
import argparse
import json
import math
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxssl import typed
from jaxssl.errors import NonFiniteError, UserError, nearest
from jaxssl.command import guarded

SELECT_BY = ("rankme", "alphareq")
_IMAGES = 25_600        # that --select_by measures, RankMe's number
_INTERRUPTED = 130      # as shells have it
_HOME = os.path.join("~", ".cache", "jaxssl")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.evaluate", allow_abbrev=False, description="Evaluate trained encoders. Exit code 2: wrong input, or a protocol failed.",
                                epilog="Any key of the config's data section can be set: --data.path=test.zip --data.canvas=64. Several --workdir or --weights give a "
                                       "comparison: mean ± std over runs at the same step that differ in their seed alone, and paired tests.")
    p.add_argument("--workdir", action="append", nargs="+", default=[], metavar="DIR", help="a run, or several")
    p.add_argument("--weights", action="append", nargs="+", default=[], metavar="FILE", help="an export or a file of weights, or several")
    p.add_argument("--use", default="", metavar="student|teacher", help="which weights of a workdir (default: the teacher where there is one)")
    p.add_argument("--step", type=int, default=None, help="of the checkpoint of a --workdir (default: the newest)")
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


class Measured(NamedTuple):
    """What has been measured of one encoder so far. tables: rows, a list for each seed. failed: {"protocol", "seed", "why"} of each protocol that failed.
    unfinished: protocols that are still to run, for one seed at least. seconds: spent."""
    tables: list[list]
    failed: list[dict]
    unfinished: list[str]
    seconds: float


class Untrustworthy(RuntimeError):
    """A protocol did what would make every number of the table worthless."""


def run(flags: argparse.Namespace, plan: Plan) -> list[dict]:
    """Evaluates what the flags name, writes a file for each encoder after every protocol, prints, and returns what was written.

    Raises: UserError: nothing was computed; or, at the end and with everything else written and printed, a protocol failed.
    """
    from jaxssl.evaluation import subjects as opened
    from jaxssl.evaluation.tables import document
    from jaxssl.evaluation.tables import compare, show
    subjects, chosen = opened.load(flags, plan, home=_HOME, log=_log), None
    if flags.select_by:
        subjects, chosen = select_by(flags, subjects)
    documents, members, failed = [], [], []
    for subject in subjects:
        found = document.begin(flags, plan, subject, chosen)
        try:
            for measured in measure(subject, plan, debug=flags.debug):
                found.update(rows=document.rows(subject, plan, measured.tables), failed=measured.failed, unfinished=measured.unfinished, seconds=round(measured.seconds, 1))
                if found["rows"]:
                    found.setdefault("file", document.new_file(subject.folder, found["created"]))
                    document.save(found)
        except KeyboardInterrupt:
            _log(f"interrupted; what was measured is in {found['file']}" if "file" in found else "interrupted before anything was measured")
            raise
        failed += measured.failed
        if found["rows"]:
            documents.append(found)
            members.append((subject.encoder, compare.Member(subject.path, subject.encoder.config.get("seed"), measured.tables, found["data"]["digest"])))
    together = compare.summary(compare.grouped(members)) if documents and (len(subjects) > 1 or len(plan.seeds) > 1) else []
    if alone := compare.alone([member for _, member in members]):
        _log(f"not compared, since not every encoder has it: {', '.join(alone)}")
    for found in documents:
        found["comparison"] = together
        document.save(found)
    if flags.json and documents:
        print(json.dumps(documents if len(documents) > 1 else documents[0], indent=1, default=document.plain))
    elif documents:
        for found in documents:
            show.document(found)
        if together:
            show.comparison(together)
        print("\n".join(f"written: {found['file']}" for found in documents))
    if failed:
        raise UserError("; ".join(dict.fromkeys(f"{each['protocol']}: {each['why']}" for each in failed)))
    return documents


def select_by(flags: argparse.Namespace, subjects: list) -> tuple[list, dict]:
    """The subject that the label-free measure prefers, and the record of it. No label is read.

    Raises: UserError when their training images are not the same, or too few to measure.
    """
    from jaxssl.evaluation.tables import document
    from jaxssl.evaluation.tables import show
    from jaxssl.evaluation.protocols import labelfree
    images = [subject.contexts[0].digest.partition("-")[0] for subject in subjects]        # the first half is of the training images
    first, other = subjects[0], next((subject for subject, own in zip(subjects, images) if own != images[0]), None)
    if other:
        raise UserError(f"--select_by {flags.select_by} compares what was measured on the same images, and the training images of {first.path} ({document.named(first.data.train)}) and "
                        f"{other.path} ({document.named(other.data.train)}) differ; give --data, so that all are measured on the same")
    values = {}
    for subject in subjects:
        x = subject.contexts[0].features("train", flags.layer or "backbone").x
        try:
            values[subject.path] = labelfree.measure(flags.select_by, labelfree.sample(x, _IMAGES))
        except ValueError as error:
            raise UserError(f"{flags.select_by} of {subject.path} on {len(x)} images: {error}; give more images with --data") from error
    if not any(map(math.isfinite, values.values())):
        raise UserError(f"--select_by {flags.select_by}: none of them has more than two directions that hold variance, so all have collapsed; train again, or give more images with --data")
    best = max(subjects, key=lambda subject: labelfree.better(flags.select_by, values[subject.path]))
    if not flags.json:
        show.selection(flags.select_by, values, best.path)
    return [best], {"by": flags.select_by, "layer": flags.layer or "backbone", "values": {path: value if math.isfinite(value) else None for path, value in values.items()}, "chosen": best.path}


def measure(subject: Any, plan: Plan, *, debug: bool = False) -> Iterator[Measured]:
    """Runs every protocol with every seed; yields what there is after each. A protocol that fails is recorded and the others go on.

    Raises: Untrustworthy when a protocol changed the encoder, or chose on test images without being asked to.
    """
    start, tables, failed, before = time.monotonic(), [[] for _ in subject.contexts], [], subject.encoder.digest
    todo = [(name, context, table) for context, table in zip(subject.contexts, tables) for name in plan.protocols]
    for number, (name, context, table) in enumerate(todo, 1):
        _log(f"{subject.path}: {name}" + (f", seed {context.seed}" if len(subject.contexts) > 1 else ""))
        try:
            table += _trusted(context, name, plan.options[name], before)
        except Untrustworthy:
            raise
        except Exception as error:      # whatever it is, the other protocols are not to blame
            if debug or not isinstance(error, UserError | NonFiniteError | ValueError):
                traceback.print_exc()
            failed.append({"protocol": name, "seed": context.seed, "why": _why(error, plan.options[name])})
            _log(f"{subject.path}: {name} failed: {failed[-1]['why']}")
        yield Measured(tables, failed, list(dict.fromkeys(name for name, *_ in todo[number:])), time.monotonic() - start)


def _trusted(context, name, options, before):
    """The rows of a protocol, checked: the encoder's digest is still `before`, and nothing was chosen on test images unasked."""
    from jaxssl import tree
    from jaxssl.evaluation import protocols
    try:
        found = protocols.find(name).run(context, **options)
    finally:
        if tree.digest(context.encoder.variables) != before:
            raise Untrustworthy(f"protocol {name} changed the weights of the encoder it was to measure")
    if context.select != "test" and any(row.selected == "test" for row in found):
        raise Untrustworthy(f"protocol {name} chose on the test images without --select=test")
    return found


def _why(error, options):
    """An error as one sentence."""
    if isinstance(error, UserError | NonFiniteError):
        return str(error)
    text = (str(error).strip() or "no message").splitlines()[0]
    told = text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
    return f"{told} (with {options})" if options else told


def plan(flags: argparse.Namespace, rest: Sequence[str], argv: Sequence[str]) -> Plan:
    """The flags checked against what there is. Raises: UserError."""
    from jaxssl.evaluation import protocols
    if not (flags.workdir or flags.weights):
        raise UserError("nothing to evaluate: give --workdir DIR (a run) or --weights FILE (an export)")
    for name, value, choices in (("select", flags.select, protocols.SELECT), ("budget", flags.budget, protocols.BUDGETS),
                                 ("select_by", flags.select_by, ("", *SELECT_BY)), ("precision", flags.precision, ("f32", "bf16"))):
        if value not in choices:
            other = f"; --select_by {value} picks among several runs" if name == "select" and value in SELECT_BY else ""
            raise UserError(f"--{name} is {value!r}; choose one of {', '.join(filter(None, choices))}{other or nearest(value, choices)}")
    given = [path for paths in (*flags.workdir, *flags.weights) for path in paths]
    twice = next((path for place, path in enumerate(given) if os.path.abspath(path) in map(os.path.abspath, given[:place])), None)
    if twice:
        raise UserError(f"{twice} is named twice, and a comparison would count it twice; name every run once")
    names = protocols.names() if flags.protocols == "all" else list(dict.fromkeys(filter(None, flags.protocols.split(","))))
    if not names:
        raise UserError(f"--protocols is {flags.protocols!r}; name some of {', '.join(protocols.names())}, or all")
    if flags.step is not None and flags.weights:
        raise UserError(f"--step {flags.step} says which checkpoint of a --workdir is evaluated, and --weights holds one alone; leave it out, or evaluate them one after the other")
    known = {name: protocols.options(name) for name in names}
    if flags.layer and not flags.select_by and not any("layer" in own for own in known.values()):
        readers = [name for name in protocols.names() if "layer" in protocols.options(name)]
        raise UserError(f"--layer {flags.layer} has no use with {', '.join(names)}; it is read by {', '.join(readers)}, and by --select_by")
    options = {name: {"layer": flags.layer} if flags.layer and "layer" in known[name] else {} for name in names}
    for text in flags.set:
        path, equals, value = text.partition("=")
        name, _, option = path.partition(".")
        if not equals or name not in known:
            raise UserError(f"--set {text!r}: write protocol.option=value, with one of the protocols that are run ({', '.join(names)}){nearest(name, names)}")
        if option not in known[name]:
            raise UserError(f"--set {path}: {name} has no such option (it has {', '.join(known[name]) or 'none'}){nearest(option, known[name])}")
        options[name][option] = typed.read(value, known[name][option], f"--set {path}", protocols.annotations(name)[option])
    try:
        seeds = [int(seed) for seed in flags.seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds is {flags.seeds!r}; write whole numbers with commas: 0,1,2") from None
    if min(seeds) < 0 or max(seeds) >= 2**32 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds is {flags.seeds!r}; write different numbers from 0 to 2**32 - 1")
    data_keys = {}
    for argument in rest:
        key, equals, value = argument.removeprefix("--data.").partition("=")
        if not argument.startswith("--data.") or not equals:
            raise UserError(f"unknown argument {argument!r}; keys of the data are written --data.key=value, and --help lists the flags")
        data_keys[key] = value
    return Plan(names, options, seeds, flags.data, data_keys, shlex.join(["python", "-m", "jaxssl.evaluate", *argv]))


def _log(sentence):
    print(sentence, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    flags, rest = parser().parse_known_args(argv)

    def body():
        checked = plan(flags, rest, argv)
        from jaxssl.parallel import runtime
        runtime.configure(flags.compilation_cache)
        run(flags, checked)

    try:
        return guarded(body, flags.debug)
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
