"""What is special to the losses of self-distillation; values, slopes, devices and types are in test_losses.py."""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.losses import distillation

sinkhorn = jax.jit(distillation.sinkhorn, static_argnames=("temp", "iterations"))
metrics = jax.jit(functools.partial(distillation.distillation_metrics, student_temp=.1))


def test_padding_changes_nothing():
    """Rows of weight 0 hold what they like: the others get what they get without them."""
    x, here = np.random.default_rng(3).normal(size=(12, 5)).astype(np.float32), np.arange(12) % 3 > 0
    garbage = np.where(here[:, None], x, np.float32([[np.nan, np.inf, -np.inf, 1e30, 0.]]))
    want = sinkhorn(x[here], temp=.05)
    got = sinkhorn(garbage.reshape(4, 3, 5), temp=.05, weight=np.float32(here).reshape(4, 3)).reshape(12, 5)
    np.testing.assert_allclose(got[here], want, rtol=1e-5, atol=1e-7)
    assert not got[~here].any()
    nothing = sinkhorn(x.reshape(4, 3, 5), temp=.05, weight=np.zeros((4, 3), np.float32))
    assert not nothing.any()


def test_a_row_of_weight_two_is_two_rows():
    x = np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32)
    want = sinkhorn(np.concatenate([x, x[:1]]), temp=.1, iterations=5)
    np.testing.assert_allclose(sinkhorn(x, temp=.1, iterations=5, weight=np.float32([2, 1, 1, 1, 1, 1])), want[:6], rtol=1e-5, atol=1e-7)


def test_sinkhorn_in_the_limit_uses_prototypes_equally():
    x = np.random.default_rng(4).normal(size=(30, 6)) + np.arange(6.)       # as it comes, most rows would take the last one
    q = sinkhorn(np.float32(x), temp=2., iterations=30)
    np.testing.assert_allclose(q.sum(0), np.full(6, 5.), rtol=1e-4)
    np.testing.assert_allclose(q.sum(1), np.ones(30), rtol=1e-5)


def test_collapses_are_told_apart():
    """One prototype for all: nothing used but one. The same doubt for all: every target uniform."""
    logits = np.zeros((4, 2, 8), np.float32)
    one, doubt = metrics(logits, np.float32(np.eye(8)[np.zeros((4, 2), int)])), metrics(logits, np.full((4, 2, 8), 1 / 8, np.float32))
    assert one["teacher_entropy"] == one["usage_entropy"] == 0.
    for name in ("teacher_entropy", "usage_entropy", "student_entropy"):
        np.testing.assert_allclose(doubt[name], np.log(8), rtol=1e-6)


def test_loss_is_the_entropy_and_the_divergence():
    """DINO, section 5.3: at a student that agrees the loss is the teacher's entropy, and never below."""
    rng = np.random.default_rng(5)
    logits = np.repeat(rng.normal(size=(4, 1, 8)), 2, 1).astype(np.float32)
    target = jax.nn.softmax(logits / .1)
    loss = jax.jit(functools.partial(distillation.cross_entropy, student_temp=.1))
    got = metrics(logits, target)
    np.testing.assert_allclose(loss(logits, target), got["teacher_entropy"], rtol=1e-5)
    np.testing.assert_allclose(got["student_entropy"], got["teacher_entropy"], rtol=1e-5)
    assert loss(np.float32(logits + .1 * rng.normal(size=logits.shape)), target) > got["teacher_entropy"]


def test_small_regressions_keep_their_digits():
    """Late in training prediction and target nearly agree; 2 - 2 cos in float32 would leave two digits here."""
    rng = np.random.default_rng(5)
    z = np.float32(rng.normal(size=(16, 1, 8)) * np.ones((1, 2, 1)))
    p = np.float32(z + 1e-3 * rng.normal(size=z.shape))
    a, b = (np.float64(x) / np.linalg.norm(np.float64(x), axis=-1, keepdims=True) for x in (p, z[:, ::-1]))
    want = np.mean(np.sum((a - b) ** 2, -1))
    assert want < 1e-5
    np.testing.assert_allclose(jax.jit(distillation.cosine_regression)(p, z), want, rtol=1e-4)


