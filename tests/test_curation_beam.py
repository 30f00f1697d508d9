"""Curation's pipelines of Apache Beam: the rows that one machine gives. Their parts are tested without Beam, their runs where it is installed."""
import collections
import json

import numpy as np
import pytest

from jaxssl import curate
from jaxssl.curation import beam, book as books, duplicates, picks
from jaxssl.errors import UserError


def grouped(pairs):
    table = collections.defaultdict(list)
    for key, value in pairs:
        table[key].append(value)
    return table.items()


def blocks(folder, seed, count=60, k=3, block=16):
    """(score, place, files, starts) of a graph whose components are long: most rows are near the next ones."""
    draw = np.random.default_rng(seed)
    place = (np.arange(count)[:, None] + draw.integers(1, 6, (count, k))) % count
    score = draw.random((count, k)).astype(np.float32)
    starts = list(range(0, count, block))
    files = [folder / f"{at}.npz" for at in starts]
    for at, file in zip(starts, files):
        books.write(file, score=score[at:at + block], place=place[at:at + block].astype(np.int32))
    return score, place, files, starts


@pytest.mark.parametrize("threshold", [.3, .6, .75, .9])
def test_stars_in_turns_are_the_components(tmp_path, threshold):
    score, place, files, starts = blocks(tmp_path, seed=0)
    edges, before, rounds = {edge for file, start in zip(files, starts) for edge in beam._forest((str(file), start), threshold)}, None, 0
    while edges != before:
        before, rounds = edges, rounds + 1
        large = [edge for row, near in grouped([*edges, *(edge[::-1] for edge in edges)]) for edge in beam._large(row, near)]
        edges = {edge for row, near in grouped(large) for edge in beam._small(row, near)}
    found = np.arange(60)
    for row, low in edges:
        found[row] = low
    assert np.array_equal(found, duplicates.components(score, place, threshold)) and rounds <= 8
    assert sum(beam._full((str(file), start), 60, threshold)[0] for file, start in zip(files, starts)) == duplicates.more(score, 60, threshold)


def test_sums_tell_edges_apart():
    def total(edges):
        return beam._add(map(beam._mark, edges))
    assert total([(3, 1), (2, 1)]) == total([(2, 1), (3, 1)]) == beam._add([total([(3, 1)]), total([(2, 1)])])
    assert len({total([(3, 1), (2, 1)]), total([(3, 2), (2, 1)]), total([(3, 1)]), total([(1, 3), (1, 2)])}) == 4


@pytest.fixture
def made(tmp_path):
    pytest.importorskip("apache_beam", reason="Beam is the extra curate")
    return beam.Beam(books.Book(str(tmp_path / "out")), ["runner=DirectRunner"])


def test_pipelines_give_the_rows_of_one_machine(made, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "SLICE", 13)
    score, place, files, starts = blocks(tmp_path, seed=1)
    component, full = made.components(files, starts, 60, .6)
    assert np.array_equal(component, duplicates.components(score, place, .6)) and full == duplicates.more(score, 60, .6) and 5 < len(np.unique(component)) < 40
    draw = np.random.default_rng(2)
    for merit in (None, draw.integers(0, 3, 60).astype(float)):
        assert np.array_equal(made.chosen(component, merit), duplicates.chosen(component, merit))
    leaks = draw.random(60) < .05
    assert leaks.any() and np.array_equal(made.linked(component, leaks), duplicates.linked(component, leaks))
    own, distance = draw.integers(0, 9, 60), draw.integers(0, 4, 60).astype(np.float32)
    for pick in picks.PICKS:
        assert np.array_equal(made.drawn(own, distance, np.arange(9) % 4, pick, 5), picks.drawn(own, distance, np.arange(9) % 4, pick, 5))
    assert not list((tmp_path / "out/beam").iterdir())


def test_the_command_gives_the_same_tables(made, tmp_path):
    """Each step that takes --beam, on a planted pool, with it and without: the same digests."""
    draw, digests = np.random.default_rng(3), []
    x = np.repeat(draw.normal(size=(12, 6)), 3, 0) + .05 * draw.normal(size=(36, 6))
    for name, more in (("with", ["--beam", "runner=DirectRunner"]), ("without", [])):
        out = tmp_path / name
        planted(books.Book(str(out)), x)
        for step in (["dedup", "self", "--threshold", ".98", "--k", "5"], ["dedup", "against", "seeds", "--threshold", ".98", "--k", "5"],
                     ["kmeans", "--clusters", "4", "--levels", "2"], ["sample", "--target", "7"], ["retrieve", "clusters", "seeds", "--min_hits", "1", "--per_cluster", "2"]):
            assert curate.main([*step, *(more if step[0] != "kmeans" else []), "--out", str(out)]) == 0
        assert curate.main(["retrieve", "samples", "seeds", *more, "--out", str(out)]) == (2 if more else 0)
        digests.append({name: step["digest"] for name, step in json.loads((out / books.FILE).read_text())["steps"].items()})
    assert digests[0] == {name: digest for name, digest in digests[1].items() if not name.startswith("retrieve samples")} and len(digests[0]) > 6


def planted(book, x):
    """A pool and seeds that were embedded, without an encoder."""
    import zlib

    from jaxssl.curation import features
    for name, rows in (("pool", x), ("seeds", x[::9] + .3)):
        length = np.linalg.norm(rows, axis=1).astype(np.float32)
        part = {"x": (rows / length[:, None]).astype(np.float16), "length": length, "kept": np.ones(len(rows), bool)}
        books.write(book.folder / f"features/main/{name}/00000.npz", **part)
        (book.folder / f"features/main/{name}/set.json").write_text(json.dumps({"path": "nowhere", "images": len(rows)}))
        table = {"rows": np.arange(len(rows)), "checksums": np.array([zlib.crc32(part["x"].tobytes() + part["length"].tobytes())], np.uint32)}
        book.keep(features.step("main", name), books.FILTER if name == "pool" else books.TABLE, {}, {}, {}, table, 0.)


def test_what_cannot_be_is_one_sentence(made):
    for flags, said in ((["runner=Direct Runer"], "--beam failed"), (["--runner=DirectRunner"], "write NAME=VALUE"), (["=3"], "write NAME=VALUE")):
        with pytest.raises(UserError, match=said):
            beam.Beam(made.book, flags)
    with pytest.raises(UserError, match="pipeline of keepers failed"):
        made._run("keepers", lambda p: made._from(p, [1, 2]) | made.beam.Map(lambda x: 1 / 0))
