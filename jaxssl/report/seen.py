"""The sections that show images and features of one run: views, map, neighbours, confusion, spectrum, layers."""
import hashlib
from collections.abc import Sequence

import numpy as np

from jaxssl.data import decode
from jaxssl.evaluation.tables import reading as results
from jaxssl.report import curves, figures, look, maps, pictures, readings
from jaxssl.report.evaluations import ends_of, interval, layer_rows
from jaxssl.report.markup import Html, isolated, join, tag
from jaxssl.report.read import Run

NEAR = 8             # neighbours of a query that are shown
QUERIES, MISTAKES = 10, 6    # queries in turn, and those the encoder is surest of and wrong about
_SIDE = 96           # pixels of a gallery's picture, at most; small images keep their size
_NAME = 80           # characters of an image's id


class Sheets:
    """The sheets of small pictures that maps refer to, each once however many runs show the same images."""

    def __init__(self):
        self.addresses: dict[str, str] = {}

    def add(self, tiles: np.ndarray) -> str:
        """The id of the sheet with these tiles."""
        name = "sheet-" + hashlib.sha256(tiles.tobytes()).hexdigest()[:12]
        if name not in self.addresses:
            self.addresses[name] = pictures.address(pictures.sheet(tiles))
        return name

    def markup(self) -> Html:
        return join(tag("img", id=name, src=address, alt="", hidden=True) for name, address in self.addresses.items())


def name_of(seen: look.Look, label: int) -> str:
    return seen.classes[label] if label >= 0 and seen.classes else "no label"


def shorten(name: str) -> str:
    """The end of a long id, which is what tells it apart."""
    return isolated(name if len(name) <= _NAME else "…" + name[1 - _NAME:])


def map_of(seen: look.Look, methods: Sequence[str], sheets: Sheets) -> dict:
    """What the script draws: a place for each query by each method, its class, what kNN took it for, its picture's place in a sheet."""
    found = maps.make(seen.queries.features["backbone"], methods)
    return {"sheet": sheets.add(seen.queries.tiles), "tile": look.TILE, "columns": pictures.columns(len(seen.queries.tiles)), "classes": list(seen.classes),
            "labels": seen.queries.labels.tolist(), "predictions": None if seen.predictions is None else seen.predictions.tolist(),
            "ids": [shorten(seen.source.entry(int(p))[1]) for p in seen.queries.places],
            "methods": {name: {"x": np.round(m.xy[:, 0], 4).tolist(), "y": np.round(m.xy[:, 1], 4).tolist(), "reading": m.reading} for name, m in found.items()}}


def map_markup(key: str, facts: dict, seen: look.Look) -> Html:
    """The controls and the empty canvas of a map; `key` tells the script which one it is."""
    first = "tsne" if "tsne" in facts["methods"] else next(iter(facts["methods"]))
    choices = [tag("label", tag("input", type="radio", name=f"{key}-method", value=name, checked=name == first), maps.METHODS[name]) for name in facts["methods"]]
    more = [] if "umap" in facts["methods"] or "umap" in maps.installed() else [tag("small", "UMAP: pip install umap-learn")]
    which = "held-out" if seen.apart else seen.of
    canvas = tag("canvas", tabindex="0", role="application", aria_label=f"Map of {len(facts['labels'])} {which} images; arrow keys go from image to image")
    return tag("div", tag("div", tag("fieldset", tag("legend", "projection", class_="out"), *choices, *more, class_="choices"),
                          tag("label", tag("input", type="checkbox", class_="pictures"), "pictures"), class_="controls"),
               tag("div", canvas, class_="canvas"),
               tag("div", tag("canvas", width="96", height="96", class_="lens"),
                   tag("p", "Point at an image, or tap it.", class_="told", role="status"), class_="shown"),
               tag("div", class_="legend"), tag("p", facts["methods"][first]["reading"], class_="reading"), class_="map", data_map=key)


