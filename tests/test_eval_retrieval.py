"""Retrieval metrics against naive loops, and against pytorch-metric-learning and scikit-learn where they are right."""
import jax
import numpy as np
import pytest

from jaxssl.parallel import mesh as sharding
from jaxssl.evaluation.measures import retrieval

RECALL = (1, 2, 4, 8)


def blobs(n, classes=7, dim=64, seed=0, spread=2.):
    """Features and labels of classes of very different size; class 0 is the largest. Corners of a cube: their cosines are exact in f32, and many are equal."""
    rng = np.random.default_rng(seed)
    labels = (classes * rng.random(n) ** 2).astype(np.int64)
    x = np.random.default_rng(9).standard_normal((classes, dim))[labels] + spread * rng.standard_normal((n, dim))
    return np.sign(x).astype(np.float32), labels


def naive(x, y, reference, reference_labels, ids=None, reference_ids=None):
    """The definitions, a query at a time, with a full stable sort."""
    found = {name: [] for name in ("precision@1", "recall@2", "recall@4", "recall@8", "R-precision", "MAP@R", "MRR")}
    x, reference = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x.astype(np.float64), reference.astype(np.float64)))
    asked = []
    for i in range(len(x)):
        own = np.arange(len(reference)) if ids is None else np.flatnonzero(reference_ids != ids[i])
        order = own[np.argsort(-(reference[own] @ x[i]), kind="stable")]
        hits = reference_labels[order] == y[i]
        r = hits.sum()
        if r == 0:
            continue
        asked.append(i)
        found["precision@1"].append(hits[0])
        for k in RECALL[1:]:
            found[f"recall@{k}"].append(hits[:k].any())
        found["R-precision"].append(hits[:r].mean())
        found["MAP@R"].append(sum(hits[:j + 1].mean() for j in range(r) if hits[j]) / r)
        found["MRR"].append(1 / (1 + np.flatnonzero(hits)[0]))
    return {name: np.array(values, float) for name, values in found.items()}, asked


def check(found, expected, asked):
    np.testing.assert_array_equal(found.queries, asked)
    assert found.outcomes.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found.outcomes[name], values, atol=1e-12, err_msg=name)
        assert found.means[name] == pytest.approx(values.mean())


@pytest.mark.parametrize("held", [None, 200])
@pytest.mark.parametrize("devices", [1, 8])
def test_one_set_against_itself(held, devices, monkeypatch):
    if held:
        monkeypatch.setattr(retrieval, "_HELD", held)       # queries in many parts
    x, y = blobs(150)
    ids = np.random.default_rng(1).permutation(150) + 10**10
    mesh = None if devices == 1 else sharding.make_mesh(devices=jax.devices())
    found = retrieval.evaluate(x, y, x, y, query_ids=ids, reference_ids=ids, recall=RECALL, mesh=mesh)
    check(found, *naive(x, y, x, y, ids, ids))
    assert found.most == np.bincount(y).max() - 1 and found.lone == 0


def test_separate_sets_and_sets_that_share_images():
    x, y = blobs(60, seed=1)
    u, v = blobs(90, seed=2)
    check(retrieval.evaluate(x, y, u, v), *naive(x, y, u, v))
    ids, reference_ids = np.arange(60), np.concatenate([np.arange(40, 60), np.arange(100, 170)])
    u[:20], v[:20] = x[40:], y[40:]
    check(retrieval.evaluate(x, y, u, v, query_ids=ids, reference_ids=reference_ids), *naive(x, y, u, v, ids, reference_ids))


def test_a_duplicate_is_a_neighbour_and_oneself_is_not():
    """Every image twice under two ids: the twin comes first, and with random classes nothing else would."""
    x, rng = blobs(40)[0], np.random.default_rng(3)
    x, y = np.repeat(x, 2, axis=0), np.repeat(rng.permutation(40), 2)
    found = retrieval.evaluate(x, y, x, y, query_ids=np.arange(80), reference_ids=np.arange(80))
    assert found.most == 1 and all(value == 1 for value in found.means.values())
    y = np.arange(80) // 2 * 2 + np.array([0, 1] * 40)      # twins of different classes: class c is one image, and one more far away
    far = retrieval.evaluate(np.concatenate([x, -x]), np.concatenate([y, y]), np.concatenate([x, -x]), np.concatenate([y, y]),
                             query_ids=np.arange(160), reference_ids=np.arange(160))
    assert far.means["precision@1"] == 0 and far.means["MAP@R"] == 0
    expected, asked = naive(np.concatenate([x, -x]), np.concatenate([y, y]), np.concatenate([x, -x]), np.concatenate([y, y]), np.arange(160), np.arange(160))
    assert expected["MRR"].max() < 1 / 20
    np.testing.assert_allclose(far.outcomes["MRR"], expected["MRR"])


