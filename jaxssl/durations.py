"""Durations of a config in optimizer steps: `"200_epochs"`, `"5000_steps"`, `"1e6_examples"`, `"5_percent"`, or a bare number of steps."""
import math
import re

from jaxssl.errors import UserError

UNITS = ("steps", "epochs", "examples", "percent")
MOST_STEPS = 2 ** 31 - 1  # the train state counts in int32


def parse(value: int | float | str, key: str) -> tuple[float, str]:
    """(amount, unit) of a duration; a bare number counts steps. Raises UserError."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*((?:\d+\.?\d*|\.\d+)(?:e\+?\d+)?)(?:_(\w+))?\s*", value)
        unit = (match.group(2) or "steps") if match else ""
        unit = unit if unit.endswith("s") or unit == "percent" else unit + "s"
        amount = float(match.group(1)) if match else math.inf
        if unit == "steps" and MOST_STEPS < amount < math.inf:
            raise UserError(f"{key} is {value[:60]!r}; a run counts at most {MOST_STEPS:,} steps")
        if match and unit in UNITS and amount < math.inf:
            return amount, unit
        raise UserError(f"{key} is {value[:60]!r}, not a duration; write '200_epochs', '5000_steps', '1e6_examples', '5_percent' or a number of steps")
    if not 0 <= value <= MOST_STEPS:
        raise UserError(f"{key} is {value}; a number of steps lies between 0 and {MOST_STEPS:,}")
    return float(value), "steps"


def steps(value: int | float | str, key: str, *, examples: int, batch_size: int, total: int | None = None) -> int:
    """A duration in optimizer steps (rounded to the nearest, at least 1 unless the amount is 0)."""
    amount, unit = parse(value, key)
    if unit == "percent" and total is None:
        raise UserError(f"{key} is {value!r}, a share of itself; give it in epochs, steps or examples")
    exact = {"steps": amount, "epochs": amount * examples / batch_size, "examples": amount / batch_size,
             "percent": amount / 100 * (total or 0)}[unit]
    if exact > MOST_STEPS:
        raise UserError(f"{key} is {value!r}, which is {exact:.3g} steps; a run counts at most {MOST_STEPS:,}")
    return max(1, math.floor(exact + 0.5)) if amount else 0


def spoken(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min, 2 d 4 h; n/a when unknown."""
    if not 0 <= seconds < float("inf"):
        return "n/a"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
