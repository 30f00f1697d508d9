"""kNN, on the processor and over eight devices, against a full sort in numpy and against scikit-learn."""
import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from jaxssl.parallel import mesh as sharding
from jaxssl.evaluation.features import search
from jaxssl.evaluation.measures import knn


def meshes():
    """The processor's own way, and eight devices'."""
    return {"processor": None, "eight": sharding.make_mesh(devices=jax.devices(), fsdp=2)}


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def oracle(queries, reference, k, query_ids=None, reference_ids=None):
    """Full matrix, stable sort: (similarity, index)."""
    sim = unit(queries).astype(np.float64) @ unit(reference).astype(np.float64).T
    if query_ids is not None:
        sim[np.asarray(query_ids)[:, None] == np.asarray(reference_ids)[None]] = -np.inf
    index = np.argsort(-sim, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(sim, index, 1), index


def blobs(n, classes=5, dim=16, seed=0, spread=1.5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(9).standard_normal((classes, dim))
    return (centres[labels] + spread * rng.standard_normal((n, dim))).astype(np.float32), labels


@pytest.mark.parametrize("where", ["processor", "eight"])
@pytest.mark.parametrize("block", [None, (7, 50), (64, 33), (17, 3)])
def test_blocks_and_devices_give_the_exact_neighbours(block, where):
    queries, reference = blobs(101, seed=1)[0], blobs(307, seed=2)[0]
    sim, index = oracle(queries, reference, 20)
    got, at = knn.neighbours(queries, reference, k=20, block=block, mesh=meshes()[where])
    np.testing.assert_array_equal(at, index)
    np.testing.assert_allclose(got, sim, atol=2e-6)
    assert got.dtype == np.float32 and at.dtype == np.int64


@pytest.mark.parametrize("k", [1, 5, 307])
def test_reference_in_the_worst_order(k, monkeypatch):
    """Every row more similar than all before it, so that no threshold holds for long; few candidates are held, so that they are cut often."""
    monkeypatch.setattr(search, "_CROWD", 1)
    monkeypatch.setattr(search, "_HELD", 1)
    angle = np.linspace(3, 0, 307)
    reference, queries = np.stack([np.cos(angle), np.sin(angle)], 1), np.array([[1., 0], [.5, .1], [0, -1]])
    np.testing.assert_array_equal(knn.neighbours(queries, reference, k=k, block=(2, 8))[1], oracle(queries, reference, k)[1])


def test_keys_order_like_similarity_then_index():
    rng = np.random.default_rng(0)
    similarity = rng.choice(np.array([-np.inf, -1, -.5, -1e-30, -0., 0., 1e-30, .5, 1], np.float32), 400)
    index = rng.permutation(400)
    key = search._key(similarity, index)
    np.testing.assert_array_equal(np.argsort(key), np.lexsort((index, -similarity)))
    np.testing.assert_array_equal(search._value(key), similarity)


@pytest.mark.parametrize("where", ["processor", "eight"])
@pytest.mark.parametrize("block", [None, (7, 9)])
def test_ties_go_to_the_lower_index(block, where):
    """Rows repeated and on a lattice whose similarities are exact in f32: many equal values, in and across blocks."""
    reference = np.tile(np.eye(4, dtype=np.float32), (12, 1))
    queries = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    _, index = oracle(queries, reference, 9)
    np.testing.assert_array_equal(knn.neighbours(queries, reference, k=9, block=block, mesh=meshes()[where])[1], index)


@pytest.mark.parametrize("where", ["processor", "eight"])
@pytest.mark.parametrize("block", [None, (13, 40)])
def test_a_row_is_not_its_own_neighbour(block, where):
    x, y = blobs(200, seed=3)
    ids, mesh = np.random.default_rng(0).permutation(200) + 2**40, meshes()[where]  # ids beyond int32 do not merge
    sim, index = oracle(x, x, 10, ids, ids)
    got, at = knn.neighbours(x, x, k=10, query_ids=ids, reference_ids=ids, block=block, mesh=mesh)
    np.testing.assert_array_equal(at, index)
    assert (at != np.arange(200)[:, None]).all() and (knn.neighbours(x, x, k=1, mesh=mesh)[1][:, 0] == np.arange(200)).all()
    # with k of the whole set, the excluded row comes last and counts nothing; several rows may share an id
    for own in (ids[:5], np.array([7, 7, 8, 9, 7])):
        sim, index = oracle(x[:5], x[:5], 5, own, own)
        got, at = knn.neighbours(x[:5], x[:5], k=5, query_ids=own, reference_ids=own, mesh=mesh)
        np.testing.assert_array_equal(at, index)
        np.testing.assert_array_equal(np.isinf(got), np.isinf(sim))
    # one neighbour: leave-one-out of random labels is not perfect, as it would be with the row itself
    random_labels = np.random.default_rng(1).integers(0, 5, 200)
    apart, = knn.evaluate(x, random_labels, x, random_labels, settings=((1, 0.1),), query_ids=ids, reference_ids=ids)
    itself, = knn.evaluate(x, random_labels, x, random_labels, settings=((1, 0.1),))
    assert itself.accuracy == 1 and apart.accuracy < 0.5


def test_votes_weigh_exp_of_similarity_over_temperature():
    queries, labels = blobs(150, seed=4)
    reference, reference_labels = blobs(400, seed=5)
    results = knn.evaluate(queries, labels, reference, reference_labels, settings=((200, 0.1), (20, 0.07), (1, 0.5)))
    for (k, temperature), result in zip(((200, 0.1), (20, 0.07), (1, 0.5)), results):
        sim, index = oracle(queries, reference, k)
        votes = np.zeros((150, 5))
        for row in range(150):
            for s, i in zip(sim[row], index[row]):
                votes[row, reference_labels[i]] += np.exp(s / temperature)
        np.testing.assert_array_equal(result.predictions, votes.argmax(1))
        assert result.accuracy == np.mean(votes.argmax(1) == labels)
    assert 0.4 < results[0].accuracy < 1


def test_a_majority_counts_every_neighbour_once():
    """scikit-learn's uniform weights, whose ties go to the lower class too; neighbours at -inf count nothing."""
    queries, labels = blobs(300, seed=6)
    reference, reference_labels = blobs(500, seed=7)
    for k in (1, 2, 10, 500):
        theirs = KNeighborsClassifier(k).fit(unit(reference), reference_labels)
        ours, = knn.evaluate(queries, labels, reference, reference_labels, settings=((k, None),))
        np.testing.assert_array_equal(ours.predictions, theirs.predict(unit(queries)))
    assert knn.vote(np.array([[.1, -np.inf, -np.inf]]), np.array([[1, 2, 2]]), temperature=None, classes=3) == [1]


def test_agrees_with_scikit_learn():
    queries, labels = blobs(300, seed=6)
    reference, reference_labels = blobs(500, seed=7)
    # on unit vectors d^2 = 2 - 2 s, so that euclidean neighbours are cosine neighbours
    theirs = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d * d / 2) / 0.07)).fit(unit(reference), reference_labels)
    ours, = knn.evaluate(queries, labels, reference, reference_labels, settings=((20, 0.07),))
    np.testing.assert_array_equal(ours.predictions, theirs.predict(unit(queries)))


