"""The report: what it embeds equals numpy's, it opens in a browser without a request or a complaint, text stays text, and what is missing is said."""
import html
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix

from jaxssl import checkpoint, config as configs, data as datas, encoder as encoders, job as jobs, report, sharding, tree
from jaxssl.eval import knn, rank
from jaxssl.report import __main__ as command, curves, evaluations, figures, look, maps, pictures, readings, read
from jaxssl.report.markup import Html, join, tag
from tests import browser
from tests.tiny import config_of

EVIL = ('<script>window.boom=1<', 'script>', '<img src=x onerror="window.boom=1">', "a&b 'c' \"d\"")
CLASSES = ((EVIL[0], EVIL[1]), (EVIL[2], "x"), (EVIL[3], "ü日本"))       # two folder levels make a class, so that one holds a closing tag
BROWSER = browser.find()


def images(folder, counts):
    """`counts` PNG files of noise around a mean a class, as <class>/<class>/i.png."""
    rng = np.random.default_rng(0)
    for number, (classes, count) in enumerate(zip(CLASSES, counts)):
        place = folder.joinpath(*classes)
        place.mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(60 + 60 * number, 50, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i:02d}.png")


def state_of(job, seed=1):
    """A train state of random weights, without compiling anything: normal kernels, norms that do nothing."""
    rng = np.random.default_rng(seed)

    def value(name, leaf):
        if name.endswith("kernel"):
            return rng.normal(0, (2 / max(np.prod(leaf.shape[:-1]), 1)) ** .5, leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, name.endswith(("scale", "var")), leaf.dtype)
    leaves = [value(name, leaf) for name, leaf in tree.names(job.state).items()]
    return jax.tree.unflatten(jax.tree.structure(job.state), leaves)


