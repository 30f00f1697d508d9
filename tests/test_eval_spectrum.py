"""Label-free measures against naive loops, explicit linear algebra and embeddings whose value is known."""
import numpy as np
import pytest

from jaxssl.evaluation.measures import rank, spectrum
from jaxssl.evaluation.protocols import labelfree


def orthonormal(n, k, seed=0):
    """[n, k] orthonormal columns of mean zero."""
    x = np.random.default_rng(seed).standard_normal((n, k))
    return np.linalg.qr(x - x.mean(axis=0))[0]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("shape", [(90, 20), (15, 40)])
def test_singular_values_are_those_of_a_full_svd(shape):
    z = np.random.default_rng(0).standard_normal(shape) + 1
    np.testing.assert_allclose(spectrum.singular_values(z), np.linalg.svd(z, compute_uv=False), rtol=1e-6)
    centred = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(spectrum.singular_values(z, centre=True), centred, atol=1e-6 * centred[0])
    sigma = np.linalg.svd(z, compute_uv=False)
    assert spectrum.stable_rank(z) == pytest.approx((sigma**2).sum() / sigma[0] ** 2)


@pytest.mark.parametrize("alpha", [.5, 1., 2.])
def test_alpha_of_a_power_law_is_its_exponent(alpha):
    """Eigenvalues j^-alpha exactly, about any mean: every weighted fit of the logarithms gives the exponent."""
    sigma = np.arange(1, 61) ** (-alpha / 2)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((60, 60)))[0]
    z = orthonormal(200, 60) * sigma @ turn
    assert spectrum.alpha_req(z + 7) == pytest.approx(alpha, rel=1e-6)


def test_alpha_is_the_weighted_fit_over_its_ranks():
    z = np.random.default_rng(2).standard_normal((300, 50)) * np.geomspace(1, .01, 50)
    eigenvalues = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    for first, last in ((11, 500), (5, 30)):
        j = np.arange(first, min(last, 50) + 1)
        slope = np.polyfit(np.log(j), np.log(eigenvalues[j - 1]), 1, w=np.sqrt(1 / j))[0]      # polyfit squares its weights
        assert spectrum.alpha_req(z, first=first, last=last) == pytest.approx(-slope, rel=1e-6)
    few = z[:, :8]                                                      # fewer than two dozen eigenvalues: all of them are fitted
    j, eigenvalues = np.arange(1, 9), np.linalg.eigvalsh(np.cov(few.T))[::-1]
    assert spectrum.alpha_req(few) == pytest.approx(-np.polyfit(np.log(j), np.log(eigenvalues), 1, w=np.sqrt(1 / j))[0], rel=1e-6)
    for collapsed in (z[:, :1], z[:, :2], np.ones((5, 3)), np.outer(np.arange(50.), np.ones(9))):
        assert spectrum.alpha_req(collapsed) == np.inf and labelfree.better("alphareq", np.inf) < labelfree.better("alphareq", 9.)


def test_lidar_is_the_smooth_rank_of_the_whitened_between_covariance():
    rng = np.random.default_rng(3)
    views = rng.standard_normal((40, 1, 12)) * np.geomspace(1, .1, 12) + .3 * rng.standard_normal((40, 5, 12))
    means, total = views.mean(1), views.mean((0, 1))
    between = sum(np.outer(m - total, m - total) for m in means) / 40
    within = sum(np.outer(v - m, v - m) for m, own in zip(means, views) for v in own) / 200 + 1e-4 * np.eye(12)
    values, vectors = np.linalg.eigh(within)
    root = vectors / np.sqrt(values) @ vectors.T
    p = np.linalg.eigvalsh(root @ between @ root)
    p = np.maximum(p, 0) / np.maximum(p, 0).sum() + 1e-7
    assert spectrum.lidar(views) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-5)


