"""A study as one page that needs no network: the best with its interval, heat maps or slices, differences from the best, what they cost. Drawn with the report's own parts."""
import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jaxssl
from jaxssl import durations
from jaxssl.report import figures
from jaxssl.report.markup import Html, isolated, join, middle, tag
from jaxssl.report.page import document as page
from jaxssl.studies import space

SHARES = ("knn", "knn_k20", "linear", "map_at_r", "precision_at_1")
CALLED = {"knn": "kNN", "knn_k20": "kNN (k 20)", "linear": "linear", "map_at_r": "MAP@R", "precision_at_1": "precision@1", "rankme": "RankMe", "alphareq": "−|α − 1| of α-ReQ"}
MOST = 60        # settings that a table shows, the best first


def render(found: Mapping[str, Any], title: str) -> str:
    """found: as `summary.of` gives it."""
    rows = found["settings"]
    sections = [("best", "Best", _best(found)), *([("claim", "What was claimed", _claim(found))] if found["claim"] else []), ("settings", "Settings", _settings(found)),
                *([("maps", "Heat maps", maps)] if (maps := _maps(found)) else []), ("slices", "Slices", _slices(found)), ("study", "The study", _study(found))]
    return whole(title, subtitle(found), sections if rows else sections[-1:], [] if found["complete"] else ["The study is not finished; the same command goes on with it."])


def whole(title: str, said: str, sections: Sequence[tuple[str, str, Any]], notes: Sequence[str] = ()) -> str:
    """A page of (id, title, markup)."""
    body = join([
        tag("header", tag("p", "jaxssl study", class_="kicker"), tag("h1", isolated(title)), tag("p", said, class_="subtitle"),
            tag("ul", *(tag("li", note) for note in notes), class_="notes") if notes else None,
            tag("nav", *(tag("a", name, href=f"#{place}") for place, name, _ in sections), aria_label="sections")),
        tag("main", *(tag("section", tag("h2", name), content, id=place) for place, name, content in sections)),
        tag("footer", tag("p", f"Written by jaxssl {jaxssl.__version__} on {datetime.now().astimezone():%d %B %Y, %H:%M %Z}. This file needs no network."))])
    return page(title, body, {"charts": {}})


def subtitle(found: Mapping[str, Any]) -> str:
    how = f"searched by {found['sampler']}" if found["sampler"] else "a grid"
    each = " × ".join([*([f"{len(found['folds'])} folds"] if found["folds"] else []), *([f"{len(found['seeds'])} seeds"] if found["seeds"] else [])]) or "one run"
    return f"{found['config']}, {how}: {len(found['settings'])} settings, {each} of each; {CALLED[found['objective']]} of {found['measured_on']}"


def number(value: float, objective: str) -> str:
    return f"{100 * value:.2f}\u00a0%" if objective in SHARES else f"{value:.2f}"


def with_half(mean: float, half: float | None, objective: str) -> str:
    if half is None:
        return number(mean, objective)
    return f"{100 * mean:.2f} ± {100 * half:.2f}\u00a0%" if objective in SHARES else f"{mean:.2f} ± {half:.2f}"


def _named(values):
    return join([tag("code", middle(f"{key}={text}", 80), title=f"{key}={text}") for key, text in values.items()] or ["as the config has it"], between=" ")


def _span(rows):
    ends = [row["mean"] + sign * (row["half_width"] or 0) for row in rows for sign in (-1, 1)]
    return min(ends), max(ends)


def _whisker(row, span):
    half = row["half_width"]
    return figures.whisker(row["mean"], None if half is None else (row["mean"] - half, row["mean"] + half), span)


def _best(found):
    best, objective = next(row for row in found["settings"] if row["setting"] == found["best"]), found["objective"]
    same = [row for row in found["paired"] if not row["apart"]]
    parts = [tag("p", _named(best["values"])),
             tag("dl", tag("div", tag("dt", CALLED[objective]), tag("dd", with_half(best["mean"], best["half_width"], objective)),
                           tag("dd", f"mean and Student's 95 % interval of {best['n']} runs" if best["n"] > 1 else "one run, so there is no interval", class_="against")),
                 tag("div", tag("dt", "cost of the study"), tag("dd", durations.spoken(found["cost"]["seconds"])), tag("dd", f"{found['cost']['trials']} runs", class_="against")),
                 class_="headline")]
    if best["n"] < 2:
        parts.append(tag("p", "One run of each setting says nothing of how much another seed would change: no two settings can be told apart. Give --seeds.", class_="reading"))
    else:
        others = len(found["paired"])
        parts.append(tag("p", f"{len(same)} of the {others} other settings cannot be told apart from it: the 95 % interval of the paired difference (Student's t over folds and "
                              "seeds, not corrected for the number of comparisons) reaches 0.", class_="reading"))
    if found["sampler"] or len(found["settings"]) > 1:
        parts.append(tag("p", "It is the best of several by the same numbers, so its own is optimistic: other seeds of it would say by how much.", class_="reading"))
    return join(parts)


def _claim(found):
    claim = found["claim"]
    rows = [(each["above"], each["below"], with_half(each["difference"], each["interval"] and (each["interval"][1] - each["interval"][0]) / 2, found["objective"]), each["n"],
             each["verdict"]) for each in found.get("came", ())]
    table = figures.table(("above", "below", "difference", "runs", "what came"), rows, numeric=(2, 3)) if rows else tag(
        "p", "It orders no settings that were finished.", class_="missing")
    return join([tag("p", claim.get("text", ""), class_="reading"), tag("p", tag("small", claim.get("source", ""))), table])


