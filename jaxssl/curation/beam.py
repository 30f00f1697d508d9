"""Components, joins and draws as Apache Beam pipelines, for more images than one machine joins in time: the same rows as `duplicates` and `picks` give.

They read the tables of the steps before them and hand their result back as arrays of one number an image. Any runner does it (DirectRunner here, Dataflow, Flink, Spark), as long
as its workers have this package and see the folder of the curation under the same path: a shared disk. Components are joined by large and small stars in turns (Kiveris et al.
2014, "Connected components in MapReduce and beyond", SoCC, section 3), after every block of neighbours has become a forest by itself.
"""
import glob
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.curation import book as books, duplicates, picks
from jaxssl.curation.book import Book
from jaxssl.errors import UserError, shown

SLICE = 65_536          # rows of a table that a worker reads at once
ROUNDS = 60             # of stars; each about halves the longest way to the lowest row, and their number grows with the logarithm of the images


class Beam:
    """Pipelines over the tables of a curation. flags: of Beam, as `runner=DirectRunner`. Raises: UserError without Beam, and for flags and runners that it does not take."""

    def __init__(self, book: Book, flags: Sequence[str]):
        try:
            import apache_beam
            from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
            from apache_beam.runners import create_runner
        except ImportError:
            raise UserError('--beam needs Apache Beam, which is not installed; pip install "jaxssl[curate]", or leave it out') from None
        if wrong := [flag for flag in flags if not flag.partition("=")[0] or flag.startswith("-")]:
            raise UserError(f"--beam {shown(wrong[0])[:100]} is no flag of Beam with its value; write NAME=VALUE, such as runner=DirectRunner")
        self.beam, self.book = apache_beam, book
        with _sentence("--beam"):
            self.options = PipelineOptions([f"--{flag}" for flag in flags])
            create_runner(self.options.view_as(StandardOptions).runner or "DirectRunner")
        self.folder = book.folder / "beam"

    def components(self, files: Sequence[Path], starts: Sequence[int], count: int, threshold: float) -> tuple[np.ndarray, int]:
        """(`duplicates.components`, `duplicates.more`) of neighbours in files: rows from `starts` on, [n, k] in each. count: rows in all."""
        def forests(p):
            blocks = self._from(p, list(zip(map(str, files), starts)))
            _written(blocks | "forest" >> self.beam.FlatMap(_forest, threshold), f"{room}/edges0")
            _written(blocks | "full" >> self.beam.Map(_full, count, threshold), f"{room}/full")
        with self._room() as room:
            self._run("forests", forests)
            before = None
            for number in range(ROUNDS):
                self._run(f"stars {number + 1}", lambda p: self._stars(p, f"{room}/edges{number}", f"{room}/edges{number + 1}", f"{room}/sum{number}"))
                after = Path(_only(f"{room}/sum{number}")).read_text()
                if after == before:
                    break
                before = after
                for done in glob.glob(f"{room}/edges{number}-*"):
                    Path(done).unlink()
            else:
                raise UserError(f"components did not come to rest in {ROUNDS} rounds; give a higher --threshold, at which fewer images are linked")
            full, found, edges = int(_numbers(f"{room}/full").sum()), np.arange(count), _numbers(f"{room}/edges{number + 1}").reshape(-1, 2)
        found[edges[:, 0]] = edges[:, 1]
        return found, full

    def chosen(self, component: np.ndarray, merit: np.ndarray | None = None) -> np.ndarray:
        """`duplicates.chosen`."""
        beam = self.beam
        with self._room() as room:
            tables = [_kept(f"{room}/component.npy", component), _kept(f"{room}/merit.npy", np.zeros(len(component)) if merit is None else merit)]
            self._run("keepers", lambda p: _written(self._slices(p, len(component)) | "best" >> beam.FlatMap(_best, *tables) | beam.CombinePerKey(min)
                                                    | "row" >> beam.MapTuple(lambda key, best: best[1:]), f"{room}/rows"))
            return np.sort(_numbers(f"{room}/rows"))

    def linked(self, component: np.ndarray, leaks: np.ndarray) -> np.ndarray:
        """`duplicates.linked`."""
        beam = self.beam
        with self._room() as room:
            tables = [_kept(f"{room}/component.npy", component), _kept(f"{room}/leaks.npy", leaks)]
            self._run("leaks", lambda p: _written(self._slices(p, len(component)) | "members" >> beam.FlatMap(_members, *tables) | beam.GroupByKey()
                                                  | "drop" >> beam.FlatMapTuple(_dropped), f"{room}/rows"))
            found = np.zeros(len(component), bool)
            found[_numbers(f"{room}/rows")] = True
            return found

    def drawn(self, own: np.ndarray, distance: np.ndarray, taken: np.ndarray, pick: str, seed: int) -> np.ndarray:
        """`picks.drawn`."""
        beam = self.beam
        with self._room() as room:
            tables = [_kept(f"{room}/{name}.npy", table) for name, table in (("own", own), ("distance", distance), ("taken", taken))]
            self._run("draws", lambda p: _written(self._slices(p, len(own)) | "clusters" >> beam.FlatMap(_clusters, *tables) | beam.GroupByKey()
                                                  | "draw" >> beam.FlatMap(_drawn, tables[2], pick, seed), f"{room}/rows"))
            return np.sort(_numbers(f"{room}/rows"))

    def _stars(self, p: Any, edges: str, after: str, total: str) -> None:
        beam = self.beam
        found = (p | beam.io.ReadFromText(f"{edges}-*") | "both ways" >> beam.FlatMap(_both_ways) | "large" >> beam.GroupByKey() | "large star" >> beam.FlatMapTuple(_large)
                 | "small" >> beam.GroupByKey() | "small star" >> beam.FlatMapTuple(_small) | beam.Distinct())
        _written(found, after)
        found | "mark" >> beam.Map(_mark) | beam.CombineGlobally(_add) | "sum" >> beam.io.WriteToText(total, num_shards=1)  # noqa: B018: Beam's way of writing

    def _slices(self, p: Any, count: int) -> Any:
        return self._from(p, [(low, min(low + SLICE, count)) for low in range(0, count, SLICE)])

    def _from(self, p, items):
        return p | self.beam.Create(items) | self.beam.Reshuffle()

    def _run(self, what: str, build: Callable[[Any], Any]) -> None:
        self.book.log(f"pipeline of {what}")
        with _sentence(f"the pipeline of {what}"), self.beam.Pipeline(options=self.options) as p:
            build(p)

    def _room(self) -> tempfile.TemporaryDirectory:
        """A folder for what passes between pipelines, which no other run uses; what a killed one left is removed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return tempfile.TemporaryDirectory(dir=self.folder)


class _sentence:
    """What goes wrong in Beam as one sentence."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Exception) and not isinstance(error, UserError | OSError):
            raise UserError(f"{self.what} failed: {shown(' '.join(str(error).split()))[:300]}; see the runner's own log, or leave out --beam") from error


