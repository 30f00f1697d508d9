"""`report.html` of a curation: counts by stage, sizes of components, pictures of duplicates, leaks and clusters, what the seeds found, what each threshold would find."""
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxssl.curation import book as books, features
from jaxssl.curation.book import Book
from jaxssl.data.decode import Broken, canvas, pixel_limit
from jaxssl.data.listing import many
from jaxssl.errors import UserError
from jaxssl.gallery import page as gallery
from jaxssl.report import figures
from jaxssl.report.markup import Html, isolated, join, middle, tag
from jaxssl.workdir import folder as folders

FILE, DROPPED = "report.html", "dropped.jsonl"
GROUPS, EACH = 12, 8        # galleries of a section: so many rows of at most so many pictures
_NAMED = 50                 # broken images that are named
_STYLE = """table { border-collapse: collapse; } th, td { padding: .15rem .75rem .15rem 0; text-align: left; } .n { text-align: right; font-variant-numeric: tabular-nums; }
.row { margin-bottom: 1rem; } svg { max-width: 40rem; } svg text { font-size: 12px; } .axis { fill: currentColor; } .kept img { outline: 3px solid #27c; }
"""
_COLOURS = ("#27c", "#c52", "#295", "#a3a", "#b90", "#777")


def write(book: Book) -> None:
    """Writes the page of all that was made so far. Raises: UserError."""
    if features.step_of_pool(book) is None:
        raise UserError("there is nothing to report yet; make features with `embed SRC --weights W` first")
    folders.write(book.folder / DROPPED, "".join(json.dumps(each) + "\n" for each in dropped(book)))
    folders.write(book.folder / FILE, render(book))
    book.log(f"written: {book.folder / FILE}, and {DROPPED} beside it")


def dropped(book: Book) -> Iterator[dict]:
    """{"id", "step", "because"} of every image that a filter dropped: broken, the image that was kept in its place, or the image of the reference that it is linked to and by which
    of its own component."""
    names, references = features.ids(book, features.POOL), {}
    for step in book.last(books.FILTER):
        table = book.table(step)
        if "of" not in table:
            gone = np.setdiff1d(np.arange(len(names)), table["rows"])
            yield from ({"id": names[row], "step": step, "because": "it cannot be decoded"} for row in gone)
            continue
        here = np.isin(table["of"], table["rows"])
        against = "leak" in table
        # by which image of the same component: the one that was kept, or the first that leaks
        cause = {label: at for at, label in reversed(list(enumerate(table["component"].tolist()))) if (table["leak"][at] if against else here[at])}
        for at in np.flatnonzero(~here):
            by = cause[int(table["component"][at])]
            if not against:
                because = f"{names[table['of'][by]]} is kept in its place"
            else:
                own = step.removeprefix("dedup against ")
                references.setdefault(own, features.ids(book, own))
                first = at if table["leak"][at] else by
                of = "" if first == at else f" of {names[table['of'][first]]}, to which it is linked"
                because = f"cosine {table['score'][first]:.4f} to {references[own][table['reference'][first]]}{of}"
            yield {"id": names[table["of"][at]], "step": step, "because": because}


def render(book: Book) -> str:
    """The whole document."""
    look = Pictures(book)
    sections = [("Stages", _stages(book)), ("Near-duplicates", _duplicates(book, look))]
    sections += [(f"Near {name.removeprefix('dedup against ')}", _leaks(book, name, look)) for name in book.steps if name.startswith("dedup against ")]
    sections += [(f"Which cosine is a copy ({name.removeprefix('calibrate ')})", _calibration(book, name)) for name in book.steps if name.startswith("calibrate ")]
    sections += [("Clusters", _clusters(book, look)), ("Seeds", _seeds(book)), ("Broken", _broken(book))]
    told = features.about(book, features.POOL)
    head = [tag("h1", f"Curation of {told['images']:,} images"), tag("p", isolated(str(told["path"])))]
    return gallery.whole("curation", [*head, *(tag("section", tag("h2", title), content) for title, content in sections if content)], _STYLE)


