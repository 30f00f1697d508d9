"""Which checkpoint of a run to keep: label-free measures of each, and beside them how well each measure would have chosen, where there are labels.

RankMe (arXiv 2210.02885), α-ReQ (2202.05808), LiDAR (2312.04000), the training loss (of LeJEPA, 2511.08544, section 6) and the mutual neighbours of a frozen reference
encoder (2405.07987, section 2) order models in their papers; that they order the checkpoints of one run is an assumption, which the rank correlation with kNN tests.
What was measured of a checkpoint is kept by its step: the same command goes on where it was stopped, and measures what is new.
"""
import dataclasses
import datetime
import hashlib
import json
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxssl import data as datas, encoder as encoders
from jaxssl.data.sources import Subset
from jaxssl.encoder import load as loading
from jaxssl.errors import NonFiniteError, UserError, listed
from jaxssl.evaluation import protocols, subjects
from jaxssl.evaluation.features import search
from jaxssl.evaluation.measures import knn, rank, spectrum
from jaxssl.evaluation.protocols import labelfree
from jaxssl.evaluation.request import Request
from jaxssl.workdir import checkpoint, folder as folders, writers

FILE, FORMAT = "evaluations/checkpoints.json", "jaxssl.checkpoints.1"
TRAIN, TEST = 25_600, 10_000        # images at most, evenly spread: RankMe's number, and that of most test sets
MUTUAL, NEAR = 10_000, 10           # images and neighbours of mutual_knn
VOTE = (20, .07)                    # k and T of kNN, which stands beside the measures and chooses nothing


def choose(request: Request, *, log: Callable[[str], None]) -> dict:
    """Measures the checkpoints that `request.checkpoints` names of one run, writes `FILE` after each, and returns what was written: see `document`.

    Raises: UserError: no such checkpoint; none that can be measured; none for which the measure that chooses is a number.
    """
    workdir, started = request.workdirs[0], time.monotonic()
    found, failed, context, rows, kept = _steps(workdir, request.checkpoints), {}, None, [], {}
    losses = smoothed(writers.history(folders.path(workdir) / "metrics.jsonl", "loss"), list(found))
    for step, identity in found.items():
        try:
            if context is None:
                context, subject = _opened(dataclasses.replace(request, step=step, protocols=("labelfree",)), log)
                kept, votes = _kept(subject.folder / FILE), _votes(context.data)
                reference = _Reference(request, context) if request.reference else None
            of = {"checkpoint": identity, "use": request.use, "layer": request.layer or "backbone", "precision": request.precision, "budget": request.budget,
                  "seed": request.seeds[0], "data": context.digest, "knn": not votes}
            row = kept.get(step) if identity and kept.get(step, {}).get("of") == of else None
            if row is None or reference and row["reference"] != reference.digest:
                log(f"{workdir}: step {step}")
                if context.encoder.step != step:
                    context = context.of(_encoder(request, step))
                row = {"step": step, "of": of, **_measured(context, of["layer"], reference, votes, row or {"values": {}, "missing": {}, "reference": ""})}
        except (UserError, NonFiniteError) as error:
            failed[step] = str(error)
            log(f"checkpoint {step} is left out: {error}")
            continue
        if not rows:
            size = (min(len(subject.data.train), TRAIN) + (0 if votes else min(len(subject.data.test), TEST))) * context.encoder.width * 4
            log(f"features of a checkpoint take {size / 1e6:,.1f} MB in {context.folder}/features, {size * len(found) / 1e6:,.1f} MB of all {len(found)}; they may be deleted "
                "afterwards")
        rows.append({**row, "values": {**row["values"], "loss": losses[step]}})
        made = document(request, subject, rows, failed, votes, started) | {"others": [own for at, own in kept.items() if at not in found]}
        _save(subject.folder / FILE, made)
    if not rows:
        raise UserError(f"none of the checkpoints of {workdir} can be measured: {'; '.join(failed.values())}")
    if made["chosen"] is None:
        why = next(filter(None, (row["missing"].get(request.choose) for row in rows)), "metrics.jsonl has no finite loss up to their steps")
        raise UserError(f"--choose {request.choose} is a number at none of the {len(rows)} checkpoints ({why}); choose by another measure; the table is in "
                        f"{subject.folder / FILE}")
    return {**made, "file": str(subject.folder / FILE)}