def _written(values: Any, prefix: str) -> Any:
    """Tuples of numbers as lines of text."""
    from apache_beam import Map
    from apache_beam.io import WriteToText
    return values | f"lines of {Path(prefix).name}" >> Map(lambda row: " ".join(map(str, row))) | f"write {Path(prefix).name}" >> WriteToText(prefix)


def _numbers(prefix: str) -> np.ndarray:
    return np.array(" ".join(Path(file).read_text() for file in sorted(glob.glob(f"{prefix}-*"))).split(), np.int64)


def _only(prefix):
    [file] = glob.glob(f"{prefix}-*")
    return file


def _kept(file: str, table: np.ndarray) -> str:
    np.save(file, table, allow_pickle=False)
    return file


def _part(file: str, rows: tuple[int, int]) -> np.ndarray:
    return np.array(np.load(file, mmap_mode="r")[slice(*rows)])


def _forest(at: tuple[str, int], threshold: float) -> Iterator[tuple[int, int]]:
    """(row, lowest row that it is linked to within the block), of all but the lowest."""
    file, start = at
    block = books.read(Path(file), "run `knn` again")
    one, near = np.nonzero(block["score"] > threshold)
    rows, ends = np.unique(np.concatenate([one + start, block["place"][one, near]]), return_inverse=True)
    lowest = rows[duplicates.joined(*ends.reshape(2, -1), len(rows))]
    yield from ((int(row), int(low)) for row, low in zip(rows, lowest) if row != low)


