"""A trial: one run of one setting, fold and seed, in an ordinary workdir, and what it measured on the images that it was validated on."""
import contextlib
import io
import json
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxssl.errors import NonFiniteError, UserError
from jaxssl.workdir import folder as folders

FAILED = "failed.json"       # in the workdir of a trial that was not finite
QUIET = {"report": "false", "eval.raw": "false"}       # of every trial, unless the config says otherwise by a flag

KEPT: dict = {}              # what a trial leaves to the next in this process (`training.kept`)


class Stopped(Exception):
    """A trial was asked to stop: it has saved, and the study ends here until the same command goes on."""


class Trial(NamedTuple):
    """folder: its workdir. spec, overrides: the config as `jaxssl.main` takes it. varied: keys of the study. fold, seed: None where the study varies none."""
    folder: Any
    spec: str
    overrides: Mapping[str, str]
    varied: tuple[str, ...]
    fold: int | None
    seed: int | None

    @property
    def done(self) -> bool:
        return (self.folder / "run.json").exists() or (self.folder / FAILED).exists()

    def run(self) -> dict:
        """Trains it, or goes on with it; what it prints goes to log.txt of its workdir. Raises: Stopped; UserError."""
        from jaxssl.training import kept, train
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                found = train.run(self.spec, dict(self.overrides), str(self.folder), varied=self.varied, kept=KEPT.setdefault("programs", kept.Kept()))
        except NonFiniteError as error:
            found = {"failed": str(error)}
            folders.write(self.folder / FAILED, json.dumps({"why": str(error), "time": time.strftime("%Y-%m-%d %H:%M:%S %z")}, indent=1))
        finally:
            if (self.folder / "config.json").exists():
                with contextlib.suppress(OSError), open(self.folder / "log.txt", "a", encoding="utf-8") as file:
                    file.write(said.getvalue())
        if "stopped" in found:
            raise Stopped(f"{self.folder}: saved step {found['stopped']}; the same command goes on with the study")
        return found


class Measured(NamedTuple):
    """What a finished trial measured on its validation images. value: the objective's `score`, 0 (`WORST`) for one that was not finite. step: at which it was measured, the
    last or the best, None where it failed. seconds: of its run. why: it failed."""
    value: float
    step: int | None
    seconds: float
    why: str = ""


def measured(trial: Trial, objective: str, *, best: bool) -> Measured:
    """best: the best of its evaluations that has a checkpoint, else the last. Raises: UserError for a trial without the objective, or one that looked at test images."""
    config = folders.read_config(str(trial.folder))
    if config["data"].get("test_split") == "test":
        raise UserError(f"{trial.folder} was measured on test images (data.test_split=test), and nothing is selected by these; move it away, and the same command trains it again")
    if (failed := folders.read_json(trial.folder / FAILED)) is not None:
        return Measured(WORST.get(objective, 0.), None, 0., str(failed.get("why", "it was not finite")))
    result = folders.read_object(trial.folder / "run.json")
    rows = [(result["steps"], result.get(objective, math.nan))]
    if objective not in result:
        known = sorted(key for key, value in result.items() if key in OBJECTIVES)
        raise UserError(f"{trial.folder} has no {objective} in its run.json (there is {', '.join(known) or 'no measure'}); choose another --objective")
    if best:
        kept = {int(place.name) for place in (trial.folder / "checkpoints").iterdir() if place.name.isdigit()}
        rows += [(row["step"], row[objective]) for row in logged(trial.folder) if objective in row and row["step"] in kept]
    rows = [(step, value) for step, value in rows if value is not None and math.isfinite(value)]
    if not rows:
        return Measured(WORST.get(objective, 0.), None, float(result.get("wall_seconds") or 0), f"{objective} is not finite")
    step, value = max(rows, key=lambda row: (score(objective, row[1]), -row[0])) if best else rows[0]
    return Measured(score(objective, float(value)), int(step), float(result.get("wall_seconds") or 0))


# What run.json has of held-out images that can be maximised.
OBJECTIVES = ("knn", "knn_k20", "linear", "map_at_r", "precision_at_1", "rankme", "alphareq")
WORST = {"alphareq": -10.}       # what a trial counts that was not finite; 0 of the others


def score(objective: str, value: float) -> float:
    """What is maximised: a measure itself, and of α-ReQ how near to 1 it is, −|α − 1|."""
    return -abs(value - 1) if objective == "alphareq" else value


def logged(folder: Any) -> list[dict]:
    """The rows of metrics.jsonl."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found