def gallery(seen: look.Look) -> dict[str, list[dict]]:
    """{"turn": rows of `figures.neighbours` for queries in turn, one a class where there are labels; "wrong": for the surest mistakes}."""
    labels = seen.queries.labels
    if seen.predictions is None:
        turn = np.linspace(0, len(labels) - 1, min(QUERIES, len(labels))).astype(int)
        return {"turn": [_row(seen, int(i)) for i in turn], "wrong": []}
    present = np.unique(labels[labels >= 0])
    present = present[np.linspace(0, len(present) - 1, min(QUERIES, len(present))).astype(int)]
    turn = [int(np.flatnonzero(labels == c)[0]) for c in present]
    return {"turn": [_row(seen, i) for i in turn], "wrong": [_sure(seen, i) for i in surest(seen)]}


def agreeing(seen: look.Look) -> np.ndarray:
    """int64 [N]: how many neighbours of each query have the class it was taken for."""
    return (seen.reference.labels[seen.index] == seen.predictions[:, None]).sum(axis=1)


def surest(seen: look.Look) -> list[int]:
    """The wrong queries whose neighbours agree most on the class they were taken for, of those where more than half do."""
    votes = agreeing(seen)
    wrong = np.flatnonzero((seen.predictions != seen.queries.labels) & (seen.queries.labels >= 0) & (2 * votes > seen.index.shape[1]))
    return [int(i) for i in wrong[np.argsort(-votes[wrong], kind="stable")[:MISTAKES]]]


def _row(seen, i):
    label = int(seen.queries.labels[i])
    places = [int(at) for at, s in zip(seen.index[i], seen.similarity[i]) if np.isfinite(s)][:NEAR]
    near = []
    for at, cosine in zip(places, seen.similarity[i]):
        other = int(seen.reference.labels[at])
        right = None if min(label, other) < 0 else other == label
        near.append({**_picture(seen, seen.data.train, int(seen.reference.places[at]), other), "cosine": float(cosine), "right": right})
    guess = None if seen.predictions is None or label < 0 else int(seen.predictions[i])
    note = "" if guess is None else "✓ recognised" if guess == label else f"✕ taken for {name_of(seen, guess)}"
    return {**_picture(seen, seen.source, int(seen.queries.places[i]), label), "note": note, "neighbours": near}


def _sure(seen, i):
    row = _row(seen, i)
    return {**row, "note": f"{row['note']}: {agreeing(seen)[i]} of {seen.index.shape[1]} neighbours agree"}


def _picture(seen, source, place, label):
    pixels, valid, *_ = decode.sample(source, place, seen.data.canvas)
    small = pictures.square(pixels, valid, min(_SIDE, seen.data.canvas))
    return {"pixels": small, "name": name_of(seen, label), "id": shorten(source.entry(place)[1]), "place": place}


def agreement(seen: look.Look) -> str:
    """How often the nearest neighbours have the query's class, over all labelled queries."""
    known = seen.queries.labels >= 0
    if seen.predictions is None:
        return "Without labels, judge for yourself: neighbours should show the same thing, not the same background."
    near = seen.reference.labels[seen.index[:, :NEAR]]
    share = float((near == seen.queries.labels[:, None])[known].mean())
    return (f"Of the {near.shape[1]} nearest of {len(seen.reference.places):,} {seen.of} images, {readings.percent(share, 0)} have the query's class, "
            f"over {known.sum():,} {'held-out ' if seen.apart else ''}images.")


def gallery_markup(rows: dict, seen: look.Look) -> Html:
    labelled = seen.predictions is not None
    parts = [tag("p", agreement(seen), class_="reading"), figures.neighbours(rows["turn"])]
    if labelled and rows["wrong"]:
        hint = ("More than half of the neighbours agree with each other, and not with the label. "
                "Look for mislabelled images, and for what the encoder attends to instead.")
        parts += [tag("h3", "Surest and wrong"), tag("p", hint, class_="reading"), figures.neighbours(rows["wrong"])]
    return join(parts)


