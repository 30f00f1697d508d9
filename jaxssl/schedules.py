"""Schedules: pure functions step -> scalar (f32), the same under jit, with Python or with numpy integers.

`step` counts finished updates, so the first update sees step 0 and the last one step total - 1; the value at step `total` is the end.
"""
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxssl.errors import UserError, nearest

Schedule = Callable[[Any], Any]
# which optional keywords of make() a schedule reads; changing one of the others is an error, not a silent nothing
_READS = {"constant": (), "cosine": ("end",), "step": ("steps", "gamma"), "polynomial": ("end", "power")}
_RULES = ("linear", "sqrt", "sqrt1024", "none")


def make(name: str, *, base: float, total: int, warmup: int = 0, end: float = 0.0, steps: Sequence[int] = (), gamma: float = 0.1,
         power: float = 1.0) -> Schedule:
    """Linear warm-up to `base` over `warmup` steps, then `name` until `total`; constant afterwards.

    With u = clip((step - warmup) / (total - warmup), 0, 1):
    warm-up      base * step / warmup for step < warmup: 0 at step 0, exactly base at step warmup
    constant     base
    cosine       end + (base - end) * (1 + cos(pi u)) / 2: base at warmup, exactly end at total
    polynomial   end + (base - end) * (1 - u) ** power: the same end points
    step         base * gamma ** (how many of `steps` are <= step); `steps` count from the start of the run, warm-up included
    Warm-up and cosine are SimCLR's (google-research/simclr tf2/model.py, WarmUpAndCosineDecay). UserError for an unknown name, for
    a warm-up longer than the run and for an option that the schedule does not read.
    """
    if name not in _READS:
        raise UserError(f"unknown schedule '{name}'{nearest(name, _READS)}; there are {', '.join(_READS)}")
    given = {"end": end, "steps": tuple(steps), "gamma": gamma, "power": power}
    for option, value in given.items():
        if option not in _READS[name] and value != inspect.signature(make).parameters[option].default:
            raise UserError(f"the {name} schedule does not read {option}={value}; leave it out, or choose the schedule "
                            + " or ".join(other for other, reads in _READS.items() if option in reads))
    if total < 1 or not 0 <= warmup <= total:
        raise UserError(f"a schedule needs total >= 1 and 0 <= warmup <= total, got total={total} and warmup={warmup} steps; "
                        "shorten the warm-up or lengthen the run")
    if name == "step" and not all(0 < at < total for at in steps):
        raise UserError(f"the step schedule's steps {tuple(steps)} must lie within the run of {total} steps")

    def schedule(step):
        step = jnp.asarray(step)
        u = jnp.clip((step - warmup) / max(total - warmup, 1), 0.0, 1.0)
        if name == "cosine":
            after = end + (base - end) * 0.5 * (1 + jnp.cos(jnp.pi * u))
        elif name == "polynomial":
            after = end + (base - end) * (1 - u) ** power
        elif name == "step":
            after = base * gamma ** sum(((step >= at).astype(jnp.float32) for at in steps), jnp.float32(0))
        else:
            after = base
        return jnp.where(step < warmup, base * (step / max(warmup, 1)), after).astype(jnp.float32)

    return schedule


def cosine(start: float, end: float, total: int) -> Schedule:
    """From exactly `start` at step 0 to exactly `end` at `total` along half a cosine, either direction: DINO's weight decay .04 -> .4."""
    return make("cosine", base=start, end=end, total=total)


def linear(start: float, end: float, steps: int) -> Schedule:
    """From exactly `start` at step 0 to exactly `end` at `steps` in a straight line, constant afterwards: DINO's teacher temperature .04 -> .07."""
    return make("polynomial", base=start, end=end, total=steps) if steps else make("constant", base=end, total=1)


def tau(tau0: float, total: int) -> Schedule:
    """EMA rate of a teacher: 1 - (1 - tau0) (cos(pi k / K) + 1) / 2, from tau0 at step 0 to exactly 1 at `total` (BYOL, appendix)."""
    if not 0 <= tau0 <= 1:
        raise UserError(f"an EMA rate lies in [0, 1], got tau={tau0}")
    return cosine(tau0, 1.0, total)


def scaled_lr(base: float, batch_size: int, rule: str) -> float:
    """The peak learning rate for a global batch of `batch_size` images: linear base*B/256, sqrt base*sqrt(B), sqrt1024 base*sqrt(B/1024)
    (DINOv2's), none base.

    SimCLR's square-root rule has no /256 (google-research/simclr tf2/model.py); with base .075 it equals linear .3 at B = 4096.
    """
    if rule not in _RULES:
        raise UserError(f"unknown learning rate scaling '{rule}'{nearest(rule, _RULES)}; there are {', '.join(_RULES)}")
    if rule == "linear":
        return base * batch_size / 256
    return base * {"sqrt": math.sqrt(batch_size), "sqrt1024": math.sqrt(batch_size / 1024), "none": 1}[rule]


def lr_sentence(base: float, batch_size: int, rule: str) -> str:
    """The scaling rule with its numbers: `lr = 0.3 · 4096/256 = 4.8 (linear)`."""
    lr = scaled_lr(base, batch_size, rule)
    if rule == "none":
        return f"lr = {lr:g} (not scaled by the batch of {batch_size})"
    factor = {"linear": f"{batch_size}/256", "sqrt": f"√{batch_size}", "sqrt1024": f"√({batch_size}/1024)"}[rule]
    return f"lr = {base:g} · {factor} = {lr:g} ({rule})"