def test_confident_students_keep_their_digits():
    """Logits of 500 and a loss of 1e-3: logsumexp - logit would leave three digits."""
    student, target = np.full((4, 2, 8), 49.1, np.float32), np.float32(np.eye(8)[np.zeros((4, 2), int)])
    student[..., 0] = 50.
    logits = np.float64(student[0, 0]) / .1
    want = np.log1p(np.exp(logits[1:] - logits[0]).sum())
    np.testing.assert_allclose(jax.jit(functools.partial(distillation.cross_entropy, student_temp=.1))(student, target), want, rtol=3e-4)


@pytest.mark.parametrize("loss", [functools.partial(distillation.cross_entropy, student_temp=.1), distillation.cosine_regression,
                                  lambda s, t: distillation.sinkhorn(t, temp=.05).sum() + jnp.sum(s * s)], ids=["cross_entropy", "cosine_regression", "sinkhorn"])
def test_what_is_held_and_what_travels(loss):
    """Forward and backward on eight devices: no array of all pairs with all prototypes, and between devices one number a prototype at most."""
    B, V, T, K = 32, 5, 2, 96
    place = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), P("data"))
    x = [jax.ShapeDtypeStruct((B, views, K), jnp.float32, sharding=place) for views in (V, T)]
    text = jax.jit(jax.value_and_grad(loss)).lower(*x).compile().as_text()
    largest = max(np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"f32\[([\d,]+)\]", text))
    assert largest <= B // 8 * V * K, largest
    moved = re.findall(r"= (.*?) (?:all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text)
    assert moved and all(np.prod([int(n) for n in dims.split(",") if n]) <= K for result in moved for dims in re.findall(r"\w+\[([\d,]*)\]", result)), moved


def test_zero_vectors_have_finite_gradients():
    value, grad = jax.jit(jax.value_and_grad(distillation.cosine_regression))(jnp.zeros((4, 2, 8)), jnp.ones((4, 2, 8)))
    assert abs(value - 1) < 1e-6 and np.isfinite(grad).all()


def zeros(*shapes, dtype=jnp.float32):
    return [jnp.zeros(shape, dtype) for shape in shapes]


@pytest.mark.parametrize("call, words", [
    (lambda: distillation.cosine_regression(*zeros((4, 1, 8), (4, 1, 8))), "1 views and the teacher 1; expected at least 2"),
    (lambda: distillation.cosine_regression(*zeros((4, 2, 8), (4, 3, 8))), "2 views and the teacher 3"),
    (lambda: distillation.cosine_regression(*zeros((4, 2, 8), (4, 2, 7))), r"\(4, 2, 8\) and the teacher \(4, 2, 7\)"),
    (lambda: distillation.cross_entropy(*zeros((4, 2, 8), (3, 2, 8)), student_temp=.1), "of the same images and width"),
    (lambda: distillation.cross_entropy(*zeros((4, 2, 8), (4, 2, 8)), student_temp=0.), "student_temp is 0.0; expected a number above 0"),
    (lambda: distillation.cross_entropy(*zeros((4, 2, 8), (4, 2, 8), dtype=jnp.int32), student_temp=.1), "int32; expected a floating type"),
    (lambda: distillation.centered(*zeros((4, 2, 8), (1, 8)), .04), r"center has shape \(1, 8\)"),
    (lambda: distillation.sinkhorn(*zeros((4, 8)), temp=.1, iterations=0), "iterations is 0"),
    (lambda: distillation.sinkhorn(*zeros((4, 8)), temp=.1, weight=jnp.ones(8)), r"one weight a row, \(4,\)"),
])
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_what_is_logged_of_swapped_predictions_is_what_is_logged_of_their_parts():
    logits = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (7, 3, 5)), jnp.float32)
    codes = jax.vmap(lambda view: distillation.sinkhorn(view, temp=.05), 1, 1)(logits[:, :2])
    shifts = distillation.prototype_shifts([(logits[:, :2], None)], temp=.05)
    want = {"loss": distillation.cross_entropy(logits, codes, student_temp=.1), **distillation.distillation_metrics(logits, codes, student_temp=.1)}
    for block in (0, 3):
        loss, metrics = distillation.swapped(logits, shifts, temp=.05, student_temp=.1, block=block)
        assert {"loss": float(loss), **jax.tree.map(float, metrics)} == pytest.approx(jax.tree.map(float, want), rel=1e-4)
