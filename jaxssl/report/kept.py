"""The checkpoints of a run beside one another: what `evaluate --choose` measured of each, as charts and a table, on a page of its own or on the report's."""
import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from jaxssl.errors import UserError
from jaxssl.evaluation import checkpoints
from jaxssl.evaluation.tables.reading import is_number
from jaxssl.report import figures, page
from jaxssl.report.curves import series
from jaxssl.report.markup import Html, join, tag
from jaxssl.workdir import folder as folders

# measure -> its title, how to read it
READING = {
    "loss": ("Training loss", "Lower is better, where the loss means the same all along: a temperature or weight with a schedule changes that."),
    "rankme": ("RankMe", "Higher is better: directions in even use."),
    "alpha_req": ("α-ReQ", "Nearer 1 is better: the decay of the spectrum."),
    "lidar": ("LiDAR", "Higher is better: directions in which images differ from their own augmentations."),
    "mutual_knn": ("Mutual neighbours", "Higher is better: neighbours in common with the reference."),
    "knn": ("kNN on held-out images", "Higher is better. Read from labels, it chooses nothing."),
}
PERCENT = ("mutual_knn", "knn")


def write(found: Mapping[str, Any]) -> str:
    """Writes the page of `checkpoints.choose` beside its file, and returns its path. Raises: UserError."""
    file = folders.path(found["file"]).with_suffix(".html")
    name = PurePosixPath(found["subject"]["path"]).name
    specs = charts(found)
    body = join([tag("header", tag("p", "jaxssl checkpoints", class_="kicker"), tag("h1", name)), tag("main", tag("section", markup(found, specs)))])
    try:
        folders.write(file, page.document(f"{name}: checkpoints", body, {"charts": specs}))
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror or error}); give another folder with --out") from error
    return str(file)


def sound(found: Any) -> bool:
    """Whether this is what `checkpoints.choose` writes."""
    if not isinstance(found, dict) or found.get("format") != checkpoints.FORMAT or not isinstance(found.get("checkpoints"), list):
        return False
    rows = all(isinstance(row, dict) and is_number(row.get("step")) and isinstance(row.get("values"), dict) for row in found["checkpoints"])
    tables = all(isinstance(found.get(key), dict) and all(isinstance(value, dict) for value in found[key].values()) for key in ("picks", "rank_correlation"))
    tables = tables and all(isinstance(found.get(key), dict) for key in ("data", "subject"))
    texts = all(isinstance(found.get(key), str) for key in ("by", "layer", "export"))
    return rows and tables and texts and isinstance(found.get("measures"), list) and set(found["measures"]) <= READING.keys()


def charts(found: Mapping[str, Any]) -> dict[str, dict]:
    """A chart of each measure over the steps, as the script draws it: its curve, and a mark where this measure's own choice is."""
    specs = {}
    for name in found["measures"]:
        points = [(row["step"], value) for row in found["checkpoints"] if is_number(value := row["values"].get(name)) and math.isfinite(value)]
        if points:
            title, reading = READING[name]
            pick = found["picks"].get(name, {}).get("step")
            marked = [series(f"best, step {pick:,}", [pick], [dict(points)[pick]], colour=1, dash=1)] if pick in dict(points) else []
            specs[f"kept-{name}"] = {"title": title + (" (chooses)" if name == found["by"] else ""), "form": "percent" if name in PERCENT else "number", "log": False, "dots": True,
                                     "axis": "step", "series": [series("", *zip(*points), colour=0, dash=0), *marked], "reading": reading, "epochs": None,
                                     "guides": [{"y": 1., "label": "1"}] if name == "alpha_req" else []}
    return specs


def markup(found: Mapping[str, Any], specs: Mapping[str, dict]) -> Html:
    """The section: which checkpoint is chosen and by what, the charts of `charts`, the table, how far each measure agrees with kNN, and the command that exports the choice."""
    chosen, names = found.get("chosen"), found["measures"]
    title = READING[found["by"]][0] if found["by"] in READING else found["by"]
    first = f"Chosen by {title} at {found['layer']}: step {chosen:,}." if is_number(chosen) else f"{title} at {found['layer']} chooses none."
    counted = "; ".join(str(text) for text in (found["data"].get("train"), found["data"].get("test")) if text)
    rows = [("→" if row["step"] == chosen else "", f"{row['step']:,}", *(cell(name, row["values"].get(name)) for name in names)) for row in found["checkpoints"]]
    told = [tag("p", first, " ", agreed(found)), tag("p", f"Measured on {counted}.", class_="reading")]
    return join([*told, tag("div", *(page.chart(key, spec) for key, spec in specs.items()), class_="charts"),
                 figures.table(("", "step", *(READING[name][0] for name in names)), rows, numeric=range(1, 2 + len(names)), class_="results"),
                 agreements(found), command_of(found["export"])])


def agreed(found: Mapping[str, Any]) -> str:
    """In words what the choice gives away in kNN, where there is kNN."""
    own, best = (found["picks"].get(name, {}).get("knn") for name in (found["by"], "knn"))
    return f"Its kNN is {cell('knn', own)}, the best of all {cell('knn', best)}." if is_number(own) and is_number(best) else ""


def agreements(found: Mapping[str, Any]) -> Html:
    """How each measure orders the checkpoints beside kNN, as a table; empty without labels."""
    rows = [(READING[name][0], "–" if not is_number(each.get("rho")) else f"{each['rho']:+.2f}", each.get("n"), pick.get("step"), cell("knn", pick.get("knn")))
            for name, each in found["rank_correlation"].items() if name in READING for pick in [found["picks"].get(name, {})]]
    if not rows:
        return Html("")
    why = "Spearman's rank correlation of each measure with kNN over the checkpoints, and what it would choose. Checkpoints of one run are no independent trials."
    return join([tag("h3", "Agreement with kNN"), tag("p", why, class_="reading"),
                 figures.table(("measure", "rank correlation", "checkpoints", "its choice", "kNN there"), rows, numeric=range(1, 5), class_="results")])


def cell(name: str, value: Any) -> str:
    """A value of a measure for people; "–" where there is none."""
    return "–" if not is_number(value) else f"{100 * value:.2f} %" if name in PERCENT else f"{value:.4g}"


def command_of(text: str) -> Html:
    """The command that exports the choice; empty where there is none."""
    return join([tag("p", "To export it:", class_="reading"), tag("pre", tag("code", text), class_="command")]) if text else Html("")
