"""A workdir as the report sees it: what its JSON files say. Nothing is computed, and a file that is missing or torn is a note, not an end."""
import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from jaxssl import models
from jaxssl.workdir import folder as folders
from jaxssl.errors import UserError
from jaxssl.evaluation.tables.reading import is_number
from jaxssl.report.markup import isolated

NUMBERS = ("steps", "wall_seconds", "train_seconds", "parameters", "flops_per_step")      # of run.json, beside its scores
POINTS = 800     # of a curve on the page; a longer one is thinned to the extremes of as many stretches


@dataclasses.dataclass(frozen=True)
class Run:
    """name: unique on the page. path: as it was given. result: run.json, {} while the run is unfinished. untrained: its first scores.
    evaluations: evaluations/*.json, oldest first. kept: what `evaluate --choose` wrote of its checkpoints, {} without.
    curves: metric -> (steps int64 [N], values float64 [N], not a number where it was none).
    texts: what the program wrote at start. notes: what could not be read. stopped: the step whose numbers were not finite, where it ended the run."""
    name: str
    path: str
    config: dict
    environment: dict
    result: dict
    untrained: dict
    evaluations: tuple[dict, ...]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    texts: dict[str, str]
    notes: tuple[str, ...]
    stopped: int | None = None
    kept: dict = dataclasses.field(default_factory=dict)

    @property
    def step(self) -> int:
        """The last one that was logged."""
        return max((int(steps[-1]) for steps, _ in self.curves.values()), default=self.result.get("steps", 0))

    @functools.cached_property
    def width(self) -> int | None:
        """D of the features; None when the config's architecture is unknown here."""
        try:
            return models.make(**self.config["model"]).features
        except (UserError, TypeError, KeyError):
            return None

    @property
    def epochs_per_step(self) -> float | None:
        steps, epochs = self.curves.get("epoch", ((), ()))
        return float(epochs[-1] / steps[-1]) if len(steps) and steps[-1] else None

    def last(self, metric: str) -> float | None:
        """The last value of `metric`: from run.json, where null (not finite) is None, else the curve's last finite one."""
        if metric in self.result:
            return float(self.result[metric]) if is_number(self.result[metric]) else None
        values = self.curves.get(metric, ((), np.zeros(0)))[1]
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else None

    def before(self, metric: str) -> float | None:
        """A score of the untrained encoder; with the ending `_raw` of the pixels, with `_start` of the weights it began with where those were given."""
        value = self.untrained.get(metric, self.result.get(metric))
        return float(value) if is_number(value) else None


def runs(workdirs: Sequence[str]) -> list[Run]:
    """The runs in `workdirs`, named so that no two have the same name. Raises: UserError when a folder is not a workdir."""
    if not workdirs:
        raise UserError("no workdir was given; name at least one folder that a run was started with (--workdir)")
    return [run(path, isolated(name)) for path, name in zip(workdirs, names(workdirs))]


def names(workdirs: Sequence[str]) -> list[str]:
    """The last parts of each path, as many as tell them apart."""
    parts = [PurePosixPath(path if "://" in path else str(folders.path(path).resolve())).parts for path in workdirs]
    for depth in range(1, max(map(len, parts)) + 1):
        short = ["/".join(p[-depth:]) for p in parts]
        if len(set(short)) == len(short):
            return short
    return [f"{p[-1]} ({i})" for i, p in enumerate(parts, 1)]    # the same folder twice


