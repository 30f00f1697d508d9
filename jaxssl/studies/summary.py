"""What came of a study, as `study.json` holds it: means with intervals over folds and seeds, paired differences from the best, what cannot be told apart, and the cost."""
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxssl.evaluation.measures import bootstrap
from jaxssl.studies import series as kinds, space, trials as runs
from jaxssl.workdir import folder as folders

LEVEL = .95
BESIDE = ("knn", "linear", "rankme", "alphareq", "map_at_r", "precision_at_1")      # means that stand beside the objective where a run has them


def half_width(values: Sequence[float]) -> float | None:
    """Half of Student's 95 % interval of the mean of values; None for a single one."""
    n = len(values)
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None


def of(series: kinds.Series, *, command: str = "", claim: Mapping[str, Any] | None = None) -> dict:
    """claim: what a preset's paper says, {"text", "source", "above": [[setting, setting], …]}: each first one is above the second."""
    d, rows = series.definition, []
    for setting, found in series.finished():
        values = [own.value for own in found]
        own = series.trials(setting)
        rows.append({"setting": setting.number, "values": dict(setting.values), "mean": float(np.mean(values)), "half_width": half_width(values), "n": len(values),
                     "failed": sum(bool(each.why) for each in found), "seconds": sum(each.seconds for each in found), "beside": _beside(own),
                     "trials": [{"workdir": str(trial.folder.relative_to(series.folder)), "fold": trial.fold, "seed": trial.seed, "value": each.value, "step": each.step,
                                 "seconds": each.seconds, "failed": each.why} for trial, each in zip(own, found)]})
    document = {"version": 1, "kind": "search" if d.search else "grid", "command": command, "config": d.spec, "set": dict(d.overrides), "axes": [axis.told for axis in d.axes],
                "cases": {name: dict(case) for name, case in d.cases.items()}, "folds": list(d.folds), "seeds": list(d.seeds), "objective": d.objective,
                "of": "the best evaluation of each run" if d.best else "the last evaluation of each run", "measured_on": measured_on(series.config),
                "sampler": d.sampler if d.search else None, "complete": series.complete, "settings": rows, "claim": dict(claim or {})}
    if rows:
        best = max(rows, key=lambda row: (row["mean"], -row["setting"]))
        document |= {"best": best["setting"], "paired": _paired(rows, best), "cost": {"trials": sum(row["n"] for row in rows), "seconds": sum(row["seconds"] for row in rows)}}
        document |= {"correlations": correlations(rows), "came": came(rows, claim or {})}
    return document


def measured_on(config: Any) -> str:
    """Which images the objective is of, a sentence."""
    data = config.data
    if data.split == "class_disjoint":
        return "images of validation classes, which are neither trained on nor tested on"
    if data.source in ("folder", "zip", "tar", "tfds", "array_record") and (data.test_path == "none" or data.test_split):
        return "held-out images of the run (data.test_split or data.holdout); no other set was looked at"
    return "the held-out images of the run: where these are the test set of the data, the best was chosen on it, and its own number is optimistic"


def _beside(own):
    results = [folders.read_json(trial.folder / "run.json") or {} for trial in own]
    return {name: float(np.mean([result[name] for result in results])) for name in BESIDE if all(isinstance(result.get(name), float | int) for result in results)}


def _paired(rows, best):
    """Each setting less the best one, paired over folds and seeds."""
    found = []
    for row in rows:
        if row is best or row["n"] < 2:
            continue
        test = bootstrap.paired_seeds([own["value"] for own in row["trials"]], [own["value"] for own in best["trials"]])
        found.append({"setting": row["setting"], "against": best["setting"], "difference": test.difference, "interval": list(test.interval), "p": test.p, "n": test.n,
                      "apart": test.interval[1] < 0})
    return found


def correlations(rows: Sequence[dict]) -> list[dict]:
    """Spearman's ρ over settings between each label-free measure and each accuracy, from five settings on; of α-ReQ how near to 1 it is."""
    found = []
    for free in ("rankme", "alphareq"):
        for measure in ("knn", "linear", "map_at_r"):
            pairs = [(runs.score(free, row["beside"][free]), row["beside"][measure]) for row in rows if free in row["beside"] and measure in row["beside"]]
            if len(pairs) >= 5 and all(np.ptp(side) > 0 for side in zip(*pairs)):
                rho = stats.spearmanr(*zip(*pairs))
                found.append({"of": free, "with": measure, "spearman": float(rho.statistic), "p": float(rho.pvalue), "n": len(pairs)})
    return found


def came(rows: Sequence[dict], claim: Mapping[str, Any]) -> list[dict]:
    """For each pair of settings that a claim orders, what was found of it."""
    found = []
    for above, below in claim.get("above", ()):
        a, b = (next((row for row in rows if all(row["values"].get(key) == text for key, text in values.items())), None) for values in (above, below))
        if a is None or b is None:
            continue
        difference, interval = a["mean"] - b["mean"], None
        if a["n"] > 1 and a["n"] == b["n"]:
            test = bootstrap.paired_seeds([own["value"] for own in a["trials"]], [own["value"] for own in b["trials"]])
            interval = list(test.interval)
        verdict = ("as claimed" if difference > 0 else "the other way") if interval is None or interval[0] > 0 or interval[1] < 0 else "not told apart"
        found.append({"above": space.said(above), "below": space.said(below), "difference": difference, "interval": interval, "n": a["n"],
                      "verdict": verdict + (", one run of each" if interval is None else "")})
    return found


def keep(folder: Any, document: dict, html: str) -> None:
    """Writes study.json and study.html."""
    folders.write(folder / "study.json", json.dumps(document, indent=1))
    folders.write(folder / "study.html", html)