def test_labels_beyond_f32_stay_apart():
    """Two classes that are one in float32."""
    x, y = blobs(50, classes=2, spread=3)
    ids = np.arange(50)
    large = retrieval.evaluate(x, 2**24 + y, x, 2**24 + y, query_ids=ids, reference_ids=ids)
    assert np.float32(2**24) == np.float32(2**24 + 1)
    assert large.means == retrieval.evaluate(x, y, x, y, query_ids=ids, reference_ids=ids).means and large.means["R-precision"] < 1


def test_a_lone_image_is_no_query_and_stays_a_reference():
    x, y = blobs(30, classes=3)
    y[4], y[11] = 77, 78
    ids = np.arange(30)
    found = retrieval.evaluate(x, y, x, y, query_ids=ids, reference_ids=ids)
    assert found.lone == 2 and not {4, 11} & set(found.queries)
    check(found, *naive(x, y, x, y, ids, ids))
    with pytest.raises(ValueError, match="nothing to retrieve"):
        retrieval.evaluate(x, ids, x, ids, query_ids=ids, reference_ids=ids)


def test_equals_pytorch_metric_learning_where_that_is_right():
    """No duplicates, no lone classes, small labels, k = R_max given: there it is right. Its MRR ends at k."""
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference", reason="pytorch-metric-learning is not a dependency")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    import torch
    x, y = blobs(200, seed=4)
    x += np.random.default_rng(0).uniform(-.5, .5, x.shape).astype(np.float32)      # its order among equals is another
    ids = np.arange(200)
    wanted = {"precision_at_1": "precision@1", "r_precision": "R-precision", "mean_average_precision_at_r": "MAP@R"}
    calculator = AccuracyCalculator(include=tuple(wanted), k="max_bin_count", knn_func=inference.CustomKNN(CosineSimilarity()), device=torch.device("cpu"))
    theirs = calculator.get_accuracy(torch.tensor(x), torch.tensor(y))
    ours = retrieval.evaluate(x, y, x, y, query_ids=ids, reference_ids=ids).means
    for name, own in wanted.items():
        assert ours[own] == pytest.approx(theirs[name], abs=1e-4), name         # f32: two close ones may change places


def test_clusters_are_scored_as_written_down():
    from sklearn.cluster import KMeans
    x, y = blobs(120, classes=4, seed=5)
    found = KMeans(4, n_init=1, max_iter=100, random_state=3).fit_predict(x / np.linalg.norm(x, axis=1, keepdims=True))
    table = np.array([[np.sum((y == c) & (found == k)) for k in range(4)] for c in range(4)]) / 120
    rows, columns = table.sum(1), table.sum(0)
    mutual = sum(p * np.log(p / (rows[c] * columns[k])) for (c, k), p in np.ndenumerate(table) if p > 0)
    entropy = [-np.sum(p[p > 0] * np.log(p[p > 0])) for p in (rows, columns)]
    ours = retrieval.clustering(x * 2.**np.random.default_rng(0).integers(-3, 4, (120, 1)), y, seed=3)     # lengths do not count
    assert ours["NMI"] == pytest.approx(2 * mutual / sum(entropy), rel=1e-6) and 0 < ours["AMI"] < ours["NMI"]
    apart = np.eye(6)[np.arange(60) % 6] + 1e-3 * np.random.default_rng(0).standard_normal((60, 6))
    perfect, chance = retrieval.clustering(apart, np.arange(60) % 6), retrieval.clustering(apart, np.random.default_rng(1).permutation(60) % 6)
    assert perfect == pytest.approx({"NMI": 1, "AMI": 1}) and abs(chance["AMI"]) < .1 < chance["NMI"]


def test_what_cannot_be_read_is_refused():
    x, y = blobs(10)
    for call, words in ((lambda: retrieval.evaluate(x, y[1:], x, y), "differ in number"), (lambda: retrieval.evaluate(x, y, x, y, query_ids=y), "both"),
                        (lambda: retrieval.evaluate(x * np.inf, y, x, y), "finite")):
        with pytest.raises(ValueError, match=words):
            call()
