"""Near-duplicates: images that are linked by a cosine above a threshold, directly or by way of others (arXiv 2304.07193, appendix A).

Among themselves one of each component is kept; against a reference, such as a test set, what is linked to it is dropped.
"""
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxssl.curation import book as books, features, graph
from jaxssl.curation.book import Book
from jaxssl.data.decode import Broken
from jaxssl.errors import UserError, nearest
from jaxssl.evaluation.features.search import neighbours

KEEP = ("first", "largest", "sharpest")
DROP = ("images", "component")
SELF, AGAINST = .6, .45         # of DINOv2, for the copy-detection encoder SSCD; `calibrate` measures others
_SHARP = 256                    # pixels of the longer side at which sharpness is measured


def check_threshold(threshold: float) -> None:
    """Raises: UserError for what is no cosine."""
    if not -1 <= threshold <= 1:
        raise UserError(f"--threshold is {threshold:g}; it is a cosine, from -1 to 1: `calibrate` measures which one suits these features")


def components(score: np.ndarray, place: np.ndarray, threshold: float) -> np.ndarray:
    """int64 [N]: of each row the lowest row that it is linked to, directly or by way of others, by cosines [N, k] to the rows `place` [N, k] that are above the threshold.

        for i in range(N):
            for s, j in zip(score[i], place[i]):
                if s > threshold: join(i, j)
    """
    at, near = np.nonzero(score > threshold)
    return joined(at, place[at, near], len(score))


