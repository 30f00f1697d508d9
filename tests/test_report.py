"""The report's numbers: what the page embeds equals numpy's, scikit-learn's, and the training path's."""
import dataclasses
import functools
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix

from jaxssl import config as configs, data as datas
from jaxssl.methods.base import Method, unchanged
from jaxssl.training import job as jobs, step
from jaxssl.encoder import load as loading
from jaxssl.evaluation.measures import bootstrap, knn, rank
from jaxssl.evaluation.tables import compare
from jaxssl.evaluation.tables import reading as results
from jaxssl.evaluation.protocols import Row
from jaxssl.report import compose, curves, evaluations, figures, look, maps, page as pages, pictures, read, readings, seen as sections
from tests.reported import evaluation, page, run, seen  # noqa: F401 (fixtures)

@pytest.fixture(scope="module")
def oracle(run, seen):
    """(features, labels) of the reference and of the queries, by the encoder itself, image by image in the order of the source."""
    encoder, data = loading.from_workdir(str(run)), datas.make(**json.loads((run / "config.json").read_text())["data"])

    def all_of(source, places):
        pixels = np.stack([np.asarray(Image.open(source.root / source.paths[p]).convert("RGB")) for p in places])
        return encoder(pixels).astype(np.float64), np.array([source.entry(int(p))[0] for p in places])
    return all_of(data.train, seen.reference.places), all_of(data.test, seen.queries.places)


def test_features_are_the_encoders(oracle, seen):
    for (features, labels), part in zip(oracle, (seen.reference, seen.queries)):
        np.testing.assert_allclose(part.features["backbone"], features, rtol=2e-4, atol=2e-5)
        assert part.labels.tolist() == labels.tolist()
    assert len(seen.reference.places) == 50 and len(seen.queries.places) == 25 and set(seen.queries.labels) == {0, 1, 2}
    assert not np.allclose(seen.reference.features["backbone"], seen.reference.untrained["backbone"], rtol=.1)


def test_neighbours_on_the_page_are_the_nearest(page, oracle, seen):
    (x, _), (u, _) = oracle
    x, u = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, u))
    cosine = u @ x.T
    rows = re.findall(r'<div class="row" data-place="(\d+)"[^>]*>(.*?)</ol>', page[1], re.S)
    assert len(rows) >= 3
    for place, row in rows:
        query = seen.queries.places.tolist().index(int(place))
        shown = [seen.reference.places.tolist().index(int(p)) for p in re.findall(r'<li class="\w+" data-place="(\d+)"', row)]
        best = np.sort(cosine[query])[::-1][:8]
        np.testing.assert_allclose(cosine[query][shown], best, atol=1e-6)
        marks = re.findall(r'<li class="(\w+)"', row)
        assert marks == ["right" if seen.reference.labels[i] == seen.queries.labels[query] else "wrong" for i in shown]
    similarity, index = knn.neighbours(seen.queries.features["backbone"], seen.reference.features["backbone"], k=20)
    np.testing.assert_array_equal(index, seen.index)
    np.testing.assert_array_equal(similarity, seen.similarity)


def test_confusion_matrix_on_the_page_is_scikit_learns(page, oracle):
    (x, y), (u, v) = oracle
    table = re.search(r'<table class="confusion">.*?<tbody>(.*?)</tbody>', page[1], re.S)[1]
    shown = np.array([[int(cell or 0) for cell in re.findall(r"<td[^>]*>(\d*)</td>", row)] for row in table.split("</tr>") if row])
    (result,) = knn.evaluate(u, v, x, y, settings=((20, .07),))
    np.testing.assert_array_equal(shown, confusion_matrix(v, result.predictions, labels=range(3)))
    assert shown.sum() == len(v)
    assert f"{100 * result.accuracy:.1f} % of {len(v)} right" in page[1]


