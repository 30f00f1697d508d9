"""The evaluate command: what it writes, compares, selects and refuses; a planted leak and a protocol that trains the encoder are caught."""
import dataclasses
import json
import re
import shutil
import sys
import types
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from jaxssl import config as configs, data as datas, evaluate, export, typed
from jaxssl.errors import UserError
from jaxssl.workdir import checkpoint, published as recipes
from jaxssl.evaluation import protocols
from jaxssl.evaluation import subjects
from jaxssl.evaluation.tables import document
from jaxssl.parallel import mesh as sharding
from jaxssl.training import train
from jaxssl.encoder import load as loading
from jaxssl.data.sources import Subset
from jaxssl.evaluation.measures import bootstrap, rank
from jaxssl.evaluation.tables import compare, published
from jaxssl.evaluation.protocols import Row, augmented, labelfree
from tests.probed import Labelled
from tests.test_cache import drawn
from tests.tiny import CONFIGS, ROOT

FAST = ["--set", "knn.k=5,20"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir as a run of two steps leaves it, without the run."""
    folder = tmp_path_factory.mktemp("run") / "real"
    encoder = drawn(4)
    (folder / "evaluations").mkdir(parents=True)
    (folder / "evaluations" / "untrained.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps(encoder.config))
    manager = checkpoint.open_manager(workdir=folder, asynchronous=False)
    manager.save(2, {"params": encoder.variables["params"], "aux": {"batch_stats": encoder.variables["batch_stats"]}}, {})
    manager.close()
    return folder


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Folders that open as the encoders of the seeds 0 to 3; "other" is seed 1 of another recipe."""
    def open_run(path, **_):
        name = str(path).rsplit("/", 1)[-1]
        if name == "other":
            return dataclasses.replace(drawn(1), config={**drawn(1).config, "total": 31})
        return drawn(int(name.removeprefix("seed")))
    monkeypatch.setattr(loading, "from_workdir", open_run)
    for name in ("seed0", "seed1", "seed2", "seed3", "other"):
        (tmp_path / name).mkdir()
    return lambda *names: [str(tmp_path / name) for name in names]


@pytest.fixture
def call(capsys):
    """call(*flags) -> (exit code, stdout, stderr)."""
    def run(*flags):
        code = evaluate.main([*flags, "--compilation_cache=off"])
        return code, *capsys.readouterr()
    return run


def written(folder):
    found = [json.loads(file.read_text()) for file in sorted((folder / "evaluations").glob("*.json"))]
    return [document for document in found if "version" in document]        # training leaves untrained.json there


def plant(monkeypatch, run):
    """A protocol of this name."""
    monkeypatch.setitem(sys.modules, "jaxssl.evaluation.protocols.planted", types.SimpleNamespace(run=run))
    known = protocols.names()
    monkeypatch.setattr(protocols, "names", lambda group="": [*known, "planted"])


def test_a_workdir_becomes_a_table_that_says_how(workdir, call, monkeypatch):
    monkeypatch.setitem(labelfree.VIEWS, "short", (20, 3))
    code, out, err = call("--workdir", str(workdir), "--protocols", "knn,fewshot,labelfree", "--set", "fewshot.tries=3", *FAST)
    assert code == 0, err
    found, = written(workdir)
    encoder, data = loading.from_workdir(str(workdir)), datas.make(source="digits", variant="clean", canvas=16)
    assert found["version"] == 1 and found["subject"] == {"name": "real", "weights": "student", "step": 2, "digest": encoder.digest, "path": str(workdir)}
    assert found["transform"]["size"] == 16 and found["transform"]["canvas"] == 16 and found["data"]["classes"] == 10 and str(len(data.test)) in found["data"]["test"]
    assert found["packages"]["jax"] == jax.__version__ and found["command"].startswith("python -m jaxssl.evaluate --workdir") and found["select"] == "validation"
    x, u = (encoder.embed()({k: datas.store(data, s)[k] for k in ("image", "size")}) for s in (data.train, data.test))
    x, u = (np.asarray(z) / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, u))
    labels = np.array([data.test.entry(i)[0] for i in range(len(data.test))])
    theirs = KNeighborsClassifier(5, weights=lambda d: np.exp((1 - d * d / 2) / .07)).fit(x, [data.train.entry(i)[0] for i in range(len(data.train))])
    row = next(r for r in found["rows"] if r["variant"] == "k=5 T=0.07")
    assert row["value"] == pytest.approx(np.mean(theirs.predict(u) == labels), abs=.003) and row["n"] == len(labels) and row["published"] is None
    assert row["interval"][0] < row["value"] < row["interval"][1] and len(row["interval_classes"]) == 2 and row["selected"] == "fixed"
    assert next(r for r in found["rows"] if r["metric"] == "rankme" and r["layer"] == "backbone")["value"] == pytest.approx(rank.rankme(encoder.embed()(
        {k: datas.store(data, data.train)[k] for k in ("image", "size")})), rel=1e-3)
    assert {row["layer"] for row in found["rows"] if row["protocol"] == "labelfree"} == {"backbone", "projector.2"}
    assert all((row["unit"] == "share") == (row["protocol"] != "labelfree") for row in found["rows"])
    for words in ("k=5 T=0.07", "fewshot", "1 a class", "lidar", "lidar (rank)", "uniformity (nats)", "stable rank ", "transform: size 16", "95 %", "chosen: k=", "validation",
                  "[1]"):
        assert words in out, words
    code, out, _ = call("--workdir", str(workdir), "--protocols", "knn", "--json", *FAST)
    assert code == 0 and json.loads(out)["rows"][0]["value"] == found["rows"][0]["value"] and len(written(workdir)) == 2


