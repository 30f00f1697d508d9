"""What the evaluate command does when something goes wrong: refused up front, recorded and gone on from, or interrupted with what was done left behind."""
import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest

from jaxssl import data as datas
from jaxssl.evaluation import protocols
from jaxssl.evaluation import subjects
from jaxssl.evaluation.features import cache
from jaxssl.encoder import load as loading
from jaxssl.data.sources import Subset
from jaxssl.errors import UserError
from jaxssl.evaluation.protocols import Row
from jaxssl.evaluation.tuning import frozen, whole
from tests.test_cache import drawn
from tests.test_evaluate import FAST, call, plant, runs, written  # noqa: F401 (fixtures)
from tests.test_interop import lone


def one_row(context):
    return [Row("planted", "row", "backbone", "accuracy", .5, 2, None, {}, "", 0., "fixed", "share")]


@pytest.mark.parametrize("error, words", [(UserError("it cannot be; do that"), "it cannot be; do that"), (ValueError("a feature is wrong"), "a feature is wrong"),
                                          (KeyError("lost"), "KeyError: 'lost'"), (MemoryError(), "MemoryError: no message")])
def test_a_protocol_that_fails_is_recorded_and_the_others_go_on(runs, call, monkeypatch, tmp_path, error, words):
    def run(context):
        raise error
    plant(monkeypatch, run)
    code, out, err = call("--workdir", *runs("seed0"), "--protocols", "planted,knn", *FAST)
    assert code == 2 and err.splitlines()[-1] == f"error: planted: {words}" and ("Traceback" in err) == (words.startswith(("KeyError", "MemoryError")))
    found, = written(tmp_path / "seed0")
    assert found["failed"] == [{"protocol": "planted", "seed": 0, "why": words}] and found["unfinished"] == []
    assert {row["protocol"] for row in found["rows"]} == {"knn"} and "✗" in out and words in out and "k=5 T=0.07" in out
    code, out, err = call("--workdir", *runs("seed1"), "--protocols", "planted")
    assert code == 2 and out == "" and written(tmp_path / "seed1") == []        # nothing was measured, so there is nothing to write


def test_what_weights_from_elsewhere_do_not_say_stands_beside_the_numbers(call, tmp_path):
    file = str(lone(tmp_path, fc_weight=np.zeros((2, 32), np.float32)))
    code, out, err = call("--weights", file, "--data", "digits", "--protocols", "labelfree", "--set", "labelfree.views=false", "--cache", str(tmp_path / "cache"))
    found, = written(tmp_path)
    assert code == 0 and found["unused"] == ["fc.weight"] and len(found["notes"]) == 2
    assert "note: preprocessing assumed" in out and f"{file}: 1 tensors of the file are unused (fc.weight)" in err and f"{file}: architecture assumed" in err


def test_an_interruption_leaves_what_was_done(runs, call, monkeypatch, tmp_path):
    seen = []

    def run(context):
        if context.seed == 0:
            return one_row(context)
        seen.extend(written(tmp_path / "seed0"))
        raise KeyboardInterrupt
    plant(monkeypatch, run)
    code, out, err = call("--workdir", *runs("seed0"), "--protocols", "planted,labelfree", "--set", "labelfree.views=false", "--seeds", "0,1")
    found, = written(tmp_path / "seed0")
    assert code == 130 and "Traceback" not in err and "interrupted; what was measured is in" in err.splitlines()[-1]
    assert found["unfinished"] == ["planted", "labelfree"] and {row["protocol"] for row in found["rows"]} == {"planted", "labelfree"}
    assert seen == [found]                                  # it was there before


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(runs, call, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "features", lambda *_a, **_k: pytest.fail("computed first"))
    (tmp_path / "file").write_text("")
    (tmp_path / "seed0" / "evaluations").write_text("")
    for flags in (["--out", str(tmp_path / "file")], []):
        code, out, err = call("--workdir", *runs("seed0"), "--protocols", "knn", *flags)
        assert code == 2 and "cannot write to" in err and "--out" in err and err.count("\n") == 1, err
    code, out, err = call("--workdir", *runs("seed1"), "--protocols", "knn,linear", "--cache", str(tmp_path / "file"))
    assert code == 2 and "cannot write to" in err and "give another folder with --cache" in err and err.count("\n") == 1, err


class Unlabelled:
    """A source whose images have no labels, although its set has classes; but for the first `but`."""

    def __init__(self, source, but=0):
        self.source, self.name, self.classes, self.but = source, source.name, source.classes, but

    def __len__(self):
        return len(self.source)

    def entry(self, index):
        label, name = self.source.entry(index)
        return label if index < self.but else -1, name

    def read(self, index):
        return self.source.read(index)[0], *self.entry(index)