def test_a_large_confusion_matrix_keeps_its_sum():
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 5, (60, 60))
    matrix[7, 9] = 500
    small, names, others = figures.trimmed(matrix, [str(i) for i in range(60)])
    assert small.shape == (21, 21) and small.sum() == matrix.sum() and others == 40 and names[-1] == "all others"
    assert small[names.index("7"), names.index("9")] == 500
    same = figures.trimmed(matrix[:21, :21], list("abcdefghijklmnopqrstu"))
    assert same[0] is not None and same[0].sum() == matrix[:21, :21].sum() and same[2] == 0


def test_spectrum_on_the_page_is_numpys(page, oracle):
    (x, _), _ = oracle
    sigma = np.linalg.svd(x, compute_uv=False)
    share = sigma / sigma.sum()
    line = next(s for s in page[2]["charts"]["spectrum"]["series"] if s["name"] == "trained")
    np.testing.assert_allclose(line["y"][:8], share[:8], rtol=1e-3)
    assert line["x"] == list(range(1, len(line["y"]) + 1))
    assert f"RankMe {rank.rankme(x):.1f} of {min(x.shape)}" in page[1]


def test_pca_is_scikit_learns():
    x = np.random.default_rng(0).normal(size=(40, 12)) * np.arange(1, 13)
    fit = PCA(2, svd_solver="full").fit(x)
    scores, share = maps.pca(x)
    np.testing.assert_allclose(np.abs(scores[:, :2]), np.abs(fit.transform(x)), rtol=1e-9, atol=1e-9)
    assert share == pytest.approx(fit.explained_variance_ratio_.sum())
    found = maps.make(x, ("pca", "tsne"))
    for m in found.values():
        assert m.xy.shape == (40, 2) and m.xy.min() >= 0 and m.xy.max() <= 1 and np.ptp(m.xy, axis=0).max() == pytest.approx(1)


@pytest.mark.parametrize("features", [np.ones((40, 3)), np.zeros((40, 3)), 1 + 1e-8 * np.random.default_rng(0).normal(size=(40, 3))], ids=["ones", "zeros", "rounding"])
def test_map_of_equal_features_is_a_point_not_an_error(features):
    found = maps.make(features, maps.installed())
    assert found.keys() == set(maps.installed()) and "tsne" in found
    for m in found.values():
        np.testing.assert_array_equal(m.xy, np.full((40, 2), 0.5))
        assert "same features" in m.reading


def test_spectrum_of_a_collapse_is_said():
    assert readings.spectrum(np.zeros(3)).startswith("All features are zero")
    assert "collapsed" in readings.spectrum(np.array([2.0, 1e-7, 0]))
    assert "1 direction carries nothing" in readings.spectrum(np.array([2.0, 1.0, 0])) and "2 directions carry" in readings.spectrum(np.array([2.0, 1.0, 0, 0]))


def test_map_on_the_page_has_every_query(page, seen):
    (facts,) = page[2]["maps"].values()
    assert facts["labels"] == seen.queries.labels.tolist() and facts["predictions"] == seen.predictions.tolist()
    assert {"pca", "tsne"} <= facts["methods"].keys() and all(len(m["x"]) == len(m["y"]) == 25 for m in facts["methods"].values())
    assert f'id="{facts["sheet"]}"' in page[1]


