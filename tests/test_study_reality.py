"""A reality check chooses by validation images alone; a planted leak fails; what it reports are Student's intervals with and without the tuned run."""
import json
import shutil

import numpy as np
import pytest
from scipy import stats

from jaxssl.errors import UserError
from jaxssl.studies import asked as asking, presets, reality, run, settings, testing, trials
from jaxssl.training import train
from tests.studied import Runs, split

TABLE = """STUDY = {"config": "configs/digits/metric.py", "set": {"data.split": "class_disjoint"}, "folds": [0, 1, 2, 3], "trials": 3, "sampler": "random",
    "reality": {"reproductions": 2, "losses": {"one": {"set": {"method.loss": "contrastive", "method.miner": ""}, "search": {"method.neg_margin": "0.2,0.6,1.0"}},
                                               "two": {"set": {"method.loss": "triplet", "method.miner": ""}, "search": {"method.margin": "0.1,0.2,0.3"}}}},
    "claim": {"text": "none"}}
"""


class Drawn:
    """Stands in for `settings.Search`: three settings, the values of the axes in order."""

    def __init__(self, axes, *, most, **_):
        self._axes, self._most, self._known, self.told = axes, most, [], {}

    def known(self):
        return self._known

    def ask(self):
        if len(self._known) == self._most:
            return None
        self._known.append(settings.Setting(len(self._known), {axis.key: axis.values[len(self._known)] for axis in self._axes}))
        return self._known[-1]

    def tell(self, setting, value):
        self.told[setting.number] = value


@pytest.fixture
def check(tmp_path, monkeypatch):
    """check() -> the document of a reality check whose runs reach .4 to .7 on validation images, the better the larger the margin, and on test images the other way round."""
    runs = Runs(lambda config: .4 + config.method.get("margin", config.method.get("neg_margin", 0)) / 4 + config.seed / 100 + config.data.fold / 1000)
    seen = []

    def together(asked):
        seen.append([path.rsplit("/", 1)[1] for path, _ in asked])
        values = [json.loads(open(f"{path}/run.json").read())["map_at_r"] for path, _ in asked]
        return {how: dict.fromkeys(testing.MEASURES, 1 - float(np.mean(values))) for how in ("separated", "concatenated")}
    monkeypatch.setattr(train, "run", runs)
    monkeypatch.setattr(settings, "Search", Drawn)
    monkeypatch.setattr(testing, "together", together)
    monkeypatch.setattr(testing, "alone", lambda path: {"untrained": dict.fromkeys(testing.MEASURES, .1)})
    (tmp_path / "mine.py").write_text(TABLE)
    presets.read(str(tmp_path / "mine.py"))

    def go(**given):
        return run.run(asking.Asked(workdir=str(tmp_path / "study"), preset=str(tmp_path / "mine.py"), **given))
    go.runs, go.seen, go.folder = runs, seen, tmp_path / "study"
    return go


def test_the_setting_is_chosen_on_validation_images_whatever_the_test_says(check):
    found = check()
    one = found["losses"]["one"]
    assert one["chosen"]["values"] == {"method.neg_margin": "1.0"} and one["searched"] == 3 and found["complete"]
    assert check.runs.asked[:4] == ["0000-fold0", "0000-fold1", "0000-fold2", "0000-fold3"] and "again01-fold3" in check.runs.asked
    assert check.seen[0] == ["0002-fold0", "0002-fold1", "0002-fold2", "0002-fold3"]     # a test of the tuned run comes after all was chosen
    assert one["chosen"]["validation"] == pytest.approx([.66 + fold / 1000 for fold in range(4)])          # the best evaluation of which there is a checkpoint
    own = one["scores"]["separated"]["MAP@R"]
    values = [1 - (.65 + seed / 100 + .0015) for seed in (0, 1, 2)]
    assert own["with"]["values"] == pytest.approx(values) and own["without"]["values"] == pytest.approx(values[1:])
    assert own["without"]["half_width"] == pytest.approx(stats.t.ppf(.975, 1) * np.std(values[1:], ddof=1) / 2**.5)
    assert found["baselines"]["untrained"]["MAP@R"] == .1
    assert {(each["how"], each["p"], each["apart"]) for each in found["differences"]} == {("separated", .5, False), ("concatenated", .5, False)}      # two pairs can say no more
    assert "reality check" in (check.folder / "study.html").read_text() and (check.folder / "one" / "study.html").exists()


def test_a_class_of_the_test_that_was_trained_on_is_found(check, monkeypatch):
    from tests import studied
    monkeypatch.setattr(studied, "split", lambda fold: {**split(fold), "train": [*split(fold)["train"], "c12"]})
    with pytest.raises(UserError, match="1 classes of the test were trained on .c12."):
        check()
    assert not check.seen


def test_a_class_that_is_validated_on_and_trained_on_is_found(check, monkeypatch):
    from tests import studied
    monkeypatch.setattr(studied, "split", lambda fold: {**split(fold), "train": [*split(fold)["train"], split(fold)["val"][0]]})
    with pytest.raises(UserError, match="trained on and validated on"):
        check()


def test_folds_that_keep_other_classes_are_found(check, monkeypatch):
    from tests import studied
    monkeypatch.setattr(studied, "split", lambda fold: {**split(fold), "test": split(fold)["test"][fold:]})
    with pytest.raises(UserError, match="other classes for the test than the other folds"):
        check()


def test_a_choice_by_test_rows_is_refused(check, tmp_path):
    """Runs that were validated on test images, by their config or by what they kept."""
    with pytest.raises(UserError, match="looks at the test by itself"):
        check(overrides={"data.test_split": "test"})
    check()
    for folder in (check.folder / "one" / "trials").glob("0002-*"):
        config = json.loads((folder / "config.json").read_text())
        config["data"]["test_split"] = "test"
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="measured on test images .* nothing is selected by these"):
        check()


def test_nothing_is_tested_before_the_choice_and_nothing_chosen_after_a_test(check):
    check()
    place = check.folder / "one" / reality.SELECTED
    with pytest.raises(UserError, match="choose another --workdir for a larger search"):
        place.write_text(json.dumps({**json.loads(place.read_text()), "setting": 0}))
        check()
    place.unlink()
    with pytest.raises(UserError, match="a choice now could have been made by them"):
        check()
    shutil.rmtree(check.folder / "one" / "tests")
    trial = trials.Trial(check.folder / "one" / "trials" / "0002-fold0", "", {}, (), 0, None)
    with pytest.raises(UserError, match="no test image is looked at before"):
        testing.Test(check.folder / "one" / "tests" / "tuned", (trial, trial), "map_at_r", place).run()


def test_a_killed_check_goes_on(check):
    check.runs.died = {5: KeyboardInterrupt(), 17: KeyboardInterrupt()}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            check()
    assert check()["complete"] and len(check.runs.asked) == len(set(check.runs.asked)) * 2 == 2 * (3 * 4 + 2 * 4)