def workdir(folder, config, classes, *, examples=60):
    """A workdir with a checkpoint of random weights and three logged steps, the last line torn."""
    folder.mkdir()
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    job = jobs.prepare(config, mesh, jobs.Facts(examples, classes, config.data.canvas, True))
    manager = checkpoint.open_manager(workdir=str(folder), asynchronous=False)
    manager.save(30, state_of(job), {})
    manager.wait()
    manager.close()
    (folder / "config.json").write_text(configs.describe(config))
    (folder / "environment.json").write_text(json.dumps({"python": "3", "argv": ["main.py", "--config", "c.py", "--workdir", "a folder/<b>"], "devices": 1, "device_kind": "cpu",
                                                         "packages": {"jax": "<u>1</u>"}}))
    lines = [{"step": s, "time": 0.0, "loss": 3.0 - s / 10, "lr": 1e-3 * s, "epoch": s / 4, "images_per_second": 100.0 + s, "collapse_std": 0.08, "ids_sha256": "ab"} for s in (10, 20, 30)]
    text = "\n".join(json.dumps(line) for line in [*lines, {"step": 20, "time": 0.0, "knn": 0.5, "rankme": 3.0}, {"step": 30, "time": 0.0, "knn": 0.625, "rankme": 4.0}])
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 31, "lo')
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on images in folders with hostile names, and two files of evaluations."""
    root = tmp_path_factory.mktemp("report")
    images(root / "data" / "train", (30, 20, 10))
    images(root / "data" / "test", (12, 10, 8))
    config = config_of("simclr", **{"data.source": "folder", "data.path": str(root / "data"), "data.class_depth": "2", "data.variant": "cluttered"})
    folder = workdir(root / "run", config, 3)
    (folder / "run.json").write_text(json.dumps({"steps": 30, "knn": 0.625, "linear": 0.75, "rankme": 4.0, "knn_untrained": 0.4, "images_per_second": 120.0, "wall_seconds": 90.0, "parameters": 1000}))
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "untrained.json").write_text(json.dumps({"knn_untrained": 0.4, "knn_raw": 0.3, "rankme_untrained": 2.0}))
    (folder / "evaluations" / "test.json").write_text(json.dumps(evaluation(0.6, (0.5, 0.7))))
    return folder


def evaluation(value, interval, **more):
    row = {"protocol": "knn", "variant": "k=20 <b>T</b>", "layer": "backbone", "metric": "accuracy", "value": value, "n": 30, "interval": interval, "setting": {"k": 20, "T": 0.07},
           "note": "short </td>", "seconds": 1.0, "selected": "test", "published": {"value": 0.55, "source": "paper <1>"}}
    return {"version": 1, "created": "2026-01-01", "subject": {"name": "run", "weights": "student", "step": 30}, "data": {"name": "set", "test": "set/test"}, "command": "evaluate <x>",
            "rows": [row | more]}


@pytest.fixture(scope="module")
def seen(run):
    return look.look(read.runs([str(run)])[0], images=50)


@pytest.fixture(scope="module")
def page(run, seen):
    """(file, text, the data that its script draws)."""
    with pytest.MonkeyPatch.context() as patch:        # what was embedded for `seen`
        patch.setattr(look, "look", lambda *_, **__: seen)
        file = report.write(str(run), images=50)
    assert file == str(run / "report.html")
    text = text_of(file)
    return run / "report.html", text, data_of(text)


def text_of(file):
    """Of a page, with plain spaces for those that do not break."""
    return Path(file).read_text().replace("\u00a0", " ")


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1].replace("\\u00a0", " "))


# -- numbers ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(run, seen):
    """(features, labels) of the reference and of the queries, by the encoder itself, image by image in the order of the source."""
    encoder, data = encoders.from_workdir(str(run)), datas.make(**json.loads((run / "config.json").read_text())["data"])

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
    rows = re.findall(r'<div class="row" data-place="(\d+)">(.*?)</ol>', page[1], re.S)
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


def test_map_of_identical_features_is_a_point_not_an_error():
    found = maps.make(np.ones((5, 3)), ("pca",))["pca"]
    np.testing.assert_allclose(found.xy, 0.5)


def test_map_on_the_page_has_every_query(page, seen):
    (facts,) = page[2]["maps"].values()
    assert facts["labels"] == seen.queries.labels.tolist() and facts["predictions"] == seen.predictions.tolist()
    assert {"pca", "tsne"} <= facts["methods"].keys() and all(len(m["x"]) == len(m["y"]) == 25 for m in facts["methods"].values())
    assert f'id="{facts["sheet"]}"' in page[1]


def test_sheet_puts_tile_i_where_the_script_looks():
    tiles = np.random.default_rng(0).integers(0, 255, (70, 4, 4, 3)).astype(np.uint8)
    sheet = pictures.sheet(tiles)
    for i in (0, 31, 32, 69):
        row, column = divmod(i, pictures.COLUMNS)
        np.testing.assert_array_equal(sheet[4 * row:4 * row + 4, 4 * column:4 * column + 4], tiles[i])


def test_a_thousand_photographs_stay_small():
    """32-pixel crops of scikit-learn's photographs: what a CIFAR run's map embeds."""
    from sklearn.datasets import load_sample_images
    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    shrunk = [np.asarray(Image.fromarray(p).resize((320, 213), Image.LANCZOS)) for p in photographs]
    crops = np.stack([shrunk[i % 2][y:y + 32, x:x + 32] for i, (y, x) in enumerate(zip(rng.integers(0, 180, 1000), rng.integers(0, 288, 1000)))])
    assert len(pictures.address(pictures.sheet(crops))) < 2e6


def test_views_are_those_of_the_first_step(run):
    """Against the training path: its batch order, its lookup, its key."""
    config = configs.ConfigDict(json.loads((run / "config.json").read_text()))
    data = datas.make(**config.data)
    store = datas.store(data, data.train)
    index = next(datas.batches(data, seed=config.seed, batch_size=config.batch_size, total_steps=1))[1]["index"]
    batch = datas.lookup(store, {"index": index})
    key = jax.random.fold_in(jax.random.wrap_key_data(np.asarray(jax.random.key_data(jax.random.key(config.seed)))), 0)
    views = np.asarray(jax.jit(jobs.views(config)[0])(key, {k: batch[k] for k in ("image", "size")})["views"], np.float32)
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


def test_wilson_interval_holds_the_score_test():
    """By definition its ends are the p whose score test gives 1.96 (Wilson 1927)."""
    for share, n in ((0.0, 20), (0.3, 50), (0.97, 1000)):
        low, high = look.interval(share, n)
        for end in (low, high):
            if 0 < end < 1:
                assert abs(share - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(1.96, abs=1e-3)


@pytest.mark.parametrize("value, text", [(0.00012, "1.2·10⁻⁴"), (0.0123456, "0.01235"), (-3.5, "−3.5"), (1234.6, "1,235"), (7, "7"), (2.5e7, "2.5·10⁷"), (0.0, "0"), (None, "–")])
def test_numbers(value, text):
    assert readings.number(value) == text


# -- text stays text ----------------------------------------------------------------------------------------------------


def test_markup_escapes_whatever_is_not_markup():
    assert tag("p", "<b>", Html("<i>x</i>"), title='"><b>', hidden=True, id=None) == '<p title="&quot;&gt;&lt;b&gt;" hidden>&lt;b&gt;<i>x</i></p>'
    assert join(["<", Html("<br>")], ", ") == "&lt;, <br>"


def test_no_hostile_text_is_markup(page):
    text = page[1]
    assert len(re.findall(r"<script[ >]", text)) == 2 and text.count("</script>") == 2       # the data and the program
    for evil in ("<script>window", "<img src=x", "<b>T", "<u>1", "paper <1>", "evaluate <x>", "folder/<b>"):
        assert evil not in text, evil
        assert html.escape(evil) in text or json.dumps(evil).strip('"').replace("<", "\\u003c").replace(">", "\\u003e") in text, evil
    assert "short &lt;/td&gt;" in text
    for opening in re.findall(r"<\w+[^>]*>", re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.S)):
        assert not re.search(r"\s(style|on\w+)=", re.sub(r'"[^"]*"', '""', opening)), opening
    assert set(re.findall(r"\w+://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}       # a name, not an address


def test_policy_lets_nothing_in(page):
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page[1])[1])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:" and "unsafe" not in policy and rules["script-src"].startswith("'sha256-")


# -- in the browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab():
    if not BROWSER:
        pytest.skip("no Chromium on this machine; on Debian and Ubuntu: apt-get install chromium")
    with browser.start(BROWSER) as found:
        yield found


@pytest.mark.parametrize("name, window", [("light", {}), ("dark", {"dark": True}), ("phone", {"width": 390, "height": 844, "phone": True})])
def test_opens_without_a_request_or_a_complaint(page, tab, pytestconfig, name, window):
    """Screenshots are kept in .pytest_cache/d/report."""
    tab.open(page[0], **window)
    tab.screenshot(pytestconfig.cache.mkdir("report") / f"{name}.png")
    assert [r for r in tab.requests if not r.startswith("data:")] == [page[0].resolve().as_uri()]
    assert tab.complaints == []
    assert tab.evaluate("window.boom") is None
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    drawn, frames = tab.evaluate("[document.querySelectorAll('.chart .lines path').length, document.querySelectorAll('.chart').length]")
    assert drawn >= frames > 5
    ink = "(() => {const c = document.querySelector('.canvas canvas'); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v).length})()"
    assert tab.evaluate(ink) > 200, "the map is empty"
    assert EVIL[0] + "/" + EVIL[1] in tab.evaluate("document.querySelector('.legend').textContent")
    assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_light_and_dark_differ(page, tab):
    colours = []
    for dark in (False, True):
        tab.open(page[0], dark=dark)
        colours.append(tab.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"))
    light, dark = ([sum(map(int, re.findall(r"\d+", c)[:3])) for c in pair] for pair in colours)
    assert light[0] > 700 and light[1] < 150 and dark[0] < 150 and dark[1] > 600


def test_a_policy_violation_would_be_noticed(tab, tmp_path, page):
    """The check itself works: the same page with one more script, one request and one error is complained of."""
    text = page[1].replace("</body>", "<script>1</script><img src='https://example.invalid/x.png'></body>")
    (tmp_path / "bad.html").write_text(text)
    tab.open(tmp_path / "bad.html")
    tab.evaluate("console.error('planted')")
    tab.evaluate("new Promise(done => setTimeout(done, 200))")
    assert sum("Content Security Policy" in c for c in tab.complaints) >= 2 and any("planted" in c for c in tab.complaints)


def test_hovering_tells_the_logged_value(page, tab):
    tab.open(page[0])
    x, y, left, right = tab.evaluate("""(() => {const p = document.querySelector('[data-chart=curve-0] .plot'); p.scrollIntoView({block: 'center', behavior: 'instant'});
        const b = p.querySelector('.lines').getBoundingClientRect(); const r = p.getBoundingClientRect(); return [b.left + b.width / 2, r.top + r.height / 2, b.left, b.right]})()""")
    value = "document.querySelector('[data-chart=curve-0] output').textContent"
    assert tab.evaluate(value) == "0"
    tab.move(x, y)
    assert tab.evaluate(value) == "1"
    assert tab.evaluate("document.querySelector('[data-chart=curve-0] .at').textContent") == "step 20, epoch 5"
    tab.evaluate("document.querySelector('[data-chart=curve-0] .plot').focus()")
    tab.key("Home")
    assert tab.evaluate(value) == "2" and right > left
    assert tab.evaluate("document.querySelector('[data-chart=curve-0] .plot').getAttribute('aria-valuetext')") == "step 10, epoch 2.5: 2"


def test_the_map_tells_the_image_under_the_pointer(page, tab):
    tab.open(page[0])
    (facts,) = page[2]["maps"].values()
    tab.evaluate("document.querySelector('.canvas canvas').focus()")
    tab.key("ArrowLeft")
    told = tab.evaluate("document.querySelector('.told').textContent").split("\n")
    i = facts["ids"].index(told[-1])
    assert told[0] == facts["classes"][facts["labels"][i]]
    assert told[1] == ("✓ kNN agrees" if facts["predictions"][i] == facts["labels"][i] else f"✕ kNN: {facts['classes'][facts['predictions'][i]]}")
    shades = tab.evaluate("new Set(document.querySelector('.lens').getContext('2d').getImageData(0, 0, 96, 96).data).size")
    assert shades > 20, "the lens shows no picture"


# -- what is missing ----------------------------------------------------------------------------------------------------


def test_unfinished_run_without_images(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("run.json", "evaluations", "report.html", "checkpoints"))
    text = text_of(report.write(str(folder), images=0))
    assert "the run is not finished; it has logged step 30" in text and "python -m jaxssl.main --config c.py --workdir &#x27;a folder/&lt;b&gt;&#x27;" in text
    assert f"python -m jaxssl.evaluate --workdir {folder}" in text and f"python -m jaxssl.report {folder}" in text
    assert "<img id" not in text and data_of(text)["maps"] == {}


def test_nothing_but_a_config(run, tmp_path, tab):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run / "config.json", folder)
    file = report.write(folder)
    text = text_of(file)
    for words in ("Nothing was logged yet", "metrics.jsonl has no line yet", "has no committed checkpoint yet", "environment.json is missing"):
        assert words in text, words
    tab.open(folder / "report.html")
    assert tab.complaints == []


def test_data_that_are_gone(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["data"]["path"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    text = text_of(report.write(str(folder)))
    assert f"data.path=&#x27;{tmp_path}/gone&#x27; does not exist" in text and "62.5 %" in text and "<canvas" not in text


def test_torn_files_are_notes(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "evaluations" / "torn.json").write_text('{"rows": [')
    (folder / "evaluations" / "list.json").write_text("[1]")
    (folder / "nonfinite_step_12.json").write_text("{}")
    text = text_of(report.write(str(folder), images=0))
    assert "torn.json is not readable" in text and "list.json holds no JSON object" in text and "not finite at step 12" in text


def test_without_labels(tmp_path):
    (tmp_path / "flat").mkdir()
    for i in range(40):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(tmp_path / "flat" / f"{i}.png")
    config = config_of("simclr", **{"data.source": "folder", "data.path": str(tmp_path / "flat"), "data.variant": "cluttered"})
    folder = workdir(tmp_path / "run", config, 0, examples=40)
    text = text_of(report.write(str(folder), images=30, maps=("pca",)))
    (facts,) = data_of(text)["maps"].values()
    assert facts["predictions"] is None and set(facts["labels"]) == {-1} and "There is no confusion matrix: the data have no labels" in text
    rows = re.findall(r'<div class="row" data-place="(\d+)">(.*?)</ol>', text, re.S)
    assert rows and all(f'data-place="{place}"' not in row for place, row in rows), "an image is its own neighbour"
    assert 'class="unknown"' in text and 'class="wrong"' not in text


# -- several runs -------------------------------------------------------------------------------------------------------


def test_several_runs_side_by_side(run, seen, tmp_path, tab, monkeypatch):
    other = shutil.copytree(run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["method"]["temperature"], config["seed"] = 0.5, 7
    (other / "config.json").write_text(json.dumps(config))
    (other / "evaluations" / "test.json").write_text(json.dumps(evaluation(0.65, (0.55, 0.75))))
    monkeypatch.setattr(look, "look", lambda *_, **__: seen)
    file = report.write([str(run), str(other)], str(tmp_path / "both.html"), maps=("pca",))
    text = text_of(file)
    changed = re.search(r"Config keys that differ.*?</table>", text, re.S)[0]
    assert re.findall(r"<code>([\w.]+)</code></td>", changed) == ["method.temperature", "0.2", "0.5", "seed", "0", "7"]
    assert "60.0 % ≈" in text and "<b>65.0 %</b>" in text
    assert text.count("<img id=") == 1, "one sheet serves both maps"
    assert [s["name"] for s in data_of(text)["charts"]["curve-0"]["series"]] == ["run", "other"]
    tab.open(tmp_path / "both.html", width=390, height=844, phone=True)
    assert tab.complaints == [] and tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_clear_order_has_no_mark():
    rows = [evaluation(0.2, (0.1, 0.3)), evaluation(0.8, (0.7, 0.9))]
    runs = [read.Run(name, name, {}, {}, {}, {}, (e,), {}, {}, ()) for name, e in zip("ab", rows)]
    text = evaluations.comparison(runs).replace("\u00a0", " ")
    assert "20.0 %" in text and "%  ≈" not in text and "% ≈" not in text.replace("bold; ≈", "")


def test_names_tell_runs_apart(tmp_path):
    assert read.names(["/a/x", "/b/x"]) == ["a/x", "b/x"] and read.names(["/a/x", "/b/y"]) == ["x", "y"] and read.names(["/a/x", "/a/x"]) == ["x (1)", "x (2)"]


# -- the command --------------------------------------------------------------------------------------------------------


def test_command(run, tmp_path, capsys):
    assert command.main([str(run), "--images", "0", "--out", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").exists() and f"report: {tmp_path / 'r.html'}" in capsys.readouterr().out
    for arguments, words in (([str(tmp_path)], "has no config.json"), ([str(run), "--maps", "tnse"], "did you mean 'tsne'"), ([str(run), "--images", "-1"], "images is -1"),
                             ([str(run), "--images", "0", "--out", str(tmp_path / "no" / "r.html")], "cannot write")):
        assert command.main(arguments) == 2
        assert words in capsys.readouterr().err


def test_every_chart_of_a_real_log_has_its_sentence():
    """Each curve that training logs is either drawn under a title of its own or listed as silent."""
    known = {name for chart in curves.CHARTS for name in chart.metrics}
    assert {"loss", "lr", "knn", "probe_accuracy", "images_per_second", "collapse_std", "collapse_cosine", "rankme"} <= known
    steps, values = np.arange(1, 21), np.linspace(.9, .1, 20)
    run = read.Run("r", "r", {"method": {"dim": 16}, "model": {"name": "resnet10", "width": .0625}}, {}, {}, {}, (), {name: (steps, values) for name in known}, {}, ())
    assert run.width == 32
    assert all(readings.of(next(iter(chart.metrics)), run) for chart in curves.CHARTS)
    assert "collaps" in " ".join(readings.warnings(read.Run("r", "r", run.config, {}, {}, {}, (), {"collapse_std": (steps, values * .01)}, {}, ())))
