"""Losses with weights of classes, a part of the classes at a time: the same numbers as at once, on one device and with the classes spread over eight, and no [B, C] is kept."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.errors import UserError
from jaxssl.losses import metric
from jaxssl.losses.metric import classes
from jaxssl.training import train
from tests import tiny
from tests.test_metric_losses import sizes

B, D, C, K = 6, 4, 40, 3
RNG = np.random.default_rng(0)
Z, LABEL = np.float32(RNG.normal(size=(B, D))), np.array([0, 39, 17, -1, 17, 5], np.int32)
STANDS = np.float32([1, 2, 0, 1, 1, 1])
WEIGHTS, CENTRES = np.float32(RNG.normal(size=(C, D))), np.float32(RNG.normal(size=(C, K, D)))
LOSSES = {"arcface": WEIGHTS, "sub_center_arcface": CENTRES, "soft_triple": CENTRES}        # proxy_nca, normalized_softmax and cosface are arcface with another number
MESH = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def together(mesh, z, label, stands, weights):
    """{loss: ((value, metrics), gradients of z and of its weights)}."""
    return {name: jax.value_and_grad(lambda z, w: getattr(metric, name)(z, label, w, weight=stands, metrics=True, mesh=mesh), (0, 1), has_aux=True)(z, weights[name])
            for name in LOSSES}


@functools.cache
def whole():
    return jax.tree.map(np.asarray, jax.jit(functools.partial(together, None))(Z, LABEL, STANDS, LOSSES))


def near(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * (1 + np.abs(b).max())), got, want)


def test_a_part_of_the_classes_at_a_time_is_the_same(monkeypatch):
    """Fourteen parts of three classes, the last of one."""
    monkeypatch.setattr(classes, "LOGITS", 18), monkeypatch.setattr(classes, "LEAST", 1)
    near(jax.jit(functools.partial(together, None))(Z, LABEL, STANDS, LOSSES), whole())


def test_parts_of_classes_that_lie_on_eight_devices(monkeypatch):
    """A device has its classes in all parts: their weights and gradients stay where they are."""
    monkeypatch.setattr(classes, "LOGITS", 6), monkeypatch.setattr(classes, "LEAST", 1)
    weights = {name: jax.device_put(x, NamedSharding(MESH, P(("data", "fsdp")))) for name, x in LOSSES.items()}
    compiled = jax.jit(functools.partial(together, MESH)).lower(Z, LABEL, STANDS, weights).compile()
    found = compiled(Z, LABEL, STANDS, weights)
    near(found, whole())
    assert all(gradients[1].sharding.spec == P(("data", "fsdp")) for _, gradients in found.values())
    assert "all-gather" not in compiled.as_text() and "all-to-all" not in compiled.as_text()


@pytest.mark.parametrize("name", LOSSES)
def test_no_logit_of_all_classes_is_kept(name):
    """Of 2^14 classes and 256 rows there would be 2^22."""
    weights = jnp.ones((2 ** 14, *LOSSES[name].shape[1:]))
    program = jax.make_jaxpr(jax.grad(lambda z, w: getattr(metric, name)(z, jnp.arange(256), w), (0, 1)))(jnp.ones((256, D)), weights)
    assert max(sizes(program.jaxpr)) <= (1 if weights.ndim == 2 else K) * classes.LOGITS


def test_a_run_does_not_go_on_with_another_number_of_classes(tmp_path):
    """Its weights of classes are of those that it has; nothing of the run is touched."""
    own = {**tiny.LESS, "model.name": "conv4", "model.width": "8", "model.depth": "2", "method.dim": "0", "data.split": "class_disjoint", "batch_size": "8", "warmup": "0",
           "report": "false", "log.tensorboard": "false"}
    file, run = str(tiny.ROOT / "configs/digits/metric.py:arcface"), str(tmp_path / "run")
    train.run(file, {**own, "total": "1"}, run)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*") if path.is_file())
    with pytest.raises(UserError, match="another config .*class_share: 1.0 → 0.5"):
        train.run(file, {**own, "total": "2", "data.class_share": ".5"}, run)
    with pytest.raises(UserError, match=r"does not fit this config's train state \(.*classes/weights is .* there and .* here.*use the config it was written with"):
        train.run(file, {**own, "total": "2", "data.class_share": ".5"}, run, allow_config_change=True)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_so_many_classes_have_no_online_probe():
    """Its kernel is [D, C]; of ten million classes it would not fit where their weights do."""
    from jaxssl.methods import base
    from jaxssl.training import online
    plain = base.Method(lambda key, batch: ({}, {}), None, None, None)
    made = {classes: jax.eval_shape(online.watch(plain, classes=classes, width=8).init, 0, 0)[0] for classes in (online.MOST, online.MOST + 1)}
    assert "probe" in made[online.MOST] and not made[online.MOST + 1]