class Pictures:
    """Images of the sets for the page; a set that is not there any more has none."""

    def __init__(self, book: Book):
        self.book, self.sources, self.ids = book, {}, {}

    def figure(self, name: str, row: int, said: str) -> Html:
        if name not in self.ids:
            self.ids[name] = features.ids(self.book, name)
            try:
                self.sources[name] = features.source(self.book, name)
            except UserError:
                self.sources[name] = None
        return gallery.figure(self._pixels(self.sources[name], row), self.ids[name][row], said)

    def _pixels(self, source: Any, row: int):
        try:
            return None if source is None else canvas(source.read(row)[0], 2 * gallery.SIDE, max_pixels=pixel_limit(source))
        except Broken:
            return None

    def row(self, *found: Html) -> Html:
        return tag("div", *found, class_="row")


def _stages(book):
    rows = []
    for name, entry in book.steps.items():
        counts = entry["counts"]
        left = counts.get("kept", counts.get("taken", counts.get("chosen", "")))
        rows.append((name, entry["kind"], *(f"{n:,}" if isinstance(n, int) else n for n in (counts.get("images", ""), left)), books.said(entry["params"]), books.said(counts),
                     f"{entry['seconds']:.1f}"))
    return figures.table(("step", "kind", "images", "left", "asked", "found", "seconds"), rows, numeric=(2, 3, 6))


def _duplicates(book, look):
    if "dedup self" not in book.steps:
        return None
    table = book.table("dedup self")
    found, sizes = np.unique(table["component"], return_counts=True)
    histogram = [(f"{size:,}", f"{count:,}", f"{size * count:,}") for size, count in zip(*np.unique(sizes, return_counts=True))]
    rows = [_component(look, table, int(found[at]), table["rows"], "kept", "dropped") for at in np.argsort(-sizes, kind="stable")[:GROUPS] if sizes[at] > 1]
    return join([tag("p", "Images that are linked by a cosine above the threshold, directly or by way of others. The largest components; what was kept is outlined."),
                 figures.table(("images of a component", "components", "images"), histogram, numeric=(0, 1, 2)), *rows])


def _component(look, table, label, kept, yes, no):
    rows = table["of"][table["component"] == label]
    here = np.isin(rows, kept)
    order = np.argsort(~here, kind="stable")[:EACH]
    return look.row(*(tag("div", look.figure(features.POOL, int(rows[i]), yes if here[i] else no), class_="kept" if here[i] else None) for i in order),
                    tag("p", many(len(rows), "image")) if len(rows) > EACH else None)


def _leaks(book, name, look):
    table, reference = book.table(name), name.removeprefix("dedup against ")
    leaks = np.flatnonzero(table["leak"])
    order = leaks[np.argsort(-table["score"][leaks], kind="stable")]
    rows, seen = [], set()
    for i in order:
        if len(rows) == GROUPS:
            break
        own = int(table["reference"][i])
        if own not in seen:
            seen.add(own)
            same = order[table["reference"][order] == own][:EACH - 1]
            rows.append(look.row(tag("div", look.figure(reference, own, reference), class_="kept"),
                                 *(look.figure(features.POOL, int(table["of"][j]), f"{table['score'][j]:.4f}") for j in same)))
    counts = book.steps[name]["counts"]
    return join([tag("p", f"{many(counts['leaks'], 'image')} above the threshold to one of {counts['reference_images']:,} of {reference}; {counts['dropped']:,} dropped. "
                          "Outlined is the image of the reference, then the images that leak it."), *rows])


def _calibration(book, name):
    table, counts, kinds = book.table(name), book.steps[name]["counts"], book.steps[name]["params"]["kinds"]
    at = "No threshold has the precision asked."
    if "threshold" in counts:
        at = f"At {counts['threshold']:.2f}, the lowest with the precision asked, recall is {100 * counts['recall']:.1f} %."
    rows = [(f"{table['threshold'][i]:.2f}", f"{100 * table['precision'][i]:.1f}", f"{table['others'][i]:,}", *(f"{100 * own[i]:.1f}" for own in table["recall"]))
            for i in range(0, len(table["threshold"]), 5)]
    lines = {"precision": table["precision"], **dict(zip(kinds, table["recall"]))}
    return join([tag("p", f"{counts['copies']:,} copies were planted and sought among {counts['images']:,} images. {at}"), curves(table["threshold"], lines),
                 figures.table(("threshold", "precision %", "other pairs", *(f"recall {kind} %" for kind in kinds)), rows, numeric=range(3 + len(kinds)))])


