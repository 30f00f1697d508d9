"""Continued training: what stands still of a network that began with other weights, and whether the run left it better than it was.

Heads of released encoders are not released. New ones, drawn at random, pull an encoder apart before they have learned what it says (facebookresearch/dinov2 issue 204: kNN
from 80 to 10 %), so they learn alone at first (`head_warmup`), on an encoder that stands still; then its rate rises as theirs did.
"""
from collections.abc import Mapping
from typing import Any

from jaxssl.errors import UserError
from jaxssl.workdir import folder as folders

HELD = r"^encoder/(?!mask$)"                # all that features depend on: files of other libraries lack the mask token, which learns with the heads
BASE = HELD + r"(?!.*_lora/)"               # and of an encoder with low-rank additions what lies beneath them
MEASURES = {"knn": "kNN", "map_at_r": "MAP@R"}       # the run's own scores that are compared, the first that was measured


def rules(config: Any, head_warmup: int, warmup: int, total: int) -> tuple:
    """Rules ahead of those of `config.optim`. head_warmup, warmup, total: steps. Raises: UserError where the heads would learn alone to the end."""
    if head_warmup >= max(total, 1):
        raise UserError(f"head_warmup is {head_warmup} steps of {total} in all, so that the encoder would never learn; it must be shorter than the run "
                        f"(total={config.total!r}, head_warmup={config.head_warmup!r})")
    held = ((HELD, {"frozen_until": head_warmup, "thaw": warmup}),) if head_warmup else ()
    return (*held, *(((BASE, {"still": True}),) if config.model.get("lora") else ()))


def check(config: Any) -> None:
    """Raises: UserError for an encoder that is held, but begins from the seed."""
    if config.init_from:
        return
    held = {"head_warmup": config.head_warmup if str(config.head_warmup).partition("_")[0] not in ("0", "0.0") else 0, "model.lora": config.model.get("lora", 0)}
    for key, value in held.items():
        if value:
            raise UserError(f"{key} is {value}, which holds the encoder where it began, but init_from is empty, so that it would begin at random; "
                            f"give --config.init_from=PATH, or --config.{key}=0")


def began(scores: Mapping[str, Any]) -> dict[str, float]:
    """Of a run's first scores those of the weights it began with, under the names that its evaluations have; {} without such weights."""
    return {name.removesuffix("_start"): value for name, value in scores.items() if name.endswith("_start") and value is not None}


def first(scores: Mapping[str, float]) -> str:
    """The lines of a run's first scores: of the weights it began with, where there were some, and of the untrained encoder."""
    start = ", ".join(f"{name} {value:.3f}" for name, value in sorted(began(scores).items(), key=lambda score: score[0] not in MEASURES))
    untrained = ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if not name.endswith("_start"))
    return (f"step 0, the weights it begins with: {start}\n" if start else "") + f"untrained encoder: {untrained}"


def compared(scores: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """(measure, what the run began with, what it ended with) of the scores in its run.json; None where there was none to compare."""
    for name in MEASURES:
        start, end = scores.get(f"{name}_start"), scores.get(name)
        if start is not None and end is not None:
            return name, float(start), float(end)
    return None


def below(scores: Mapping[str, Any]) -> dict:
    """What run.json says of a run that ended below its start; {} of another."""
    name, start, end = compared(scores) or ("", 0.0, 0.0)
    return {folders.BELOW: {"measure": name, "start": start, "end": end}} if end < start else {}


def sentence(result: Mapping[str, Any]) -> str:
    """The last line of a run that began with other weights (its run.json): better, the same, or worse than these; "" of one that began from its seed."""
    if found := compared(result):
        name, start, end = found
        told = f"{MEASURES[name]} {100 * start:.1f} % when it began, {100 * end:.1f} % at its end"
        if end < start:
            return f"warning: this run ended BELOW its start by {100 * (start - end):.1f} points: {told}; the weights it began with are better, or one of its earlier checkpoints"
        return f"this run ended {f'{100 * (end - start):.1f} points above' if end > start else 'level with'} its start: {told}"
    if result.get("rankme_start") is not None:
        return (f"whether this run ended below its start is not known: there are no labels to tell it; RankMe {result['rankme_start']:.1f} when it began, "
                f"{result.get('rankme') or float('nan'):.1f} at its end")
    return ""
