"""`python -m jaxssl.evaluate --workdir DIR | --weights FILE [--protocols knn,linear,…|all] [--data …]`: what a trained encoder can do, as a table.

Features are computed once and cached with a digest of weights, transform and images (`cache`); every protocol is a file of `protocols`. Settings are
selected on a held-out part of the training images. Results go to `evaluations/*.json` in the workdir, after every protocol; one that fails is recorded
there and the others go on. Of several processes each embeds its share of the images; then process 0 goes on alone. With `--choose MEASURE` no protocol is run: the
checkpoints of a run are measured without labels, and one is chosen (`evaluation.checkpoints`).
"""
import argparse
import contextlib
import dataclasses
import functools
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
from jaxssl.command import guarded, jax_can_start, place, process, whole
from jaxssl.evaluation.request import CHOOSE, HOME, Request, check

_IMAGES = 25_600        # that --select_by measures, RankMe's number


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.evaluate", allow_abbrev=False, description="Evaluate trained encoders. Exit code 2: wrong input, or a protocol failed.",
                                epilog="Any key of the config's data section can be set: --data.path=test.zip --data.canvas=64. Several --workdir or --weights give a "
                                       "comparison: mean ± std over runs at the same step that differ in their seed alone, and paired tests.")
    p.add_argument("--workdir", type=place, action="append", nargs="+", default=[], metavar="DIR", help="a run, or several")
    p.add_argument("--weights", type=place, action="append", nargs="+", default=[], metavar="FILE", help="an export or a file of weights, or several")
    p.add_argument("--use", default="", metavar="student|teacher", help="which weights of a workdir (default: the teacher where there is one)")
    p.add_argument("--step", type=whole, default=None, help="of the checkpoint of a --workdir (default: the newest)")
    p.add_argument("--protocols", default=None, help="names with commas; 'all' are those of images, 'dense' those of places, which need masks (default: knn,linear)")
    p.add_argument("--set", action="append", default=[], metavar="PROTOCOL.OPTION=VALUE", help="an option of a protocol")
    p.add_argument("--layer", default="", help="for protocols that look at one layer: backbone, projector.1, … (default: backbone)")
    p.add_argument("--select", default="validation", help="settings are selected on 'validation', a held-out part of train, or on 'test', which is printed and recorded "
                                                          "(default: %(default)s)")
    p.add_argument("--select_by", default="", metavar="rankme|alphareq", help="evaluate only the best of several runs by this measure, which needs no labels")
    p.add_argument("--choose", default="", metavar="MEASURE", help=f"measure the checkpoints of one run instead, and say which to keep: {', '.join(CHOOSE)}; no label chooses")
    p.add_argument("--checkpoints", default="", metavar="all|STEPS", help="which, for --choose: all that are there, or steps with commas (default: all)")
    p.add_argument("--reference", type=place, default="", metavar="WEIGHTS", help="for mutual_knn: the frozen encoder whose neighbours are compared")
    p.add_argument("--budget", default="short", help="of protocols that train long: 'short', or 'published', the papers' epochs (default: %(default)s)")
    p.add_argument("--seeds", default="0", metavar="0,1,…", help="seeds of the protocols; several give mean ± std (default: %(default)s)")
    p.add_argument("--data", type=place, default="", metavar="SOURCE", help="other data than the run's own: a folder, a zip, a prepared TFDS or packed set, or 'digits'")
    p.add_argument("--gallery", type=place, default="", metavar="SOURCE", help="for retrieval: search these images, each for its class, instead of the run's own test images")
    p.add_argument("--query", type=place, default="", metavar="SOURCE", help="search the gallery for the class of these images (default: of its own, one another)")
    p.add_argument("--ensemble", action="store_true", help="also retrieval by all encoders together: the mean of their scores, and their features beside one another")
    p.add_argument("--precision", default="f32", help="of the arithmetic: f32 or bf16 (default: %(default)s)")
    p.add_argument("--cache", type=place, default="", metavar="DIR", help=f"of the features (default: the workdir, or {HOME})")
    p.add_argument("--out", type=place, default="", metavar="DIR", help="where evaluations/*.json go (default: the workdir, or the folder of the weights)")
    p.add_argument("--json", action="store_true", help="print what is written instead of the table")
    p.add_argument("--compilation_cache", type=place, default=os.path.join(HOME, "xla"), metavar="DIR", help="persistent; 'off' turns it off (default: %(default)s)")
    p.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0, when several processes share the work; Slurm and TPU pods say it themselves")
    p.add_argument("--processes", type=whole, default=0, help="how many processes there are in all (1: this one alone, whatever Slurm says)")
    p.add_argument("--process_id", type=whole, default=-1, help="which of them this is, from 0")
    p.add_argument("--join_timeout", type=whole, default=1800, metavar="SECONDS", help="how long to wait for the other processes (default: %(default)s)")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


class Measured(NamedTuple):
    """What has been measured of one encoder so far. tables: rows, a list for each seed. failed: {"protocol", "seed", "why"} of each protocol that failed.
    unfinished: protocols that are still to run, for one seed at least. seconds: spent."""
    tables: list[list]
    failed: list[dict]
    unfinished: list[str]
    seconds: float