def test_small_sets_scale_and_tiny_temperatures():
    queries, labels = blobs(30, seed=8)
    reference, reference_labels = blobs(12, seed=9)
    usual = knn.evaluate(queries, labels, reference, reference_labels)  # k = 200 of 12
    np.testing.assert_array_equal(usual[0].predictions, knn.evaluate(1e3 * queries, labels, 1e-3 * reference, reference_labels)[0].predictions)
    tiny, = knn.evaluate(queries, labels, reference, reference_labels, settings=((12, 1e-4),))
    np.testing.assert_array_equal(tiny.predictions, reference_labels[oracle(queries, reference, 1)[1][:, 0]])


def test_what_cannot_be_read_is_refused():
    x, y = blobs(10)
    for call, words in ((lambda: knn.neighbours(x, x, k=11), "k must lie"), (lambda: knn.neighbours(x * np.nan, x, k=1), "finite query"),
                        (lambda: knn.neighbours(x, x, k=1, query_ids=y), "both"), (lambda: knn.evaluate(x, y, x, y - 1 - y), "unlabelled"),
                        (lambda: knn.evaluate(x, y[1:], x, y), "differ in number"),
                        (lambda: knn.evaluate(x, y, x, y, settings=((1, 0.0),)), "temperature")):
        with pytest.raises(ValueError, match=words):
            call()