def joined(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """int64 [count]: of each row the lowest that it is linked to by edges from the rows `one` to the rows `other`, [E] each, directly or by way of others."""
    links = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    label = connected_components(links, directed=False)[1]
    lowest = np.full(label.max(initial=-1) + 1, count, np.int64)
    np.minimum.at(lowest, label, np.arange(count))
    return lowest[label]


def chosen(component: np.ndarray, merit: np.ndarray | None = None) -> np.ndarray:
    """Rows int64, rising: of each component [N] the one of most merit [N], of equal ones the first."""
    order = np.lexsort((np.arange(len(component)), np.zeros(len(component)) if merit is None else -merit, component))
    return np.sort(order[np.r_[True, np.diff(component[order]) != 0]]) if len(order) else order


def linked(component: np.ndarray, leaks: np.ndarray) -> np.ndarray:
    """bool [N]: whether the component of a row has a row of `leaks` bool [N]."""
    return np.isin(component, component[leaks])


def merit(source: Any, rows: Sequence[int], rule: str) -> np.ndarray:
    """f64 [n] of images of a source: pixels for "largest"; for "sharpest" the variance of the Laplacian of the grey image, its longer side at most 256; -1 for broken ones."""
    found = np.full(len(rows), -1.)
    for at, row in enumerate(rows):
        try:
            image = features.image(source, int(row))
        except Broken:
            continue
        found[at] = image.width * image.height if rule == "largest" else sharpness(image)
    return found


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian (four neighbours) of the grey image."""
    image = image.convert("L")
    image.thumbnail((_SHARP, _SHARP))
    grey = np.pad(np.asarray(image, np.float64), 1, mode="edge")
    return float(np.var(grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]))


def _joined(near: graph.Graph, threshold: float, beam: Any) -> tuple[np.ndarray, int]:
    """(component [N], how many rows have all their k neighbours above the threshold and may have more)."""
    count = len(near.rows)
    if beam:
        return beam.components(near.files, near.starts, count, threshold)
    score, place = near.read()
    return components(score, place, threshold), more(score, count, threshold)


def more(score: np.ndarray, count: int, threshold: float) -> int:
    """How many rows of cosines [n, k] to `count` images in all have no neighbour below the threshold and may have more above it than their k."""
    return int((score[:, -1] > threshold).sum()) if 0 < score.shape[1] < count - 1 else 0


def dedup_self(book: Book, *, space: str, among: str, threshold: float = SELF, k: int = 64, keep: str = "first", method: str = "exact", mesh: Any = None,
               beam: Any = None) -> None:
    """Keeps one image of each component of the selection `among`: the step "dedup self". beam: pipelines that join (`curation.beam.Beam`). Raises: UserError."""
    start, name = time.monotonic(), "dedup self"
    check_threshold(threshold)
    if keep not in KEEP:
        raise UserError(f"--keep is {keep!r}; choose one of {', '.join(KEEP)}{nearest(keep, KEEP)}")
    among = book.selection(among, name)
    near = graph.knn(book, space=space, among=among, k=k, method=method, mesh=mesh)
    inputs, params = book.inputs(features.step(space, features.POOL), among, f"knn {space} of {among}"), {"threshold": threshold, "k": k, "keep": keep}
    if book.made(name, params, inputs):
        return
    rows = near.rows
    component, full = _joined(near, threshold, beam)
    sizes = np.bincount(component, minlength=len(rows))
    several = np.flatnonzero(sizes[component] > 1)
    value = None
    if keep != "first" and len(several):
        value = np.zeros(len(rows))
        value[several] = merit(features.source(book, features.POOL), rows[several], keep)
    kept = (beam.chosen if beam else chosen)(component, value)
    counts = {"images": len(rows), "kept": len(kept), "dropped": len(rows) - len(kept), "components_of_several": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0))}
    if full:
        book.log(f"note: {full:,} images have all their {k} neighbours above the threshold and may have more; a larger --k would see them")
        counts["with_all_neighbours_above"] = full
    book.keep(name, books.FILTER, params, inputs, counts, {"rows": rows[kept], "of": rows, "component": rows[component]}, start)


def dedup_against(book: Book, reference: str, *, space: str, among: str, threshold: float = AGAINST, drop: str = "component", k: int = 64, method: str = "exact",
                  mesh: Any = None, beam: Any = None) -> None:
    """Drops the images of the selection that are above the threshold to an image of the set `reference`, or with drop "component" every component that holds one, linked by
    the k nearest of the selection: the step "dedup against REFERENCE". Raises: UserError."""
    start, name = time.monotonic(), f"dedup against {reference}"
    check_threshold(threshold)
    if drop not in DROP:
        raise UserError(f"--drop is {drop!r}; choose one of {', '.join(DROP)}{nearest(drop, DROP)}")
    among, of_reference = book.selection(among, name), features.demand(book, reference, space)
    if reference == features.POOL:
        raise UserError("dedup against pool would drop every image; name a set of references, or use dedup self")
    made_from = [features.step(space, features.POOL), of_reference, among]
    if drop == "component":
        near = graph.knn(book, space=space, among=among, k=k, method=method, mesh=mesh)
        made_from.append(f"knn {space} of {among}")
    inputs, params = book.inputs(*made_from), {"threshold": threshold, "drop": drop, "k": k if drop == "component" else 0}
    if book.made(name, params, inputs):
        return
    rows, wanted = book.table(among)["rows"], features.load(book, reference, space)
    places = np.flatnonzero(wanted.kept)
    score, at = neighbours(features.load(book, features.POOL, space).x[rows], wanted.x[places], k=1, mesh=mesh)
    score, at = score[:, 0], places[at[:, 0]]
    leaks = score > threshold
    component = _joined(near, threshold, beam)[0] if drop == "component" else np.arange(len(rows))
    dropped = (beam.linked if beam else linked)(component, leaks)
    if dropped.all():
        raise UserError(f"dedup against {reference} at --threshold {threshold:g} would drop all {len(rows):,} images; choose a higher one: "
                        "`calibrate` measures which suits these features")
    counts = {"images": len(rows), "kept": int((~dropped).sum()), "dropped": int(dropped.sum()), "leaks": int(leaks.sum()),
              "reference_images": len(places), "reference_images_nearest_to_a_leak": len(np.unique(at[leaks]))}
    table = {"rows": rows[~dropped], "of": rows, "component": rows[component], "score": score, "reference": at.astype(np.int64), "leak": leaks}
    book.keep(name, books.FILTER, params, inputs, counts, table, start)