def run(path: str, name: str) -> Run:
    """One workdir. Raises: UserError when it is not one."""
    folder, notes, config = folders.path(path), [], folders.read_config(path)

    def read(file):
        try:
            return folders.read_json(file)
        except UserError as error:
            notes.append(f"{file.name} {str(error).removeprefix(str(file)).strip().partition(';')[0]} and was left out.")
            return None

    def kept(file, found, sound):
        """The entries of `found` for which `sound(key, value)`; of the others a note."""
        if odd := [key for key, value in found.items() if not sound(key, value)]:
            notes.append(f"{', '.join(odd)} in {file} {'is' if len(odd) == 1 else 'are'} not as this version writes it, and {'was' if len(odd) == 1 else 'were'} left out.")
        return {key: value for key, value in found.items() if key not in odd}

    if missing := [key for key in ("seed", "batch_size", "total", "eval") if config.get(key) is None]:
        raise UserError(f"{path}/config.json has no {', '.join(missing)}, so it is not one of this version; give a workdir that it wrote")
    evaluations = folder / "evaluations"
    files = sorted((f for f in evaluations.iterdir() if f.name.endswith(".json")), key=lambda f: f.name) if evaluations.exists() else []
    found = {f.name: kept(f.name, value, _sound_evaluation) for f in files if (value := read(f))}
    rows = sorted((value for value in found.values() if isinstance(value.get("rows"), list)), key=lambda value: str(value.get("created", "")))
    result = kept("run.json", read(folder / "run.json") or {}, lambda key, value: is_number(value) if key in NUMBERS else key != folders.EARLY or _sound_end(value))
    if early := result.get(folders.EARLY):
        notes.append(f"The run ended early, at step {result.get('steps')}: no better {early['watched']} in {early['patience']} evaluations; the best was "
                     + (f"{early['best']:.4g} at step {early['step']}, whose weights --step {early['step']} evaluates and exports." if early["best"] is not None else "no number."))
    environment = kept("environment.json", read(folder / "environment.json") or {}, lambda key, value: isinstance(value, {"argv": list, "packages": dict}.get(key, object)))
    dumps = sorted(int(match[1]) for f in folder.iterdir() if (match := re.fullmatch(r"nonfinite_step_(\d+)\.json", f.name)))
    notes += [f"Loss, gradient or state was not finite at step {step}; nonfinite_step_{step}.json lists the batch." for step in dumps]
    this = Run(name, str(path), config, environment, result, found.get("untrained.json", {}), tuple(rows),
                   curves(folder / "metrics.jsonl"), _texts(folder), tuple(notes), kept=found.get("checkpoints.json", {}))
    allowed = int(str(config.get("on_nonfinite", "")).partition(":")[2] or 0)          # rollbacks
    ended = not result and len(dumps) > allowed and dumps[-1] >= this.step          # a run that went past the step did not end there
    return dataclasses.replace(this, stopped=dumps[-1]) if ended else this


def _sound_end(found: Any) -> bool:
    """Whether what run.json says of an early end is as `training.patience` has it."""
    return isinstance(found, dict) and isinstance(found.get("watched"), str) and is_number(found.get("patience")) and all(
        found.get(key, "") is None or is_number(found.get(key)) for key in ("best", "step"))


def _sound_evaluation(key: str, value: Any) -> bool:
    """Whether the page can show what stands under a key of an evaluation's document."""
    return key != "comparison" or value is None or isinstance(value, list) and all(map(_sound_comparison, value))


def _sound_comparison(entry: Any) -> bool:
    """Whether an entry is as `eval.compare.summary` gives it."""
    def each(key, sound):
        return isinstance(entry.get(key), list) and all(isinstance(found, dict) and sound(found) for found in entry[key])

    def tested(found):
        ends = found.get("interval")
        return (all(is_number(found.get(key)) for key in ("p", "n", "difference")) and {"name", "over"} <= found.keys()
                and isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends)))
    return (isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("protocol", "variant", "layer", "metric"))
            and each("groups", lambda g: "name" in g and is_number(g.get("mean")) and is_number(g.get("n"))) and each("tests", tested)
            and each("untested", lambda u: {"name", "against", "why"} <= u.keys()))


def _texts(folder: Any) -> dict[str, str]:
    files = {name: folder / "text" / f"{name}.txt" for name in ("start", "parameters", "init_from")}
    return {name: file.read_text() for name, file in files.items() if file.exists()}


def curves(file: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """metrics.jsonl as metric -> (steps, values). Texts (digests) and torn lines are left out; "nan" and "inf" are what they say."""
    found: dict[str, tuple[list, list]] = {}
    for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
            step = int(record.pop("step"))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        for name, value in record.items():
            if is_number(value) or value in ("nan", "inf", "-inf"):
                steps, values = found.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
    found.pop("time", None)
    return {name: (np.array(steps, np.int64), np.array(values)) for name, (steps, values) in found.items()}


def thin(steps: np.ndarray, values: np.ndarray, most: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most `most` points: of each of most/2 - 1 equal stretches the lowest and the highest, and both ends; values not finite are left out."""
    kept = np.isfinite(values)
    steps, values = steps[kept], values[kept]
    if len(steps) <= most:
        return steps, values
    edges = np.linspace(0, len(steps), most // 2).round().astype(int)
    chosen = {0, len(steps) - 1}
    for start, stop in zip(edges[:-1], edges[1:]):
        chosen |= {start + int(values[start:stop].argmin()), start + int(values[start:stop].argmax())}
    at = np.array(sorted(chosen))
    return steps[at], values[at]


def flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    found = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def differences(found: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """(key, its value in each run, "" where it has none) of every config key that is not the same in all runs."""
    configs = [flat(r.config) for r in found]
    keys = sorted(set().union(*configs))
    rows = [(key, [c.get(key, "") for c in configs]) for key in keys]
    return [(key, values) for key, values in rows if any(json.dumps(v) != json.dumps(values[0]) for v in values)]
