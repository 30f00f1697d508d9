"""Continued training: heads alone at first, both networks from the same weights, the start's own scores first and last, and what is refused."""
import json

import jax
import numpy as np
import pytest

from jaxssl import config as configs, optim, tree
from jaxssl.errors import UserError
from jaxssl.losses import spread
from jaxssl.methods import dinov2
from jaxssl.parallel import mesh as sharding
from jaxssl.report import page, read
from jaxssl.training import continued, job as jobs, mixed, train
from jaxssl.workdir import checkpoint
from tests.test_interop_vit import made, saved, theirs
from tests.tiny import ROOT, small

FILE = str(ROOT / "configs/folder/dinov2_continue.py:laptop")
# Two crops of four patches, one block of 32 channels.
TINY = {**{k: v for k, v in small("dinov2").items() if not k.startswith(("model.", "optim."))}, "augment.size": "16", "model.name": "vit_tiny", "model.width": "32",
        "model.depth": "1", "model.heads": "4", "model.patch": "8", "model.image": "16", "model.resize": "antialias", "batch_size": "8", "total": "4", "head_warmup": "2",
        "warmup": "1", "method.koleo_queue": "8", "eval_every": "0", "checkpoint_every": "0", "eval.reference": "32", "eval.queries": "16", "log.tensorboard": "false",
        "report": "false", "local.views": "1", "local.size": "8", "method.hidden": "8", "method.bottleneck": "8", "method.prototypes": "0"}


def source(tmp_path, layout="timm", **model):
    encoder = made(depth=1, **model)
    return encoder, str(saved(tmp_path / "model.safetensors", theirs(encoder, layout)))


def test_a_run_goes_on_from_weights_without_heads(tmp_path, capsys):
    """From timm's names: heads and mask token begin from the seed unnamed; student and teacher stand still until the encoder's own warm-up, whose first rate is 0, is over its
    first step; and the run says how it ended."""
    encoder, path = source(tmp_path)
    flags = {**TINY, "init_from": path, "checkpoint_every": "1", "checkpoint.keep_last": "4"}
    result = train.run(FILE, flags, str(tmp_path / "run"))
    said = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0 and rows[0]["knn"] == result["knn_start"]
    assert any(line.startswith(f"step 0, the weights it begins with: knn {result['knn_start']:.3f}") for line in said)
    assert said[-1] == continued.sentence(result) and "its start" in said[-1]
    assert (result.get("below_start") is not None) == (result["knn"] < result["knn_start"])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["method"]["prototypes"] == 1024 and config["head_warmup"] == "2"
    assert "decay of the teacher" in next(line for line in said if line.startswith("chosen: 1,024 prototypes for ")), said
    reader = checkpoint.open_reader(str(tmp_path / "run"))
    for step in (1, 2, 3, 4):
        state = reader.weights(step)
        for params in (state["params"], state["aux"]["teacher"]["params"]):
            equal = {name: np.array_equal(array, tree.names(encoder.variables["params"])[name]) for name, array in tree.names({"encoder": params["encoder"]}).items()
                     if name != "encoder/mask"}
            assert all(equal.values()) == (step < 4), (step, equal)
    assert train.run(FILE, flags, str(tmp_path / "run")) == json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**result, "knn": .1, "knn_start": .3, **continued.below({"knn": .1, "knn_start": .3})}))
    assert "ended below its start" in str(page.notes([read.run(str(tmp_path / "run"), "run")]))


def test_the_rate_thaws_in_a_straight_line():
    params = {"encoder": {"kernel": np.zeros((2, 2), np.float32)}, "head": {"kernel": np.zeros((2, 2), np.float32)}}
    tx = optim.make(name="sgd", lr=1., scaling="none", schedule="constant", weight_decay=0., momentum=0., params=params, batch_size=8, total=9, warmup=0,
                    ahead=((continued.HELD, {"frozen_until": 3, "thaw": 4}),)).tx
    state, moved = tx.init(params), []
    for _ in range(9):
        updates, state = tx.update(jax.tree.map(np.ones_like, params), state, params)
        moved.append((float(updates["encoder"]["kernel"][0, 0]), float(updates["head"]["kernel"][0, 0])))
    np.testing.assert_allclose(moved, [(-min(max(i - 3, 0) / 4, 1), -1) for i in range(9)])


