"""Which checkpoint to keep: the measures of every checkpoint of a run, what each would choose, and what is refused."""
import json
import re
import shutil

import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxssl import evaluate
from jaxssl.evaluation import checkpoints
from jaxssl.evaluation.protocols import labelfree
from jaxssl.report import compose, read
from jaxssl.training import room
from jaxssl.workdir import checkpoint
from tests.test_cache import drawn

LOSSES = {1: 3., 2: 2., 3: 2.5, 4: 1., 5: 1.5, 6: 2.}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with checkpoints of the steps 2, 4 and 6, as if trained."""
    folder = tmp_path_factory.mktemp("choose") / "run"
    encoder = drawn(0)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(encoder.config))
    manager = checkpoint.open_manager(workdir=folder, asynchronous=False, keep_last=9)
    for step in (2, 4, 6):
        variables = drawn(step).variables
        manager.save(step, {"params": variables["params"], "aux": {"batch_stats": variables["batch_stats"]}}, {})
    manager.close()
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": step, "time": 0, "loss": loss}) + "\n" for step, loss in LOSSES.items()) + '{"step": 7, "lo')
    return folder


@pytest.fixture
def call(capsys, monkeypatch):
    """call(*flags) -> (exit code, stdout, stderr), with few views."""
    monkeypatch.setitem(labelfree.VIEWS, "short", (40, 4))

    def go(*flags):
        code = evaluate.main([*map(str, flags), "--compilation_cache=off"])
        return code, *capsys.readouterr()
    return go


def test_every_checkpoint_is_measured_once_and_one_is_chosen(run, call, monkeypatch):
    asked = ("--workdir", run, "--choose", "rankme", "--checkpoints", "2,4")
    code, out, err = call(*asked)
    assert code == 0, err
    first = json.loads((run / checkpoints.FILE).read_text())
    assert [row["step"] for row in first["checkpoints"]] == [2, 4] and first["measures"] == ["loss", "rankme", "alpha_req", "lidar", "knn"]
    # what is known is not measured again: of the first two only what the reference adds, of the third all
    measured, real = [], checkpoints.labelfree.augmented
    monkeypatch.setattr(checkpoints.labelfree, "augmented", lambda context, *more: measured.append(context.encoder.step) or real(context, *more))
    code, out, err = call("--workdir", run, "--choose", "rankme", "--reference", run)
    assert code == 0 and measured == [6], (err, measured)
    found = json.loads((run / checkpoints.FILE).read_text())
    values = {row["step"]: row["values"] for row in found["checkpoints"]}
    assert [{name: value for name, value in values[step].items() if name != "mutual_knn"} for step in (2, 4)] == [row["values"] for row in first["checkpoints"]]
    assert not found["others"]
    # each value is that of its measure on the features of that checkpoint, the reference being the newest of the run itself
    assert values[6]["mutual_knn"] == 1 and values[2]["mutual_knn"] < .9
    assert [values[step]["loss"] for step in (2, 4, 6)] == [2.5, 1.75, 1.75]
    assert found["chosen"] == max(values, key=lambda step: values[step]["rankme"]) == found["picks"]["rankme"]["step"]
    rho = spearmanr([values[step]["lidar"] for step in values], [values[step]["knn"] for step in values]).statistic
    np.testing.assert_allclose(found["rank_correlation"]["lidar"]["rho"], rho, atol=1e-12)
    # the table marks it, the last line exports it, and the pages show it
    assert re.search(rf"→ +│ +{found['chosen']} ", out) and out.strip().splitlines()[-1].endswith(found["export"]) and f"--step {found['chosen']} " in found["export"]
    page = (run / checkpoints.FILE).with_suffix(".html").read_text()
    assert page.count('data-chart="kept-') == 6 and "Agreement with kNN" in page and "Chosen by RankMe" in page
    charts = {}
    (name, title, section), = compose._kept([read.run(str(run), "run")], charts)
    assert len(charts) == 6 and title == "Which checkpoint" and "Agreement with kNN" in section
    # another few of them: the others are not forgotten
    monkeypatch.setattr(checkpoints, "_measured", None)
    code, out, err = call("--workdir", run, "--choose", "lidar", "--checkpoints", "6")
    assert code == 0 and [row["step"] for row in json.loads((run / checkpoints.FILE).read_text())["others"]] == [2, 4], err


def test_values_are_those_of_the_protocols(run, call):
    """RankMe of the evaluate command on the same images, and its kNN."""
    code, out, err = call("--workdir", run, "--choose", "loss", "--checkpoints", "4", "--json")
    assert code == 0, err
    values = json.loads(out)["checkpoints"][0]["values"]
    code, out, err = call("--workdir", run, "--step", "4", "--protocols", "labelfree,knn", "--set", "labelfree.layers=backbone", "--set", "labelfree.views=false",
                          "--set", "knn.k=20", "--set", "knn.temperature=.07", "--set", "knn.majority=false", "--json")
    rows = {row["metric"]: row["value"] for row in json.loads(out)["rows"]}
    assert code == 0 and (values["rankme"], values["alpha_req"], values["knn"]) == (rows["rankme"], rows["alphareq"], rows["accuracy"])


def test_a_damaged_checkpoint_is_left_out_and_told(run, call, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for file in (tmp_path / "run/checkpoints/2/state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"torn")
    code, out, err = call("--workdir", tmp_path / "run", "--choose", "loss", "--checkpoints", "2,4")
    assert code == 0 and "left out: step 2" in out, err
    assert [row["step"] for row in json.loads((tmp_path / "run" / checkpoints.FILE).read_text())["checkpoints"]] == [4]


@pytest.mark.parametrize("flags,words", [
    (["--choose", "rankmee"], "did you mean 'rankme'"), (["--choose", "mutual_knn"], "--reference"), (["--checkpoints", "all"], "--choose is ''"),
    (["--choose", "loss", "--checkpoints", "2,x"], "write all, or the steps"), (["--choose", "loss", "--checkpoints", "2,3"], "no checkpoint of step 3; it has 2, 4, 6"),
    (["--choose", "loss", "--protocols", "knn"], "--protocols has no use"), (["--choose", "loss", "--step", "2"], "--step has no use"),
    (["--choose", "loss", "--seeds", "0,1"], "one of --seeds"), (["--choose", "lidar", "--workdir", "elsewhere"], "one --workdir")])
def test_wrong_flags_are_one_sentence(run, call, flags, words):
    code, out, err = call("--workdir", run, *flags)
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1, err


def test_scores_and_ranks_follow_their_definitions():
    values = {1: .5, 2: 1.2, 3: 2., 4: None}
    assert checkpoints.best("alpha_req", values) == 2 and checkpoints.best("loss", values) == 1 and checkpoints.best("rankme", values) == 3
    assert checkpoints.best("rankme", {1: 3., 2: 3.}) == 2 and checkpoints.best("loss", {1: None, 2: float("nan")}) is None
    a, b = np.array([1., 2, 2, 5, 3, 8]), np.array([3., 1, 4, 4, 5, 9])
    np.testing.assert_allclose(checkpoints.spearman(a, b), spearmanr(a, b).statistic, atol=1e-12)
    assert checkpoints.spearman(np.ones(4), np.arange(4.)) is None
    assert checkpoints.agreement("loss", {1: 3., 2: 2., 3: 1., 4: None}, {1: .1, 2: .2, 3: .3, 4: .9}) == {"rho": 1., "n": 3}


def test_mutual_neighbours_by_a_plain_loop():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(30, 7)).astype(np.float32)

    def near(z):
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        return [set(sorted((j for j in range(30) if j != i), key=lambda j: -float(z[i] @ z[j]))[:4]) for i in range(30)]
    assert checkpoints.mutual_knn(x, y, k=4) == pytest.approx(np.mean([len(a & b) / 4 for a, b in zip(near(x), near(y))]))
    assert checkpoints.mutual_knn(x, 3 * x, k=4) == 1
    with pytest.raises(ValueError, match="more than"):
        checkpoints.mutual_knn(x[:4], y[:4], k=4)


@pytest.mark.parametrize("keep_last,keep_every,every,words", [
    (2, 0, 10, "4.0 MB each; the newest 2 stay: 2 at the end, 8.0 MB"), (1, 20, 10, "a multiple of 20: 5 at the end, 20.0 MB"), (3, 30, 10, "5 at the end, 20.0 MB"),
    (2, 50, 0, "1 at the end, 4.0 MB")])
def test_a_run_says_what_its_checkpoints_take(keep_last, keep_every, every, words):
    """Of 95 steps: those of 10, 20, … 90 and 95 are saved."""
    state = {"w": np.zeros((1000, 1000), np.float32)}
    assert words in room.kept(state, 95, every, keep_last=keep_last, keep_every=keep_every, asynchronous=True)
