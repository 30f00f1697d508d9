"""What a curation computes, each number against a plain loop: components, k-means, its hierarchy, balanced shares, thresholds, manifests."""
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from jaxssl import data as datas
from jaxssl.curation import book as books, clusters, copies, duplicates, features, graph, page, picks
from jaxssl.data import manifest
from jaxssl.errors import UserError
from jaxssl.parallel import mesh as sharding


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def rows(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_components_and_who_is_kept():
    x = unit(np.concatenate([rows(14, 5), rows(14, 5)[[2, 2, 7]] + .05 * rows(3, 5, 1)]))
    score, place = graph.others(x, 6)
    for threshold in (-1, .5, .8, .99):
        label = list(range(len(x)))
        for i in range(len(x)):
            for s, j in zip(score[i], place[i]):
                if s > threshold:
                    low, high = sorted((label[i], label[j]))
                    label = [low if own == high else own for own in label]
        found = duplicates.components(score, place, threshold)
        assert found.tolist() == label
        merit = np.arange(len(x)) % 4
        best = sorted(max((i for i in range(len(x)) if label[i] == own), key=lambda i: (merit[i], -i)) for own in set(label))
        assert duplicates.chosen(found, merit).tolist() == best and duplicates.chosen(found).tolist() == sorted(set(label))
    assert duplicates.components(np.zeros((1, 0), np.float32), np.zeros((1, 0), np.int32), .5).tolist() == [0]


def test_others_are_the_nearest_but_oneself():
    x = unit(rows(9, 4))
    cosine = x @ x.T - 9 * np.eye(9)
    score, place = graph.others(x, 3, low=2, high=7)
    assert np.array_equal(place, np.argsort(-cosine, axis=1, kind="stable")[2:7, :3]) and np.allclose(score, np.sort(cosine, 1)[2:7, :-4:-1], atol=1e-6)
    assert graph.shared(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 5]])) == .75


class Vectors:
    """A source of images that are their own features."""
    name, classes = "vectors", ()

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def id(self, index):
        return str(index)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """book(pool=x, reference=y) -> a curation whose sets have these features."""
    def made(**sets):
        found = books.Book(str(tmp_path / "out"))
        encoder = SimpleNamespace(name="e", digest="d", config={"model": {}}, preprocessing={"resize": 1})
        monkeypatch.setattr(features, "opened", lambda path, *_: (SimpleNamespace(images={}), Vectors(sets[path])))
        monkeypatch.setattr(features.images, "embedded", lambda encoder, data, source, layer: iter([(source.source.x[source.indices], np.ones(len(source), bool))]))
        for name in sets:
            features.embed(found, encoder, name, name=name, shard=5)
        return found
    return made


def test_features_are_kept_with_their_lengths(book):
    x = 100 * rows(12, 6)
    found = features.load(book(pool=x), "pool", "main")
    assert np.allclose(found.x * found.length[:, None], x, rtol=2e-3, atol=.05) and np.allclose(np.linalg.norm(found.x, axis=1), 1, atol=1e-6) and found.kept.all()


@pytest.mark.parametrize("threshold", [.6, .9])
def test_what_is_linked_to_a_reference_is_dropped(book, threshold):
    pool, reference = unit(rows(40, 3)), unit(rows(2, 3, 1))
    found = book(pool=pool, reference=reference)
    pool, reference = (features.load(found, name, "main").x for name in ("pool", "reference"))
    leaks = [i for i in range(40) if max(pool[i] @ r for r in reference) > threshold]
    near = [np.argsort([-(pool[i] @ pool[j]) if j != i else 9 for j in range(40)], kind="stable")[:3] for i in range(40)]
    linked = set(leaks)
    for _ in range(40):
        linked |= {a for i in range(40) for j in near[i] if pool[i] @ pool[j] > threshold for a in (i, j) if i in linked or j in linked}
    for drop, gone in (("images", set(leaks)), ("component", linked)):
        how = dict(space="main", among="embed main/pool", threshold=threshold, drop=drop, k=3)
        if len(gone) == 40:
            with pytest.raises(UserError, match="would drop all 40"):
                duplicates.dedup_against(found, "reference", **how)
            continue
        duplicates.dedup_against(found, "reference", **how)
        table = found.table("dedup against reference")
        assert set(range(40)) - set(table["rows"]) == gone and np.flatnonzero(table["leak"]).tolist() == leaks
        assert [table["reference"][i] for i in leaks] == [int(np.argmax(reference @ pool[i])) for i in leaks]
        told = {line["id"]: line["because"] for line in page.dropped(found)}
        assert {int(name) for name in told} == gone and sum("linked" in because for because in told.values()) == len(gone) - len(leaks)
    assert 0 < len(leaks) < len(linked)


