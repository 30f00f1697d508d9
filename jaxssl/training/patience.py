"""The early end of a run: so many evaluations in a row without a better score on held-out images. Which score, and what came of it, is told by the run's own metrics.jsonl, so
that a run that was stopped and goes on decides as it would have."""
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from jaxssl.errors import UserError
from jaxssl.workdir.folder import EARLY


class Told(NamedTuple):
    """best, at: the best score and its step, the first of equals; None before there is one. since: evaluations after it."""
    best: float | None
    at: int | None
    since: int


def name(disjoint: bool, watch: str = "") -> str:
    """The score that is watched: `watch`, or by default precision@1 where held-out images are of other classes, kNN else."""
    return watch or ("precision_at_1" if disjoint else "knn")


def check(patience: int, watch: str, *, disjoint: bool, labelled: bool, every: Mapping[str, int], total: int, keep_last: int | None) -> None:
    """every: steps between evaluations and saves. Raises: UserError for what never ends a run, watches nothing that is measured, or would lose the best checkpoint."""
    if not patience:
        return
    there = ("precision_at_1", "map_at_r", "rankme") if disjoint else ("knn", "knn_k20", "rankme")
    there = there if labelled else ("rankme",)
    if (watched := name(disjoint, watch)) not in there:
        raise UserError(f"eval.patience is {patience} and eval.watch {watched}, which is not measured while this run trains; set eval.watch to one of {', '.join(there)}")
    evaluations = (total - 1) // every["eval_every"] if every["eval_every"] else 0
    if evaluations <= patience:
        raise UserError(f"eval.patience is {patience}, but the run has {evaluations} evaluations before its end, so it would never end early; lower eval_every, or leave "
                        "eval.patience out")
    if not every["checkpoint_every"] or every["eval_every"] % every["checkpoint_every"]:
        raise UserError(f"eval.patience is {patience}, but of evaluations every {every['eval_every']} steps and checkpoints every {every['checkpoint_every']} the best would have "
                        "none; set checkpoint_every to eval_every")
    needed = 1 + patience * (every["eval_every"] // every["checkpoint_every"])
    if keep_last is not None and keep_last < needed:
        raise UserError(f"eval.patience is {patience}, so the best checkpoint is {needed} back when the run ends; set checkpoint.keep_last to {needed} or more "
                        f"(it is {keep_last})")


def told(rows: Iterable[tuple[int, float | None]]) -> Told:
    """rows: (step, score) of evaluations in order; one that is not finite is no better."""
    found = Told(None, None, 0)
    for step, value in rows:
        if not step:                # what a continued run began with, of which it keeps no checkpoint
            continue
        good = value is not None and math.isfinite(value) and (found.best is None or value > found.best)
        found = Told(value, step, 0) if good else found._replace(since=found.since + 1)
    return found


def early(history: Callable[[str], list], disjoint: bool, *, patience: int, watch: str, **_: Any) -> dict:
    """What run.json says of a run that ends here, {} of one that goes on, and on processes other than 0. history: `writers.Writers.history`."""
    watched = name(disjoint, watch)
    found = told(dict(history(watched)).items()) if patience else Told(None, None, 0)
    return {EARLY: {"watched": watched, "patience": patience, "best": found.best, "step": found.at}} if 0 < patience <= found.since else {}


def sentence(run: Mapping[str, Any]) -> str:
    """Of a run.json of a run that ended early: what was watched, and the step whose weights are to be evaluated and exported."""
    found = run[EARLY]
    best = f"{found['best']:.4g} at step {found['step']}" if found.get("best") is not None else "none that is a number"
    return f"no better {found['watched']} in {found['patience']} evaluations, the best was {best}" + (f" (--step {found['step']})" if found.get("step") is not None else "")
