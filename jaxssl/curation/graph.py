"""The k nearest others of every image, by cosine: exact in blocks that are kept as they are done, or by faiss's IVF-PQ with what it misses measured."""
import hashlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxssl.curation import book as books, features
from jaxssl.curation.book import Book
from jaxssl.errors import UserError
from jaxssl.evaluation.features.search import neighbours

BLOCK = 16_384          # queries whose neighbours are one file
METHODS = ("exact", "faiss")
MANY = 100_000          # images from which on lists that miss some are worth it
SAMPLE = 1000           # images whose exact neighbours are compared with faiss's
_PROBED = 16            # of its lists, faiss looks through one in so many


class Graph(NamedTuple):
    """Neighbours in files, a block of rows each. rows: int64 [n] of the pool. files, starts: of each block where it is, and its first place in `rows`. digests: what they hold."""
    rows: np.ndarray
    files: list[Path]
    starts: list[int]
    digests: list[str]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(cosine f32 [n, k], place int32 [n, k] in `rows`), falling, equal ones by place. Raises: UserError where a block is not what was written."""
        remedy = "delete it, and the same command makes it again"
        parts = [books.read(file, remedy) for file in self.files]
        for file, part, digest in zip(self.files, parts, self.digests):
            if books.digest(part) != digest:
                raise UserError(f"{file} is not what was written; {remedy}")
        score, place = (np.concatenate([part[key] for part in parts]) for key in ("score", "place"))
        return score, place


def knn(book: Book, *, space: str, among: str, k: int, method: str = "exact", mesh: Any = None, block: int = BLOCK) -> Graph:
    """Of each image of the selection `among` the k most similar others; k is lowered to n - 1. Kept as the step "knn SPACE of AMONG". Raises: UserError."""
    start = time.monotonic()
    if k < 1 or method not in METHODS:
        raise UserError(f"--k is {k} and --method is {method!r}; give at least 1 neighbour, and one of {', '.join(METHODS)}")
    pool = features.demand(book, features.POOL, space)
    inputs = book.inputs(pool, among)
    rows = book.table(among)["rows"]
    k = min(k, len(rows) - 1)
    name, params = f"knn {space} of {among}", {"k": k, "method": method}
    folder = book.folder / "knn" / hashlib.sha256(repr((sorted(inputs.items()), k, method)).encode()).hexdigest()[:16]
    files = [folder / f"{at // block:05d}-{block}.npz" for at in range(0, len(rows), block)]
    if not (book.made(name, params, inputs) and all(file.exists() for file in files)):
        x = features.load(book, features.POOL, space).x[rows]
        counts = {"images": len(rows), "k": k}
        if method == "exact":
            _exact(book, x, k, files, block, mesh)
        else:
            counts["recall"] = _approximate(book, x, k, files, block, mesh)
        parts = [books.read(file, "run `knn` again") for file in files]
        nearest = np.concatenate([part["score"][:, :1] for part in parts])
        book.keep(name, books.TABLE, params, inputs, counts, {"rows": rows, "nearest": nearest, "files": np.array([file.name for file in files]),
                                                              "digests": np.array([books.digest(part) for part in parts])}, start)
    return Graph(rows, files, list(range(0, len(rows), block)), list(book.table(name)["digests"]))


def others(x: np.ndarray, k: int, mesh: Any = None, *, low: int = 0, high: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cosine f32 [high - low, k] and place int32 of the k most similar others of rows low to high of x [N, D]; k < N."""
    places = np.arange(len(x))
    part = slice(low, len(x) if high is None else high)
    if not k:
        return np.zeros((len(x[part]), 0), np.float32), np.zeros((len(x[part]), 0), np.int32)
    score, place = neighbours(x[part], x, k=k, query_ids=places[part], reference_ids=places, mesh=mesh)
    return score, place.astype(np.int32)


def _exact(book, x, k, files, block, mesh):
    for number, file in enumerate(files):
        low, high = number * block, min((number + 1) * block, len(x))
        if not _whole(file, high - low):
            score, place = others(x, k, mesh, low=low, high=high)
            books.write(file, score=score, place=place)
            book.log(f"neighbours of {high:,} of {len(x):,} images")


def _whole(file, count):
    try:
        return file.exists() and len(books.read(file, "")["score"]) == count
    except (UserError, KeyError):
        return False


def _approximate(book, x, k, files, block, mesh):
    if len(x) < MANY:
        raise UserError(f"--method faiss may miss neighbours, and {len(x):,} images are searched exactly in minutes; leave it out below {MANY:,}")
    found = inverted_lists(x)
    for number, file in enumerate(files):
        low, high = number * block, min((number + 1) * block, len(x))
        score, place = found(low, high, k)
        books.write(file, score=score, place=place)
        book.log(f"neighbours of {high:,} of {len(x):,} images")
    sample = np.unique(np.linspace(0, len(x) - 1, min(SAMPLE, len(x))).astype(int))
    exact = neighbours(x[sample], x, k=k, query_ids=sample, reference_ids=np.arange(len(x)), mesh=mesh)[1]
    place = np.concatenate([books.read(file, "run `knn` again")["place"] for file in files])[sample]
    recall = shared(place, exact)
    book.log(f"of the {k} nearest of {len(sample):,} images faiss found {100 * recall:.1f} %")
    return recall


def inverted_lists(x: np.ndarray) -> Any:
    """A search of unit rows x [N, D] by faiss's IVF-PQ: found(low, high, k) as `others`, similarities exact. Raises: UserError without faiss."""
    try:
        import faiss
    except ImportError:
        raise UserError("--method faiss needs faiss, which is not installed; pip install faiss-cpu, or leave it out") from None
    lists, width = max(1, int(4 * len(x)**.5)), x.shape[1]
    codes = max(m for m in range(1, min(64, width) + 1) if width % m == 0)
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(x[::max(1, len(x) // max(64 * lists, 64 * 256))]))
    index.add(np.ascontiguousarray(x))
    index.nprobe = max(1, lists // _PROBED)

    def found(low, high, k):
        place = index.search(np.ascontiguousarray(x[low:high]), 2 * k + 1)[1]
        score = np.einsum("nd,nkd->nk", x[low:high], x[np.maximum(place, 0)])
        score[(place < 0) | (place == np.arange(low, high)[:, None])] = -np.inf
        order = np.lexsort((place, -score))[:, :k]
        return np.take_along_axis(score, order, 1).astype(np.float32), np.take_along_axis(place, order, 1).astype(np.int32)
    return found


def shared(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact neighbours [N, k] that are among those found [N, k]."""
    return float(np.mean([np.isin(own, other).mean() for own, other in zip(exact, found)])) if exact.size else 1.
