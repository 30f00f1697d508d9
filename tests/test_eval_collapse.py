"""Collapse metrics, RankMe and effective rank against naive loops."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.evaluation.measures import collapse, rank


def naive(z):
    """[B, V, D]: std per dimension over all normalised rows, and the mean cosine over pairs of different images."""
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    pairs = [z[a, v] @ z[b, w] for a in range(len(z)) for b in range(len(z)) if a != b for v in range(z.shape[1]) for w in range(z.shape[1])]
    return z.reshape(-1, z.shape[-1]).std(axis=0).mean(), np.mean(pairs)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_equals_the_naive_loop(views):
    z = np.random.default_rng(views).standard_normal((7, views, 5)) * 3 + 1
    got = jax.jit(collapse.metrics)(z)
    np.testing.assert_allclose([got["collapse_std"], got["collapse_cosine"]], naive(z), rtol=1e-5, atol=1e-6)
    if views == 1:
        np.testing.assert_allclose(collapse.metrics(jnp.asarray(z[:, 0]))["collapse_cosine"], got["collapse_cosine"], rtol=1e-6)


def test_spread_and_collapsed_embeddings_and_their_warnings():
    dim = 128
    spread = np.random.default_rng(0).standard_normal((4096, dim))
    good = {**collapse.metrics(jnp.asarray(spread)), "rankme": rank.rankme(spread)}
    assert float(good["collapse_std"]) == pytest.approx(1 / np.sqrt(dim), rel=0.02) and abs(float(good["collapse_cosine"])) < 0.01
    assert collapse.warnings(good, dim) == []
    point = np.ones((64, dim)) + 1e-3 * spread[:64]
    bad = {**collapse.metrics(jnp.asarray(point)), "rankme": rank.rankme(point)}
    found = collapse.warnings(bad, dim)
    assert len(found) == 3 and all("lower the learning rate" in line for line in found[:2]) and "RankMe" in found[2]
    # a line has a fine spread of signs but one dimension: only the rank tells
    line = spread[:, :1] * np.ones(dim)
    found = collapse.warnings({**collapse.metrics(jnp.asarray(line)), "rankme": rank.rankme(line)}, dim)
    assert len(found) == 1 and "few dimensions" in found[0]
    assert len(collapse.warnings({"collapse_std": np.nan, "collapse_cosine": np.nan, "rankme": np.nan}, dim)) == 3
    assert collapse.warnings({}, dim) == []


def test_one_image_and_zero_rows_are_finite():
    assert float(collapse.metrics(jnp.ones((1, 1, 4)))["collapse_cosine"]) == 0
    assert all(np.isfinite(value) for value in collapse.metrics(jnp.zeros((3, 2, 4))).values())


def test_rankme_is_the_papers_formula_on_a_full_svd():
    rng = np.random.default_rng(1)
    for shape in ((200, 30), (20, 64)):
        z = rng.standard_normal(shape) * np.geomspace(1, 1e-3, shape[1]) + 0.1
        sigma = np.linalg.svd(z, compute_uv=False)
        p = sigma / sigma.sum() + 1e-7
        assert rank.rankme(z) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-5)
        p = sigma / sigma.sum()
        assert rank.effective_rank(z) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-5)


@pytest.mark.parametrize("k", [1, 3, 16])
def test_k_equal_directions_have_rank_k(k):
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((40, 16)))[0][:, :k]  # [40, k] orthonormal columns
    z = basis @ np.eye(k, 16) * 7e-5
    assert rank.effective_rank(z) == pytest.approx(k, rel=1e-5) and rank.rankme(z) == pytest.approx(k, rel=1e-4)
    assert rank.reading(z) == f"effective rank {k:.1f} of 16 ({100 * k / 16:.0f} %)"


def test_rank_refuses_what_it_cannot_read_and_zero_is_zero():
    assert rank.effective_rank(np.zeros((5, 3))) == 0
    for bad in (np.full((3, 3), np.nan), np.ones(3), np.ones((0, 3))):
        with pytest.raises(ValueError, match="finite embeddings"):
            rank.rankme(bad)