@pytest.fixture
def opened(monkeypatch):
    """opened(**changes) makes evaluate find a few digits with these fields changed."""
    data = datas.make(source="digits", variant="clean", canvas=16, workers=0)
    data = dataclasses.replace(data, train=Subset(data.train, range(0, 200)), test=Subset(data.test, range(40)))

    def change(**changes):
        monkeypatch.setattr(subjects, "open_data", lambda *_a, **_k: dataclasses.replace(data, **changes))
        return data
    change()
    return change


LABELLED = sorted(set(protocols.names("all")) - {"labelfree"})


@pytest.mark.parametrize("name", LABELLED)
def test_every_labelled_protocol_wants_a_labelled_test_image_up_front(runs, call, opened, monkeypatch, name):
    data = opened()
    opened(test=Unlabelled(data.test))
    for module, function in ((cache, "features"), (frozen, "train"), (whole, "train")):
        monkeypatch.setattr(module, function, lambda *_a, **_k: pytest.fail("computed first"))
    code, _, err = call("--workdir", *runs("seed0"), "--protocols", f"labelfree,{name}")
    assert code == 2 and f"no labelled test image, and {name} needs one" in err and err.count("\n") == 1, err


def test_training_labels_are_wanted_of_those_that_read_them(runs, call, opened, monkeypatch):
    data = opened()
    opened(train=Unlabelled(data.train, but=1))
    code, _, err = call("--workdir", *runs("seed0"), "--protocols", "knn,retrieval,linear")
    assert code == 2 and "one labelled train image, and knn, linear need at least two" in err and err.count("\n") == 1, err
    code, out, err = call("--workdir", *runs("seed0"), "--protocols", "retrieval", "--set", "retrieval.clusters=false")
    assert code == 0 and "MAP@R" in out, err
    opened(train=Unlabelled(data.train, but=2), test=Unlabelled(data.test, but=1))      # little, but not refused: two classes seen, one image judged
    code, out, err = call("--workdir", *runs("seed0"), "--protocols", "knn", "--set", "knn.k=1")
    assert code == 0, err


def test_weights_or_features_that_are_not_finite_are_one_sentence(runs, call, opened, monkeypatch):
    own = cache.features

    def overflowing(*given, **how):
        found = own(*given, **how)
        x = np.array(found.x)
        x[3:5, 2] = np.inf
        return found._replace(x=x)
    monkeypatch.setattr(cache, "features", overflowing)
    code, _, err = call("--workdir", *runs("seed0"), "--protocols", "knn,labelfree,lbfgs", "--json")
    assert code == 2 and "Traceback" not in err
    for name in ("knn", "lbfgs", "labelfree"):
        assert f"{name}: features at backbone of 2 of 200 train images are not finite" in err.splitlines()[-1], err
    code, _, err = call("--workdir", *runs("seed0", "seed1"), "--protocols", "knn", "--select_by", "rankme")
    assert code == 2 and "not finite" in err.splitlines()[-1] and "Traceback" not in err
    broken = drawn(0)
    variables = jax.tree.map(np.array, broken.variables)
    variables["params"]["encoder"]["stem"]["conv"]["kernel"][0, 0, 0, 0] = np.nan
    monkeypatch.setattr(loading, "from_workdir", lambda path, **_: dataclasses.replace(broken, variables=variables))
    monkeypatch.setattr(cache, "features", lambda *_a, **_k: pytest.fail("computed first"))
    code, _, err = call("--workdir", *runs("seed0"), "--protocols", "knn")
    assert code == 2 and "1 tensors of seed0 hold numbers that are not finite (params/encoder/stem/conv/kernel)" in err and err.count("\n") == 1, err


def test_lists_of_images_lie_with_the_results_and_name_their_data(runs, call, opened, monkeypatch, tmp_path):
    """Not with the cached features; other data give another file; the row tells its place and the digest of the names."""
    data = opened()
    trained = whole.Trained(lambda batch: np.zeros((len(batch["image"]), 10), np.float32), {}, [], "")
    monkeypatch.setattr(whole, "train", lambda *_a, **_k: trained)
    flags = ["--workdir", *runs("seed0"), "--protocols", "semi", "--set", "semi.shares=.1", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    for train in (data.train, Subset(data.train, range(0, 200, 2))):
        opened(train=train)
        code, _, err = call(*flags)
        assert code == 0, err
    first, second = written(tmp_path / "out")
    lists = sorted((tmp_path / "out" / "evaluations" / "subsets").iterdir())
    assert len(lists) == 2 and not (tmp_path / "cache" / "evaluations").exists()
    for found in (first, second):
        setting = found["rows"][0]["setting"]
        file = tmp_path / "out" / setting["images"]
        names = [name for name, _ in json.loads(file.read_text())["images"]]
        assert file in lists and found["data"]["digest"][:12] in file.name and len(names) == setting["train"]
        assert setting["images_sha256"] == hashlib.sha256("\n".join(names).encode()).hexdigest()