def curves(x: np.ndarray, lines: dict[str, np.ndarray]) -> Html:
    """Lines of shares over x in [0, 1], each named at its colour."""
    width, height, edge = 600, 240, 28

    def place(a, b):
        return f"{edge + a * (width - 2 * edge):.1f},{edge + (1 - b) * (height - 2 * edge):.1f}"
    parts = [tag("rect", x=edge, y=edge, width=width - 2 * edge, height=height - 2 * edge, fill="none", stroke="#8888")]
    for number, (name, y) in enumerate(lines.items()):
        colour, dash = _COLOURS[number % len(_COLOURS)], None if number < len(_COLOURS) else "4 3"
        parts += [tag("polyline", points=" ".join(place(*pair) for pair in zip(x, y)), fill="none", stroke=colour, stroke_dasharray=dash, stroke_width=1 + (number == 0)),
                  tag("text", name, x=edge + 8 + 78 * number, y=16, fill=colour)]
    parts += [tag("text", f"{share:g}", x=edge + share * (width - 2 * edge), y=height - 10, text_anchor="middle", class_="axis") for share in (0, .5, 1)]
    return tag("svg", *parts, viewBox=f"0 0 {width} {height}", width="100%", role="img", aria_label="precision and recall by threshold")


def _clusters(book, look):
    if "kmeans" not in book.steps:
        return None
    table, levels = book.table("kmeans"), book.steps["kmeans"]["params"]["levels"]
    own, size, parts = table["own_1"], np.bincount(table["own_1"], minlength=levels[0]), []
    shares = [(f"{q:g} %", f"{int(np.percentile(size, q)):,}") for q in (0, 10, 50, 90, 100)]
    for cluster in np.unique(np.argsort(-size, kind="stable")[np.linspace(0, levels[0] - 1, min(GROUPS, levels[0])).astype(int)]):
        rows = np.flatnonzero(own == cluster)
        near = rows[np.argsort(table["distance_1"][rows], kind="stable")[:EACH]]
        parts.append(look.row(*(look.figure(features.POOL, int(table["rows"][i]), f"{table['distance_1'][i]:.3f}") for i in near),
                              tag("p", f"cluster {cluster}: {many(len(rows), 'image')}")))
    return join([tag("p", f"{levels[0]:,} clusters of the lowest of {len(levels)} levels; some from the largest to the smallest, each with the images closest to its centroid."),
                 figures.table(("share of clusters", "with at most so many images"), shares, numeric=(0, 1)), *parts])


def _seeds(book):
    def one(name, counts):
        if "mean_cosine_of_the_nearest" in counts:
            near = book.table(name)["seed_nearest"]
            return f"each found its nearest at a cosine of {near.mean():.3f} on average; a tenth of the seeds has none above {np.percentile(near, 10):.3f}"
        return f"{counts['seeds_in_them']:,} of {counts['seeds']:,} seeds lie in {counts['clusters_used']:,} clusters that were used"
    rows = [(name, f"{entry['counts']['seeds']:,}", f"{entry['counts']['taken']:,}", one(name, entry["counts"]))
            for name, entry in book.steps.items() if name.startswith("retrieve ")]
    return figures.table(("step", "seeds", "images taken", "coverage"), rows, numeric=(1, 2)) if rows else None


def _broken(book):
    names, rows = features.ids(book, features.POOL), book.table(features.step_of_pool(book))["rows"]
    there = set(rows.tolist())
    broken = [name for i, name in enumerate(names) if i not in there] if len(rows) < len(names) else []
    if not broken:
        return None
    return join([tag("p", f"{len(broken):,} images cannot be decoded; broken.jsonl beside the features names all."),
                 tag("ul", *(tag("li", isolated(middle(name, 90))) for name in broken[:_NAMED]))])