@pytest.mark.parametrize("flags, words", [
    ([], "nothing to evaluate"), (["--protocols", "knn,retreival"], "did you mean 'retrieval'"), (["--select", "tset"], "did you mean 'test'"),
    (["--select", "rankme"], "--select_by rankme picks among"), (["--seeds", "4294967296"], "2**32"),
    (["--set", "retrieval.recall=()", "--protocols", "retrieval"], "retrieval.recall is empty"), (["--set", "retrieval.recall=1,0", "--protocols", "retrieval"], "from 1 on"),
    (["--set", "augmented.lrs=0", "--protocols", "augmented"], "above 0"), (["--set", "augmented.images=-5", "--protocols", "augmented"], "0 or more"),
    (["--set", "lbfgs.steps=-1", "--protocols", "lbfgs"], "at least 1"), (["--set", "mlp.lr=-1", "--protocols", "mlp"], "above 0"),
    (["--set", "mlp.lr=1e20", "--protocols", "mlp"], "diverged"),
    (["--set", "linear.lrs=1e38", "--protocols", "linear"], "every head of the grid diverged"),
    (["--budget", "shrot"], "did you mean 'short'"), (["--select_by", "rankne"], "did you mean 'rankme'"), (["--set", "knn.kk=3"], "it has k, temperature"),
    (["--set", "fewshot.n=3"], "protocols that are run"), (["--set", "knn.k=few"], "--set knn.k"), (["--set", "knn.k=0"], "k must"), (["--set", "knn.k=5,0"], "k must"),
    (["--seeds", "0,x"], "whole numbers"),
    (["--seeds", "1,1"], "different numbers"), (["--dta=x"], "unknown argument"), (["--data.pth=x"], "did you mean 'path'"), (["--data.canvas=big"], "takes a int"),
    (["--layer", "projektor.1"], "did you mean 'projector.1'"), (["--layer", "projector.1", "--protocols", "layers,labelfree"], "it is read by augmented, fewshot"),
    (["--protocols", ""], "name some of augmented"), (["--protocols", ","], "name some of augmented"), (["--step", "2", "--weights", "file"], "--step 2 says which checkpoint"),
    (["--set", "linear.lrs=fast", "--protocols", "linear"], "--set linear.lrs is ('fast',), a tuple; it takes a tuple such as (0.1,)"),
    (["--set", "augmented.lrs=.1,fast", "--protocols", "augmented"], "takes a tuple such as (0.1,)"),
    (["--set", "semi.per_class=x", "--protocols", "semi"], "takes a tuple such as (1,)"),
    (["--set", "linear.batch_size=0", "--protocols", "linear"], "linear.batch_size is 0"),
    (["--set", "fewshot.tries=0", "--protocols", "fewshot"], "fewshot.tries is 0"), (["--set", "fewshot.n=0", "--protocols", "fewshot"], "fewshot.n is 0"),
    (["--set", "retrieval.against=tset", "--protocols", "retrieval"], "choose test"), (["--data", "nowhere"], "does not exist"), (["--precision", "f16"], "f32")])
def test_wrong_flags_are_one_sentence(call, runs, flags, words):
    if not words.startswith("nothing"):
        flags = ["--workdir", *runs("seed0"), *flags]
    code, out, err = call(*(flags if "--protocols" in flags else [*flags, "--protocols", "knn"]))
    assert code == 2 and out == "" and words in err.splitlines()[-1], err
    assert err.splitlines()[-1].startswith("error: ") and "Traceback" not in err


def images(folder, names):
    for i, name in enumerate(names):
        file = folder / f"{name}{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    return str(folder)


def test_wrong_data_are_one_sentence(call, runs, tmp_path):
    flat, labelled = images(tmp_path / "flat", [""] * 6), images(tmp_path / "two", ["a/", "b/"] * 6)
    strange = images(tmp_path / "strange", ["train/a/", "train/b/", "test/a/", "test/c/"] * 3)
    for flags, words in ((["--data", flat], "has no labels, which knn need"), ([f"--data={strange}"], "1 missing (b) and 1 unknown (c)"),
                         (["--data", labelled, "--data.holdout=0"], "has no test images"), (["--data.source=folder", "--data.path=" + flat], "has no labels")):
        code, out, err = call("--workdir", *runs("seed0"), "--protocols", "knn", *flags)
        assert code == 2 and words in err and err.count("\n") == 1, err
    code, out, err = call("--workdir", *runs("seed0"), "--protocols", "labelfree", "--data", flat, "--set", "labelfree.views=false")
    assert code == 0 and "rankme" in out, err


