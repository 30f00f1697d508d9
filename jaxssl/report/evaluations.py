"""The tables of all evaluations: what `jaxssl.evaluate` wrote, with interval, and the published value beside it."""
import math
import re
import shlex
from collections.abc import Sequence

from jaxssl.evaluation.tables import reading as results
from jaxssl.evaluation.tables.reading import is_number
from jaxssl.report import figures
from jaxssl.report.markup import Html, join, tag
from jaxssl.report.read import Run
from jaxssl.report.readings import score, value_of


def section(runs: Sequence[Run], images: dict[str, int]) -> Html:
    """All evaluations of all runs; several runs first side by side. Without any, the command that makes them.

    images: held-out images that a run's own evaluation counts, by the run's name, where that is known.
    """
    parts = [comparison(runs)] if len(runs) > 1 else []
    for run in runs:
        measured = [own(run, images.get(run.name), named=len(runs) > 1),
                    *(one(run if len(runs) > 1 else None, found, older=age > 0) for age, found in enumerate(reversed(run.evaluations)))]
        parts.append(figures.folded(run.name, *measured) if len(runs) > figures.MANY and any(measured) else join(measured))
    missing = [run for run in runs if not run.evaluations]
    if missing:
        parts.append(tag("p", "No evaluation after training yet" + (f" of {', '.join(run.name for run in missing)}" if len(runs) > 1 else "")
                         + ". This adds kNN, linear, few-shot, retrieval and more, with intervals:", class_="missing"))
        parts += [command("jaxssl.evaluate", "--workdir", run.path) for run in missing]
    return join(parts)


def command(*words: str) -> Html:
    return tag("pre", tag("code", "python -m " + " ".join(shlex.quote(word) for word in words)), class_="command")


OWN = {"knn": "kNN, k 200, T .1", "knn_k20": "kNN, k 20, T .07", "linear": "linear (L-BFGS on the features)", "rankme": "RankMe", "alphareq": "α-ReQ"}