def test_koleo_among_earlier_vectors():
    z, old = (jax.random.normal(jax.random.key(i), (n, 2, 3)) for i, n in enumerate((4, 5)))
    ids, theirs_ = np.array([3, 4, 5, 6]), np.array([9, 3, -1, 8, 5])
    unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)       # noqa: E731
    value = 0.
    for v in range(2):
        for i in range(4):
            others = [(unit(z)[j, v], ids[j]) for j in range(4)] + [(unit(old)[q, v], theirs_[q]) for q in range(5) if theirs_[q] >= 0]
            near = max((o for o, whose in others if whose != ids[i]), key=lambda o: unit(z)[i, v] @ o)
            value -= np.log(np.linalg.norm(unit(z)[i, v] - near + 1e-8) + 1e-8) / 8
    got, slope = jax.value_and_grad(lambda old: spread.koleo(z, ids=ids, earlier=old, earlier_ids=theirs_)[0])(old)
    assert got == pytest.approx(value, rel=1e-5) and not slope.any()
    assert spread.koleo(z, ids=ids)[0] < got or spread.koleo(z, ids=ids)[0] == pytest.approx(got)


def test_heads_by_the_number_of_images():
    assert [dinov2.prototypes_for(n) for n in (10, 1_281_167, 50_000, 142_000_000)] == [1024, 65536, 2048, 65536]


@pytest.mark.parametrize("scores, words", [
    ({"knn": .7, "knn_start": .8}, "ended BELOW its start by 10.0 points: kNN 80.0 % when it began, 70.0 % at its end"),
    ({"knn": .81, "knn_start": .8}, "1.0 points above its start"),
    ({"map_at_r": .1, "map_at_r_start": .1}, "level with"), ({"rankme": 3., "rankme_start": 5.}, "is not known"), ({"knn": .7}, "")])
def test_the_last_line(scores, words):
    assert words in continued.sentence(scores) and bool(continued.below(scores)) == ("BELOW" in words) and bool(continued.sentence(scores)) == bool(words)


@pytest.mark.parametrize("flags, words", [
    ({"head_warmup": "4"}, "head_warmup is 4 steps of 4 in all"),
    ({"head_warmup": "abc"}, "head_warmup is 'abc', not a duration"),
    ({"init_from": ""}, "head_warmup is 2, which holds the encoder where it began, but init_from is empty"),
    ({"init_from": "/nowhere/at/all"}, "there is no file /nowhere/at/all"),
    ({"model.width": "16"}, r"of another shape.*Use the model it was trained with \(--config.model.width=32\)"),
    ({"model.patch": "4"}, r"Use the model it was trained with \(--config.model.patch=8"),
    ({"augment.size": "12"}, "augment.size is 12; choose a multiple of model.patch=8"),
    ({"method.prototypes": "1"}, "at least 2, or 0"), ({"method.koleo_queue": "-1"}, "koleo_queue")])
def test_what_cannot_begin(tmp_path, flags, words):
    _, path = source(tmp_path)
    with pytest.raises(UserError, match=words):
        train.run(FILE, {**TINY, "init_from": path, **flags}, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


MIXED = {"sizes": "((16, 8, 1), (24, 8, 3))", "data.canvas": "24", "init_from": "x"}


def test_views_of_several_sizes_have_a_program_each():
    """Weights are shares, draws a function of seed and step, and each size's step is the step of a run of that size alone."""
    job = jobs.prepare(configs.load(FILE, {**TINY, **MIXED}), sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1437, 10, 24, True))
    drawn = [job.drawn(step) for step in range(400)]
    assert [size.share for size in job.sizes] == [.25, .75] and .7 < np.mean(drawn) < .8 and drawn == [mixed.drawn(job_seed := 0, job.sizes)(step) for step in range(400)]
    assert drawn != [mixed.drawn(job_seed + 1, job.sizes)(step) for step in range(400)]
    alone = jobs.prepare(configs.load(FILE, {**TINY, **MIXED, "sizes": "()", "augment.size": "24"}), job.mesh, job.facts)
    assert alone.step.trace(alone.state, alone.batch).jaxpr.pretty_print() == job.steps[1].trace(job.state, job.batch).jaxpr.pretty_print()
    assert job.step is job.steps[0] and job.seen["views"].shape == (8, 2, 16, 16, 3)
    assert "16 and 8 (25 %), 24 and 8 (75 %) pixels" in jobs.describe(configs.load(FILE, {**TINY, **MIXED}), job)


@pytest.mark.parametrize("flags, words", [
    ({"sizes": "((16, 8, 0),)"}, "sizes holds .16, 8, 0.; each is"), ({"sizes": "((16, 8),)"}, "sizes holds .16, 8.; each is"), ({"sizes": "((16, 0, 1),)"}, "local.views is 1"),
    ({"sizes": "((20, 8, 1), (16, 8, 1))"}, "augment.size is 20; choose a multiple of model.patch=8"),
    ({"sizes": "((32, 8, 1),)"}, "augment.size is 32 pixels, but .* canvas of 24")])
def test_sizes_that_cannot_be(flags, words):
    with pytest.raises(UserError, match=words):
        jobs.prepare(configs.load(FILE, {**TINY, **MIXED, **flags}), sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1437, 10, 24, True))