class Untrustworthy(RuntimeError):
    """A protocol did what would make every number of the table worthless."""


def run(request: Request, *, as_json: bool = False, debug: bool = False) -> list[dict]:
    """Evaluates what is asked for, writes a file for each encoder after every protocol, prints, and returns what was written.

    Raises: UserError: nothing was computed; or, at the end and with everything else written and printed, a protocol failed.
    """
    import jax
    from jaxssl.evaluation import ensemble, subjects as opened
    from jaxssl.evaluation.tables import document
    from jaxssl.evaluation.tables import compare, show
    from jaxssl.parallel import agreement
    leader, chosen = jax.process_index() == 0, None
    subjects = agreement.reach(functools.partial(opened.load, request, log=_log if leader else lambda sentence: None), opened.facts)
    if jax.process_count() > 1:
        opened.embed_together(subjects)
        if not leader:
            return []                       # what follows is process 0's alone; the others wait for its end
    if request.select_by:
        subjects, chosen = select_by(request, subjects, quiet=as_json)
    documents, members, failed = [], [], []
    for subject in subjects:
        found = document.begin(request, subject, chosen)
        try:
            for measured in measure(subject, request, debug=debug):
                found.update(rows=document.rows(subject, request, measured.tables), failed=measured.failed, unfinished=measured.unfinished, seconds=round(measured.seconds, 1))
                if found["rows"]:
                    found.setdefault("file", document.new_file(subject.folder, found["created"]))
                    document.save(found)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; what was measured is in {found['file']}" if "file" in found else "interrupted before anything was measured") from None
        failed += measured.failed
        if found["rows"]:
            documents.append(found)
            members.append((subject.encoder, compare.Member(subject.path, subject.encoder.config.get("seed"), measured.tables, found["data"]["digest"])))
    together = compare.summary(compare.grouped(members)) if documents and (len(subjects) > 1 or len(request.seeds) > 1) else []
    if alone := compare.alone([member for _, member in members]):
        _log(f"not compared, since not every encoder has it: {', '.join(alone)}")
    joined = document.plain_rows(ensemble.rows(subjects, request.of("retrieval"))) if request.ensemble and documents else []
    for found in documents:
        found["comparison"] = together
        if joined:
            found["ensemble"] = joined
        document.save(found)
    if as_json and documents:
        print(json.dumps(documents if len(documents) > 1 else documents[0], indent=1, default=document.plain))
    elif documents:
        for found in documents:
            show.document(found)
        if together:
            show.comparison(together)
        if joined:
            show.ensemble(joined)
        print("\n".join(f"written: {found['file']}" for found in documents))
    if failed:
        raise UserError("; ".join(dict.fromkeys(f"{each['protocol']}: {each['why']}" for each in failed)))
    return documents


def select_by(request: Request, subjects: list, *, quiet: bool) -> tuple[list, dict]:
    """The subject that the label-free measure prefers, and the record of it. No label is read.

    Raises: UserError when their training images are not the same, or too few to measure.
    """
    from jaxssl.evaluation.tables import document
    from jaxssl.evaluation.tables import show
    from jaxssl.evaluation.protocols import labelfree
    images = [subject.contexts[0].digest.partition("-")[0] for subject in subjects]        # the first half is of the training images
    first, other = subjects[0], next((subject for subject, own in zip(subjects, images) if own != images[0]), None)
    if other:
        raise UserError(f"--select_by {request.select_by} compares what was measured on the same images, and the training images of {first.path} "
                        f"({document.named(first.data.train)}) and {other.path} ({document.named(other.data.train)}) differ; give --data, so that all are measured on the same")
    values = {}
    for subject in subjects:
        x = subject.contexts[0].features("train", request.layer or "backbone").x
        try:
            values[subject.path] = labelfree.measure(request.select_by, labelfree.sample(x, _IMAGES))
        except ValueError as error:
            raise UserError(f"{request.select_by} of {subject.path} on {len(x)} images: {error}; give more images with --data") from error
    if not any(map(math.isfinite, values.values())):
        raise UserError(f"--select_by {request.select_by}: none of them has more than two directions that hold variance, so all have collapsed; train again, or give more images "
                        "with --data")
    best = max(subjects, key=lambda subject: labelfree.better(request.select_by, values[subject.path]))
    if not quiet:
        show.selection(request.select_by, values, best.path)
    return [best], {"by": request.select_by, "layer": request.layer or "backbone", "values": {path: value if math.isfinite(value) else None for path, value in values.items()},
                    "chosen": best.path}