def document(request: Request, subject: Any, rows: Sequence[Mapping], failed: Mapping[int, str], votes: str, started: float) -> dict:
    """What is written: `rows` of {"step", "values": {measure: number or None}, "missing": {measure: why}}, the `chosen` step by `by`, what each measure alone would choose
    (`picks`, each with the kNN there), the rank correlation of each with kNN, `failed` {"step", "why"}, and the command that exports the chosen one."""
    names = [name for name in (*labelfree_names(request), "knn") if name != "knn" or not votes]
    column = {name: {row["step"]: row["values"].get(name) for row in rows} for name in names}
    votes_at = column.get("knn", {})
    picks = {name: {"step": at, "knn": votes_at.get(at)} for name in names if (at := best(name, column[name])) is not None}
    by_measure = {name: agreement(name, column[name], votes_at) for name in names if name != "knn"} if votes_at else {}
    chosen = picks.get(request.choose, {}).get("step")
    return {"format": FORMAT, "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "command": request.command,
            "subject": {"path": subject.path, "weights": subject.encoder.weights}, "layer": request.layer or "backbone", "by": request.choose, "chosen": chosen,
            "measures": names, "checkpoints": sorted(rows, key=lambda row: row["step"]), "picks": picks, "rank_correlation": by_measure,
            "data": {"train": _counted(subject.data.train, TRAIN), "test": _counted(subject.data.test, TEST), "digest": rows[0]["of"]["data"]},
            "failed": [{"step": step, "why": why} for step, why in failed.items()], "notes": [f"no kNN beside the measures: {votes}"] if votes else [],
            "seconds": round(time.monotonic() - started, 1), "export": exporting(request, subject.path, chosen)}


def labelfree_names(request: Request) -> tuple[str, ...]:
    """The measures that a request takes: mutual_knn only with a reference."""
    return ("loss", "rankme", "alpha_req", "lidar", *(("mutual_knn",) if request.reference else ()))


def exporting(request: Request, path: str, step: int | None) -> str:
    """The command that exports a step of a run; "" for None."""
    use = ["--use", request.use] if request.use else []
    words = ["python", "-m", "jaxssl.export", "--workdir", path, "--step", str(step), *use, "--format", "safetensors", "--out", f"encoder_{step}"]
    return "" if step is None else shlex.join(words)


def score(name: str, value: float | None) -> float:
    """Higher is better: RankMe, LiDAR, mutual_knn and kNN themselves, the loss with its sign turned, and how near α is to 1; minus infinity for None."""
    if value is None or not math.isfinite(value):
        return -math.inf
    return -abs(value - 1) if name == "alpha_req" else -value if name == "loss" else value


def best(name: str, values: Mapping[int, float | None]) -> int | None:
    """The step with the highest score, the last among equals; None where there is no number."""
    step = max(values, key=lambda step: (score(name, values[step]), step), default=None)
    return None if step is None or score(name, values[step]) == -math.inf else step


def agreement(name: str, values: Mapping[int, float | None], votes: Mapping[int, float | None]) -> dict:
    """{"rho": Spearman's rank correlation of a measure's score with kNN over the steps that have both, "n": how many}; rho None below three steps or without any order."""
    pairs = [(score(name, values[step]), votes[step]) for step in values if score(name, values[step]) > -math.inf and votes.get(step) is not None]
    return {"rho": spearman(*map(np.array, zip(*pairs))) if len(pairs) > 2 else None, "n": len(pairs)}


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's rank correlation of two arrays [N], equal values at their mean rank; None where all values of one are equal."""
    from scipy import stats
    return float(stats.spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else None


def smoothed(history: Sequence[tuple[int, Any]], steps: Sequence[int]) -> dict[int, float | None]:
    """The loss at each of `steps`: the mean of what was logged in the steps up to it, over as many as usually lie between two checkpoints (the median), or the last logged.

    history: (step, value) as logged; what is no finite number is left out. None where nothing was logged up to there.
    """
    logged = [(step, float(value)) for step, value in history if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)]
    width = float(np.median(np.diff([0, *sorted(steps)]))) if steps else 0
    found = {}
    for step in steps:
        before = [pair for pair in logged if pair[0] <= step]
        inside = [value for at, value in before if at > step - width]
        found[step] = float(np.mean(inside)) if inside else before[-1][1] if before else None
    return found


def mutual_knn(x: np.ndarray, y: np.ndarray, *, k: int = NEAR, mesh: Any = None) -> float:
    """Mean share of the k nearest others (cosine) of an image that two encoders agree on (arXiv 2405.07987, section 2); x [N, D], y [N, E] of the same N > k images.

    1 for the same neighbours, about k / (N - 1) for unrelated ones. ValueError for k outside [1, N - 1].
    """
    if not 1 <= k < len(x) or len(x) != len(y):
        raise ValueError(f"mutual_knn with k {k} needs more than {k} images that both encoders saw, got {len(x)} and {len(y)}")
    ids = np.arange(len(x))
    near = [search.neighbours(each, each, k=k, query_ids=ids, reference_ids=ids, mesh=mesh)[1] for each in (x, y)]
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*near)]))


class _Reference:
    """The encoder that mutual_knn compares with, and its features of the run's training images by its own test-time view."""

    def __init__(self, request: Request, context: protocols.Context):
        own = loading.load(request.reference, precision=request.precision)
        encoders.check_finite(own.name, own.variables)
        config = folders.read_config(request.workdirs[0])
        data = few(subjects.open_data(config, request.data, dict(request.data_keys), resize=own.preprocessing["resize"]))
        self.digest, self._context, self._found = own.digest, dataclasses.replace(context, encoder=own, data=data, _kept={}, _stores={}), None

    def with_(self, context: protocols.Context, layer: str) -> float:
        """`mutual_knn` of another encoder. Raises: ValueError."""
        if self._found is None:
            self._found = self._context.features("train")
        mine, other = context.features("train", layer), self._found
        shared, at, there = np.intersect1d(mine.ids, other.ids, return_indices=True)     # an image may be broken for one size alone
        some = datas.evenly(len(shared), MUTUAL)
        return mutual_knn(np.asarray(mine.x[at[some]]), np.asarray(other.x[there[some]]), mesh=context.mesh)


