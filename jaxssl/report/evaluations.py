"""The tables of all evaluations: what `jaxssl.evaluate` wrote, with interval, and the published value beside it."""
import shlex
from collections.abc import Sequence
from typing import Any

from jaxssl.report import figures
from jaxssl.report.markup import Html, join, tag
from jaxssl.report.read import Run, is_number
from jaxssl.report.readings import SHARE, number, score


def section(runs: Sequence[Run]) -> Html:
    """All evaluations of all runs; several runs first side by side. Without any, the command that makes them."""
    parts = [comparison(runs)] if len(runs) > 1 else []
    for run in runs:
        for found in run.evaluations:
            parts.append(one(run if len(runs) > 1 else None, found))
    missing = [run for run in runs if not run.evaluations]
    if missing:
        parts.append(tag("p", "No evaluation after training yet" + (f" of {', '.join(run.name for run in missing)}" if len(runs) > 1 else "")
                         + ". This adds kNN, linear, few-shot, retrieval and more, with intervals:", class_="missing"))
        parts += [command("jaxssl.evaluate", "--workdir", run.path) for run in missing]
    return join(parts)


def command(*words: str) -> Html:
    return tag("pre", tag("code", "python -m " + " ".join(shlex.quote(word) for word in words)), class_="command")


def one(run: Run | None, found: dict) -> Html:
    """One file of evaluations."""
    subject, data = _object(found.get("subject")), _object(found.get("data"))
    title = ", ".join(str(x) for x in (run.name if run else "", data.get("test") or data.get("name"), subject.get("weights"),
                                       f"step {subject['step']}" if subject.get("step") is not None else "") if x)
    rows = [row for row in found["rows"] if isinstance(row, dict)]
    body = table(rows) if rows else tag("p", "It holds no rows.", class_="missing")
    about = [("command", found.get("command")), ("made", found.get("created")), ("transform", _short(found.get("transform"))), ("train", data.get("train")),
             ("weights", subject.get("digest"))]
    return join([tag("h3", title or "evaluation"), body, figures.folded("how", figures.pairs((k, tag("code", v)) for k, v in about if v))])


def table(rows: Sequence[dict]) -> Html:
    """A row a result: what was measured and how, the value with its interval, the two on a scale, the published value."""
    def published(row):
        known = _object(row.get("published"))
        return join([tag("b", score(_metric(row), _unit(row, known["value"]))), tag("small", known.get("source", ""))]) if is_number(known.get("value")) else ""
    return figures.table(("protocol", "value", "95 % interval", "published"),
                         [(_what(row), _value(row), _scale(row), published(row)) for row in rows], numeric=(1,), class_="evaluations")


def _what(row):
    name = " · ".join(str(row[k]) for k in ("protocol", "variant") if row.get(k))
    facts = [f"{_metric(row)}", f"{row['layer']}" if row.get("layer") else "", f"n {row['n']:,}" if is_number(row.get("n")) else "",
             f"chosen on {row['selected']}" if row.get("selected") not in (None, "", "fixed") else "", _short(row.get("setting")), row.get("note", "")]
    return join([tag("b", name or "–"), tag("small", "; ".join(str(fact) for fact in facts if fact))])


def _value(row):
    return tag("b", score(_metric(row), row["value"])) if is_number(row.get("value")) else str(row.get("value", "–"))


def _scale(row):
    interval = _interval(row)
    if not is_number(row.get("value")) or not (interval or SHARE.search(_metric(row))):
        return ""
    share = bool(SHARE.search(_metric(row))) and 0 <= row["value"] <= 1
    known = _object(row.get("published")).get("value")
    picture = figures.whisker(row["value"], interval, (0, 1), _unit(row, known) if is_number(known) else None) if share else ""
    words = tag("small", f"{score(_metric(row), interval[0])} to {score(_metric(row), interval[1])}") if interval else ""
    return join([picture, words])


def comparison(runs: Sequence[Run]) -> Html:
    """Runs side by side: results that at least two of them have. The best of a row is bold; ≈ marks those whose interval overlaps the best one's."""
    columns = [_newest(run) for run in runs]
    keys = [key for key in dict.fromkeys(key for column in columns for key in column) if sum(key in column for column in columns) > 1]
    if not keys:
        return Html("")
    rows = []
    for key in keys:
        found = [column.get(key) for column in columns]
        best = max((row for row in found if row), key=lambda row: row["value"])
        rows.append((join([tag("b", " · ".join(k for k in key[1:3] if k)), tag("small", "; ".join(k for k in (key[4], key[3], key[0]) if k))]),
                     *(_compared(row, best) for row in found)))
    return join([figures.table(("", *(run.name for run in runs)), rows, numeric=range(1, len(runs) + 1), class_="results"),
                 tag("p", "Highest value bold; ≈ where its 95 % interval overlaps the highest one's, so that the order is not settled.", class_="reading")])


def _compared(row, best):
    if row is None:
        return "–"
    text, mine, top = score(_metric(row), row["value"]), _interval(row), _interval(best)
    words = tag("small", f"{score(_metric(row), mine[0])} to {score(_metric(row), mine[1])}") if mine else None
    if row["value"] == best["value"]:
        return join([tag("b", text), words])
    return join([text, " ≈" if mine and top and mine[1] >= top[0] else "", words])


def _newest(run):
    """(data, protocol, variant, layer, metric) -> the newest row."""
    return {(str(_object(found.get("data")).get("name", "")), *(str(row.get(k) or "") for k in ("protocol", "variant", "layer", "metric"))): row
            for found in run.evaluations for row in found["rows"] if isinstance(row, dict) and is_number(row.get("value"))}


def layer_rows(run: Run) -> list[dict]:
    """The newest rows of the protocol `layers`."""
    rows = [row for found in run.evaluations for row in found["rows"] if isinstance(row, dict) and row.get("protocol") == "layers" and is_number(row.get("value"))]
    newest = {(row.get("variant"), row.get("metric"), row.get("layer")): row for row in rows}
    return list(newest.values())


def _metric(row):
    return str(row.get("metric") or "value")


def _unit(row, value):
    """A published share may be written in percent."""
    return value / 100 if SHARE.search(_metric(row)) and value > 1 and is_number(row.get("value")) and row["value"] <= 1 else value


def _interval(row):
    found = row.get("interval")
    return tuple(found) if isinstance(found, (list, tuple)) and len(found) == 2 and all(map(is_number, found)) else None


def _object(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _short(value: Any) -> str:
    """A dict as `a 1, b 2`."""
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    return ", ".join(f"{k} {number(v) if is_number(v) else v}" for k, v in value.items())
