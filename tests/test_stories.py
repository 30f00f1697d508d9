"""One story a method: two programs are compiled, and design.md's invariants are read off the same few steps. Beside it, what need not be asked of every method."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import tree
from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs
from jaxssl.workdir import checkpoint
from tests.tiny import METHODS, Tiny, built, config_of

EVERY = pytest.mark.every


def gradients(tiny):
    """name -> first moments, which after one step are the gradient up to a factor; AdamW's update itself has unit size wherever the gradient is not zero."""
    found = {k: v for k, v in tiny.named("opt_state").items() if "/mu/" in k or "/trace/" in k}
    assert found
    return found


def assert_near(ours, theirs):
    """All arrays together within 1e-5 of their norm, and every entry within 5e-5 of the largest: sums over thousands of places are rounded that much."""
    scale = max(np.abs(x).max() for x in theirs.values())
    for name, x in theirs.items():
        np.testing.assert_allclose(ours[name], x, rtol=0, atol=5e-5 * scale, err_msg=name)
    assert sum(np.sum((ours[name] - x) ** 2) for name, x in theirs.items()) <= 1e-10 * sum(np.sum(x**2) for x in theirs.values())


def assert_spread(tiny):
    """Between steps each device holds an eighth of what can be split, and of a bank its share of the rows; where the loss uses parameters, some are split over fsdp."""
    stored, kinds = tree.names(tiny.state.aux), tree.names(sharding.kinds(tiny.state.aux, tiny.job.method.places))
    kept = {kind: [x for name, x in stored.items() if kinds[name] == kind] for kind in ("slices", "rows")}
    for part in (tiny.state.params, tiny.state.opt_state, *([kept["slices"]] if kept["slices"] else [])):
        split = [x for x in jax.tree.leaves(part) if not x.is_fully_replicated]
        assert split and all(x.addressable_shards[0].data.size * 8 == x.size for x in split)
    assert all(x.addressable_shards[0].data.shape[0] * 8 == x.shape[0] for x in kept["rows"])
    assert any("fsdp" in str(s.spec) for s in jax.tree.leaves(sharding.parameters(tiny.state.params, tiny.mesh)))


def assert_average(before, aux, params):
    """The teacher went from `before` to a mean of itself and of its student, in one proportion for all arrays: nothing else moved it."""
    student = {**{f"params/{k}": v for k, v in params.items()}, **{k: v for k, v in aux.items() if k.startswith("batch_stats/")}}
    old = {k.removeprefix("teacher/"): v for k, v in before.items() if k.startswith("teacher/")}
    new = {k: aux[f"teacher/{k}"] for k in old}
    assert old.keys() <= student.keys()
    way, gone = ({k: np.float64(x[k]) - old[k] for k in old} for x in (student, new))
    share = sum((way[k] * gone[k]).sum() for k in old) / sum((way[k]**2).sum() for k in old)
    assert 0 < share < 1
    for k in old:
        np.testing.assert_allclose(gone[k], share * way[k], rtol=1e-3, atol=1e-6 * np.abs(old[k]).max(), err_msg=k)


