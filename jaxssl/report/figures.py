"""The parts of the page that need no script: tables, bars, whiskers, rows of pictures. Markup in, markup out; widths are SVG attributes,
since the page's policy forbids style attributes."""
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxssl.report import pictures
from jaxssl.report.markup import Html, join, middle, tag

LEVELS = 9      # shades of the confusion matrix
SHOWN = 20      # its classes; the rest are summed
MANY = 3        # runs; more are listed one below the other, and their evaluations folded


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], *, numeric: Sequence[int] = (), class_: str = "") -> Html:
    """A table in a box that scrolls by itself when it is wider than the page. numeric: columns set right."""
    def cells(name, row):
        return join(tag(name, cell, class_="n" if i in numeric else None, scope="col" if name == "th" else None) for i, cell in enumerate(row))
    return tag("div", tag("table", tag("thead", tag("tr", cells("th", head))), tag("tbody", *(tag("tr", cells("td", row)) for row in rows)), class_=class_ or None),
               class_="scroll", tabindex="0", role="region", aria_label=f"table of {', '.join(str(name) for name in head if name)}")


def compared(head: Sequence[Any], rows: Sequence[Sequence[Any]], *, class_: str, numeric: bool = True) -> Html:
    """A table of runs: a column each, or a row each when there are more than `MANY`. head: "" and the runs' names."""
    grid = [head, *rows] if len(head) <= MANY + 1 else list(zip(head, *rows))
    return table(grid[0], grid[1:], numeric=range(1, len(grid[0])) if numeric else (), class_=class_)


