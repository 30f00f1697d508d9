"""What a reality check found: test scores of each loss with Student's intervals, with and without the run that was tuned, and which losses differ; study.json and its page."""
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxssl import durations
from jaxssl.evaluation.measures import bootstrap
from jaxssl.report import figures
from jaxssl.report.markup import Html, join, tag
from jaxssl.studies import page, reality, space, summary, testing
from jaxssl.studies.asked import Asked
from jaxssl.workdir import folder as folders

HOW = ("separated", "concatenated")
LEVEL = .05


def write(check: reality.RealityCheck, asked: Asked, table: Mapping[str, Any]) -> dict:
    """study.json and study.html of the whole, and those of each loss's search in its folder."""
    for name, series in check.losses.items():
        own = summary.of(series, command=asked.command)
        summary.keep(series.folder, own, page.render(own, f"{name}: the search"))
    document = of(check, command=asked.command, claim=table.get("claim"))
    summary.keep(check.folder, document, render(document))
    return document


def of(check: reality.RealityCheck, *, command: str = "", claim: Mapping[str, Any] | None = None) -> dict:
    losses = {}
    for name, series in check.losses.items():
        chosen = folders.read_json(series.folder / reality.SELECTED)
        done = {place.name: folders.read_object(place / testing.FILE) for place in (sorted((series.folder / "tests").iterdir()) if (series.folder / "tests").exists() else [])
                if (place / testing.FILE).exists()}
        again = {int(place.removeprefix("again")): found for place, found in done.items() if place.startswith("again")}
        finished = series.finished()
        losses[name] = {
            "searched": len(finished), "chosen": chosen, "validation": chosen and mean(chosen["validation"]),
            "spread": [float(np.mean([own.value for own in found])) for _, found in finished],
            "seconds": sum(own.seconds for _, found in finished for own in found), "reproductions": sorted(again), "tuned": done.get("tuned", {}).get("scores"),
            "revalidated": mean([float(np.mean(found["validation"])) for found in again.values()]) if again else None,
            "scores": {how: {measure: _scores(again, done.get("tuned"), how, measure) for measure in testing.MEASURES} for how in HOW} if again or "tuned" in done else {}}
    baselines = (folders.read_json(check.folder / "baselines" / testing.FILE) or {}).get("scores", {})
    first = next(iter(check.losses.values()))
    complete = all(len(own["reproductions"]) == check.reproductions and own["tuned"] for own in losses.values()) and bool(baselines)
    same = dict(set.intersection(*(set(series.definition.overrides.items()) for series in check.losses.values())))
    own = {name: {key: text for key, text in series.definition.overrides.items() if key not in same} for name, series in check.losses.items()}
    return {"version": 1, "kind": "reality_check", "command": command, "config": first.definition.spec,
            "set": {key: same[key] for key in first.definition.overrides if key in same},
            "own": own, "objective": first.definition.objective,
            "folds": list(first.definition.folds), "trials": first.definition.most, "sampler": first.definition.sampler, "reproductions": check.reproductions, "complete": complete,
            "claim": dict(claim or {}), "losses": losses, "baselines": baselines, "differences": differences(losses)}


def mean(values: Sequence[float]) -> dict:
    return {"mean": float(np.mean(values)), "half_width": summary.half_width(values), "n": len(values), "values": [float(value) for value in values]}


def _scores(again, tuned, how, measure):
    """without: over the reproductions; with: the tuned run counts too, as in the paper's code, which is a little optimistic."""
    own = [found["scores"][how][measure] for _, found in sorted(again.items())]
    both = [*([tuned["scores"][how][measure]] if tuned else []), *own]
    return {"without": mean(own) if own else None, "with": mean(both)}