def own(run: Run, images: int | None, *, named: bool) -> Html:
    """What training measured itself, at its end, on the weights it began with and before those: run.json and untrained.json."""
    def cell(metric, value):
        if value is None:
            return "–"
        ends = interval(value, images) if images and metric not in ("rankme", "alphareq") else None
        return join([tag("b", score(metric, value)), tag("small", f"{score(metric, ends[0])} to {score(metric, ends[1])}") if ends else None])
    columns = {"": "trained" if run.result else f"step {run.step:,}", "_start": "began with", "_untrained": "untrained", "_raw": "raw pixels"}
    columns = {end: head for end, head in columns.items() if not end or any(run.before(metric + end) is not None for metric in OWN)}
    rows = [(what, *(cell(metric, run.before(metric + end) if end else run.last(metric)) for end in columns)) for metric, what in OWN.items()
            if run.last(metric) is not None or run.before(f"{metric}_untrained") is not None]
    if not rows:
        return Html("")
    counted = f"On {images:,} held-out images; below a score its 95\u00a0% interval (Wilson), as if images were independent." if images else "On held-out images."
    return join([tag("h3", f"{run.name}, measured by the run itself" if named else "Measured by the run itself"), tag("p", counted, class_="reading"),
                 figures.table(("", *columns.values()), rows, numeric=range(1, 1 + len(columns)), class_="results")])


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n independent trials (Wilson 1927)."""
    z = 1.959964
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def one(run: Run | None, found: dict, *, older: bool = False) -> Html:
    """One file of evaluations, folded away when it is an older one."""
    subject, data = results.table(found.get("subject")), results.table(found.get("data"))
    title = ", ".join(str(x) for x in (run.name if run else "", data.get("test") or data.get("name"), subject.get("weights"),
                                       f"step {subject['step']}" if subject.get("step") is not None else "") if x)
    rows = [row for row in found["rows"] if isinstance(row, dict)]
    body = [table(rows) if rows else tag("p", "It holds no rows.", class_="missing")]
    legend = [words for words, shown in (("The highest of a protocol and measure is bold; ≈ marks results whose interval overlaps its: the order is not settled.",
                                          any(row.get("overlaps_best") for row in rows)),
                                         ("An interval over classes says what to expect of other classes, not of other images of these.",
                                          any(row.get("interval_classes") for row in rows))) if shown]
    if legend:
        body.append(tag("p", " ".join(legend), class_="reading"))
    body += [undone(found), together(found)]
    about = [("command", found.get("command")), ("made", found.get("created")), ("transform", results.short(found.get("transform"))), ("train", data.get("train")),
             ("weights", subject.get("digest")), ("packages", results.short(found.get("packages")))]
    body.append(figures.folded("how it was measured", figures.pairs((k, tag("code", v)) for k, v in about if v)))
    title = title or "evaluation"
    return figures.folded(f"{title}, {found.get('created', 'older')}", *body) if older else join([tag("h3", title), *body])


def undone(found: dict) -> Html:
    """A sentence for each protocol that failed, and one for those that an interruption left out."""
    lines = []
    for each in map(results.table, found.get("failed") or ()):
        seed = f" with seed {each['seed']}" if each.get("seed") else ""
        lines.append(f"✕ {each.get('protocol')} failed{seed}: {each.get('why')}")
    if left := ", ".join(map(str, found.get("unfinished") or ())):
        lines.append(f"Interrupted before it was done with {left}; what is above stands, and the features are kept, so that its command again is quicker.")
    return join(tag("p", line, class_="missing") for line in lines)


def together(found: dict) -> Html:
    """Mean ± deviation over runs and seeds, with the paired tests of all against the first, as `eval.compare.summary` gave them."""
    entries = [each for each in found.get("comparison") or () if isinstance(each, dict) and each.get("groups")]
    if not entries:
        return Html("")
    names = [str(group["name"]) for group in entries[0]["groups"]]

    def mean(entry, group):
        spread = f" ± {value_of(entry, group['std'])}" if is_number(group.get("std")) else ""
        return join([tag("b", value_of(entry, group["mean"])), spread, tag("small", f"of {group['n']}") if spread else None])

    def test(entry, name):
        own = next((each for each in entry["tests"] if each["name"] == name), None)
        if own is None:
            return "–"
        low, high = (_difference(entry, end) for end in own["interval"])
        return join([tag("b", _difference(entry, own["difference"])), tag("small", f"{low} to {high}, p {own['p']:.2g} over {own['n']:,} {own['over']}")])

    rows = [(join([tag("b", " · ".join(entry[k] for k in ("protocol", "variant") if entry[k])), tag("small", f"{entry['metric']}, {entry['layer']}")]),
             *(mean(entry, group) for group in entry["groups"]), *(test(entry, name) for name in names[1:])) for entry in entries]
    heads = ("", *names, *(f"{name} − {names[0]}" for name in names[1:]))
    why = dict.fromkeys(f"No test of {each['name']} against {each['against']} for {entry['protocol']} {entry['metric']}: {each['why']}."
                        for entry in entries for each in entry.get("untested") or ())
    parts = [tag("p", "Mean ± standard deviation" + ("; differences with their 95\u00a0% interval and p of a paired test." if names[1:] else "."), class_="reading"),
             figures.table(heads, rows, numeric=range(1, len(heads)), class_="results"), *(tag("p", line, class_="missing") for line in why)]
    return figures.folded("runs and seeds together", *parts)


def _difference(entry, value):
    return f"{100 * value:+.2f}".replace("-", "−") + " points" if results.is_share(entry) else results.number(value)


def table(rows: Sequence[dict]) -> Html:
    """Rows under their protocol: what was measured, the value, its interval on a scale with what is to be said of it, the published value; settings folded below."""
    known = any(map(results.published, rows))
    names = ("", "value", "95\u00a0% interval", *(["published"] if known else []))
    head = tag("tr", *(tag("th", name, scope="col", class_="n" if name == "value" else None) for name in names))
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(str(row.get("protocol") or "–"), []).append(row)
    bodies = [tag("tbody", tag("tr", tag("th", protocol, colspan=len(names), scope="rowgroup"), class_="group"),
                  *(tag("tr", tag("td", _what(row)), tag("td", _value(row, own), class_="n"), tag("td", _scale(row)), tag("td", _published(row), class_="published") if known
                        else None)
                    for row in own))
              for protocol, own in groups.items()]
    settings = [(_name(row), tag("code", text)) for row in rows if (text := results.short(row.get("setting")))]
    whole = tag("table", tag("thead", head), *bodies, class_="evaluations")
    return join([tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label="table of results"),
                 figures.folded("settings of every result", figures.pairs(settings)) if settings else None])


def _published(row):
    known = results.published(row)
    return join([tag("b", value_of(row, known[0])), tag("small", known[1])]) if known else ""


def _name(row):
    """`knn · k=20 T=0.07`, with the metric and the layer where they tell rows apart."""
    facts = (row.get("protocol"), row.get("variant"), results.metric(row) if results.metric(row) != "accuracy" else "", row.get("layer") if row.get("layer") != "backbone" else "")
    return " · ".join(str(fact) for fact in facts if fact)


def _what(row):
    first, second = (row.get("variant"), results.metric(row)) if results.metric(row) == "accuracy" and row.get("variant") else (results.metric(row), row.get("variant"))
    facts = [second, results.unit(row), row.get("layer"), f"n {row['n']:,}" if is_number(row.get("n")) else "", f"seed {row['seed']}" if row.get("seed") else "",
             f"chosen on {row['selected']}" if row.get("selected") not in (None, "", "fixed") else ""]
    return join([tag("b", first), tag("small", ", ".join(str(fact) for fact in facts if fact))])


def _value(row, own):
    """The value; bold where no other of its protocol and metric, `own`, is higher, and where more is not better."""
    if not is_number(row.get("value")):
        return str(row.get("value", "–"))
    metric = results.metric(row)
    beaten = results.is_share(row) and any(is_number(other.get("value")) and other["value"] > row["value"] for other in own if results.metric(other) == metric)
    text = value_of(row, row["value"])
    return join([text if beaten else tag("b", text), " ≈" if row.get("overlaps_best") else ""])


def _scale(row):
    interval, classes = ends_of(row), ends_of(row, "interval_classes")
    parts = []
    if is_number(row.get("value")) and results.is_share(row) and 0 <= row["value"] <= 1:
        known = results.published(row)
        parts.append(figures.whisker(row["value"], interval, (0, 1), known[0] if known else None))
    for ends, over in ((interval, ""), (classes, " over classes")):
        if ends:
            parts.append(tag("small", f"{value_of(row, ends[0])} to {value_of(row, ends[1])}{over}"))
    return join([*parts, tag("small", row["note"]) if row.get("note") else None])


def comparison(runs: Sequence[Run]) -> Html:
    """Runs side by side, each on its newest weights: results that at least two of them have on the same images, chosen in the same way.

    The best of a row is bold; ≈ marks those whose interval overlaps the best one's.
    """
    measured = [results.current(run.evaluations) for run in runs]
    columns = [results.newest(documents) for documents in measured]
    keys = [key for key in dict.fromkeys(key for column in columns for key in column) if sum(key in column for column in columns) > 1]
    if not keys and sum(map(bool, columns)) > 1:
        why = "Nothing stands side by side: no two runs were measured by the same protocol, in the same way, on the same images. This measures them together:"
        return join([tag("p", why, class_="missing"), command("jaxssl.evaluate", "--workdir", *(run.path for run in runs))])
    if not keys:
        return Html("")
    rows = []
    for key in keys:
        found = [column.get(key) for column in columns]
        shares = any(row and results.is_share(row) for row in found)        # of other measures, more is not better
        best = max((row for row in found if row), key=lambda row: row["value"]) if shares else None
        what = "; ".join(filter(None, (key.metric, key.layer, key.images, results.conditions(key))))
        rows.append((join([tag("b", " · ".join(filter(None, (key.protocol, key.variant)))), tag("small", what)]), *(_compared(row, best) for row in found)))
    which = ", ".join(f"{run.name}: {_weights(documents[-1])}" for run, documents in zip(runs, measured) if documents)
    return join([tag("h3", "Side by side"), figures.compared(("", *(run.name for run in runs)), rows, class_="results"),
                 tag("p", "The highest score of a row is bold; ≈ where a 95\u00a0% interval overlaps its, so that the order is not settled. "
                          f"Each run on its newest weights ({which}).", class_="reading")])


def _weights(found):
    """`teacher, step 300` of a document."""
    subject = results.table(found.get("subject"))
    return ", ".join(str(x) for x in (subject.get("weights"), f"step {subject['step']}" if subject.get("step") is not None else "") if x)


def _compared(row, best):
    if row is None:
        return "–"
    text, mine, top = value_of(row, row["value"]), ends_of(row), ends_of(best or {})
    words = [tag("small", line) for line in (f"{value_of(row, mine[0])} to {value_of(row, mine[1])}" if mine else "", results.spread(row)) if line]
    if best is not None and row["value"] == best["value"]:
        return join([tag("b", text), *words])
    return join([text, " ≈" if mine and top and mine[1] >= top[0] else "", *words])


def layer_rows(run: Run) -> list[dict]:
    """Rows of the newest evaluation by `layers` of the run's newest weights on its own images; of several seeds their mean."""
    for found in reversed(results.current(run.evaluations)):
        if re.search(r"(^|\s|')--data[\s.=]", str(found.get("command", ""))):
            continue        # other images, or others of its own
        rows = [row for key, row in results.newest([found]).items() if key.protocol == "layers"]
        if rows:
            return sorted(rows, key=lambda row: str(row.get("variant")))     # layers of a variant stay in their order
    return []


def ends_of(row: dict, key: str = "interval") -> tuple[float, float] | None:
    """The interval of a row, where it has one."""
    found = row.get(key)
    return tuple(found) if isinstance(found, (list, tuple)) and len(found) == 2 and all(map(is_number, found)) else None