def pairs(found: Iterable[tuple[Any, Any]]) -> Html:
    """A definition list of (name, value)."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in found), class_="pairs")


def folded(title: Any, *content: Any) -> Html:
    return tag("details", tag("summary", title), *content)


def bar(share: float, interval: Sequence[float] | None = None, *, before: float | None = None) -> Html:
    """A bar of a share in [0, 1]; a tick where it was `before`, and a whisker over its interval."""
    def across(value):
        return f"{100 * min(max(value, 0), 1):.2f}%"
    parts = [tag("rect", class_="ground", x="0", y="5", width="100%", height="8"), tag("rect", class_="bar", x="0", y="5", width=across(share), height="8")]
    if interval:
        parts.append(tag("line", class_="whisker", x1=across(interval[0]), x2=across(interval[1]), y1="9", y2="9"))
        parts += [tag("line", class_="whisker", x1=across(end), x2=across(end), y1="4", y2="14") for end in interval]
    if before is not None:
        parts.append(tag("line", class_="tick", x1=across(before), x2=across(before), y1="1", y2="17"))
    return tag("svg", *parts, class_="bars", width="100%", height="18", aria_hidden="true")


def whisker(value: float, interval: Sequence[float] | None, span: tuple[float, float], mark: float | None = None) -> Html:
    """A dot at `value` on a band, its interval, on a scale that `span` gives; a tick where the published value lies."""
    low, high = span
    def across(x):
        return f"{4 + 92 * min(max((x - low) / max(high - low, 1e-12), 0), 1):.2f}%"
    parts = [tag("line", class_="axis", x1="4%", x2="96%", y1="9", y2="9")]
    if interval:
        parts.append(tag("line", class_="band", x1=across(interval[0]), x2=across(interval[1]), y1="9", y2="9"))
    if mark is not None:
        parts.append(tag("line", class_="tick", x1=across(mark), x2=across(mark), y1="2", y2="16"))
    parts.append(tag("circle", class_="dot", cx=across(value), cy="9", r="2.5"))
    return tag("svg", *parts, class_="bars", width="100%", height="18", aria_hidden="true")


def picture(pixels: np.ndarray, description: str, *, class_: str = "") -> Html:
    """An image of its natural size in an attribute, scaled by the style sheet."""
    return tag("img", src=pictures.address(pixels), alt=description, title=description, width=pixels.shape[1], height=pixels.shape[0], class_=class_ or None)


def views(found: Sequence[pictures.Viewed], first: str = "original", each: str = "view") -> Html:
    """A row an image: the original, called `first`, then its views, each called so and numbered unless that is "", over what was drawn."""
    def cell(pixels, description, lines):
        return tag("figure", picture(pixels, description), tag("figcaption", *(tag("span", line) for line in lines)))

    def own(v):
        for i, (view, lines) in enumerate(zip(v.views, v.captions), 1):
            yield cell(view, f"view {i} of {v.id}: {', '.join(lines)}", [*([f"{each} {i}"] if each else []), *lines])

    rows = [tag("div", cell(v.original, f"training image {v.id}", [first, f"{v.original.shape[0]} × {v.original.shape[1]}"]), *own(v), class_="views") for v in found]
    return tag("div", *rows, class_="viewed")


def neighbours(rows: Sequence[dict]) -> Html:
    """A row a query: its picture and name, then its neighbours, each marked right or wrong by a sign and by the line around it.

    rows: {"pixels", "name", "id", "place", "note", "neighbours": [{"pixels", "name", "id", "place", "cosine", "right": True | False | None}]}; a place is
    the image's index in its source.
    """
    def near(n):
        state = {True: "right", False: "wrong", None: "unknown"}[n["right"]]
        sign = {True: "✓", False: "✕", None: ""}[n["right"]]
        spoken = f"{n['name']}, cosine {n['cosine']:.2f}" + (f", {state}" if n["right"] is not None else "") + f", {n['id']}"
        return tag("li", picture(n["pixels"], spoken), tag("span", sign, class_="sign", aria_hidden="true"), class_=state, data_place=n["place"])
    return tag("div", *(tag("div", tag("p", tag("b", row["name"]), " ", row["note"]), picture(row["pixels"], f"query: {row['name']}, {row['id']}"),
                            tag("ol", *(near(n) for n in row["neighbours"]), tabindex="0", aria_label="neighbours; arrow keys tell them"), tag("output"),
                            class_="row", data_place=row["place"], data_tells=1) for row in rows), class_="neighbours")


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Html:
    """The matrix as a table, rows true, columns predicted, shaded by the share of the row. Above `SHOWN` classes, those with most mistakes, the rest summed."""
    matrix, names, other = trimmed(matrix, names)
    total = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shade = np.ceil(LEVELS * matrix / total).astype(int)
    upright = "upright" if max(map(len, names)) <= 3 else None
    head = tag("tr", tag("th", "true\u00a0↓ taken\u00a0for\u00a0→", scope="col"), *(tag("th", tag("span", middle(name)), scope="col", class_=upright) for name in names))

    def cell(i, j):
        count = int(matrix[i, j])
        return tag("td", count or "", class_=f"c{shade[i, j]}{' hit' if i == j < (SHOWN if other else len(names)) else ''}",
                   title=f"{names[i]} taken for {names[j]}: {count} of {matrix[i].sum()}")
    body = [tag("tr", tag("th", middle(name), scope="row"), *(cell(i, j) for j in range(len(names)))) for i, name in enumerate(names)]
    note = [tag("p", f"The {SHOWN} classes with most mistakes; the other {other:,} classes are summed.", class_="reading")] if other else []
    whole = tag("table", tag("thead", head), tag("tbody", *body), class_="confusion")
    return tag("div", *note, tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label="confusion matrix; arrow keys tell its cells"), tag("output"),
               data_tells=len(names))


def trimmed(matrix: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str], int]:
    """(matrix, names, classes summed): with more than `SHOWN` + 1 classes, the `SHOWN` with most mistakes in row and column, and one more
    for the rest. Its sum stays."""
    if len(names) <= SHOWN + 1:
        return matrix, list(names), 0
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    kept = np.sort(np.argsort(-mistakes, kind="stable")[:SHOWN])
    group = np.full(len(names), SHOWN)
    group[kept] = np.arange(SHOWN)
    small = np.zeros((SHOWN + 1, SHOWN + 1), matrix.dtype)
    np.add.at(small, (group[:, None], group[None, :]), matrix)
    return small, [*(names[i] for i in kept), "all others"], len(names) - SHOWN
