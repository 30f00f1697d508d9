"""Studies: what varies, what is refused, what resumes, what is chosen by; trials are stubs, but for one real study of two tiny runs."""
import json
import sys
import threading
import time

import jax
import numpy as np
import pytest
from jax._src import compilation_cache
from scipy import stats

from jaxssl import config as configs, study
from jaxssl.errors import Temporary, UserError
from jaxssl.studies import asked as asking, page, presets, run, series, settings, space, summary, trials, work
from jaxssl.training import train
from jaxssl.workdir import lease
from tests import tiny
from tests.studied import Runs
from tests.tiny import SMALL

FILE = "configs/digits/simclr.py"
GRID = ("optim.lr=1e-3,2e-3", "method.temperature=.1,.2,.5")


@pytest.fixture
def ask(tmp_path):
    """ask(…) -> the document of a study in a folder of the test."""
    def go(folder="study", **given):
        return run.run(asking.Asked(workdir=str(tmp_path / folder), config=FILE, **given))
    return go


@pytest.fixture
def runs(monkeypatch):
    """Stubs of runs that reach the rate times 100, less the temperature and a bit by the seed."""
    stub = Runs(lambda config: config.optim.lr * 100 - config.method.temperature / 10 + config.seed / 1000)
    monkeypatch.setattr(train, "run", stub)
    return stub


def test_axes_say_what_they_are():
    found = space.axes(["optim.lr=log:1e-5:1e-1", "batch_size=int:16:64", "model.depths=(1, 1),(2, 2)", "optim.rules=lin:1:3|((^classes/, {'rate': @}),)"], "--search", ranges=True)
    assert [axis.kind for axis in found] == ["log", "int", "values", "lin"] and found[2].values == ("(1, 1)", "(2, 2)")
    assert (found[0].text(.0123456789), found[1].text(17.), found[3].text(2.5)) == ("0.0123457", "17", "((^classes/, {'rate': 2.5}),)")
    assert [setting["a"] + setting["b"] for setting in space.grid(space.axes(["a=1,2", "b=x,y"], "--grid", ranges=False))] == ["1x", "1y", "2x", "2y"]


@pytest.mark.parametrize("text, said", [("optim.lr", "write KEY=value"), ("optim.lr=", "write KEY=value"), ("optim.lr=log:1:nan", "smaller one first"), 
                                        ("optim.lr=log:0:1", "above 0"),
                                        ("batch_size=int:1:2.5", "whole numbers"), ("optim.lr=lin:3:2", "smaller one first"), ("optim.lr=1,1", "one twice"),
                                        ("optim.lr=1,", "empty value"),                                        ("optim.lr=log:1:2|rate", "with @ where")])
def test_an_axis_that_is_none_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        space.axes([text], "--search", ranges=True)


def test_a_range_is_no_grid_and_a_key_stands_once():
    with pytest.raises(UserError, match="give it to --search"):
        space.axes(["optim.lr=log:1e-5:1"], "--grid", ranges=False)
    with pytest.raises(UserError, match="twice"):
        space.axes(["optim.lr=1,2", "optim.lr=3"], "--grid", ranges=False)
    with pytest.raises(UserError, match="1,000,000 settings"):
        space.grid([space.Axis(str(i), "values", tuple("0123456789")) for i in range(6)])


@pytest.mark.parametrize("given, said", [
    (dict(grid=("optim.lrr=1,2",)), "no key optim.lrr to vary; did you mean 'optim.lr'"), (dict(grid=("optim.lr=1e-3,-5",)), "optim.lr=-5 is none"),
    (dict(), "nothing is varied"), (dict(grid=GRID, search=("optim.lr=log:1e-5:1",)), "give one of them"), (dict(grid=GRID, trials=5), "are of a search"),
    (dict(grid=GRID, overrides={"optim.lr": "1"}), "varied .* and set"), (dict(grid=("seed=0,1",), seeds=(0, 1)), "varied twice"),
    (dict(grid=GRID, folds=(0, 1)), "class_disjoint"), (dict(grid=GRID, objective="kn"), "did you mean 'knn'"), (dict(preset="temprature"), "did you mean 'temperature'")])
def test_what_is_no_study_is_refused_before_anything_is_made(ask, tmp_path, given, said):
    with pytest.raises(UserError, match=said):
        ask(**given)
    assert not (tmp_path / "study").exists()