def _full(at: tuple[str, int], count: int, threshold: float) -> tuple[int]:
    return (duplicates.more(books.read(Path(at[0]), "run `knn` again")["score"], count, threshold),)


def _both_ways(line: str) -> Iterator[tuple[int, int]]:
    one, other = map(int, line.split())
    yield from ((one, other), (other, one))


def _large(row: int, near: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The neighbours above a row point to the lowest of them all; of equal edges one is enough."""
    near = set(near)
    low = min(row, *near)
    yield from ((other, low) for other in near if other > row)


def _small(row: int, below: Iterable[int]) -> Iterator[tuple[int, int]]:
    """A row and its neighbours below point to the lowest of them."""
    below = {*below, row}
    low = min(below)
    yield from ((other, low) for other in below if other != low)


def _mark(edge: tuple[int, int]) -> tuple[int, int]:
    """An edge as a number, so that a sum tells sets of edges apart."""
    return 1, hash(edge) % (1 << 61)            # of whole numbers alone: the same in every process


def _add(marks: Iterable[tuple[int, int]]) -> tuple[int, int]:
    count, total = 0, 0
    for one, mark in marks:
        count, total = count + one, (total + mark) % (1 << 61)
    return count, total


def _best(rows: tuple[int, int], component: str, merit: str) -> Iterator[tuple[int, tuple[float, int]]]:
    """(component, (-merit, row)) of the best of each component in a part of the table."""
    own, worth = _part(component, rows), _part(merit, rows)
    for at in duplicates.chosen(own, worth):
        yield int(own[at]), (-float(worth[at]), rows[0] + int(at))


def _members(rows: tuple[int, int], component: str, leaks: str) -> Iterator[tuple[int, tuple[bool, list]]]:
    """(component, (whether one leaks, its rows)) of a part of the table."""
    own, leak = _part(component, rows), _part(leaks, rows)
    values, ends = np.unique(own, return_inverse=True)
    for number, at in picks.parts(ends, len(values)):
        yield int(values[number]), (bool(leak[at].any()), (at + rows[0]).tolist())


def _dropped(component, found):
    found = list(found)
    if any(leak for leak, _ in found):
        yield from ((row,) for _, rows in found for row in rows)


def _clusters(rows: tuple[int, int], own: str, distance: str, taken: str) -> Iterator[tuple[int, tuple[list, list]]]:
    """(cluster, (its rows, their distances)) of a part of the table, of clusters of which some are taken."""
    cluster, far = _part(own, rows), _part(distance, rows)
    wanted = np.load(taken, mmap_mode="r")
    values, ends = np.unique(cluster, return_inverse=True)
    for number, at in picks.parts(ends, len(values)):
        if wanted[values[number]]:
            yield int(values[number]), ((at + rows[0]).tolist(), far[at].tolist())


def _drawn(group, taken, pick, seed):
    cluster, found = group
    rows, far = (np.array(sum(part, [])) for part in zip(*found))
    order = np.argsort(rows)
    rows, most = rows[order], int(np.load(taken, mmap_mode="r")[cluster])
    yield from ((int(rows[at]),) for at in picks.members(np.arange(len(rows)), far[order].astype(np.float32), most, pick, picks.stream(seed, cluster)))