def choose(request: Request, *, as_json: bool = False, debug: bool = False) -> dict:
    """Measures the checkpoints of a run, prints the table with the chosen one marked, and returns what `evaluation.checkpoints` wrote, whose page is written beside it.

    Raises: UserError.
    """
    import jax
    from jaxssl.evaluation import checkpoints
    from jaxssl.evaluation.tables import show
    from jaxssl.report import kept
    if jax.process_count() > 1:
        raise UserError(f"--choose measures one checkpoint after another in one process, and {jax.process_count()} were started; start one, with --processes 1")
    found = checkpoints.choose(request, log=_log)
    page = kept.write(found)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show.checkpoints(found)
        print(f"written: {found['file']} and {page}\nto export it: {found['export']}")
    return found


def measure(subject: Any, request: Request, *, debug: bool = False) -> Iterator[Measured]:
    """Runs every protocol with every seed; yields what there is after each. A protocol that fails is recorded and the others go on.

    Raises: Untrustworthy when a protocol changed the encoder, or chose on test images without being asked to.
    """
    start, tables, failed, before = time.monotonic(), [[] for _ in subject.contexts], [], subject.encoder.digest
    todo = [(name, context, table) for context, table in zip(subject.contexts, tables) for name in request.protocols]
    for number, (name, context, table) in enumerate(todo, 1):
        _log(f"{subject.path}: {name}" + (f", seed {context.seed}" if len(subject.contexts) > 1 else ""))
        try:
            table += _trusted(context, name, request.of(name), before)
        except Untrustworthy:
            raise
        except Exception as error:      # whatever it is, the other protocols are not to blame
            if debug or not isinstance(error, UserError | NonFiniteError | ValueError):
                traceback.print_exc()
            failed.append({"protocol": name, "seed": context.seed, "why": _why(error, request.of(name))})
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


def asked(flags: argparse.Namespace, rest: Sequence[str], argv: Sequence[str]) -> Request:
    """The flags as a request, checked. Raises: UserError."""
    from jaxssl.evaluation import protocols
    words = ("" if flags.choose else "knn,linear") if flags.protocols is None else flags.protocols
    names = tuple(dict.fromkeys(name for word in filter(None, words.split(",")) for name in (protocols.names(word) if word in protocols.GROUPS else (word,))))
    try:
        seeds = tuple(int(seed) for seed in flags.seeds.split(","))
    except ValueError:
        raise UserError(f"--seeds is {flags.seeds!r}; write whole numbers with commas: 0,1,2") from None
    request = Request(workdirs=tuple(sum(flags.workdir, [])), weights=tuple(sum(flags.weights, [])), use=flags.use, step=flags.step, protocols=names,
                      layer=flags.layer, select=flags.select, select_by=flags.select_by, choose=flags.choose, reference=flags.reference,
                      checkpoints=flags.checkpoints or ("all" if flags.choose else ""), budget=flags.budget, seeds=seeds, data=flags.data,
                      gallery=flags.gallery, query=flags.query, ensemble=flags.ensemble, precision=flags.precision,
                      cache=flags.cache, out=flags.out, command=shlex.join(["python", "-m", "jaxssl.evaluate", *argv]))
    check(request)
    return dataclasses.replace(request, options=options(flags.set, names), data_keys=data_keys(rest))


def options(texts: Sequence[str], names: Sequence[str]) -> dict[str, dict]:
    """`protocol.option=value` as {protocol: {option: value}}. Raises: UserError."""
    from jaxssl.evaluation import protocols
    known, found = {name: protocols.options(name) for name in names}, {}
    for text in texts:
        path, equals, value = text.partition("=")
        name, _, option = path.partition(".")
        if not equals or name not in known:
            raise UserError(f"--set {text!r}: write protocol.option=value, with one of the protocols that are run ({', '.join(names)}){nearest(name, names)}")
        if option not in known[name]:
            raise UserError(f"--set {path}: {name} has no such option (it has {', '.join(known[name]) or 'none'}){nearest(option, known[name])}")
        found.setdefault(name, {})[option] = typed.read(value, known[name][option], f"--set {path}", protocols.annotations(name)[option])
    return found


def data_keys(rest: Sequence[str]) -> dict[str, str]:
    """`--data.key=value` arguments as {key: value}. Raises: UserError for anything else."""
    found = {}
    for argument in rest:
        key, equals, value = argument.removeprefix("--data.").partition("=")
        if not argument.startswith("--data.") or not equals:
            raise UserError(f"unknown argument {argument!r}; keys of the data are written --data.key=value, and --help lists the flags")
        found[key] = value
    return found


def _log(sentence):
    print(sentence, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    flags, rest = parser().parse_known_args(argv)

    def body():
        with contextlib.ExitStack() as ends:
            with jax_can_start():
                request = asked(flags, rest, argv)
                from jaxssl.parallel import processes, runtime
                runtime.configure(flags.compilation_cache, processes=flags.processes)
                ends.enter_context(processes.joined(coordinator=flags.coordinator, processes=flags.processes, process_id=flags.process_id,
                                                    run=f"the evaluation of {' '.join(request.paths)}", timeout=flags.join_timeout, quiet=True))
                runtime.devices()
            (choose if request.choose else run)(request, as_json=flags.json, debug=flags.debug)

    return guarded(body, flags.debug)


if __name__ == "__main__":
    process(main)