def _settings(found):
    objective, rows = found["objective"], sorted(found["settings"], key=lambda row: (-row["mean"], row["setting"]))
    paired, span = {each["setting"]: each for each in found["paired"]}, _span(found["settings"])

    def difference(row):
        if row["setting"] == found["best"]:
            return "the best"
        test = paired.get(row["setting"])
        if test is None:
            return "–"
        low, high = test["interval"]
        scale, unit = (100, "points") if objective in SHARES else (1, "")
        return join([f"{scale * test['difference']:+.2f} [{scale * low:.2f}, {scale * high:.2f}] {unit}", tag("small", "apart" if test["apart"] else "not told apart")])
    beside = [name for name in dict.fromkeys(name for row in rows for name in row["beside"]) if name != objective]
    head = ("", "setting", CALLED[objective], "", "less the best, paired", *(CALLED[name] for name in beside), "runs", "time")
    body = [(row["setting"], join([_named(row["values"]), tag("small", f"{row['failed']} not finite") if row["failed"] else None]),
             with_half(row["mean"], row["half_width"], objective), _whisker(row, span), difference(row),
             *(number(row["beside"][name], name) if name in row["beside"] else "–" for name in beside), row["n"], durations.spoken(row["seconds"])) for row in rows[:MOST]]
    parts = [figures.table(head, body, numeric=(0, 2, *range(5, 7 + len(beside))), class_="results")]
    if len(rows) > MOST:
        parts.append(tag("p", f"The best {MOST} of {len(rows)}; study.json has all.", class_="reading"))
    for each in found["correlations"]:
        parts.append(tag("p", f"Spearman's ρ of {CALLED[each['of']]}, which needs no labels, with {CALLED[each['with']]} over {each['n']} settings: {each['spearman']:.2f} "
                              f"(p {each['p']:.3f}).", class_="reading"))
    return join(parts)


def _levels(found):
    """{key: its values} of axes that every setting has, where they are few."""
    keys = list(found["settings"][0]["values"])
    levels = {key: list(dict.fromkeys(row["values"][key] for row in found["settings"])) for key in keys}
    return {key: values for key, values in levels.items() if 1 < len(values) <= 30}


def _maps(found):
    """A heat map of every two axes of a grid, each cell the mean over all others."""
    if found["sampler"] or len(levels := _levels(found)) < 2:
        return None
    rows, (low, high) = found["settings"], (min(row["mean"] for row in found["settings"]), max(row["mean"] for row in found["settings"]))

    def cell(down, across, text, other):
        own = [row["mean"] for row in rows if row["values"][down] == text and row["values"][across] == other]
        if not own:
            return tag("td", "")
        mean = sum(own) / len(own)
        said = number(mean, found["objective"])
        return tag("td", said, class_=f"c{round(9 * (mean - low) / (high - low)) if high > low else 0}", title=f"{down}={text}, {across}={other}: {said}")
    parts = []
    for down, across in itertools.combinations(levels, 2):
        head = tag("tr", tag("th", f"{down}\u00a0↓ {across}\u00a0→", scope="col"), *(tag("th", middle(text), scope="col", class_="upright") for text in levels[across]))
        body = [tag("tr", tag("th", middle(text), scope="row"), *(cell(down, across, text, other) for other in levels[across])) for text in levels[down]]
        heat = tag("table", tag("thead", head), tag("tbody", *body), class_="confusion heat")
        parts += [tag("h3", f"{down} and {across}"), tag("div", tag("div", heat, class_="scroll", tabindex="0", role="region", aria_label=f"{down} and {across}"), tag("output"),
                                                         data_tells=len(levels[across]))]
    return join([tag("p", f"Darker is higher, from {number(low, found['objective'])} to {number(high, found['objective'])}; each cell is a mean over all else that varied.",
                     class_="reading"), *parts])


def _slices(found):
    """The objective along every axis: of a grid the mean of each value, of a search each setting in the order of its value."""
    parts, rows = [], found["settings"]
    means = [row["mean"] for row in rows]
    span = (min(means), max(means)) if not found["sampler"] else _span(rows)
    for key in rows[0]["values"]:
        values = list(dict.fromkeys(row["values"][key] for row in rows))
        if len(values) < 2:
            continue
        if found["sampler"]:
            lines = sorted(rows, key=lambda row: _order(row["values"][key]))
            body = [(tag("code", middle(row["values"][key], 60)), number(row["mean"], found["objective"]), _whisker(row, span)) for row in lines[:MOST]]
        else:
            body = []
            for value in values:
                own = [row for row in rows if row["values"][key] == value]
                mean = sum(row["mean"] for row in own) / len(own)
                ends = (min(row["mean"] for row in own), max(row["mean"] for row in own)) if len(own) > 1 else None
                body.append((tag("code", middle(value, 60)), number(mean, found["objective"]), figures.whisker(mean, ends, span)))
        said = "" if found["sampler"] else "The mean over all else that varied; the band spans its settings."
        parts += [tag("h3", key), tag("p", said, class_="reading") if said else None, figures.table((key, CALLED[found["objective"]], ""), body, numeric=(1,), class_="layers")]
    return join(parts) if parts else tag("p", "Nothing varied but folds and seeds.", class_="missing")


def _order(text):
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0., text


def _study(found):
    facts = [("command", tag("code", found["command"])), ("config", tag("code", found["config"])), *((f"config.{key}", tag("code", text)) for key, text in found["set"].items()),
             *(("varied", tag("code", text)) for text in found["axes"]), *((f"case {name}", tag("code", space.said(case))) for name, case in found["cases"].items()),
             ("measured", f"{CALLED[found['objective']]}, {found['of']}"), ("on", found["measured_on"]),
             ("trials", "each an ordinary workdir of the folder trials, which main, evaluate, export and report open")]
    return figures.pairs((name, value) for name, value in facts if value)