def test_a_grid_runs_once_and_the_same_command_goes_on(ask, runs, tmp_path):
    runs.died = {4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        ask(grid=GRID, seeds=(0, 1))
    found = ask(grid=GRID, seeds=(0, 1))
    assert runs.asked == [f"{number:04d}-seed{seed}" for number in range(6) for seed in (0, 1)]
    best = found["settings"][found["best"]]
    assert best["values"] == {"optim.lr": "2e-3", "method.temperature": ".1"} and found["complete"]
    assert best["mean"] == pytest.approx(.2 - .01 + .0005) and best["half_width"] == pytest.approx(stats.t.ppf(.975, 1) * np.std([0, .001], ddof=1) / 2**.5)
    assert all(each["apart"] and each["interval"][1] < 0 for each in found["paired"]) and len(found["paired"]) == 5       # the seeds differ alike
    assert found["cost"] == {"trials": 12, "seconds": 24.}
    assert json.loads((tmp_path / "study/study.json").read_text())["best"] == found["best"]
    for changed in (dict(grid=GRID[:1], seeds=(0, 1)), dict(grid=GRID, seeds=(0,)), dict(grid=GRID, seeds=(0, 1), overrides={"batch_size": "64"})):
        with pytest.raises(UserError, match="holds another study .*give that command again, or another --workdir"):
            ask(**changed)
    assert len(runs.asked) == 12


def test_a_run_that_is_not_finite_counts_as_nothing(ask, runs):
    runs.value = lambda config: None if config.optim.lr > .0015 else .5
    found = ask(grid=("optim.lr=1e-3,2e-3",))
    assert [(row["mean"], row["failed"]) for row in found["settings"]] == [(.5, 0), (0., 1)] and found["best"] == 0


def test_a_stop_leaves_the_rest_to_the_same_command(ask, runs, monkeypatch):
    monkeypatch.setattr(train, "run", lambda *_, **__: {"stopped": 7})
    assert ask(grid=GRID) == {"stopped": True}
    monkeypatch.setattr(train, "run", runs)
    assert ask(grid=GRID)["complete"]


def test_a_trial_of_another_worker_is_left_to_it_and_waited_for(ask, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "POLL", .05)
    other = lease.take(str(tmp_path / "study" / "trials" / "0001"))
    (tmp_path / "study" / "trials" / "0001" / "config.json").write_text("{}")
    (tmp_path / "study" / "definition.json").write_text(json.dumps({**_definition(tmp_path), "name": "x"}))

    def end():
        while len(runs.asked) < 5:
            time.sleep(.05)
        other.release()
    thread = threading.Thread(target=end)
    thread.start()
    assert ask(grid=GRID)["complete"]
    thread.join()
    assert runs.asked[-1] == "0001" and len(runs.asked) == 6       # the others first; then that of a worker which is gone


def _definition(tmp_path):
    made = series.Series(tmp_path / "like", asking.definition_of(asking.Asked(workdir="", config=FILE, grid=GRID), {}))
    return json.loads((made.folder / "definition.json").read_text())


def test_the_page_holds_text_alone_and_says_what_cannot_be_told_apart(ask, runs, tmp_path):
    runs.value = lambda config: .5 + (config.seed * 7 + config.batch_size) % 3 / 100
    ask(folder="<b>&", grid=("batch_size=16,17,18", "data.variant=clean,cluttered"), seeds=(0, 1, 2))
    html = (tmp_path / "<b>&" / "study.html").read_text()
    assert "<b>&amp;" not in html and "&lt;b&gt;&amp;" in html
    assert "not told apart" in html and "Heat maps" in html and 'class="confusion heat"' in html


def test_a_search_needs_optuna(ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install -e .*\[protocol\]"):
        ask(search=("optim.lr=log:1e-4:1e-1",))


def test_a_preset_is_data_and_a_command_names_it(tmp_path, capsys):
    for name in (path.stem for path in presets.FOLDER.glob("*.py")):
        table = presets.read(name)
        assert table["claim"]["text"], name
        if "reality" not in table:                   # its settings are settings of its config, and the claim orders some of them
            made = series.Series(tmp_path / name, asking.definition_of(asking.Asked(workdir="", preset=name, overrides=dict(table.get("needs", {}))), table))
            known = [setting.values for setting in made.settings.known()]
            for each in (one for pair in table["claim"].get("above", ()) for one in pair):
                assert any(each.items() <= values.items() for values in known), (name, each)
    file = tmp_path / "mine.py"
    for text, said in (("STUDY = {'grids': {}}", "did you mean 'grid'"), ("STUDY = open('x')", "plain values"), ("x = 1", "no table STUDY")):
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            presets.read(str(file))
    assert study.main(["--workdir", str(tmp_path / "s"), "--config", FILE, "--grid", "optim.lr=1,2", "--seeds", "0,x"]) == 2
    assert "--seeds is '0,x'" in capsys.readouterr().err


def test_the_step_of_the_second_trial_does_not_compile_again(tmp_path):
    """Rates, decays and numbers of the loss are arguments of the step, which computes the same with them as with constants; those are another program for each value."""
    counted, former = [], jax.config.jax_compilation_cache_dir
    jax.monitoring.register_event_listener(lambda name, **_: counted.append(name) if name.endswith("cache_misses") else None)

    def job(number, varied=("optim.lr", "optim.weight_decay", "method.temperature", "optim.rules")):
        own = {"optim.lr": f"{1e-3 * (number + 1)}", "optim.weight_decay": f"{.01 * number}", "method.temperature": f"{.1 + number / 10}", "method.hidden": "16",
               "optim.rules": f"(('^projector/', {{'rate': {number + 2.}}}),)"}
        return tiny.Tiny(configs.load(FILE, {**SMALL, "total": "9", "warmup": "0", **own}), 1, varied=varied)
    first, second, plain = job(0), job(1), job(1, varied=())
    assert list(first.job.numbers) == ["method.temperature", "optim.lr", "optim.rules.0.rate", "optim.weight_decay"] and not plain.job.numbers
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", .5)              # of the step alone
        compilation_cache.reset_cache()
        misses, losses = [], []
        for each, batch in ((each, each.batch(0)) for each in (first, second, plain)):
            before = len(counted)
            each.state, metrics = each.job.step(each.state, batch)
            misses.append(len(counted) - before)
            losses.append([float(metrics["loss"]), *(found["loss"] for found in each.run(2, start=1))])
    finally:
        jax.config.update("jax_compilation_cache_dir", former)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", .2)
        compilation_cache.reset_cache()
    assert misses == [1, 0, 1]
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)
    assert losses[0] != losses[1]


def test_alpha_req_is_the_better_the_nearer_to_one(tmp_path):
    """As an objective, and against accuracies; what is not finite is the worst."""
    def trial(value):
        folder = tmp_path / str(value)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"data": {}, "model": {}, "method": {}, "optim": {}, "augment": {}}))
        (folder / "run.json").write_text(json.dumps({"steps": 4, "alphareq": value, "wall_seconds": 1.}))
        return trials.measured(trials.Trial(folder, "", {}, (), None, None), "alphareq", best=False).value
    assert [trial(value) for value in (.7, 1.1, None)] == pytest.approx([-.3, -.1, -10.])
    rows = [{"beside": {"alphareq": a, "knn": k}} for a, k in ((.2, .1), (.8, .4), (1., .5), (1.1, .45), (2., .05))]
    found, = summary.correlations(rows)
    assert (found["of"], found["with"], found["spearman"]) == ("alphareq", "knn", pytest.approx(1.))


def test_holm_and_half_width():
    from jaxssl.studies import verdict
    assert verdict.holm([.01, .04, .03]) == pytest.approx([.03, .06, .06])
    assert summary.half_width([1.]) is None and summary.half_width([0., 2.]) == pytest.approx(12.7062, abs=1e-3)
    assert page.with_half(.5, .01, "knn") == "50.00 ± 1.00\u00a0%"


def test_a_database_that_does_not_answer_is_a_passing_fault():
    class OperationalError(Exception):
        pass
    found = settings.refused(OperationalError("connection to postgresql://a:secret@h/d refused"), "postgresql://a:secret@h/d")
    assert isinstance(found, Temporary) and found.code == 75 and "secret" not in str(found) and "nothing is lost" in str(found)
    assert settings.refused(KeyError("x"), "sqlite:///x") is None