@pytest.mark.parametrize("k", [1, 4])
def test_lidar_counts_directions_that_tell_images_apart(k):
    """Images differ in k directions by the same amount, views in all: k."""
    rng = np.random.default_rng(4)
    means = 5 * np.tile(np.concatenate([np.eye(k, 10), -np.eye(k, 10)]), (40, 1))
    noise = rng.standard_normal((len(means), 60, 10)) * .1
    assert spectrum.lidar(means[:, None] + noise - noise.mean(1, keepdims=True)) == pytest.approx(k, rel=.02)
    assert spectrum.lidar(np.ones((5, 2, 3))) == 0


def test_alignment_and_uniformity_are_their_definitions():
    rng = np.random.default_rng(5)
    views, z = rng.standard_normal((9, 4, 6)), rng.standard_normal((30, 6)) + .5
    pairs = [np.sum((unit(own)[a] - unit(own)[b]) ** 2) for own in views for a in range(4) for b in range(a)]
    assert spectrum.alignment(views) == pytest.approx(np.mean(pairs))
    pairs = [np.exp(-2 * np.sum((unit(z)[a] - unit(z)[b]) ** 2)) for a in range(30) for b in range(a)]
    assert spectrum.uniformity(z) == pytest.approx(np.log(np.mean(pairs)))
    cosines = [unit(z)[a] @ unit(z)[b] for a in range(30) for b in range(a)]
    assert spectrum.mean_cosine(z) == pytest.approx(np.mean(cosines))
    for function in (spectrum.uniformity, spectrum.mean_cosine):        # lengths do not count
        assert function(z * rng.uniform(.1, 9, (30, 1))) == pytest.approx(function(z))


def test_blocks_of_uniformity_meet_every_pair_once(monkeypatch):
    z = np.random.default_rng(6).standard_normal((31, 4))
    whole = spectrum.uniformity(z)
    for rows in (1, 7, 30, 31):
        monkeypatch.setattr(spectrum, "_ROWS", rows)
        assert spectrum.uniformity(z) == pytest.approx(whole, rel=1e-12)


def test_known_embeddings():
    point, basis = np.ones((8, 4)), np.eye(8)
    assert spectrum.uniformity(point) == pytest.approx(0) and spectrum.mean_cosine(point) == pytest.approx(1) and spectrum.stable_rank(point) == pytest.approx(1)
    assert spectrum.uniformity(basis) == pytest.approx(-4) and spectrum.mean_cosine(basis) == pytest.approx(0) and spectrum.stable_rank(basis) == pytest.approx(8)
    assert spectrum.alignment(np.repeat(basis[:, None], 3, axis=1)) == pytest.approx(0) and spectrum.alignment(basis[None]) == pytest.approx(2)
    assert spectrum.stable_rank(np.zeros((3, 2))) == 0 and spectrum.dimensions(point) == 0
    z = orthonormal(50, 10) * np.sqrt([.5, .3, .1, *[.1 / 7] * 7])      # shares of the variance
    assert [spectrum.dimensions(z, share) for share in (.4, .7, .85, .95)] == [1, 2, 3, 7]


def test_every_measure_has_one_sentence_with_its_value():
    for name in ("rankme", "alphareq", "lidar", "alignment", "uniformity", "stable rank", "mean cosine", "dimensions"):
        sentence = spectrum.reading(name, 1.25, 64)
        assert "1" in sentence and ". " not in sentence, sentence
    assert spectrum.reading("rankme", rank.rankme(np.eye(16)), 16).startswith("about 16 of 16")


def test_what_cannot_be_read_is_refused():
    for function in (spectrum.singular_values, spectrum.alpha_req, spectrum.uniformity, spectrum.mean_cosine, spectrum.stable_rank, spectrum.dimensions):
        for bad in (np.full((3, 3), np.nan), np.ones(3), np.ones((0, 3))):
            with pytest.raises(ValueError, match="finite embeddings"):
                function(bad)
    for function in (spectrum.lidar, spectrum.alignment):
        for bad, words in ((np.ones((3, 3)), "finite embeddings"), (np.ones((3, 1, 3)), "two views")):
            with pytest.raises(ValueError, match=words):
                function(bad)
    for function in (spectrum.uniformity, spectrum.mean_cosine):
        with pytest.raises(ValueError, match="two images"):
            function(np.ones((1, 4)))