def confusion_markup(seen: look.Look) -> Html:
    """The confusion matrix of the page's kNN; without labels, why there is none."""
    if seen.predictions is None:
        return tag("p", "There is no confusion matrix: the data have no labels. Folders named after classes would give some.", class_="missing")
    if len(seen.classes) == 1:
        return tag("p", "There is no confusion matrix: all images are of one class, which nothing can be told from.", class_="missing")
    matrix = look.confusion(seen.queries.labels, seen.predictions, len(seen.classes))
    n = int(matrix.sum())
    low, high = interval(seen.accuracy, n)
    reference = len(seen.reference.places)
    how = (f"kNN (k {min(look.K, reference)}, T {look.TEMPERATURE:g}) among {reference:,} {seen.of} images: {readings.percent(seen.accuracy)} of {n:,} right "
           f"(95\u00a0%: {readings.percent(low)} to {readings.percent(high)}, as if images were independent). ")
    return join([tag("p", how, readings.confusion(matrix, list(seen.classes)), class_="reading"), figures.confusion(matrix, seen.classes)])


def spectrum_chart(found: Sequence[tuple[Run, look.Look]]) -> dict:
    """The chart of the singular spectra of the backbone's features, trained and untrained, as shares of their sum; features that are all zero have none."""
    lines = []
    for place, (run, seen) in enumerate(found):
        for dash, (what, features) in enumerate((("trained", seen.reference.features), ("untrained", seen.reference.untrained))):
            values = look.spectrum(features["backbone"])
            share = values[values > 1e-9 * values.sum()] / max(values.sum(), 1e-30)
            name = f"{run.name}, {what}" if len(found) > 1 else what
            if len(share):
                lines.append(curves.series(name, range(1, len(share) + 1), share, colour=place if len(found) > 1 else dash, dash=dash + 2 * (place // 10)))
    return {"title": "Singular values of the features", "form": "number", "log": True, "dots": False, "axis": "direction", "series": lines,
            "guides": [], "epochs": None, "reading": "Each as a share of their sum, the largest first."}


def layers_markup(run: Run, seen: look.Look, rows: list[dict]) -> Html:
    """Bars of kNN (or RankMe) behind each layer (rows: of `look.layers`), and those of the evaluation `layers` where it was run; the sentence is of the latter then."""
    measure = "knn" if seen.predictions is not None else "rankme"
    asked = int(np.sum(seen.queries.labels >= 0))

    def share(row, end=""):
        return row[f"{measure}{end}"] / (1 if measure == "knn" else row["bound"])

    def value(row, end=""):
        return readings.percent(row["knn" + end]) if measure == "knn" else f"{readings.number(round(row['rankme' + end], 1))} of {row['bound']}"
    own = [{"layer": row["layer"], "value": share(row), "interval": interval(row["knn"], asked) if measure == "knn" else None} for row in rows]
    body = [(row["layer"], figures.bar(share(row), mine["interval"], before=share(row, "_untrained")), value(row), value(row, "_untrained"),
             f"{row['rankme']:.1f} of {row['bound']}") for row, mine in zip(rows, own)]
    evaluated = [{**row, "interval": ends_of(row)} for row in layer_rows(run) if 0 <= row["value"] <= 1]
    reading = _evaluated_layers(evaluated) if evaluated else readings.layers(own, "kNN", asked) if measure == "knn" else ""
    marks = "The tick on a bar is the untrained network" + (", the whisker the 95\u00a0% interval." if measure == "knn" else ".")
    parts = [tag("p", f"{reading} {marks}", class_="reading"),
             figures.table(("layer", "kNN" if measure == "knn" else "RankMe", "trained", "untrained", "RankMe"), body, numeric=(2, 3, 4), class_="layers own")]
    if evaluated:
        def how(row):
            facts = (row.get("variant"), row.get("note"), results.spread(row), "chosen on test" if row.get("selected") == "test" else "")
            return "; ".join(str(fact) for fact in facts if fact)
        bars = [(join([str(row.get("layer")), tag("small", how(row))]), figures.bar(row["value"], row["interval"]), readings.value_of(row, row["value"]))
                for row in evaluated]
        parts += [tag("h3", "By the evaluation"), figures.table(("layer", "", "value"), bars, numeric=(2,), class_="layers")]
    return join(parts)


def _evaluated_layers(rows: list[dict]) -> str:
    """The sentence on the first variant of the evaluation's rows."""
    own = [row for row in rows if row.get("variant") == rows[0].get("variant")]
    return readings.layers(own, f"By the evaluation, {own[0].get('variant')}", own[0]["n"] if results.is_number(own[0].get("n")) else 0)
