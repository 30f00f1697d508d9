"""What a curation of so many images takes, on paper: hours, storage, memory and shuffle of each step, by formulas that it prints, from rates that a finished one had or that are
measured here.

N images, D numbers of a feature, k neighbours, K clusters, I iterations, M machines. Nothing overlaps, machines share evenly, and nothing fails.
"""
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxssl.errors import UserError

ROUNDS = 10             # of a component's joins: their number grows with the logarithm of the longest chain, and chains of duplicates are short
WHOLE = 200_000_000     # numbers of a product that is timed, about


class Scale(NamedTuple):
    """images, width, k, clusters, iterations, machines; linked: share of the images' neighbours that are above the threshold."""
    images: float
    width: int
    k: int = 64
    clusters: int = 0
    iterations: int = 50
    machines: int = 1
    linked: float = .05


class Rate(NamedTuple):
    """value: a second, of one machine. said: where it is from."""
    value: float
    said: str


class Line(NamedTuple):
    """Of a step. hours: with all machines at work; None where its rate is not known. storage: bytes it leaves. memory: bytes a machine holds. shuffle: bytes between machines.
    formula: of the hours, the storage, the memory and the shuffle."""
    step: str
    hours: float | None
    storage: float
    memory: float
    shuffle: float
    formula: str


def lines(s: Scale, rates: Mapping[str, Rate]) -> list[Line]:
    """The steps in order. rates: "embed" (images), "matrix" (multiplications and additions of a product), "links" (links joined), "rows" (rows drawn), each a
    second and machine."""
    def hours(work, name):
        return work / rates[name].value / s.machines / 3600 if name in rates else None
    n, several, clusters = s.images, s.machines > 1, s.clusters or max(int(math.sqrt(s.images)), 2)
    links, row = n * s.k * s.linked, s.width * 2 + 5
    return [
        Line("embed", hours(n, "embed"), n * row, 0., 0., "hours N / (images a second · M); storage N · (2 D + 5) bytes: f16 rows, a length, whether it was broken"),
        Line("knn", hours(2 * n * n * s.width, "matrix"), n * s.k * 12, n * s.width * 4, (s.machines - 1) * n * s.width * 2 if several else 0.,
             "hours 2 N² D / (operations a second · M), every pair once from each side; storage N k · 12 bytes; memory N · 4 D bytes, all rows; shuffle (M − 1) · N · 2 D "
             "bytes, each machine reads all rows"),
        Line("dedup", hours(links + n * s.k, "links"), n * 24, n * s.k * 12 if not several else links * 16 / s.machines, ROUNDS * links * 16 if several else 0.,
             f"hours (N k + links) / (links a second · M), links = N k · {s.linked:g} above the threshold; storage N · 24 bytes; memory N k · 12 bytes on one machine, "
             f"links · 16 / M on several; shuffle {ROUNDS} rounds · links · 16 bytes"),
        Line("kmeans", hours(2 * n * clusters * s.width * s.iterations, "matrix"), n * 12 + clusters * s.width * 4, n * s.width * 4 / s.machines + clusters * s.width * 8,
             s.iterations * (s.machines - 1) * clusters * s.width * 8 if several else 0.,
             f"hours 2 N K D I / (operations a second · M), K = {clusters:,}{'' if s.clusters else ' = √N'}, I = {s.iterations}; storage N · 12 + 4 K D bytes; "
             "memory 4 N D / M + 8 K D bytes; shuffle I · (M − 1) · 8 K D bytes, sums and centroids"),
        Line("sample", hours(n, "rows"), n * .1 * 16, n * 12 / s.machines, n * 12 if several else 0.,
             "hours N / (rows a second · M); storage 16 bytes of each that is taken, a tenth here; memory N · 12 / M bytes; shuffle N · 12 bytes, a row to its cluster")]


