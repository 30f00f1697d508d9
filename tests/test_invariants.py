"""design.md's invariants for every method in the folder: devices, resume, topology, donation, one compile, nothing trained that should not be."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import tree
from jaxssl.workdir import checkpoint
from jaxssl.training import online
from jaxssl.parallel import mesh as sharding
from jaxssl.training.job import describe
from tests.tiny import METHODS, Tiny, config_of

pytestmark = pytest.mark.parametrize("method", METHODS)
STEPS = 4


@pytest.fixture(scope="module")
def one_device():
    """(first gradient-sensitive state, metrics) of a run on one device, by method."""
    runs = {}

    def get(method):
        if method not in runs:
            tiny = Tiny(config_of(method), devices=1)
            first = tiny.run(1)
            state = jax.tree.map(np.asarray, tiny.state)
            runs[method] = (state, first + tiny.run(STEPS - 1, start=1))
        return runs[method]
    return get


@pytest.mark.parametrize("devices, fsdp", [(8, 1), (8, 2)])
def test_devices_do_not_change_the_run(method, devices, fsdp, one_device):
    state, metrics = one_device(method)
    tiny = Tiny(config_of(method), devices, fsdp)
    first = tiny.run(1)
    # AdamW's first update has unit size wherever the gradient is not zero, so compare moments (the gradient itself), not weights
    ours, theirs = tree.names(tiny.state.opt_state), tree.names(state.opt_state)
    moments = [k for k in theirs if "/mu/" in k or "/trace/" in k]
    assert moments
    scale = max(np.abs(theirs[k]).max() for k in moments)
    for k in moments:
        np.testing.assert_allclose(np.asarray(ours[k]), theirs[k], atol=1e-5 * scale, err_msg=k)
    for a, b in zip(first + tiny.run(STEPS - 1, start=1), metrics):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_state_is_sharded_and_slots_are_split(method):
    tiny = Tiny(config_of(method), devices=8, fsdp=2)
    for tree_ in (tiny.state.params, tiny.state.opt_state):       # between steps: an eighth on each device
        split = [x for x in jax.tree.leaves(tree_) if "slice" in str(x.sharding.spec)]
        assert split and all(x.addressable_shards[0].data.size * 8 == x.size for x in split)
    assert any("fsdp" in str(s.spec) for s in jax.tree.leaves(sharding.parameters(tiny.state.params, tiny.mesh)))     # where the loss uses them


def test_resume_is_bitwise_and_follows_to_other_topologies(method, tmp_path):
    straight = Tiny(config_of(method), devices=8)
    straight.run(2)
    manager = checkpoint.open_manager(workdir=tmp_path)
    manager.save(2, straight.state, {"skipped": []})
    manager.wait()
    saved = tree.digest(straight.state)
    straight.run(2, start=2)
    for devices in (8, 4, 1):
        again = Tiny(config_of(method), devices=devices)
        again.state, meta = manager.restore(2, again.job.state, again.job.state_sharding)
        assert meta == {"skipped": []} and tree.digest(again.state) == saved
        last = again.run(2, start=2)[-1]["loss"]
        if devices == 8:
            assert tree.digest(again.state) == tree.digest(straight.state)
            reference = last
        assert last == pytest.approx(reference, rel=1e-4)
    manager.close()


def test_state_is_donated_and_the_step_compiles_once(method):
    tiny = Tiny(config_of(method), devices=8)
    before = jax.tree.leaves((tiny.state.params, tiny.state.opt_state))
    metrics = tiny.run(3)
    assert all(x.is_deleted() for x in before if x.size > 1)
    assert tiny.job.step._cache_size() == 1
    assert all(m["finite"] == 1 for m in metrics) and all(np.isfinite(list(m.values())).all() for m in metrics)
    for leaf in jax.tree.leaves(tiny.state):
        assert bool(jnp.isfinite(leaf.astype(jnp.float32)).all())


def test_every_trained_parameter_moves_and_nothing_else_does(method):
    tiny = Tiny(config_of(method), devices=1)
    before = tree.names(jax.tree.map(np.asarray, tiny.state.params))
    tiny.run(3)
    after = tree.names(tiny.state.params)
    frozen = [k for k in before if np.array_equal(before[k], np.asarray(after[k]))]
    assert not frozen, frozen
    assert int(tiny.state.step) == 3


def encoder_difference(method):
    """Largest difference that labels make to the gradient of what is not the probe, relative to its largest entry; the probe's weights are drawn, not zeros."""
    tiny = Tiny(config_of(method), devices=1)
    key = jax.random.key(0)
    batch = {"views": jax.random.normal(key, (16, tiny.job.views, 16, 16, 3)), "label": jnp.arange(16) % 10}
    params, aux = jax.jit(tiny.job.method.init)(key, batch)
    params["probe"]["kernel"] = jax.random.normal(key, params["probe"]["kernel"].shape)
    gradient = jax.jit(jax.grad(lambda p, batch: tiny.job.method.loss(p, aux, batch, key, jnp.zeros((), jnp.int32))[0]))
    seen, unseen = gradient(params, batch), gradient(params, {**batch, "label": jnp.full(16, -1)})
    assert np.abs(seen.pop("probe")["kernel"]).max() > 0 and np.abs(unseen.pop("probe")["kernel"]).max() == 0
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(unseen))
    return max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(unseen))) / largest


def test_probe_sends_no_gradient_to_the_encoder(method):
    """With labels and without, the gradient of everything but the probe is the same, bit for bit, whatever the probe's weights."""
    assert encoder_difference(method) == 0


def test_an_attached_probe_would_be_seen(method, monkeypatch):
    monkeypatch.setattr(online, "stop_gradient", lambda x: x)
    assert encoder_difference(method) > 1e-2


def test_collapse_is_judged_by_the_embeddings_that_the_loss_sees(method, monkeypatch):
    seen, measure = [], online.collapse.metrics
    monkeypatch.setattr(online.collapse, "metrics", lambda z: seen.append(z.shape) or measure(z))
    tiny = Tiny(config_of(method), devices=1)
    tiny.run(1)
    assert {shape[-1] for shape in seen} == {tiny.job.embedding}


def test_moving_average_of_the_encoder(method):
    """`ema`: average ← d·average + (1 − d)·encoder after every update, embed uses it, and no gradient touches it."""
    tiny = Tiny(config_of(method, ema="0.9"), devices=1)
    expected = jax.tree.map(np.asarray, tiny.state.aux["ema"])
    for step in range(2):
        tiny.run(1, start=step)
        current = {"params": {"encoder": tiny.state.params["encoder"]}, "batch_stats": {"encoder": tiny.state.aux["batch_stats"]["encoder"]}}
        expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * np.asarray(b), expected, current)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(tiny.state.aux["ema"])):
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-5, atol=1e-7)
    images = {"image": np.random.RandomState(0).randint(0, 255, (8, 16, 16, 3), np.uint8), "size": np.full((8, 2), 16, np.int32)}
    average = np.asarray(tiny.job.embed(tiny.state, images))
    zeroed = dataclasses.replace(tiny.state, params={**tiny.state.params, "encoder": jax.tree.map(jnp.zeros_like, tiny.state.params["encoder"])})
    np.testing.assert_array_equal(average, np.asarray(tiny.job.embed(zeroed, images)))


def test_description_names_the_rule_and_groups(method):
    tiny = Tiny(config_of(method), devices=8)
    text = describe(tiny.config, tiny.job)
    for word in ("8 data × 1 fsdp", "global batch 16 images (2 a device)", "lr = ", "warm-up 3 steps", "decay 0", "parameters"):
        assert word in text, word