def plain(x, centroids, spherical, iterations):
    """Lloyd's loop in f64 -> (centroids, clusters)."""
    former, x = None, x.astype(np.float64)
    for at in range(iterations + 1):
        far = [[((row - c)**2).sum() for c in centroids] for row in x]
        own = [int(np.argmin(each)) for each in far]
        if own == former or at == iterations:
            return np.array(centroids), own
        former, order = own, list(np.argsort([-min(each) for each in far], kind="stable"))
        centroids = [x[[i for i in range(len(x)) if own[i] == c]].mean(0) if c in own else x[order.pop(0)] for c in range(len(centroids))]
        centroids = [c / np.linalg.norm(c) for c in centroids] if spherical else centroids


@pytest.mark.parametrize("spherical", [True, False])
def test_k_means_is_lloyds_loop(spherical, monkeypatch):
    x = unit(rows(23, 3)) if spherical else rows(23, 3)
    first = np.concatenate([x[:4], [[9., 9, 9]]]).astype(np.float32)                # the last centroid begins without a row
    monkeypatch.setattr(clusters, "plus_plus", lambda *_: first)
    monkeypatch.setattr(clusters, "_PRODUCT", 40)                                   # blocks of eight rows on eight devices, the last one padded
    mesh = sharding.make_mesh(devices=jax.devices())
    for iterations in (1, 50):
        found = clusters.k_means(x, 5, spherical=spherical, iterations=iterations, rng=np.random.default_rng(0), mesh=mesh)
        centroids, own = plain(x, first.astype(np.float64), spherical, iterations)
        assert found.own.tolist() == own and np.allclose(found.centroids, centroids, atol=1e-5)
        assert np.allclose(found.distance, ((x - centroids[own])**2).sum(1), atol=1e-5) and found.iterations <= iterations


def test_k_means_goes_on_where_it_was(tmp_path):
    x = rows(80, 3)
    whole = clusters.k_means(x, 6, spherical=False, rng=np.random.default_rng(0))
    note = clusters.Note(tmp_path / "note.npz", every=0)
    clusters.k_means(x, 6, spherical=False, iterations=2, rng=np.random.default_rng(0), note=note)
    again = clusters.k_means(x, 6, spherical=False, rng=None, note=note)            # which draws nothing any more
    assert whole.iterations > 2 and again.iterations == whole.iterations and np.array_equal(again.own, whole.own) and np.array_equal(again.centroids, whole.centroids)


def test_plus_plus_takes_far_rows():
    x = np.repeat(np.eye(4, dtype=np.float32), 5, 0)
    assert {tuple(row) for row in clusters.plus_plus(x, 4, np.random.default_rng(3))} == {tuple(row) for row in np.eye(4)}
    assert len(clusters.plus_plus(x, 9, np.random.default_rng(0))) == 9
    draw, other = np.random.default_rng(5), np.random.default_rng(5)
    x = rows(12, 2)
    chosen = [int(other.integers(12))]
    for _ in range(3):
        far = np.array([min(((row - x[c])**2).sum() for c in chosen) for row in x])
        chosen.append(int(np.searchsorted(np.cumsum(far), other.random() * far.sum(), side="right")))
    assert np.array_equal(clusters.plus_plus(x, 4, draw), x[chosen])


def test_a_round_looks_at_the_rows_near_their_centroids():
    own, distance = np.array([0, 1, 0, 0, 1, 2]), np.array([3, 1, 1, 1, 0, 5.], np.float32)
    assert clusters.closest(own, distance, 2).tolist() == [1, 2, 3, 4, 5]
    dense = np.concatenate([.01 * rows(60, 2), np.array([[3., 0], [0, 3], [-3, 0]])]).astype(np.float32)
    found = clusters.level(dense, 4, rounds=3, sample=1, seed=(0,), spherical=False)
    assert sorted(np.bincount(found.own, minlength=4)) == [1, 1, 1, 60]
    assert np.array_equal(found.own, [np.argmin([((row - c)**2).sum() for c in found.centroids]) for row in dense])


@pytest.mark.parametrize("target", [0, 1, 7, 12, 20, 23])
def test_shares_are_as_equal_as_the_sizes_allow(target):
    sizes = [1, 9, 0, 4, 9]
    cut = max(c for c in range(10) if sum(min(c, size) for size in sizes) <= target)
    taken = picks.allot(np.array(sizes), target, np.random.default_rng(0))
    assert taken.sum() == target and all(min(cut, size) <= own <= min(cut + 1, size) for own, size in zip(taken, sizes))
    with pytest.raises(ValueError):
        picks.allot(np.array(sizes), 24, np.random.default_rng(0))


def test_balanced_sampling_goes_from_the_top_down():
    """Two concepts, one of a single cluster of 6 and one of 40 + 2 + 2 rows; closest rows first."""
    owns = [np.array([0] * 6 + [1] * 40 + [2] * 2 + [3] * 2), np.array([0, 1, 1, 1])]
    distance = np.random.default_rng(0).random(50).astype(np.float32)
    found = picks.balanced(owns, distance, 20, pick="closest")
    count = np.bincount(owns[0][found], minlength=4)
    assert count.tolist() == [6, 10, 2, 2] and len(set(found)) == 20
    near = np.flatnonzero(owns[0] == 1)
    assert sorted(near[np.argsort(distance[near])][:10]) == [i for i in found if owns[0][i] == 1]
    drawn = picks.balanced(owns, distance, 20, seed=1)
    assert np.array_equal(drawn, picks.balanced(owns, distance, 20, seed=1)) and not np.array_equal(drawn, picks.balanced(owns, distance, 20, seed=2))
    assert np.bincount(owns[0][drawn]).tolist() == [6, 10, 2, 2] and len(picks.balanced(owns[:1], distance, 50)) == 50