def known(steps: Mapping[str, Mapping]) -> tuple[dict[str, Rate], int]:
    """(rates of the steps of a finished `curation.json`, width of its features, 0 without any). A step that was interrupted says the seconds of its last process alone."""
    found, width, most = {}, 0, 0
    for name, entry in steps.items():
        kind, images, seconds = name.partition(" ")[0], entry["counts"].get("images", 0), max(float(entry["seconds"]), 1e-3)
        took = f"{images:,} images in {seconds:,.3g} s"
        if kind == "embed" and images > most:
            found["embed"], width, most = Rate(images / seconds, f"{took}, {name!r}"), int(entry["counts"]["width"]), images
        elif kind == "knn" and entry["params"].get("method") == "exact" and width:
            found["matrix"] = Rate(2 * images ** 2 * width / seconds, f"the neighbours of {took}")
        elif name.startswith("dedup self"):
            found["links"] = Rate(images * entry["params"]["k"] / seconds, f"the components of {took}, what is kept of each included")
        elif kind == "sample":
            found["rows"] = Rate(images / seconds, f"the draw among {took}")
    return found, width


def measured(width: int, repeats: int = 3) -> dict[str, Rate]:
    """Rates of "matrix", "links" and "rows" on this machine, the best of a few repeats of a fraction of a second; an encoder's cannot be measured without one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    rng = np.random.default_rng(0)
    side = max(int(math.sqrt(WHOLE / width)), 64)
    x, count = rng.standard_normal((side, width), np.float32), 200_000
    at = rng.integers(0, count, (2, count))
    own = rng.integers(0, 1000, count)

    def best(work):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return max(min(times), 1e-6)
    return {"matrix": Rate(2 * side * side * width / best(lambda: x @ x.T), f"a product of {side:,} rows of {width:,} with themselves, on this machine's processor"),
            "links": Rate(count / best(lambda: connected_components(coo_array((np.ones(count, np.int8), at), shape=(count, count)), directed=False)),
                          f"components of {count:,} links, on this machine"),
            "rows": Rate(count / best(lambda: np.argsort(own, kind="stable")), f"{count:,} rows sorted by their cluster, on this machine")}


def check(s: Scale) -> None:
    """Raises: UserError for what is no curation."""
    for flag, value, low, high in (("--images", s.images, 2, 1e13), ("--width", s.width, 1, 65_536), ("--k", s.k, 1, 10_000), ("--clusters", s.clusters, 0, s.images),
                                   ("--iterations", s.iterations, 1, 10_000), ("--machines", s.machines, 1, 100_000), ("--linked", s.linked, 0, 1)):
        if not low <= value <= high:
            raise UserError(f"{flag} is {value:,.10g}; it is from {low:,} to {high:,.10g}")


def report(s: Scale, rates: Mapping[str, Rate], memory: float = 0.) -> str:
    """The plan as text. memory: bytes of a machine, 0 where it is not given."""
    found = lines(s, rates)
    rows = [("step", "hours", "machine-hours", "storage", "memory of each", "shuffle"),
            *((each.step, "rate not known" if each.hours is None else f"{each.hours:,.3g}", "" if each.hours is None else f"{each.hours * s.machines:,.3g}", _size(each.storage),
               _size(each.memory), _size(each.shuffle)) for each in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = [f"{s.images:,.10g} images, features of {s.width:,}, {s.k} neighbours, {s.machines:,} machine{'s' if s.machines > 1 else ''}; on paper, by the formulas below"]
    text += ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))) for row in rows]
    text += [f"  {each.step}: {each.formula}" for each in found] + ["rates of one machine:"]
    text += [f"  {name}: {rates[name].value:,.3g} {what} a second ({rates[name].said})" if name in rates else
             f"  {name}: not known; name a finished curation with --of, or give --embed_rate" for name, what in
             (("embed", "images"), ("matrix", "operations"), ("links", "links"), ("rows", "rows"))]
    text += [f"note: {each.step} holds {_size(each.memory)} on each machine, which has {_size(memory)}: it does not run so; part the images, or lower --width"
             for each in found if memory and each.memory > memory]
    if s.machines > 1:
        text.append("note: knn and kmeans are priced as if their rows were parted over machines, which this version does over the devices of one program; dedup, components and "
                    "draws run on Beam (--beam)")
    return "\n".join(text)


def as_dict(s: Scale, rates: Mapping[str, Rate]) -> dict[str, Any]:
    """The plan as plain values."""
    return {"scale": s._asdict(), "rates": {name: rate._asdict() for name, rate in rates.items()}, "steps": [each._asdict() for each in lines(s, rates)]}


def _size(nbytes):
    unit, name = next((unit, name) for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")) if nbytes >= unit or unit == 1)
    return f"{nbytes / unit:.3g} {name}" if nbytes else "0"
