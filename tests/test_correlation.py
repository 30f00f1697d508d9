"""Losses on spectra: groups of the coding rate, the known values of collapse, and a predictor that does not depend on which eigenvectors were found."""
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.losses import correlation, distillation


def unit(*shape):
    z = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def test_groups_are_batches_of_their_own_at_a_precision_of_all():
    z = unit(12, 2, 5)
    want = np.mean([correlation.coding_rate(z[g::3], epsilon=.05 * 3) for g in range(3)])
    assert correlation.coding_rate(z, epsilon=.05, groups=3) == pytest.approx(want, rel=1e-5)
    with pytest.raises(ValueError, match="groups is 5"):
        correlation.coding_rate(z, epsilon=.05, groups=5)


def test_coding_rate_of_collapse_and_of_an_even_spread():
    same, even = np.zeros((15, 1, 5), np.float32) + np.eye(5, dtype=np.float32)[0], np.tile(np.eye(5, dtype=np.float32), (3, 1))[:, None]
    assert correlation.coding_rate(same, epsilon=.05) == pytest.approx(np.log(1 + 5 / .05) / 2, rel=1e-5)
    assert correlation.coding_rate(even, epsilon=.05) == pytest.approx(2.5 * np.log(1 + 1 / .05), rel=1e-5)


def test_a_predictor_of_equal_eigenvalues_is_the_identity_and_its_rank_says_how_many():
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    predictor, rank = correlation.direct_predictor(jnp.float32(3 * turn @ turn.T), power=.5, epsilon=.1)
    np.testing.assert_allclose(predictor, 1.1 * np.eye(6), atol=1e-5)
    assert rank == pytest.approx(6, rel=1e-4)
    line = np.outer(turn[0], turn[0])
    predictor, rank = correlation.direct_predictor(jnp.float32(7 * line), power=1., epsilon=0.)
    np.testing.assert_allclose(predictor, line, atol=1e-6)
    assert rank == pytest.approx(1, abs=1e-4)


def test_no_gradient_reaches_the_predictor():
    grad = jax.grad(lambda c: correlation.direct_predictor(c, power=.5, epsilon=.1)[0].sum())(jnp.eye(4))
    assert not np.any(grad)


def test_golden_of_the_official_simdino():
    """tests/goldens/make_correlation.py made it; float64."""
    with np.load(Path(__file__).parent / "goldens" / "correlation.npz", allow_pickle=False) as file:
        g = {name: jnp.float32(file[name]) for name in file.files}

    def loss(student):
        agreement = 1 - distillation.cosine_regression(student, g["teacher"]) / 2
        return -agreement - (6 + 8) / (6 * 8) * correlation.coding_rate((student[:, :2] + g["teacher"]) / 2, epsilon=.05)
    value, grad = jax.value_and_grad(loss)(g["student"])
    assert value == pytest.approx(float(g["simdino"]), rel=1e-5)
    np.testing.assert_allclose(grad, g["grad_simdino"], rtol=1e-5, atol=1e-6)