MACHADO = {"none": np.eye(3), "protanopia": [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
           "deuteranopia": [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
           "tritanopia": [[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]]}      # Machado et al. 2009, severity 1
TO_LMS = np.array([[.4122214708, .5363325363, .0514459929], [.2119034982, .6806995451, .1073969566], [.0883024619, .2817188376, .6299787005]])
TO_OKLAB = np.array([[.2104542553, .7936177850, -.0040720468], [1.9779984951, -2.4285922050, .4505937099], [.0259040371, .7827717662, -.8086757660]])


def linear_light(colours):
    values = np.array([[int(c[i:i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    return np.where(values <= .04045, values / 12.92, ((values + .055) / 1.055) ** 2.4)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_ten_classes_are_told_apart(theme):
    """Their colours differ, stand out from the paper, and of those that share a shape no kind of colour vision takes one for the other (distances in OKLab)."""
    block = re.findall(r":root \{(.*?)\}", (pages.HERE / "page.css").read_text(), re.S)[theme]
    colours = [re.search(rf"--s{i}: (#\w+);", block)[1] for i in range(10)]
    shapes = json.loads(re.search(r"const SHAPE = (\[.*?\]);", (pages.HERE / "map.js").read_text())[1])
    light, paper = linear_light(colours), linear_light([re.search(r"--paper: (#\w+);", block)[1]])
    bright, back = light @ [.2126, .7152, .0722], float((paper @ [.2126, .7152, .0722])[0])
    assert ((np.maximum(bright, back) + .05) / (np.minimum(bright, back) + .05)).min() > 3
    for vision, matrix in MACHADO.items():
        lab = np.cbrt(np.clip(light @ np.array(matrix).T, 0, 1) @ TO_LMS.T) @ TO_OKLAB.T
        for i in range(10):
            for j in range(i):
                distance = np.linalg.norm(lab[i] - lab[j])
                assert distance > (.14 if shapes[i] == shapes[j] else .12 if vision == "none" else 0), (vision, i, j)


def test_sheet_puts_tile_i_where_the_script_looks():
    tiles = np.random.default_rng(0).integers(0, 255, (70, 4, 4, 3)).astype(np.uint8)
    sheet = pictures.sheet(tiles)
    for i in (0, 31, 32, 69):
        row, column = divmod(i, pictures.columns(70))
        np.testing.assert_array_equal(sheet[4 * row:4 * row + 4, 4 * column:4 * column + 4], tiles[i])


def test_the_largest_sheet_fits_webp():
    assert pictures.columns(1) == 1 and pictures.columns(9) == 3 and pictures.columns(10) == 4
    assert pictures.columns(compose.MOST // 2) * look.TILE <= 16_383


def test_ten_thousand_photographs_stay_small(page):
    """32-pixel crops of scikit-learn's photographs: what the map of a CIFAR run's whole test set embeds; the rest of a page is smaller still."""
    assert page[0].stat().st_size < 1e6
    from sklearn.datasets import load_sample_images
    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    shrunk = [np.asarray(Image.fromarray(p).resize((320, 213), Image.LANCZOS)) for p in photographs]
    crops = np.stack([shrunk[i % 2][y:y + 32, x:x + 32] for i, (y, x) in enumerate(zip(rng.integers(0, 180, 10_000), rng.integers(0, 288, 10_000)))])
    assert len(pictures.address(pictures.sheet(crops))) < 4e6


def test_views_are_those_of_the_first_step(run):
    """Against the training path: its batch order, its lookup, its key."""
    config = configs.ConfigDict(json.loads((run / "config.json").read_text()))
    data = datas.make(**config.data)
    store = datas.store(data, data.train)
    index = next(datas.batches(data, drawn=datas.shuffled(config.seed, config.batch_size, len(data.train)), batch_size=config.batch_size, total_steps=1))[1]["index"]
    batch = datas.lookup({"index": index, "store": store})
    # the train step itself, with a method whose loss is nothing, says what its views are
    method = Method(lambda key, batch: ({}, {}), lambda params, aux, batch, key, step: (jnp.zeros(()), (aux, {"views": batch["views"]}, {})), unchanged, None)
    state = step.init_state(jax.random.key_data(jax.random.key(config.seed)), {}, method=method, tx=optax.identity())
    metrics = jax.jit(functools.partial(step.train_step, method=method, augment=jobs.views(config)[0], tx=optax.identity()))(state, batch)[1]
    views = np.asarray(metrics["views"], np.float32)
    shown = pictures.views(config.to_dict(), data, count=4)
    assert [v.id for v in shown] == [data.train.entry(int(i))[1] for i in index[:4]]
    for i, v in enumerate(shown):
        pixels = np.clip(views[i] * np.asarray(config.augment.std) + np.asarray(config.augment.mean), 0, 1) * 255
        np.testing.assert_allclose(v.views, pixels, atol=1.01)
        np.testing.assert_array_equal(v.original, store["image"][index[i]])


def test_curves_keep_values_and_extremes():
    steps, values = np.arange(5000), np.sin(np.arange(5000) / 50)
    values[1234], values[4000] = 9.0, np.nan
    x, y = read.thin(steps, values)
    assert len(x) <= read.POINTS and x[0] == 0 and x[-1] == 4999 and y.max() == 9.0 and x[y.argmax()] == 1234 and np.isfinite(y).all()
    np.testing.assert_array_equal(y, values[x])
    np.testing.assert_array_equal(read.thin(steps[:100], values[:100])[1], values[:100])


def test_curves_read_what_was_logged(tmp_path):
    (tmp_path / "m").write_text('{"step": 1, "loss": 2, "sha": "ab"}\n{"step": 2, "loss": "nan"}\nnonsense\n[1]\n{"step": 3, "loss": "inf", "x": true}\n{"step": 4, "lo')
    found = read.curves(tmp_path / "m")
    assert found.keys() == {"loss"} and found["loss"][0].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found["loss"][1], [2, np.nan, np.inf])
    assert read.curves(tmp_path / "none") == {}


def test_charts_hold_the_log(page):
    found = {spec["title"]: spec for spec in page[2]["charts"].values()}
    assert found["Loss"]["series"][0] == {"name": "", "x": [10, 20, 30], "y": [2.0, 1.0, 0.0], "colour": 0, "dash": 0}
    assert {g["label"]: g["y"] for g in found["kNN on held-out images"]["guides"]} == {"untrained": 0.4, "raw pixels": 0.3}
    assert "ends at 62.5 %, against 40.0 % untrained and 30.0 % for raw pixels" in found["kNN on held-out images"]["reading"]
    assert found["Loss"]["epochs"] == pytest.approx(0.25)


def test_a_loss_against_the_weights_it_began_with_does_not_read_like_a_gain():
    before = {"knn_untrained": .2, "knn_start": .7, "linear_untrained": .2, "linear_start": .5, "rankme_start": 9.0}
    found = read.Run("r", "r", {}, {}, {"steps": 30, "knn": .6, "linear": .6, "rankme": 4.0}, before, (), {"knn": (np.array([30]), np.array([.6]))}, {}, ())
    said = {what: against.replace("\u00a0", " ") for what, _, against in pages.results(found)}
    assert said["kNN, held-out"] == "down from the 70.0 % it began with, 20.0 % untrained" and said["linear, held-out"].startswith("up from the 50.0 %")
    assert said["RankMe"] == "9 it began with"
    known, _ = curves.charts([found])
    assert {"y": .7, "label": "began with"} in known[0]["guides"] and "down from the 70.0" in known[0]["reading"]
    assert ">began with</th>" in evaluations.own(found, 30, named=False)
    assert "began with" not in evaluations.own(dataclasses.replace(found, untrained={"knn_untrained": .2}), 30, named=False)


def test_features_that_were_not_finite_at_the_end_are_noted():
    config = {"method": {"dim": 16}, "model": {"name": "resnet10", "width": .0625}}
    found = read.Run("r", "r", config, {}, {"steps": 9, "knn": None, "linear": None, "rankme": None}, {}, (), {"collapse_std": (np.array([8, 9]), np.array([.2, np.nan]))}, {}, ())
    said = " ".join(readings.warnings(found))
    assert "At the end rankme, knn, linear could not be measured" in said and "std nan" in said
    assert ("kNN, held-out", "–", "not finite") in pages.results(found)


def test_one_throughput_of_an_unfinished_run():
    found = read.Run("r", "r", {}, {}, {}, {}, (), {"images_per_second": (np.arange(1, 6), np.array([10., 100, 100, 100, 500]))}, {}, ())
    assert ("images a second", "100", "") in pages.results(found) and readings.of("images_per_second", found).startswith("100 images a second")


def test_wilson_interval_holds_the_score_test():
    """By definition its ends are the p whose score test gives 1.96 (Wilson 1927)."""
    for share, n in ((0.0, 20), (0.3, 50), (0.97, 1000)):
        low, high = evaluations.interval(share, n)
        for end in (low, high):
            if 0 < end < 1:
                assert abs(share - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(1.96, abs=1e-3)


@pytest.mark.parametrize("value, text", [(0.00012, "1.2·10⁻⁴"), (0.0123456, "0.01235"), (-3.5, "−3.5"), (1234.6, "1,235"), (7, "7"), (2.5e7, "2.5·10⁷"), (0.0, "0"), (None, "–")])
def test_numbers(value, text):
    assert readings.number(value) == text


def test_surest_and_wrong_are_those_whose_neighbours_agree(seen):
    """Of 20 neighbours at least 11 have the class that an image was taken for; where none do, the part is left out."""
    labels, guess = seen.queries.labels, (seen.queries.labels + 1) % 3
    near = np.tile(np.r_[:20] % 3, (len(labels), 1))              # 7, 7 and 6 of each class
    near[3], near[5] = np.r_[np.full(12, guess[3]), np.full(8, labels[3])], np.r_[np.full(10, guess[5]), np.full(10, labels[5])]
    index = np.array([np.flatnonzero(seen.reference.labels == c)[0] for c in range(3)])[near]
    unsure = seen._replace(predictions=guess, index=index, similarity=np.ones_like(seen.similarity))
    assert sections.surest(unsure) == [3]
    (row,) = sections.gallery(unsure)["wrong"]
    assert row["note"].endswith(": 12 of 20 neighbours agree")
    none = unsure._replace(index=np.delete(unsure.index, 3, 0), predictions=np.delete(guess, 3),
                           queries=unsure.queries._replace(labels=np.delete(labels, 3), places=np.delete(unsure.queries.places, 3)))
    assert "Surest and wrong" not in sections.gallery_markup(sections.gallery(none), none)


def test_clear_order_has_no_mark():
    rows = [evaluation(0.2, (0.1, 0.3)), evaluation(0.8, (0.7, 0.9))]
    runs = [read.Run(name, name, {}, {}, {}, {}, (e,), {}, {}, ()) for name, e in zip("ab", rows)]
    text = evaluations.comparison(runs).replace("\u00a0", " ")
    assert "20.0 %" in text and "%  ≈" not in text and "% ≈" not in text.replace("bold; ≈", "")


def measured(value, *, layer="backbone", protocol="knn", rows=None, step=30, digest="w", data="d", test="set/test, 30 images", created="1", command="", **more):
    """A document as the command writes it, of one row unless `rows` are given."""
    row = evaluation(value, (value - .1, value + .1), protocol=protocol, layer=layer, variant="v", selected="fixed")["rows"][0]
    return {"version": 1, "created": created, "subject": {"name": "run", "weights": "student", "step": step, "digest": digest}, "command": f"python -m jaxssl.evaluate {command}",
            "data": {"name": "set", "test": test, "digest": data}, "select": "validation", "budget": "short", "precision": "f32", "rows": [{**row, **r} for r in rows or [{}]],
            **more}


def of(*documents, name="r"):
    return read.Run(name, name, {}, {}, {}, {}, documents, {}, {}, ())


OLDER = {"test set": dict(test="hard.zip, 30 images", data="h"), "images": dict(data="other"), "checkpoint": dict(step=10, digest="early"), "other weights": dict(digest="teacher"),
         "selection": dict(rows=[{"selected": "test"}]), "budget": dict(budget="published"), "precision": dict(precision="bf16")}


@pytest.mark.parametrize("what", OLDER)
def test_only_results_measured_alike_stand_side_by_side(what):
    """A second evaluation of a run under other conditions takes the place of no result that is compared; alone, it is not compared at all."""
    ours, other = measured(.5), measured(.6, digest="v")
    later = measured(.9, created="2", **OLDER[what])
    first = of(later, ours, name="a") if what == "other weights" else of(ours, later, name="a")         # of two encoders of a step, the one measured last
    text = evaluations.comparison([first, of(other, name="b")]).replace("\u00a0", " ")
    assert "<b>60.0 %</b>" in text and "50.0 %" in text and "90.0 %" not in text
    assert "a: student, step 30, b: student, step 30" in text
    if what not in ("checkpoint", "other weights"):
        text = evaluations.comparison([of(later, name="a"), of(other, name="b")])
        assert "Nothing stands side by side" in text and "evaluate --workdir a b" in text and "90.0" not in text


def test_seeds_of_an_evaluation_are_shown_as_their_mean():
    rows = [{"value": v, "seed": s, "variant": f"chosen: k={s}", "setting": {"k": s, "T": 1}} for s, v in enumerate((.5, .6, .85))]
    text = evaluations.comparison([of(measured(0, rows=rows), name="a"), of(measured(.9, rows=[{"variant": "chosen: k=7", "seed": 2}]), name="b")]).replace("\u00a0", " ")
    assert "65.0 %<small>mean over seeds 0, 1, 2, std 0.1803</small>" in text and "seed 2</small>" in text and "85.0" not in text and "knn · chosen<" in text
    mean, = results.newest([measured(0, rows=rows)]).values()
    assert mean["setting"] == {"T": 1} and mean["interval"] is None and mean["n"] == 30
    assert mean["value"] == pytest.approx(.65) and mean["std"] == pytest.approx(np.std((.5, .6, .85), ddof=1))
    one = measured(.5)
    assert results.newest([one]) == {results._key(one, one["rows"][0]): one["rows"][0]}


def test_bars_of_the_layers_are_of_the_runs_own_images_and_newest_weights():
    layers = [{"value": v, "seed": s, "layer": layer} for s in (0, 1) for layer, v in (("backbone", .6 + s / 10), ("projector.1", .4 + s / 10))]
    own = measured(0, protocol="layers", rows=layers)
    others = [measured(.9, protocol="layers", created="2", command=command, data="x")
              for command in ("--workdir a --data other.zip", "--data=x", "--workdir a '--data.test_path=a b'")]
    early, knn = measured(.9, protocol="layers", created="3", step=10, digest="early"), measured(.9, created="4")
    found = evaluations.layer_rows(of(own, *others, early, knn))
    assert [(row["layer"], row["value"]) for row in found] == [("backbone", pytest.approx(.65)), ("projector.1", pytest.approx(.45))] and found[0]["seeds"] == [0, 1]
    assert evaluations.layer_rows(of(*others)) == [] and evaluations.layer_rows(of()) == []
    assert evaluations.layer_rows(of(evaluation(.3, None, protocol="layers")))[0]["value"] == .3         # an older file, without digests


def test_runs_own_scores_have_intervals(page):
    low, high = evaluations.interval(.625, 30)
    own = re.search(r"Measured by the run itself.*?</table>", page[1], re.S)[0]
    assert "On 30 held-out images" in own and f"<b>62.5 %</b><small>{100 * low:.1f} % to {100 * high:.1f} %</small>" in own and "40.0 %" in own and "30.0 %" in own


def test_evaluation_table(page):
    """Value, interval, published value in one row; what is long or empty in a setting is not spelled out."""
    row = re.search(r"<tr><td><b>k=20.*?</tr>", page[1], re.S)[0]
    for words in ("60.0 %", "50.0 % to 70.0 %", "55.0 %", "paper &lt;1&gt;", "chosen on test", "n 30", "accuracy, backbone"):
        assert words in row, words
    assert ">knn</th>" in page[1] and "<code>k 20, T 0.07</code>" in page[1]
    found = evaluation(.6, None, setting={"grid": list(range(9)), "few": [1, 2], "none": None}, published={"value": 55.0, "source": "in percent"}, overlaps_best=True)["rows"][0]
    text = evaluations.table([found]).replace("\u00a0", " ")
    assert "grid [9 values], few [1, 2]" in text and "none" not in text and "<b>55.0 %</b>" in text and "60.0 %</b> ≈" in text
    older, newer = evaluation(.1, None), evaluation(.2, None)
    text = evaluations.section([read.Run("r", "r", {}, {}, {}, {}, (older, newer), {}, {}, ())], {}).replace("\u00a0", " ")
    assert text.index("20.0 %") < text.index("<details><summary>set/test, student, step 30, 2026-01-01") < text.index("10.0 %")


def test_a_row_says_its_unit_and_an_older_one_is_guessed_by_its_name():
    def shown(**row):
        return evaluations.table(evaluation(.6, (.5, .7), published=None, note="", **row)["rows"]).replace("\u00a0", " ")
    for row, share in (({"metric": "kappa"}, False), ({"metric": "kappa", "unit": "share"}, True), ({"metric": "recall@2"}, True),
                       ({"metric": "linear CKA", "unit": "cosine"}, False)):
        text = shown(**row)
        assert ("60.0 %" in text and "50.0 % to 70.0 %" in text and "<svg" in text) == share and ("0.6<" in text) == (not share), row
        assert ("cosine" in text) == (row.get("unit") == "cosine") and "share" not in text
    entry = {"protocol": "x", "variant": "", "layer": "backbone", "metric": "kappa", "groups": [{"name": "a", "mean": .5, "std": None, "n": 1}], "tests": []}
    assert "<b>0.5</b>" in evaluations.together({"comparison": [entry]}) and "50.0" in evaluations.together({"comparison": [entry | {"unit": "share"}]})


def test_what_failed_and_what_is_left_is_said():
    found = evaluation(.6, None) | {"failed": [{"protocol": "mlp", "seed": 0, "why": "no <labels>"}, {"protocol": "knn", "seed": 2, "why": "few"}],
                                    "unfinished": ["semi", "layers"]}
    text = evaluations.one(None, found)
    assert "✕ mlp failed: no &lt;labels&gt;" in text and "✕ knn failed with seed 2: few" in text and "done with semi, layers" in text
    assert "failed" not in evaluations.one(None, evaluation(.6, None)) and "Interrupted" not in evaluations.one(None, evaluation(.6, None))


def test_means_and_paired_tests_are_shown():
    """What `compare.summary` gives for two recipes, one of them with two seeds, and a measure without single outcomes."""
    labels = np.repeat([0, 1], 50)

    def row(metric, value, outcomes):
        interval = None if outcomes is None else bootstrap.interval(outcomes.astype(float), labels, ids=np.arange(100))
        return Row("knn", "k=20", "backbone", metric, value, 100, interval, {}, "", 0., "fixed", "share" if metric == "accuracy" else "rank")
    right = np.arange(100) < 70
    groups = {"<a>": [compare.Member("<a>", 0, [[row("accuracy", .7, right), row("rankme", 5., None)]], "d")],
              "b": [compare.Member("b", 0, [[row("accuracy", .5, np.arange(100) < 50), row("rankme", 7., None)]], "d")]}
    text = evaluations.one(None, evaluation(.6, None) | {"comparison": json.loads(json.dumps(compare.summary(groups), default=lambda x: x.tolist()))})
    assert "b − &lt;a&gt;" in text
    assert "<b>−20.00 points</b>" in text and "over 100 images" in text and "70.0" in text
    assert "No test of b against &lt;a&gt; for knn rankme: this measure has no outcome of single images" in text
    seeds = {"a": [compare.Member("a", s, [[row("accuracy", v, right)]], "d") for s, v in ((0, .7), (1, .8))]}
    text = evaluations.one(None, evaluation(.6, None) | {"comparison": compare.summary(seeds)}).replace("\u00a0", " ")
    assert "<b>75.0 %</b> ± 7.1 %" in text and "of 2" in text


def test_the_best_layer_is_named_only_where_intervals_separate(run, seen):
    def rows(*values):
        return [{"layer": name, "value": v, "interval": (v - .02, v + .02)} for name, v in zip(("backbone", "projector.1", "projector.2"), values)]
    assert "do not show which is best" in readings.layers(rows(.40, .41, .39), "kNN", 1000)
    assert "do not show which is best" in readings.layers([row | {"interval": None} for row in rows(.9, .1, .1)], "kNN", 1000)
    assert "The best is projector.1; what is exported is backbone" in readings.layers(rows(.30, .50, .40), "kNN", 1000)
    assert "learned to forget" in readings.layers(rows(.50, .49, .30), "kNN", 1000)
    found = measured(0, protocol="layers", rows=[{"layer": layer, "value": v, "interval": [v - .01, v + .01], "note": "of 10 images"}
                                                 for layer, v in (("backbone", .7), ("projector.1", .5))])
    text = sections.layers_markup(of(found), seen, look.layers(seen))
    assert "By the evaluation, v: 70.0" in text and "learned to forget" in text and "of 10 images" in text and "On all images" not in text


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_counts_in_the_confusion_matrix_are_legible(theme):
    """At least 4.5:1 between figure and ground, whatever the shade."""
    css = (pages.HERE / "page.css").read_text()
    block = re.findall(r":root \{(.*?)\}", css, re.S)[theme]
    colours = dict(zip(("paper", "ink"), linear_light([re.search(rf"--{name}: (#\w+);", block)[1] for name in ("paper", "ink")])))
    shade = np.array([int(v) for v in re.search(r"--shade: ([\d, ]+);", block)[1].split(",")]) / 255
    paper = np.array([int(re.search(r"--paper: #(\w+);", block)[1][i:i + 2], 16) / 255 for i in (0, 2, 4)])
    alphas = {int(level): float(alpha) for level, alpha in re.findall(r"\.c(\d) \{ background: rgba\(var\(--shade\), (\.\d+)\)", css)} | {9: 1.0}
    assert sorted(alphas) == list(range(1, 10))
    for level, alpha in alphas.items():
        mixed = alpha * shade + (1 - alpha) * paper
        ground = linear_light(["#" + "".join(f"{round(255 * v):02x}" for v in mixed)])[0] @ [.2126, .7152, .0722]
        ink = "paper" if level > 7 else re.search(r"--on-c7: var\(--(\w+)\)", block)[1] if level == 7 else "ink"
        figure = colours[ink] @ [.2126, .7152, .0722]
        assert (max(figure, ground) + .05) / (min(figure, ground) + .05) > 4.5, level


def test_the_rest_of_a_large_matrix_is_no_hit():
    text = figures.confusion(np.full((30, 30), 1), [str(i) for i in range(30)])
    assert text.count(" hit") == figures.SHOWN and figures.confusion(np.eye(3, dtype=int), ["a", "b", "c"]).count(" hit") == 3


def test_one_class_is_no_result(seen):
    one = seen._replace(data=types.SimpleNamespace(classes=("all",)))
    assert "all images are of one class" in sections.confusion_markup(one) and "100" not in sections.confusion_markup(one)
    found = read.Run("r", "r", {"data": {"classes": 1}}, {}, {"steps": 9, "knn": 1.0, "linear": 1.0}, {}, (), {}, {}, ())
    assert pages.results(found) == [] and "no result" in " ".join(pages.notes([found]))


def test_the_best_of_a_protocol_is_bold():
    rows = [evaluation(v, None, published=None)["rows"][0] for v in (.5, .6)] + [evaluation(.55, None, published=None, protocol="linear")["rows"][0]]
    text = evaluations.table(rows).replace("\u00a0", " ")
    assert "<b>60.0 %</b>" in text and "<b>55.0 %</b>" in text and "50.0 %" in text and "<b>50.0 %</b>" not in text and "published" not in text
    assert "over classes says" in evaluations.one(None, evaluation(.6, (.5, .7), interval_classes=[.3, .8]))


def test_every_chart_of_a_real_log_has_its_sentence():
    """Each curve that training logs is either drawn under a title of its own or listed as silent."""
    known = {name for chart in curves.CHARTS for name in chart.metrics}
    assert {"loss", "lr", "knn", "probe_accuracy", "images_per_second", "collapse_std", "collapse_cosine", "rankme"} <= known
    steps, values = np.arange(1, 21), np.linspace(.9, .1, 20)
    run = read.Run("r", "r", {"method": {"dim": 16}, "model": {"name": "resnet10", "width": .0625}}, {}, {}, {}, (), {name: (steps, values) for name in known}, {}, ())
    assert run.width == 32
    assert all(readings.of(next(iter(chart.metrics)), run) for chart in curves.CHARTS)
    assert "collaps" in " ".join(readings.warnings(read.Run("r", "r", run.config, {}, {}, {}, (), {"collapse_std": (steps, values * .01)}, {}, ())))