def test_thresholds_are_counted_pair_by_pair(monkeypatch):
    monkeypatch.setattr(copies, "_HELD", 20)
    pool = unit(rows(7, 3))
    original = np.array([0, 3, 3, 6])
    planted = unit(pool[original] + .1 * rows(4, 3, 2))
    aside = [np.array([2]), np.array([], int), np.array([0, 1]), np.array([5])]
    own, above = copies.counted(planted, pool, original, aside)
    cosine = (planted @ pool.T).astype(np.float64)
    assert np.allclose(own, cosine[range(4), original], atol=1e-6)
    assert above.tolist() == [sum(cosine[i, j] > t for i in range(4) for j in range(7) if j not in (original[i], *aside[i])) for t in copies.GRID]
    assert copies.recommended(np.array([9, 9, 8, 0]), np.array([9, 1, 0, 0]), .9) == 1
    assert copies.recommended(np.array([9, 9, 8, 5]), np.array([0, 9, 0, 0]), .9) == 2 and copies.recommended(np.array([1, 0]), np.array([5, 1]), .9) is None


def test_twins_are_told_by_pixels():
    """Features that say all images are alike: the same picture at another size is a twin, others are not, nor is an even one."""
    draw = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    draw[3], draw[4] = 7, 7
    pictures = [*draw, np.repeat(np.repeat(draw[1], 2, 0), 2, 1)]
    source = type("Source", (), {"read": lambda self, row: (pictures[row], -1, str(row))})()
    assert [found.tolist() for found in copies.twins(source, np.arange(6), np.ones((6, 2), np.float32), np.arange(6))] == [[], [5], [], [], [], [1]]


def test_sharpness_is_the_variance_of_the_laplacian():
    grey = np.random.default_rng(0).integers(0, 256, (5, 6)).astype(np.uint8)
    wide = np.pad(grey.astype(float), 1, mode="edge")
    plain = [wide[y, x + 1] + wide[y + 2, x + 1] + wide[y + 1, x] + wide[y + 1, x + 2] - 4 * wide[y + 1, x + 1] for y in range(5) for x in range(6)]
    assert np.isclose(duplicates.sharpness(Image.fromarray(grey)), np.var(plain))


@pytest.fixture
def images(tmp_path):
    for i in range(12):
        file = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), i, np.uint8)).save(file)
    return dict(source="folder", path=str(tmp_path / "set"), canvas=2, splits="none")


def test_training_reads_a_manifest(images, tmp_path):
    file = tmp_path / "m.jsonl"
    names = ["a/0.png", "a/4.png", "b/3.png"]
    file.write_text(manifest.text(names, [1, 3, 1]))
    found = datas.make(**images, holdout=0., manifest=str(file))
    assert [found.train.id(i) for i in range(len(found.train))] == ["a/0.png", *["a/4.png"] * 3, "b/3.png"] and found.train.read(4)[1] == 1
    assert "3 of 12 images, 5 in an epoch" in found.said[-1]
    file.write_text(manifest.text(names, [1, 1, 3]))
    assert datas.make(**images, holdout=0., manifest=str(file)).images["manifest_sha256"] != found.images["manifest_sha256"]
    whole = datas.make(**images, holdout=.3)
    held = {whole.test.id(i) for i in range(len(whole.test))}
    file.write_text(manifest.text(every := [whole.train.id(i) for i in range(len(whole.train))] + sorted(held), [1] * 12))
    part = datas.make(**images, holdout=.3, manifest=str(file))
    assert len(part.train) + len(part.test) == len(every) == 12 and held.isdisjoint(part.train.id(i) for i in range(len(part.train))) and "held out" in part.said[-1]


@pytest.mark.parametrize("text, said", [
    ("", "no whole manifest"), ("[1]\n", "no whole manifest"), ('{"format": "other", "images": 0}\n', "format is other"), (manifest.text([], []), "names no image"),
    (manifest.text(["a/0.png"], [0]), "no whole number from 1"), (manifest.text(["a/0.png", "a/0.png"], [1, 1]), "says 2 images and names 1"),
    (manifest.text(["c/0.png"], [1]), "names 1 image that .* does not have \\(c/0.png\\)"), (manifest.text(["a/0.png"], [1])[:-30], "no whole manifest"),
    (json.dumps({"format": manifest.FORMAT, "images": 2}) + "\n", "says 2 images")])
def test_what_is_no_manifest_is_refused(images, tmp_path, text, said):
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(UserError, match=said):
        datas.make(**images, manifest=str(tmp_path / "m.jsonl"))
    with pytest.raises(UserError, match="cannot be read"):
        datas.make(**images, manifest=str(tmp_path / "none.jsonl"))
