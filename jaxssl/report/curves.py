"""From metrics.jsonl to charts: which curves share one, its scale, its guide lines, its sentence."""
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxssl.report import readings
from jaxssl.report.read import Run, thin

# metrics of the log that are no result: the axis itself, or another metric in other units
SILENT = {"epoch", "step_seconds", "images_per_second_per_device", "linear"}


class Chart(NamedTuple):
    """metrics: name in the log -> its label in the legend. form: "number" or "percent" of the values.
    log: a logarithmic axis where values differ by more than 30 times. dots: mark each value. better: which way."""
    title: str
    metrics: dict[str, str]
    form: str = "number"
    log: bool = False
    dots: bool = False
    better: str = ""


CHARTS = (
    Chart("Loss", {"loss": ""}, better="Lower is better, for one method."),
    Chart("kNN on held-out images", {"knn": "k 200", "knn_k20": "k 20"}, "percent", dots=True, better="Higher is better."),
    Chart("Retrieval among held-out classes", {"map_at_r": "MAP@R", "precision_at_1": "precision@1"}, "percent", dots=True, better="Higher is better."),
    Chart("Online linear probe", {"probe_accuracy": ""}, "percent", better="Higher is better."),
    Chart("RankMe", {"rankme": ""}, dots=True, better="Higher is better, for one method."),
    Chart("Spread of the embeddings", {"collapse_std": ""}, better="Higher is better."),
    Chart("Mean cosine", {"collapse_cosine": ""}, better="Nearer 0 is better."),
    Chart("Learning rate", {"lr": ""}),
    Chart("Gradient norm", {"grad_norm": ""}, log=True),
    Chart("Throughput, images a second", {"images_per_second": ""}, better="Higher is better."),
    Chart("Waiting for data", {"data_wait_share": ""}, "percent", better="Lower is better."),
    Chart("Model FLOPs utilisation", {"mfu": ""}, "percent", better="Higher is better."),
)


def charts(runs: Sequence[Run]) -> tuple[list[dict], list[dict]]:
    """(charts of known metrics, charts of the others), as the script draws them: title, form, log, series, guides, and the reading under each."""
    logged = sorted(set().union(*(run.curves for run in runs)))
    known = {name for chart in CHARTS for name in chart.metrics}
    others = [Chart(name.replace("_", " "), {name: ""}, "percent" if readings.SHARE.search(name) else "number") for name in logged if name not in known | SILENT]
    return [spec for c in CHARTS if (spec := _spec(c, runs))], [spec for c in others if (spec := _spec(c, runs))]


def _spec(chart, runs):
    lines = []
    metrics = dict(list(chart.metrics.items())[:1] if len(runs) > 1 else chart.metrics)      # of several runs one curve each
    for place, run in enumerate(runs):
        for dash, (metric, label) in enumerate(metrics.items()):
            steps, values = thin(*run.curves.get(metric, (np.zeros(0, np.int64), np.zeros(0))))
            if len(steps):
                name = ", ".join(part for part in (run.name if len(runs) > 1 else "", label) if part)
                lines.append(series(name, steps, values, colour=place if len(runs) > 1 else dash, dash=dash if len(runs) == 1 else place))
    if not lines:
        return None
    metric = next(iter(chart.metrics))
    values = [v for line in lines for v in line["y"]]
    log = chart.log and min(values) > 0 and max(values) > 30 * min(values)
    reading = readings.of(metric, runs[0]) if len(runs) == 1 else compared(metric, runs)
    return {"title": chart.title, "form": chart.form, "log": log, "dots": chart.dots, "axis": "step", "series": lines, "reading": f"{reading} {chart.better}".strip(),
            "epochs": runs[0].epochs_per_step if len(runs) == 1 else None, "guides": _guides(metric, runs[0]) if len(runs) == 1 else []}


def series(name: str, x: Any, y: Any, *, colour: int, dash: int) -> dict:
    return {"name": name, "x": [int(v) for v in x], "y": [float(f"{v:.6g}") for v in y], "colour": colour, "dash": dash}


def _guides(metric, run):
    """Levels to compare a curve with: {y, label}."""
    if metric in ("knn", "map_at_r"):
        found = [(run.before(f"{metric}_start"), "began with"), (run.before(f"{metric}_untrained"), "untrained"), (run.before(f"{metric}_raw"), "raw pixels")]
    elif metric == "collapse_std" and run.config.get("method", {}).get("dim"):
        dim = run.config["method"]["dim"]
        found = [(1 / math.sqrt(dim), f"even: 1/√{dim}")]
    elif metric == "rankme":
        found = [(run.width, "all directions"), (run.before("rankme_start"), "began with"), (run.before("rankme_untrained"), "untrained")]
    else:
        found = []
    return [{"y": float(y), "label": label} for y, label in found if y is not None]


def compared(metric: str, runs: Sequence[Run]) -> str:
    """The runs by the last logged value of `metric`, the highest first."""
    ends = [(values[np.isfinite(values)], run.name) for run in runs for _, values in [run.curves.get(metric, ((), np.zeros(0)))]]
    last = sorted(((float(values[-1]), name) for values, name in ends if len(values)), key=lambda pair: (-pair[0], pair[1]))
    return "At the end: " + ", ".join(f"{name} {readings.score(metric, value)}" for value, name in last) + "." if last else ""