@pytest.mark.parametrize("method", METHODS)
def test_story(method, tmp_path):
    # The first program computes the whole batch on eight devices (ghost groups, where there is batch norm), the second two micro-batches on one: one comparison for both.
    config = config_of(method)
    groups = [{"model.bn_groups": n} if "bn_groups" in config.model else {} for n in "21"]
    eight = Tiny(config_of(method, **groups[0]), devices=8, fsdp=2)
    one = Tiny(config_of(method, micro_batch="8", **groups[1]), devices=1, state=eight.state)      # that its own would be the same: test_other_topologies
    start, key = one.named("params"), np.asarray(one.state.key)
    assert_spread(eight)

    # Eight devices, four steps: donated buffers, one compilation, finite, all of what is trained moves, the teacher is an average.
    before = jax.tree.leaves(eight.state)
    metrics = eight.run(1)
    assert all(x.is_deleted() for x in before if x.size > 1)
    ours, ours_aux = gradients(eight), eight.named("aux")
    metrics += eight.run(1, start=1)
    manager = checkpoint.open_manager(workdir=tmp_path, asynchronous=False)
    manager.save(2, eight.state, {"skipped": []})
    saved, second = tree.digest(eight.state), eight.named("aux")
    metrics += eight.run(1, start=2)
    if "teacher" in eight.state.aux:
        assert_average(second, eight.named("aux"), eight.named("params"))
    metrics += eight.run(1, start=3)
    assert all(np.isfinite(list(m.values())).all() and m["finite"] == 1 for m in metrics)
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(eight.state))
    still = {k for k, v in eight.named("params").items() if np.array_equal(v, start[k])}
    assert not still, still
    assert int(eight.state.step) == 4 and np.array_equal(eight.state.key, key)

    # Resumed from step 2 where it was saved: bit for bit, by the very same program.
    straight = tree.digest(eight.state)
    eight.state, meta = manager.restore(2, eight.job.state, eight.job.state_sharding)
    assert meta == {"skipped": []} and tree.digest(eight.state) == saved
    eight.run(2, start=2)
    assert tree.digest(eight.state) == straight
    assert eight.job.step._cache_size() == 1

    # One device: the same gradient and state after a step, the same losses; and it goes on from the eight devices' file.
    others = one.run(1)
    theirs = gradients(one)
    assert_near(ours, theirs)
    theirs_aux = one.named("aux")
    for name, x in theirs_aux.items():
        spread = np.sqrt(theirs_aux[name.removesuffix("mean") + "var"].max()) if name.endswith("/mean") else 0.     # a mean of what is centred is rounding, of that size
        np.testing.assert_allclose(ours_aux[name], x, rtol=1e-4, atol=1e-5 * max(np.abs(x).max(), spread, 1e-6), err_msg=name)
    others += one.run(3, start=1)
    assert [m["loss"] for m in others] == pytest.approx([m["loss"] for m in metrics], rel=1e-4)

    def resumed(steps, labels=None):
        """Metrics of steps from the second on, by one device, with the data's labels or others."""
        one.state, meta = manager.restore(2, one.job.state, one.job.state_sharding)
        assert meta == {"skipped": []} and tree.digest(one.state) == saved
        own, one.same = one.same, one.same if labels is None else {**one.same, "store": {**one.same["store"], "label": labels}}
        found = one.run(steps, start=2)
        one.same = own
        return found
    assert resumed(2)[-1]["loss"] == pytest.approx(metrics[-1]["loss"], rel=1e-4)

    # What is given for an image does not depend on the images beside it, and comes from the state alone.
    images = {"image": np.random.RandomState(0).randint(0, 255, (16, 16, 16, 3), np.uint8), "size": np.full((16, 2), 16, np.int32)}
    beside = {**images, "image": np.concatenate([images["image"][:1], 255 - images["image"][1:] // 2])}
    alone, crowd = np.asarray(one.job.embed(one.state, images)), np.asarray(one.job.embed(one.state, beside))
    np.testing.assert_array_equal(alone[0], crowd[0])
    assert not np.array_equal(alone[1], crowd[1])

    # Labels change the probe and nothing else, bit for bit: the same program from step 2 on, where the probe is no longer zero, with labels and without.
    if not one.job.method.needs.labels:
        resumed(1)
        seen, seen_aux = gradients(one), one.named("aux")
        resumed(1, labels=jnp.full_like(one.same["store"]["label"], -1))
        unseen, unseen_aux = gradients(one), one.named("aux")
        assert {k for k in seen if not np.array_equal(seen[k], unseen[k])} == {k for k in seen if "/probe/" in k}
        assert all(np.array_equal(seen_aux[k], unseen_aux[k]) for k in seen_aux)
    manager.close()


@pytest.mark.parametrize("devices, fsdp", [(8, 1), (8, 8), (4, 1)])
@pytest.mark.parametrize("method", [m if m == "simclr" else pytest.param(m, marks=EVERY) for m in METHODS])
def test_other_topologies(method, devices, fsdp, tmp_path):
    """A step, a save and a resume on other meshes equal those on one device."""
    config = config_of(method)
    one, many = Tiny(config, devices=1), Tiny(config, devices, fsdp)
    losses = one.run(1)
    theirs = gradients(one)
    assert many.run(1)[0]["loss"] == pytest.approx(losses[0]["loss"], rel=1e-4)
    assert_near(gradients(many), theirs)
    manager = checkpoint.open_manager(workdir=tmp_path, asynchronous=False)
    manager.save(1, one.state, {})
    saved = tree.digest(one.state)
    many.state, _ = manager.restore(1, many.job.state, many.job.state_sharding)
    manager.close()
    assert tree.digest(many.state) == saved
    assert [m["loss"] for m in many.run(2, start=1)] == pytest.approx([m["loss"] for m in one.run(2, start=1)], rel=1e-4)


@pytest.mark.parametrize("method", [m for m in METHODS if built(m)[2].hidden])
def test_hidden_pixels_are_not_seen(method):
    """Invariant 8, for every method that says what it hides: what the student gives depends on exactly the patches that are shown, and with other pixels in the hidden ones
    it is the same to the last bit; its teacher sees both kinds."""
    config, _, made = built(method)
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True))
    batch = {name: jax.random.normal(jax.random.key(1), x.shape, x.dtype) if x.dtype == jnp.float32 else jnp.zeros(x.shape, x.dtype)
             for name, x in jobs.few(config, job.seen).items()}
    params, aux = jax.jit(made.init)(jax.random.key(0), batch)
    hidden, key = np.asarray(made.hidden(jax.random.key(2), batch["views"])), jax.random.key(2)                       # [B, V, M, rows, columns]
    side = [whole // part for whole, part in zip(batch["views"].shape[2:4], hidden.shape[3:])]
    assert hidden.any() and not hidden.all((3, 4)).any()

    @jax.jit
    def told(views):
        def summed(views):
            seen = made.loss(params, aux, {**batch, "views": views}, key, jnp.zeros((), jnp.int32))[1][2]
            found = seen["features"].reshape(*hidden.shape[:3], -1)
            return jnp.sum(found * jax.random.normal(jax.random.key(3), found.shape)), (found, seen["predicted"].reshape(*hidden.shape[:3], -1), seen.get("target"))
        slope, found = jax.grad(summed, has_aux=True)(views)
        return found, slope
    views = batch["views"]
    found, slope = told(views)
    read = np.asarray(slope).reshape(*views.shape[:2], hidden.shape[3], side[0], hidden.shape[4], side[1], -1).any((3, 5, 6))      # [B, V, rows, columns]
    np.testing.assert_array_equal(read, ~hidden.all(2))

    def with_others(mask):
        return jnp.where(mask.repeat(side[0], 2).repeat(side[1], 3)[..., None], views**2 - 3, views)
    for m in {0, hidden.shape[2] - 1}:
        (features, predicted, target), _ = told(with_others(hidden[:, :, m]))
        np.testing.assert_array_equal(features[:, :, m], found[0][:, :, m])
        np.testing.assert_array_equal(predicted[:, :, m], found[1][:, :, m])
        (shown, predicted, other), _ = told(with_others(~hidden[:, :, m]))
        assert np.abs(shown[:, :, m] - found[0][:, :, m]).max() > 1e-4 and np.abs(predicted[:, :, m] - found[1][:, :, m]).max() > 0
        assert target is None or (np.asarray(target) != found[2]).any() and (np.asarray(other) != found[2]).any()


def test_moving_average_of_the_encoder():
    """`ema`: average ← d·average + (1 − d)·encoder after every update, embed uses it, and no gradient touches it."""
    tiny = Tiny(config_of("simclr", ema="0.9"), devices=1)
    expected = jax.tree.map(np.asarray, tiny.state.aux["teacher"])
    for step in range(2):
        tiny.run(1, start=step)
        current = {"params": {"encoder": tiny.state.params["encoder"]}, "batch_stats": {"encoder": tiny.state.aux["batch_stats"]["encoder"]}}
        expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * np.asarray(b), expected, current)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(tiny.state.aux["teacher"])):
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-5, atol=1e-7)
    images = {"image": np.random.RandomState(0).randint(0, 255, (8, 16, 16, 3), np.uint8), "size": np.full((8, 2), 16, np.int32)}
    average = np.asarray(tiny.job.embed(tiny.state, images))
    zeroed = dataclasses.replace(tiny.state, params={**tiny.state.params, "encoder": jax.tree.map(jnp.zeros_like, tiny.state.params["encoder"])})
    np.testing.assert_array_equal(average, np.asarray(tiny.job.embed(zeroed, images)))


def test_description_names_the_rule_and_groups():
    tiny = Tiny(config_of("simclr"), devices=8)
    text = jobs.describe(tiny.config, tiny.job)
    for word in ("8 data × 1 fsdp", "global batch 16 images (2 a device)", "lr = ", "warm-up 3 steps", "decay 0", "parameters"):
        assert word in text, word
