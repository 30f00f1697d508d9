"""The table of an evaluation in a terminal: every number with its protocol, setting, interval, size, and the published value."""
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.evaluation.tables import reading

_WIDE = 170         # columns where there is no terminal to ask


def document(found: Mapping[str, Any]) -> None:
    """Prints what evaluate.py writes: subject, data, transform, one line a row, and the notes under the table."""
    from rich.table import Table
    console, data, subject = _console(), found["data"], found["subject"]
    step = "" if subject["step"] is None else f", step {subject['step']}"
    console.print(f"{subject['name']} ({subject['weights']}{step}, {subject['digest'][:12]}) on {data['test'] or data['train']}, {data['classes']} classes")
    console.print("transform: " + ", ".join(f"{k} {v}" for k, v in found["transform"].items()))
    for sentence in found["notes"]:
        console.print(f"note: {sentence}")
    table = Table("", "protocol", "setting", "layer", "metric", "value", "95 %", "95 % over classes", "n", "chosen on", "published", "note")
    notes: dict[str, int] = {}

    def note(text):
        return str(notes.setdefault(text, len(notes) + 1)) if text else ""
    for row in found["rows"]:
        published = row["published"]
        seed = f", seed {row['seed']}" if len(found["seeds"]) > 1 else ""
        table.add_row("≈" if row["overlaps_best"] else "", row["protocol"], row["variant"] + seed, row["layer"], _metric(row),
                      _value(row, row["value"]), _interval(row, row["interval"]), _interval(row, row["interval_classes"]), f"{row['n']:,}",
                      "" if row["selected"] == "fixed" else row["selected"],
                      f"{_value(row, published['value'])} [{note(published['source'])}]" if published else "", note(row["note"]))
    for each in found["failed"]:
        seed = f", seed {each['seed']}" if len(found["seeds"]) > 1 else ""
        table.add_row("✗", each["protocol"], f"failed{seed}", *[""] * 8, note(each["why"]))
    console.print(table)
    for text, number in notes.items():
        console.print(f"[{number}] {text}")
    if any(row["overlaps_best"] for row in found["rows"]):
        console.print("≈ intervals of this row and of the best one of its protocol and metric overlap: these images do not show which is better")
    if found["select"] == "test":
        console.print("Settings marked `test` were chosen on the test images themselves (--select=test): such values are optimistic.")


def comparison(entries: Sequence[Mapping[str, Any]]) -> None:
    """Prints `compare.summary`: mean ± std of every group, the paired tests, and why there is none where it is missing."""
    from rich.table import Table
    names = [group["name"] for group in entries[0]["groups"]] if entries else []
    table = Table("protocol", "setting", "layer", "metric", *names, *(f"{name} - {names[0]}" for name in names[1:]))
    for entry in entries:
        tests = {test["name"]: test for test in entry["tests"]}
        table.add_row(entry["protocol"], entry["variant"], entry["layer"], _metric(entry), *(_spread(entry, group) for group in entry["groups"]),
                      *(_test(entry, tests[name]) if name in tests else "" for name in names[1:]))
    console = _console()
    console.print(table)
    if len(names) > 1:
        console.print("differences: with 95 % interval and p of a paired test, over the training seeds that both have, or over the images")
    missing: dict[tuple, list] = {}
    for entry in entries:
        for each in entry["untested"]:
            missing.setdefault((each["name"], each["against"], each["why"]), []).append(f"{entry['protocol']} {entry['metric']}")
    for (name, against, why), measures in missing.items():
        console.print(f"no test of {name} against {against} for {', '.join(dict.fromkeys(measures))}: {why}")


def ensemble(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the rows of several encoders together."""
    from rich.table import Table
    table = Table("encoders together", "layer", "metric", "value", "95 %", "95 % over classes", "n", "each")
    for row in rows:
        each = ", ".join(_value(row, value) for value in row["setting"].get("each", ()))
        intervals = _interval(row, row["interval"]), _interval(row, row["interval_classes"])
        table.add_row(row["variant"], row["layer"], _metric(row), _value(row, row["value"]), *intervals, f"{row['n']:,}", each)
    _console().print(table)


def selection(measure: str, values: Mapping[str, float], chosen: str) -> None:
    """Prints which of several encoders a label-free measure picks."""
    from rich.table import Table
    table = Table("", "encoder", measure)
    for path, value in values.items():
        table.add_row("→" if path == chosen else "", path, f"{value:.4g}")
    _console().print(table)


def checkpoints(found: Mapping[str, Any]) -> None:
    """Prints the measures of every checkpoint of a run with the chosen one marked, and how far each agrees with kNN."""
    from rich.table import Table
    from jaxssl.evaluation.checkpoints import VOTE
    names, votes = found["measures"], found["rank_correlation"]

    def cell(name, value):
        return "–" if value is None else f"{100 * value:.2f} %" if name in ("knn", "mutual_knn") else f"{value:.4g}"
    table = Table("", "step", *(f"{name} (chooses)" if name == found["by"] else name for name in names))
    for row in found["checkpoints"]:
        table.add_row("→" if row["step"] == found["chosen"] else "", f"{row['step']:,}", *(cell(name, row["values"].get(name)) for name in names))
    console = _console()
    images = "; ".join(filter(None, (found["data"]["train"], found["data"]["test"])))
    console.print(f"{found['subject']['path']} ({found['subject']['weights']}), layer {found['layer']}, on {images}")
    if votes:
        table.add_section()
        table.add_row("", "rank correlation", *(_signed(votes[name]["rho"]) if name in votes else "" for name in names))
        table.add_row("", "its choice", *(f"{found['picks'][name]['step']:,}" if name in found["picks"] else "–" for name in names))
        table.add_row("", "kNN there", *(cell("knn", found["picks"].get(name, {}).get("knn")) for name in names))
    console.print(table)
    if votes:
        console.print(f"rank correlation: Spearman's, with kNN (k {VOTE[0]}, T {VOTE[1]}) over the checkpoints, which are no independent trials; kNN itself chooses nothing")
    for each in found["failed"]:
        console.print(f"left out: step {each['step']:,}: {each['why']}")
    for sentence in found["notes"]:
        console.print(f"note: {sentence}")


def _signed(value):
    return "–" if value is None else f"{value:+.2f}"


def _console():
    from rich.console import Console
    return Console(markup=False, highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else max(_WIDE, shutil.get_terminal_size().columns))


def _value(row, value):
    return f"{100 * value:.2f} %" if reading.is_share(row) else f"{value:.4g}"


def _metric(row):
    return f"{row['metric']} ({unit})" if (unit := reading.unit(row)) else row["metric"]


def _interval(row, ends):
    return "" if ends is None else " to ".join(_value(row, end).removesuffix(" %") for end in ends)


def _spread(row, group):
    std = "" if group["std"] is None else f" ± {_value(row, group['std'])} (n={group['n']})"
    return _value(row, group["mean"]) + std


def _test(row, test):
    low, high = test["interval"]
    return f"{_value(row, test['difference'])} ({_interval(row, (low, high))}), p={test['p']:.2g} over {test['n']:,} {test['over']}"