def differences(losses: Mapping[str, dict]) -> list[dict]:
    """Every two losses by their reproductions, paired by seed, without the tuned runs; p by Holm over all pairs of a measure."""
    found = []
    for how in HOW:
        pairs = []
        for a, b in itertools.combinations(losses, 2):
            common = [losses[name]["scores"].get(how, {}).get("MAP@R", {}).get("without") for name in (a, b)]
            if not all(common) or losses[a]["reproductions"] != losses[b]["reproductions"] or common[0]["n"] < 2:
                continue
            test = bootstrap.paired_seeds(common[0]["values"], common[1]["values"])
            pairs.append({"how": how, "a": a, "b": b, "difference": test.difference, "interval": list(test.interval), "p": test.p, "n": test.n})
        for each, corrected in zip(pairs, holm([each["p"] for each in pairs])):
            found.append({**each, "p_holm": corrected, "apart": corrected < LEVEL})
    return found


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in their order (Holm 1979)."""
    corrected, highest = [0.] * len(values), 0.
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1., (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def render(found: Mapping[str, Any]) -> str:
    said = (f"{found['config']}: {len(found['losses'])} losses, {len(found['folds'])} folds of disjoint classes, at most {found['trials']} settings of each by {found['sampler']}, "
            f"{found['reproductions']} reproductions of the best")
    sections = [("scores", "Test scores", _table(found)), ("differ", "Which losses differ", _differ(found)), ("search", "What the search found", _search(found)),
                *([("claim", "What was claimed", tag("p", found["claim"].get("text", ""), tag("small", found["claim"].get("source", ""))))] if found["claim"] else []),
                ("study", "The study", _study(found))]
    return page.whole("reality check", said, sections, [] if found["complete"] else ["The study is not finished; the same command goes on with it."])


def _with(score):
    return "–" if not score else page.with_half(score["mean"], score["half_width"], "map_at_r")


def _table(found):
    def score(own, how, measure, which):
        return own["scores"].get(how, {}).get(measure, {}).get(which)
    parts = [tag("p", "Mean and Student's 95 % interval over the reproductions of the best setting, on classes that were neither trained on nor chosen by. Separated: the mean "
                      "of the folds' scores; concatenated: their features beside one another.", class_="reading")]
    for how in HOW:
        shown = [own for own in found["losses"].values() if score(own, how, "MAP@R", "without")]
        ends = [value for own in shown for value in score(own, how, "MAP@R", "without")["values"]] or [0., 1.]
        rows = []
        for name, own in sorted(found["losses"].items(), key=lambda pair: -((score(pair[1], how, "MAP@R", "without") or {"mean": -1})["mean"])):
            mapr = score(own, how, "MAP@R", "without")
            half = mapr and mapr["half_width"]
            drawn = figures.whisker(mapr["mean"], None if half is None else (mapr["mean"] - half, mapr["mean"] + half), (min(ends), max(ends))) if mapr else ""
            rows.append((name, *(_with(score(own, how, measure, "without")) for measure in testing.MEASURES), drawn, _with(score(own, how, "MAP@R", "with"))))
        if how == "separated":
            rows += [(f"{which} network", *(page.number(values[measure], "map_at_r") if measure in values else "–" for measure in testing.MEASURES), "", "")
                     for which, values in found["baselines"].items()]
        parts += [tag("h3", how), figures.table(("", *testing.MEASURES, "", "MAP@R with the tuned run"), rows, numeric=(1, 2, 3, 5), class_="evaluations")]
    return join(parts)


def _differ(found) -> Html:
    if not found["differences"]:
        return tag("p", "It takes two reproductions of two losses to say.", class_="missing")
    parts = []
    for how in HOW:
        own = [each for each in found["differences"] if each["how"] == how]
        apart = [each for each in own if each["apart"]]
        rows = [(f"{each['a']} less {each['b']}", "{:+.2f} [{:.2f}, {:.2f}] points".format(*(100 * value for value in (each["difference"], *each["interval"]))),
                 f"{each['p_holm']:.3f}", "apart" if each["apart"] else "not told apart") for each in sorted(own, key=lambda each: each["p_holm"])]
        parts += [tag("h3", how), tag("p", f"{len(apart)} of {len(own)} pairs differ in MAP@R (paired over seeds, Student's t, Holm's correction at 5 %).", class_="reading"),
                  figures.table(("", "difference", "p, corrected", ""), rows, numeric=(1, 2))]
    return join(parts)


def _search(found):
    rows = []
    for name, own in found["losses"].items():
        gain = f"{100 * (max(own['spread']) - own['spread'][0]):+.2f} points" if own["spread"] else "–"
        values = join([tag("code", f"{key}={text}") for key, text in (own["chosen"] or {}).get("values", {}).items()], between=" ")
        rows.append((name, own["searched"], page.number(own["validation"]["mean"], "map_at_r") if own["validation"] else "–", _with(own["revalidated"]), gain, values,
                     durations.spoken(own["seconds"])))
    return join([tag("p", "Validation MAP@R of the best setting, as it was found and again with other seeds (the difference is what choosing the best of many makes of chance), "
                          "and what the search gained over its first setting.", class_="reading"),
                 figures.table(("", "settings", "validation", "again", "gained", "best setting", "time"), rows, numeric=(1, 2, 3, 4), class_="evaluations")])


def _study(found):
    facts = [("command", tag("code", found["command"])), ("config", tag("code", found["config"])), *((f"config.{key}", tag("code", text)) for key, text in found["set"].items()),
             *((name, tag("code", space.said(own))) for name, own in found["own"].items()),
             ("chosen by", "mean validation MAP@R of all folds, the best evaluation of each run; the classes of training, validation and test are disjoint")]
    return figures.pairs(facts)


def lines(found: Mapping[str, Any]) -> list[str]:
    """What is printed at the end."""
    said = [f"{'loss':>18}  {'validation':>10}  {'MAP@R, separated':>20}  {'MAP@R, concatenated':>20}"]
    for name, own in found["losses"].items():
        scores = [_with(own["scores"].get(how, {}).get("MAP@R", {}).get("without")) for how in HOW]
        said.append(f"{name:>18}  {page.number(own['validation']['mean'], 'map_at_r') if own['validation'] else '–':>10}  {scores[0]:>20}  {scores[1]:>20}")
    for which, values in found["baselines"].items():
        said.append(f"{which:>18}  {'':>10}  {page.number(values.get('MAP@R', 0.), 'map_at_r'):>20}")
    for how in HOW:
        own = [each for each in found["differences"] if each["how"] == how]
        if own:
            said.append(f"{how}: {sum(each['apart'] for each in own)} of {len(own)} pairs of losses differ (Holm, 5 %)")
    return said