def few(data: datas.Data) -> datas.Data:
    """At most `TRAIN` training and `TEST` test images, evenly spread; the set itself where it has no more."""
    def part(source, most):
        return source if source is None or len(source) <= most else Subset(source, datas.evenly(len(source), most))
    return dataclasses.replace(data, train=part(data.train, TRAIN), test=part(data.test, TEST))


def _steps(workdir: str, asked: str) -> dict[int, str]:
    """step → what its arrays are, as a digest ("" where a checkpoint does not say), ascending. Raises: UserError."""
    folders.read_config(workdir)
    manager = checkpoint.open_reader(workdir)
    try:
        there = sorted(manager.steps()) if manager else []
        if not there:
            raise UserError(f"workdir {workdir} has no committed checkpoint yet; let its run reach checkpoint_every, or the end")
        wanted = there if asked == "all" else [int(part) for part in asked.split(",")]
        if gone := [step for step in wanted if step not in there]:
            raise UserError(f"{workdir} has no checkpoint of step {listed(map(str, gone), 5)}; it has {listed(map(str, there), 20)}. With checkpoint.keep_every=N "
                            "a run keeps those whose step is a multiple of N")
        return {step: _identity(manager, step) for step in wanted}
    finally:
        if manager:
            manager.close()


def _identity(manager, step):
    try:
        arrays = manager.record(step).arrays
    except UserError:                                       # told where it is opened
        return ""
    return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest() if arrays else ""


def _opened(request, log):
    """A context on few images, and its subject on all. Raises: UserError."""
    subject = subjects.load(request, log=log)[0]
    context = dataclasses.replace(subject.contexts[0], data=few(subject.data), _kept={}, _stores={})
    return context, subject


def _encoder(request, step):
    own = loading.from_workdir(request.workdirs[0], weights=request.use, step=step, precision=request.precision)
    encoders.check_finite(own.name, own.variables)
    return own


def _votes(data):
    """Why there is no kNN; "" where there is."""
    try:
        protocols.check_labels({"knn": {}}, data)
    except UserError as error:
        return str(error).partition(";")[0]
    return ""


def _measured(context, layer, reference, votes, known) -> dict:
    """{"values", "missing", "reference", "seconds"} of one encoder; what is `known` already is not measured again. Raises: UserError when nothing can be measured."""
    start, values, missing = time.monotonic(), dict(known["values"]), dict(known["missing"])
    for name, value in _each(context, layer, reference, votes):
        if (name in values or name in missing) and name != "mutual_knn":
            continue
        missing.pop(name, None)
        try:
            values[name] = float(value())
        except ValueError as error:
            values[name], missing[name] = None, str(error)
            continue
        if not math.isfinite(values[name]):
            values[name], missing[name] = None, "fewer than three directions hold any variance"
    return {"values": values, "missing": missing, "reference": reference.digest if reference else known["reference"], "seconds": round(time.monotonic() - start, 1)}


def _each(context, layer, reference, votes) -> Iterator[tuple[str, Callable[[], float]]]:
    """Each measure and what computes it."""
    def x():
        return context.features("train", layer).x

    def vote():
        train, test = context.labelled("train", layer), context.labelled("test", layer)
        return knn.evaluate(test.x, test.labels, train.x, train.labels, settings=[VOTE], mesh=context.mesh)[0].accuracy
    yield "rankme", lambda: rank.rankme(x())
    yield "alpha_req", lambda: spectrum.alpha_req(x())
    yield "lidar", lambda: spectrum.lidar(labelfree.augmented(context, layer, *labelfree.VIEWS[context.budget]))
    if reference:
        yield "mutual_knn", lambda: reference.with_(context, layer)
    if not votes:
        yield "knn", vote


def _kept(file) -> dict[int, dict]:
    """step → what was measured before; {} where there is nothing that this version wrote."""
    try:
        found = folders.read_json(file) or {}
        rows = [*found["others"], *found["checkpoints"]] if found.get("format") == FORMAT else []
        return {row["step"]: row for row in rows if isinstance(row["of"], dict) and isinstance(row["values"], dict) and isinstance(row["missing"], dict)
                and isinstance(row["reference"], str)}
    except (UserError, KeyError, TypeError, AttributeError):
        return {}


def _save(file, made) -> None:
    try:
        folders.write(file, json.dumps(made, indent=1))
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror or error}); give another folder with --out") from error


def _counted(source, most) -> str:
    return "" if source is None else f"{source.name}, {len(source):,} images" + (f", {most:,} of them" if len(source) > most else "")