def test_a_checkpoint_of_another_architecture_is_one_sentence(call, workdir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(workdir, other)
    config = json.loads((other / "config.json").read_text())
    config["model"].update(name="resnet18", depths=[])
    (other / "config.json").write_text(json.dumps(config))
    for flags, words in (([str(other)], "do not fit resnet18"), ([str(workdir), "--use", "teacher"], "kept no moving average"), ([str(tmp_path)], "has no config.json")):
        code, _, err = call("--workdir", *flags, "--protocols", "knn")
        assert code == 2 and words in err and err.count("error: ") == 1, err


def test_transfer_to_other_images(call, runs, tmp_path):
    """Any source, by path or by keys; what the run declared of its own images does not bind others."""
    folder = images(tmp_path / "transfer", ["train/x/", "train/y/", "test/x/", "test/y/"] * 5)
    code, out, err = call("--workdir", *runs("seed0"), "--protocols", "knn,retrieval", "--data", folder, *FAST)
    assert code == 0, err
    found, = written(tmp_path / "seed0")
    assert found["data"]["classes"] == 2 and "10 images" in found["data"]["test"] and next(r for r in found["rows"] if r["metric"] == "MAP@R")["n"] == 10
    assert "k lowered to the 10 reference images" in out
    own = {"data": {"source": "zip", "path": "far/away.zip", "examples": 50000, "classes": 10, "canvas": 24}}
    opened = subjects.open_data(own, "", {"source": "folder", "path": folder}, resize=16)
    assert len(opened.train) == 10 and opened.canvas == 32
    assert subjects.open_data({"data": {"source": "digits", "variant": "clean"}}, "", {}, resize=16).train.name == "digits (clean, train)"


def relabelled(source):
    """The source with another label for every image."""
    return Labelled(source, np.random.default_rng(0).permutation([(source.entry(i)[0] ** 2 + 3) % 10 for i in range(len(source))]))


@pytest.fixture
def choices(tmp_path):
    """choices(protocol, select) -> what it selected, with the right test labels and with wrong ones."""
    data = datas.make(source="digits", variant="clean", canvas=16, workers=0)
    data = dataclasses.replace(data, train=Subset(data.train, range(0, 1400, 7)), test=Subset(data.test, range(80)))
    mesh = sharding.make_mesh(devices=jax.devices())

    def run(name, select="validation", **options):
        found = []
        for test in (data.test, relabelled(data.test)):
            context = protocols.Context(drawn(0), dataclasses.replace(data, test=test), mesh, str(tmp_path), select=select, log=lambda _: None)
            rows = protocols.find(name).run(context, **options)
            found.append([(row.variant, row.layer, row.setting) for row in rows if row.selected != "fixed"])
        return found
    return run


@pytest.mark.parametrize("name", ["knn", "layers"])
def test_selection_never_sees_test_labels(choices, name):
    right, wrong = choices(name)
    assert right == wrong and right


def leaky(context, *, says="validation"):
    """Predicts the class that is most frequent among the test images, and calls it a validated choice."""
    labels = context.features("test").labels
    best = int(np.bincount(labels).argmax())
    return [Row("planted", f"class {best}", "backbone", "accuracy", float(np.mean(labels == best)), len(labels), None, {"class": best}, "", 0., says, "share")]


def test_a_planted_leak_is_caught(choices, runs, call, monkeypatch):
    """The check above finds a choice that followed the test labels; an honest label without --select=test stops the command; with it, it is said and recorded."""
    plant(monkeypatch, leaky)
    right, wrong = choices("planted")
    assert right != wrong
    right, wrong = choices("knn", "test")                   # asked for: then it does follow them
    assert right != wrong
    plant(monkeypatch, lambda context: leaky(context, says="test"))
    folder, = runs("seed1")
    with pytest.raises(RuntimeError, match="chose on the test images without --select=test"):
        call("--workdir", folder, "--protocols", "planted")
    code, out, _ = call("--workdir", folder, "--protocols", "planted,knn", "--select", "test", *FAST)
    assert code == 0 and "chosen on the test images themselves (--select=test)" in out
    found, = written(Path(folder))
    assert found["select"] == "test" and {row["selected"] for row in found["rows"] if row["variant"].startswith(("class", "chosen"))} == {"test"}


def test_a_protocol_that_trains_the_encoder_is_caught(runs, call, monkeypatch):
    def run(context):
        jax.tree.leaves(context.encoder.variables)[0][...] += 1e-3
        return []
    plant(monkeypatch, run)
    kept = drawn(3)
    monkeypatch.setattr(loading, "from_workdir", lambda path, **_: dataclasses.replace(kept, variables=jax.tree.map(np.array, kept.variables)))
    with pytest.raises(RuntimeError, match="planted changed the weights"):
        call("--workdir", *runs("seed3"), "--protocols", "planted")


def test_several_runs_and_seeds_give_means_and_paired_tests(runs, call, tmp_path):
    code, out, err = call("--workdir", *runs("seed0", "seed1"), "--workdir", *runs("other"), "--protocols", "knn,fewshot", "--seeds", "0,1", "--set", "fewshot.tries=3", *FAST)
    assert code == 0, err
    documents = [written(tmp_path / name)[0] for name in ("seed0", "seed1", "other")]
    assert all(found["comparison"] == documents[0]["comparison"] and found["seeds"] == [0, 1] for found in documents)

    def of(entry, document):
        rows = [r["value"] for r in document["rows"] if (r["protocol"], r["variant"].partition(":")[0], r["metric"]) == (entry["protocol"], entry["variant"], entry["metric"])]
        assert len(rows) == 2
        return np.mean(rows), rows
    for entry in documents[0]["comparison"]:
        both, other = entry["groups"]
        (a, _), (b, _), (c, own) = (of(entry, document) for document in documents)
        assert both["n"] == 2 and both["mean"] == pytest.approx((a + b) / 2) and both["std"] == pytest.approx(np.std([a, b], ddof=1))
        assert other["n"] == 2 and other["mean"] == pytest.approx(c) and other["std"] == pytest.approx(np.std(own, ddof=1))
        test, = entry["tests"]
        assert test["over"] == "images"                                                        # one seed in common is no pair of seeds
        assert test["difference"] == pytest.approx(c - (a + b) / 2)
    assert any(entry["protocol"] == "fewshot" and entry["groups"][1]["std"] > 0 for entry in documents[0]["comparison"])
    assert " ± " in out and "p=" in out and "1 other seeds" in out


def test_means_are_over_runs_at_one_step_that_differ_in_their_seed_alone():
    """An interrupted run, other weights, and a copy of a run each stand for themselves; a second set of the same seeds is a group."""
    def member(name, seed, step=1000, weights="student", total=1000):
        encoder = types.SimpleNamespace(config={"seed": seed, "total": total}, weights=weights, step=step, digest=name)
        return encoder, compare.Member(name, seed, [], "data")

    def grouped(*members):
        return {name: [m.name for m in own] for name, own in compare.grouped(members).items()}
    a, b, c = member("a", 0), member("b", 1), member("c", 2)
    assert grouped(a, b, c, member("other", 0, total=9)) == {"a and 2 other seeds": ["a", "b", "c"], "other": ["other"]}
    assert grouped(a, b, member("c", 2, step=300)) == {"a (student, step 1000) and 1 other seeds": ["a", "b"], "c (student, step 300)": ["c"]}
    assert grouped(a, member("b", 1, weights="teacher")) == {"a (student, step 1000)": ["a"], "b (teacher, step 1000)": ["b"]}
    assert list(grouped(a, member("copy", 0), b, member("again", 1)).values()) == [["a", "b"], ["copy", "again"]]
    foreign = [(types.SimpleNamespace(config={}, weights="student", step=None, digest="same"), compare.Member(name, None, [], "data")) for name in "xy"]
    assert grouped(*foreign) == {"x (student, step unknown)": ["x"], "y (student, step unknown)": ["y"]}


def test_an_interrupted_run_is_not_averaged_with_finished_ones(runs, call, monkeypatch, tmp_path):
    own = loading.from_workdir
    monkeypatch.setattr(loading, "from_workdir", lambda path, **_: dataclasses.replace(own(path), step=300 if path.endswith("2") else 1000))
    code, out, err = call("--workdir", *runs("seed0", "seed1", "seed2"), "--protocols", "knn", *FAST)
    assert code == 0, err
    first, second = written(tmp_path / "seed0")[0]["comparison"][0]["groups"]
    assert (first["n"], second["n"]) == (2, 1) and second["name"].endswith("seed2 (student, step 300)")
    code, out, err = call("--workdir", *runs("seed0", "seed1"), "--workdir", f"{tmp_path}/seed1/", "--protocols", "knn")
    assert code == 2 and "seed1/ is named twice" in err and err.count("\n") == 1, err


def rows_of(values, outcomes=None, variant="k=1", protocol="knn"):
    """A table of one row a protocol run."""
    intervals = [None if outcomes is None else bootstrap.interval(o, np.zeros(len(o)), ids=np.arange(len(o))) for o in (outcomes or values)]
    return [[Row(protocol, variant, "backbone", "accuracy", v, 1, i, {}, "", 0., "fixed", "share")] for v, i in zip(values, intervals)]


def test_groups_that_share_seeds_are_paired_by_seed():
    ours = [compare.Member(f"a{s}", s, rows_of([v]), "data") for s, v in enumerate((.8, .82, .81))]
    theirs = [compare.Member(f"b{s}", s, rows_of([v]), "data") for s, v in enumerate((.78, .79, .80))]
    entry, = compare.summary({"a": ours, "b": theirs})
    assert entry["tests"][0] == {"name": "b", "against": "a", "over": "seeds", **bootstrap.paired_seeds((.78, .79, .80), (.8, .82, .81))._asdict()}
    lone, = compare.summary({"a": ours[:1], "b": theirs[:1]})
    assert lone["tests"] == [] and lone["groups"][0]["std"] is None      # neither seeds nor images to pair
    assert "at least two training seeds" in lone["untested"][0]["why"]


def test_only_the_same_images_are_paired():
    """Outcomes of equal length on other data, or of other images of the same data, are not one another's pairs."""
    a, b = np.array([1., 1, 0, 1]), np.array([1., 0, 0, 0])

    def compared(data="data", **interval):
        members = [compare.Member("a", 0, rows_of([.75], [a]), "data"), compare.Member("b", 1, rows_of([.25], [b]), data)]
        if interval:
            members[1] = members[1]._replace(tables=[[members[1].tables[0][0]._replace(interval=bootstrap.interval(b, np.zeros(4), **interval))]])
        entry, = compare.summary({"a": [members[0]], "b": [members[1]]})
        assert len(entry["tests"]) + len(entry["untested"]) == 1
        return (entry["tests"] or entry["untested"])[0]
    found = compared()
    assert found["over"] == "images" and found["difference"] == -.5 and found["n"] == 4
    assert "different images" in compared("other data")["why"]
    assert "not of the same images" in compared(ids=np.array([0, 1, 2, 4]))["why"]
    seeds = {"a": [compare.Member(f"a{s}", s, rows_of([.5 + s / 9]), "data") for s in range(3)],
             "b": [compare.Member(f"b{s}", s, rows_of([.4]), "other") for s in range(3)]}
    assert "different images" in compare.summary(seeds)[0]["untested"][0]["why"]


def test_rows_whose_intervals_overlap_are_marked():
    def row(value, interval, protocol="knn"):
        return Row(protocol, "", "backbone", "accuracy", value, 1, interval, {}, "", 0., "fixed", "share")
    rows = [row(.5, (.4, .6)), row(.8, (.7, .9)), row(.71, (.6, .8)), row(.69, (.68, .699)), row(.9, None), row(.5, (.4, .6), "layers")]
    assert compare.overlapping(rows) == [False, True, True, False, False, False]
    assert compare.overlapping(rows[:2]) == [False, False] and compare.overlapping([]) == []


def test_select_by_picks_without_labels(runs, call, tmp_path):
    """The run of the highest RankMe alone is evaluated; wrong test labels and no labels at all change nothing."""
    code, out, err = call("--workdir", *runs("seed0", "seed1", "seed2"), "--select_by", "rankme", "--protocols", "knn", *FAST)
    assert code == 0, err
    store = datas.store(*(lambda d: (d, d.train))(datas.make(source="digits", variant="clean", canvas=16)))
    values = [rank.rankme(drawn(s).embed()({k: store[k] for k in ("image", "size")})) for s in range(3)]
    best = int(np.argmax(values))
    assert [len(written(tmp_path / f"seed{s}")) for s in range(3)] == [int(s == best) for s in range(3)]
    found, = written(tmp_path / f"seed{best}")
    assert found["select_by"]["by"] == "rankme" and found["select_by"]["chosen"].endswith(f"seed{best}")
    np.testing.assert_allclose(list(found["select_by"]["values"].values()), values, rtol=1e-3)
    assert "→" in out
    code, out, _ = call("--workdir", *runs("seed0", "seed1"), "--select_by", "alphareq", "--protocols", "labelfree", "--set", "labelfree.views=false", "--json")
    assert code == 0
    picked = json.loads(out)["select_by"]
    assert min(picked["values"], key=lambda path: abs(picked["values"][path] - 1)) == picked["chosen"]


def test_a_collapsed_encoder_is_never_chosen(runs, call, monkeypatch):
    """Its spectrum has no decay to fit; of nothing but such there is no choice."""
    whole = loading.from_workdir

    def opened(path, **how):
        encoder = whole(path, **how)
        return dataclasses.replace(encoder, variables=jax.tree.map(np.zeros_like, encoder.variables)) if path.endswith("seed0") else encoder
    monkeypatch.setattr(loading, "from_workdir", opened)
    code, out, err = call("--workdir", *runs("seed0", "seed1"), "--select_by", "alphareq", "--protocols", "labelfree", "--set", "labelfree.views=false", "--json")
    assert code == 0, err
    picked = json.loads(out)["select_by"]
    assert picked["chosen"].endswith("seed1") and sorted(map(str, picked["values"].values()))[-1] == "None"
    code, out, err = call("--workdir", *runs("seed0"), "--protocols", "labelfree", "--set", "labelfree.views=false")
    assert code == 0 and "no alphareq at backbone" in err and "collapsed" in err and "alphareq" not in out
    code, _, err = call("--workdir", *runs("seed0"), "--select_by", "alphareq", "--protocols", "labelfree")
    assert code == 2 and "all have collapsed" in err


def test_a_choice_of_features_does_not_hide_a_measure(call, runs):
    """The linear grid may choose another block for each run; what only some runs have is named."""
    rows = [types.SimpleNamespace(protocol="linear", variant="4 heads", layer=f"chosen: {block}", metric="accuracy", value=.5, interval=None, unit="share")
            for block in ("backbone", "projector.1")]
    lone = types.SimpleNamespace(protocol="knn", variant="k=5", layer="backbone", metric="accuracy", value=.5, interval=None, unit="share")
    members = [compare.Member("a", 0, [[rows[0], lone]], "d"), compare.Member("b", 1, [[rows[1]]], "d")]
    entry, = compare.summary({"a": members[:1], "b": members[1:]})
    assert (entry["protocol"], entry["layer"]) == ("linear", "chosen") and compare.alone(members) == ["knn k=5 backbone accuracy"]
    code, out, err = call("--workdir", *runs("seed0"), "--protocols", "linear", "--set", "linear.blocks=projector.1", "--set", "linear.steps=5", "--json")
    assert code == 0 and json.loads(out)["rows"][0]["layer"].startswith("chosen: "), err


def test_select_by_wants_the_same_images(runs, call, monkeypatch, tmp_path):
    """Runs on other data, or on data that were changed since: their ranks are no comparison."""
    own = loading.from_workdir

    def on_others(path, **_):
        encoder = own(path)
        return dataclasses.replace(encoder, config={**encoder.config, "data": {**encoder.config["data"], "variant": "cluttered"}}) if path.endswith("1") else encoder
    monkeypatch.setattr(loading, "from_workdir", on_others)
    with monkeypatch.context() as patch:
        patch.setattr(protocols.Context, "features", lambda *_: pytest.fail("computed first"))
        code, out, err = call("--workdir", *runs("seed0", "seed1"), "--select_by", "rankme", "--protocols", "knn")
    assert code == 2 and "seed0 (digits (clean, train), 1,419 images)" in err and "seed1 (digits (cluttered, train)" in err and "give --data" in err and err.count("\n") == 1, err
    code, out, err = call("--workdir", *runs("seed0", "seed1"), "--select_by", "rankme", "--protocols", "knn", "--data.variant=clean", *FAST)
    assert code == 0 and "→" in out, err


KNN = Row("knn", "k=200 T=0.1", "backbone", "accuracy", .8, 10_000, None, {"k": 200, "temperature": .1}, "", 0., "fixed", "share")


def stated(spec):
    """(config of a shipped file as JSON has it, what a run of it keeps in published.json)"""
    config = configs.load(f"configs/{spec}", {"data.path": "x"})
    return json.loads(configs.describe(config)), recipes.of(configs.opened(f"configs/{spec}"), config)


def trained(length):
    """A row of `augmented` after such a budget."""
    setting = {"lr": length["lrs"][0], "lrs": {}, "epochs": length["epochs"] * 1.001, "batch_size": length["batch_size"], "weight_decay": 0., "momentum": .9}
    return Row("augmented", "frozen, crop and flip", "backbone", "accuracy", .8, 10_000, None, setting, "", 0., "fixed", "share")


@pytest.fixture
def kept(tmp_path):
    """kept(spec) -> (config, a workdir that holds config.json and published.json)"""
    def make(spec):
        config, found = stated(spec)
        (tmp_path / "run").mkdir(exist_ok=True)
        recipes.keep(str(tmp_path / "run"), found, new=True)
        return config, tmp_path / "run"
    return make


@pytest.mark.parametrize("spec", [f"{file.removeprefix('configs/')}{':' * bool(variant)}{variant}" for file in CONFIGS
                                  for variant in configs.opened(str(ROOT / file)).published])
def test_any_other_key_of_the_recipe_has_no_published_value(spec, kept):
    config, folder = kept(spec)
    values = recipes.read(folder, config)
    assert values and all(each["protocol"] in protocols.names() and each["source"] and 0 < each["value"] < 1 for each in values)
    paths = [(key, None) for key in recipes.KEYS + ("init_from",)] + [("data", key) for key in recipes.DATA] + [(s, key) for s in recipes.SECTIONS for key in config[s]]
    assert len(paths) > 50
    for section, key in paths:
        changed = {**config, section: {**config[section], key: "other"} if key else "other"}
        assert (recipes.read(folder, changed) == []) == (f"{section}.{key}" not in recipes.FREE), (section, key)
    for changed in ({"seed": 3}, {"log_every": 1}, {"precision": "f32"}, {"data": {**config["data"], "path": "elsewhere"}}):
        assert recipes.read(folder, {**config, **changed}) == values
    assert recipes.read(folder, {}) == [] and recipes.read(folder.parent, config) == []
    (folder / "published.json").write_text("{")
    assert recipes.read(folder, config) == []


def test_published_values_stand_beside_their_protocol_only():
    _, found = stated("cifar10/simclr.py:sgd200")
    match = published.value(found["values"], KNN, "student")
    assert match["value"] == .848 and "lightly" in match["source"]
    for other in (KNN._replace(setting={"k": 20, "temperature": .1}), KNN._replace(layer="projector.1"), KNN._replace(metric="recall@2"), KNN._replace(selected="validation"),
                  KNN._replace(protocol="linear")):
        assert published.value(found["values"], other, "student") is None
    assert published.value([], KNN, "student") is None
    own = [{**found["values"][0], "weights": "teacher"}]
    assert published.value(own, KNN, "student") is None and published.value(own, KNN, "teacher")
    for spec, value in (("cifar10/simclr.py", .91), ("imagenet/simclr.py", .645), ("imagenet/simclr.py:1000ep", .693), ("imagenet/simclr.py:small_batch", .628)):
        config, found = stated(spec)
        length = augmented.published(config)
        row = trained(length)
        match = published.value(found["values"], row, "student")
        assert match["value"] == value
        for shorter in ({"epochs": 1.}, {"batch_size": 256}, {"lr": 5.}, {"weight_decay": 1e-4}):
            assert published.value(found["values"], row._replace(setting={**row.setting, **shorter}), "student") is None
        assert published.value(found["values"], row._replace(setting={}),
                               "student") is None and published.value(found["values"], row._replace(selected="validation"), "student") is None
        assert f"{length['epochs']:g} epochs of batch {length['batch_size']}" in match["source"]       # the published budget is that of the published value
    assert augmented.published(config) == augmented.published({}) == {"epochs": 90., "batch_size": 4096, "lrs": (.1,)}


def test_published_values_are_those_of_finished_runs(kept):
    config, folder = kept("cifar10/simclr.py:sgd200")
    plan = evaluate.Request(protocols=("knn",))
    (folder / "model.safetensors").write_bytes(b"")
    for step, other, value in ((19_531, {}, .848), (19_000, {}, None), (None, {}, None), (19_531, {"data": "elsewhere"}, None),       # 200 · 50,000 / 512 steps
                               (19_531, {"data_keys": {"split": "x"}}, None)):
        for path in (folder, folder / "model.safetensors"):
            subject = types.SimpleNamespace(encoder=types.SimpleNamespace(config=config, step=step, weights="student"), path=str(path), contexts=[types.SimpleNamespace(seed=0)])
            found, = document.rows(subject, dataclasses.replace(plan, **other), [[KNN]])
            assert (found["published"] or {}).get("value") == value


def test_a_run_keeps_what_its_file_states_only_for_the_files_own_recipe(tmp_path):
    """Where it runs may be said by flags, what it does may not; a run that goes on by another recipe loses it for good."""
    spec = "configs/cifar10/simclr.py:sgd200"
    assert recipes.of(configs.opened(spec), configs.load(spec, {"data.path": "x", "seed": "3", "precision": "f32", "model.remat": "true"}))
    for key, text in (("batch_size", "256"), ("optim.lr", ".1"), ("total", "100_epochs"), ("data.examples", "0"), ("init_from", "x"), ("local.views", "2")):
        assert recipes.of(configs.opened(spec), configs.load(spec, {key: text})) is None, key
    assert recipes.of(configs.opened("configs/digits/simclr.py"), configs.load("configs/digits/simclr.py")) is None
    recipes.keep(str(tmp_path), recipes.of(configs.opened(spec), configs.load(spec)), new=True)
    write = (tmp_path / "config.json").write_text
    for config, stays in ((configs.load(spec, {"log_every": "7"}), True), (configs.load(spec, {"optim.lr": ".1"}), False), (configs.load(spec), False)):
        write(configs.describe(config))
        recipes.keep(str(tmp_path), None, new=False)
        assert (tmp_path / "published.json").exists() == stays


def test_training_writes_published_json_when_it_claims_a_workdir(tmp_path, monkeypatch):
    class Untrained:
        """Instead of the session: nothing is compiled, the workdir is left as it was claimed."""

        def __init__(self, *_):
            pass

        def train(self):
            return {"stopped": 0}

        def close(self):
            pass
    monkeypatch.setattr(train, "Session", Untrained)
    value = {"protocol": "knn", "setting": {"k": 20}, "value": .9, "source": "a paper"}
    file = tmp_path / "own.py"
    file.write_text((ROOT / "configs/digits/simclr.py").read_text() + f"\n\nPUBLISHED = {{'clean': [{value}]}}\n")
    for name, variant, flags, expected in (("as_stated", ":clean", {"seed": "5"}, [value]), ("other", ":clean", {"optim.lr": ".1"}, []), ("default", "", {}, [])):
        train.run(f"{file}{variant}", flags, str(tmp_path / name))
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert recipes.read(tmp_path / name, config) == expected and (tmp_path / name / "published.json").exists() == bool(expected)
    train.run(f"{file}:clean", {"seed": "5"}, str(tmp_path / "as_stated"))
    assert (tmp_path / "as_stated" / "published.json").exists()
    train.run(f"{file}:clean", {"seed": "5", "optim.lr": ".1"}, str(tmp_path / "as_stated"), allow_config_change=True)
    assert not (tmp_path / "as_stated" / "published.json").exists()


def test_an_export_keeps_what_is_published_for_its_run(workdir, tmp_path):
    config, values = json.loads((workdir / "config.json").read_text()), [{"protocol": "knn", "setting": {"k": 20}, "value": .9, "source": "a paper"}]
    recipes.keep(str(workdir), {"recipe": recipes.recipe(config), "values": values}, new=True)
    try:
        export.run(format="safetensors", out=str(tmp_path / "first"), workdir=str(workdir), images=2)
    finally:
        (workdir / "published.json").unlink()
    export.run(format="safetensors", out=str(tmp_path / "again"), weights=str(tmp_path / "first"), images=2)
    for path in (tmp_path / "first", tmp_path / "again", tmp_path / "again" / "model.safetensors"):
        assert recipes.read(path, loading.load(path).config) == values
    export.run(format="safetensors", out=str(tmp_path / "none"), workdir=str(workdir), images=2)
    assert not (tmp_path / "none" / "published.json").exists()


@pytest.mark.parametrize("table, words", [("[]", "a dict from variants"), ("{'big': []}", "a dict from variants"), ("{'': [dict(value=.5)]}", "write dict(protocol="),
                                          ("{'': [dict(protocol='knn', setting={}, value='half', source='x')]}", "write dict(protocol="),
                                          ("{'': 3}", "a list of values"), ("{'': [3]}", "write dict(protocol="),
                                          ("{'': dict(protocol='knn', setting={}, value=.5, source='x')}", "a list of values"),
                                          ("{'': [dict(protocol='knn', setting={}, value=.5, source='x', weights='both')]}", "write dict(protocol=")])
def test_what_a_config_file_states_is_checked(tmp_path, table, words):
    file = tmp_path / "own.py"
    file.write_text(f"from ml_collections import ConfigDict\nPUBLISHED = {table}\ndef get_config(variant=''):\n    return ConfigDict(dict(method=dict(name='simclr')))\n")
    with pytest.raises(UserError, match=re.escape(words)):
        configs.published(configs.opened(str(file)))


@pytest.mark.parametrize("stem, epochs, batch_size", [("cifar", 100., 512), ("imagenet", 90., 4096)])
def test_the_published_budget_is_that_of_the_recipe(monkeypatch, stem, epochs, batch_size):
    """What the protocol asks for, before any cut to what images there are."""
    asked = {}

    def length(images, **how):
        asked.update(how)
        raise StopIteration
    monkeypatch.setattr(augmented.loop, "length", length)
    encoder = dataclasses.replace(drawn(0), config={**drawn(0).config, "model": {**drawn(0).config["model"], "stem": stem}})
    data = datas.make(source="digits", variant="clean", canvas=16, workers=0)
    context = protocols.Context(encoder, data, sharding.make_mesh(devices=jax.devices()), "", budget="published")
    with pytest.raises(StopIteration):
        augmented.run(context)
    assert (asked["epochs"], asked["batch_size"], asked["at_most"]) == (epochs, batch_size, 0)
    with pytest.raises(StopIteration):
        augmented.run(dataclasses.replace(context, budget="short"))
    assert asked["at_most"] == augmented.SHORT_IMAGES


@pytest.mark.parametrize("text, default, value", [("3", 1, 3), ("3", 1., 3.), ("true", False, True), ("1,2", (1, 2), (1, 2)), ("7", (1, 2), (7,)), (".1,.2", (.5,), (.1, .2)),
                                                  ("a,b", ("x",), ("a", "b")), ("10", "text", "10"), ("1e3", 5, 1000), ("none", None, None)])
def test_options_take_the_type_of_their_default(text, default, value):
    found = typed.read(text, default, "--set a.b", tuple if isinstance(default, tuple) else None)
    assert found == value and type(found) is type(value)


def test_options_that_are_empty_take_the_type_of_their_annotation():
    for name in protocols.names():
        known, kinds = protocols.options(name), protocols.annotations(name)
        assert all(typing.get_args(kinds[option]) for option, default in known.items() if default == ()), name
        assert all(typed.fit(default, default, option, kinds[option]) == default for option, default in known.items()), name
    for text, kind, value in (("1,.5", float, (1., .5)), ("3", int, (3,)), ("a+b", str, ("a+b",)), ("1,2", str, ("1", "2"))):
        found = typed.read(text, (), "--set a.b", tuple[kind, ...])
        assert found == value and [type(v) for v in found] == [kind] * len(value)
