"""The report as a page: it opens in a browser without a request or a complaint, text stays text, and what is missing is said."""
import html
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxssl import report
from jaxssl.errors import UserError
from jaxssl.report import __main__ as command, figures, look, read, readings, seen as sections
from jaxssl.report.markup import Html, isolated, join, middle, tag
from tests import browser
from tests.reported import EVIL, data_of, evaluation, page, run, seen, text_of, workdir  # noqa: F401 (fixtures)
from tests.tiny import config_of

BROWSER = browser.find()
UNDRAWN = "[...document.querySelectorAll('.chart')].filter(c => !c.querySelector('.lines path')).map(c => c.dataset.chart)"

# -- text stays text ----------------------------------------------------------------------------------------------------


def test_markup_escapes_whatever_is_not_markup():
    assert tag("p", "<b>", Html("<i>x</i>"), title='"><b>', hidden=True, id=None) == '<p title="&quot;&gt;&lt;b&gt;" hidden>&lt;b&gt;<i>x</i></p>'
    assert join(["<", Html("<br>")], ", ") == "&lt;, <br>"


def test_names_that_run_right_to_left_keep_to_themselves():
    assert isolated("cat") == "cat" and isolated("חתול") == "\u2068חתול\u2069" and isolated("a\u202ebc") == "\u2068a\u202ebc\u2069"
    assert sections.shorten("חתול/1.png").startswith("\u2068") and len(middle("x" * 99)) == 24


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
    assert tab.evaluate("document.querySelectorAll('.chart').length") > 5 and tab.evaluate(UNDRAWN) == []
    ink = ("(() => {const c = document.querySelector('.canvas canvas'); "
           "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v).length})()")
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
        const b = p.querySelector('.lines').getBoundingClientRect(); const r = p.getBoundingClientRect();
        return [b.left + b.width / 2, r.top + r.height / 2, b.left, b.right]})()""")
    value = "document.querySelector('[data-chart=curve-0] output').textContent"
    assert tab.evaluate(value) == "0"
    tab.move(x, y)
    assert tab.evaluate(value) == "1"
    first = "[...document.querySelectorAll('.chart')].map(c => c.querySelector('.bottom text').textContent)"
    assert all(re.match("step |direction ", name) for name in tab.evaluate(first))
    rate = ("[...[...document.querySelectorAll('.chart')].find(c => c.querySelector('h3').textContent == 'Learning rate')"
            ".querySelectorAll('.plot text.end')].map(t => t.textContent)")
    assert len({"10" in name for name in tab.evaluate(rate) if name != "0"}) == 1, "one notation an axis"
    assert tab.evaluate("document.querySelector('[data-chart=curve-0] .at').textContent") == "step 20, epoch 5"
    tab.evaluate("document.querySelector('[data-chart=curve-0] .plot').focus()")
    tab.key("Home")
    assert tab.evaluate(value) == "2" and right > left
    assert tab.evaluate("document.querySelector('[data-chart=curve-0] .plot').getAttribute('aria-valuetext')") == "step 10, epoch 2.5: 2"


def test_a_tap_tells_what_hovering_shows(page, tab):
    tab.open(page[0], width=390, height=844, phone=True)
    for part, thing in ((".neighbours .row", "li img"), ("#confusion [data-tells]", "td")):
        find = f"document.querySelector('{part}').querySelector('{thing}')"
        x, y = tab.evaluate(f"(() => {{const e = {find}; e.scrollIntoView({{block: 'center', behavior: 'instant'}}); "
                            "const b = e.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]})()")
        tab.tap(x, y)
        told = f"document.querySelector('{part} output').textContent"
        assert tab.evaluate(told) == tab.evaluate(f"{find}.title") != ""
        tab.evaluate(f"document.querySelector('{part} [tabindex]').focus()")
        before = tab.evaluate(told)
        tab.key("ArrowRight")
        assert tab.evaluate(told) not in ("", before)


def test_long_names_keep_both_ends():
    matrix, names = np.array([[5, 3], [2, 6]]), [f"a very long name of a class that ends with {end}" for end in ("one", "two")]
    text = figures.confusion(matrix, names)
    assert "with one</th>" in text and "with two</th>" in text and f'title="{names[0]} taken for {names[1]}: 3 of 8"' in text
    assert "with one taken for a very long" in readings.confusion(matrix, names) and len(readings.confusion(matrix, names)) < 200


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


# -- a collapse --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value, words", [(1.0, "All features lie along one direction"), (0.0, "All features are zero")])
def test_a_collapsed_run_opens(run, seen, tmp_path, tab, monkeypatch, value, words):
    """Every image has the same features: a page with all maps, on which every chart is drawn."""
    images = [part._replace(features={layer: np.full_like(h, value) for layer, h in part.features.items()}) for part in (seen.reference, seen.queries)]
    monkeypatch.setattr(look, "look", lambda *_, **__: seen._replace(reference=images[0], queries=images[1], similarity=np.ones_like(seen.similarity)))
    file = report.write(str(run), str(tmp_path / "collapsed.html"))
    text = text_of(file)
    assert words in text and "All images have the same features" in text and "0 % of the sum" not in text
    tab.open(tmp_path / "collapsed.html")
    assert tab.complaints == []
    assert tab.evaluate(UNDRAWN) == []


# -- what is missing ----------------------------------------------------------------------------------------------------


def test_unfinished_run_without_images(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("run.json", "evaluations", "report.html", "checkpoints"))
    text = text_of(report.write(str(folder), images=0))
    assert "The run is not finished; it has logged step 30" in text and "unfinished, 30 of 30 steps; 16 images a step" in text
    assert "python -m jaxssl.main --config c.py --workdir &#x27;a folder/&lt;b&gt;&#x27;" in text
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


def test_a_torn_checkpoint(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    for file in (folder / "checkpoints" / "30" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    text = text_of(report.write(str(folder)))
    assert "cannot be read" in text and "62.5 %" in text and "<canvas" not in text


def test_torn_files_are_notes(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "evaluations" / "torn.json").write_text('{"rows": [')
    (folder / "evaluations" / "list.json").write_text("[1]")
    (folder / "nonfinite_step_12.json").write_text("{}")
    text = text_of(report.write(str(folder), images=0))
    assert "torn.json cannot be read" in text and "list.json holds a JSON list" in text and "not finite at step 12" in text


def test_odd_values_are_notes(run, tmp_path):
    """JSON that is sound but not what this version writes is left out, key by key, and said."""
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (folder / "run.json").write_text(json.dumps({"steps": "30", "wall_seconds": "long", "parameters": "many", "flops_per_step": [1], "knn": 0.625}))
    (folder / "environment.json").write_text(json.dumps({"argv": "main.py", "packages": ["jax"], "devices": 1}))
    group = {"protocol": "knn", "variant": "v", "layer": "backbone", "metric": "accuracy", "groups": [{"name": "a", "mean": .5, "n": 1}], "tests": [{"name": "b"}], "untested": []}
    (folder / "evaluations" / "test.json").write_text(json.dumps(evaluation(.6, None) | {"comparison": [group]}))
    text = text_of(report.write(str(folder), images=0))
    assert "steps, wall_seconds, parameters, flops_per_step in run.json are not" in text and "argv, packages in environment.json are" in text
    assert "comparison in test.json is" in text
    assert "62.5 %" in text and "60.0 %" in text
    config = json.loads((folder / "config.json").read_text())
    del config["seed"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has no seed"):
        report.write(str(folder), images=0)


def test_on_paper_the_map_has_no_lens(page, tab):
    tab.open(page[0])
    shown = "getComputedStyle(document.querySelector('.shown')).display"
    assert tab.evaluate(shown) != "none"
    tab.media(kind="print")
    assert tab.evaluate(shown) == "none"


def test_a_run_that_ended_at_a_bad_step_is_told_the_remedy(run, tmp_path):
    """Not that the same command goes on, unless the run went past that step or may roll back."""
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("run.json", "checkpoints"))
    (folder / "nonfinite_step_30.json").write_text("{}")
    text = text_of(report.write(str(folder), images=0))
    assert "stopped at step 30" in text and "optim.clip" in text and "The same command goes on" not in text
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"on_nonfinite": "rollback:1"}))
    assert "The same command goes on" in text_of(report.write(str(folder), images=0))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "nonfinite_step_30.json").rename(folder / "nonfinite_step_12.json")
    assert "The same command goes on" in text_of(report.write(str(folder), images=0))


def test_without_labels(tmp_path):
    (tmp_path / "flat").mkdir()
    for i in range(40):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(tmp_path / "flat" / f"{i}.png")
    config = config_of("simclr", **{"data.source": "folder", "data.path": str(tmp_path / "flat"), "data.variant": "cluttered"})
    folder = workdir(tmp_path / "run", config, 0, examples=40)
    text = text_of(report.write(str(folder), images=30, maps=("pca",)))
    (facts,) = data_of(text)["maps"].values()
    assert facts["predictions"] is None and set(facts["labels"]) == {-1} and "There is no confusion matrix: the data have no labels" in text
    rows = re.findall(r'<div class="row" data-place="(\d+)"[^>]*>(.*?)</ol>', text, re.S)
    assert rows and all(f'data-place="{place}"' not in row for place, row in rows), "an image is its own neighbour"
    assert 'class="unknown"' in text and 'class="wrong"' not in text


# -- several runs -------------------------------------------------------------------------------------------------------


def test_several_runs_side_by_side(run, seen, tmp_path, tab, monkeypatch):
    other = shutil.copytree(run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["method"]["temperature"], config["seed"] = 0.5, 7
    (other / "config.json").write_text(json.dumps(config))
    (other / "evaluations" / "test.json").write_text(json.dumps(evaluation(0.65, (0.55, 0.75))))
    monkeypatch.setattr(look, "look", lambda run, **_: seen if run.name == "run" else seen._replace(step=20, weights="teacher"))
    file = report.write([str(run), str(other)], str(tmp_path / "both.html"), maps=("pca",))
    text = text_of(file)
    assert text.count("(student, step 30)") == text.count("(teacher, step 20)") == 1
    changed = re.search(r"Config keys that differ.*?</table>", text, re.S)[0]
    assert re.findall(r"<code>([\w.]+)</code></td>", changed) == ["method.temperature", "0.2", "0.5", "seed", "0", "7"]
    assert "60.0 % ≈" in text and "<b>65.0 %</b>" in text
    assert text.count("<img id=") == 1, "one sheet serves both maps"
    assert [s["name"] for s in data_of(text)["charts"]["curve-0"]["series"]] == ["run", "other"]
    tab.open(tmp_path / "both.html", width=390, height=844, phone=True)
    assert tab.complaints == [] and tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_many_runs_stay_within_the_page(run, tmp_path, tab):
    """A row a run, evaluations folded, and no two curves alike."""
    runs = [shutil.copytree(run, tmp_path / f"a-run-with-a-long-name-{i}", ignore=shutil.ignore_patterns("checkpoints", "report.html")) for i in range(11)]
    for i, folder in enumerate(runs):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"seed": i}))
    text = text_of(report.write([str(folder) for folder in runs], str(tmp_path / "many.html"), images=0))
    section = re.search(r'<section id="runs">.*?</section>', text, re.S)[0]
    assert section.count("<tr>") == 2 * (1 + 11) and "a-run-with-a-long-name-3</td>" in section
    lines = [(s["colour"] % 10, s["dash"] % 8) for s in data_of(text)["charts"]["curve-0"]["series"]]
    assert len(set(lines)) == 11 and text.count("<details><summary>a-run-with-a-long-name-3</summary>") == 1
    for width in (1200, 390):
        tab.open(tmp_path / "many.html", width=width)
        assert tab.complaints == [] and tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_names_tell_runs_apart(tmp_path):
    assert read.names(["/a/x", "/b/x"]) == ["a/x", "b/x"] and read.names(["/a/x", "/b/y"]) == ["x", "y"] and read.names(["/a/x", "/a/x"]) == ["x (1)", "x (2)"]


def test_names_that_are_no_text(run, tmp_path, monkeypatch):
    """File systems hold bytes: a class folder that is not UTF-8 comes as a surrogate, and is shown with a question mark."""
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "report.html"))
    found = read.run(str(folder), "caf\udce9")
    monkeypatch.setattr(read, "runs", lambda _: [found])
    assert "<h1>caf?</h1>" in text_of(report.write(str(folder), images=0))


# -- the command --------------------------------------------------------------------------------------------------------


def test_command(run, tmp_path, capsys):
    assert command.main([str(run), "--images", "0", "--out", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").exists() and f"report: {tmp_path / 'r.html'}" in capsys.readouterr().out
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text('{"architecture": "resnet50"}')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{"model": ')
    for arguments, words in (([str(tmp_path)], "has no config.json"), ([str(tmp_path / "timm")], "is no workdir of this program"), ([str(tmp_path / "torn")], "torn or damaged"),
                             ([str(run), "--maps", "tnse"], "did you mean 'tsne'"), ([str(run), "--images", "-1"], "images is -1"),
                             ([str(run), "--images", "0", "--out", str(tmp_path / "no" / "r.html")], "cannot write")):
        assert command.main(arguments) == 2
        assert words in capsys.readouterr().err
