"""Logistic regression against scikit-learn: the optimum, the choice of the penalty, the accuracy."""
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jaxssl.evaluation.measures import linear


def digits(noise=0.0):
    """Digits as correlated ReLU features [1797, 100], uneven scales, one constant column; split in train and test."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    x = np.maximum((x + noise * rng.standard_normal(x.shape)) @ rng.standard_normal((64, 100)) / 20 + 0.5, 0) * np.geomspace(0.01, 100, 100)
    x[:, 7] = 3.0
    return x[:1000], y[:1000], x[1000:], y[1000:]


def standardised(x, test):
    scale = np.where(x.std(0) > 1e-8, x.std(0), 1)
    return (x - x.mean(0)) / scale, (test - x.mean(0)) / scale


def sklearn_fit(x, y, l2):
    return LogisticRegression(C=1 / (l2 * len(x)), tol=1e-6, max_iter=2000).fit(x, y)


def metric_of(ones):
    return linear._inverse_of(linear._gram(ones, classes=10), jnp.full(ones.shape[1], linear._RIDGE))


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_fit_reaches_scikit_learns_optimum(l2):
    x, y, _, _ = digits()
    x, _ = standardised(x, x)
    ones = linear._with_one(x.astype(np.float32))
    w = linear._fit(jnp.zeros((101, 10)), ones, jnp.asarray(y), jnp.ones(len(x)), metric_of(ones), l2, 300)
    theirs = sklearn_fit(x, y, l2)

    def loss(coefficients, bias):
        logits = x @ coefficients + bias
        log_norm = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
        return np.mean(log_norm - logits[np.arange(len(y)), y]) + l2 / 2 * np.sum(coefficients ** 2)
    w = np.asarray(w, np.float64)
    best = loss(theirs.coef_.T, theirs.intercept_)
    assert best - 1e-6 < loss(w[:-1], w[-1]) < best + 1e-5
    np.testing.assert_allclose(w[:-1], theirs.coef_.T, atol=0.03 * np.abs(theirs.coef_).max())


def test_weights_of_rows_are_the_rows_themselves():
    """Weight 0 leaves a row out: the fit that chooses the penalty never sees the held-out rows."""
    x, y, _, _ = digits()
    ones, keep = linear._with_one(standardised(x, x)[0].astype(np.float32)), np.arange(1000) % 3 != 0
    metric, start = metric_of(ones), jnp.zeros((101, 10))
    masked = linear._fit(start, ones, jnp.where(keep, y, 0), jnp.asarray(keep, jnp.float32), metric, 1e-2, 300)
    subset = linear._fit(start, ones[keep], jnp.asarray(y[keep]), jnp.ones(keep.sum()), metric, 1e-2, 300)
    np.testing.assert_allclose(masked, subset, atol=1e-2 * float(jnp.abs(subset).max()))


def test_accuracy_and_penalty_are_scikit_learns():
    x, y, u, v = digits(noise=6.0)
    result = linear.evaluate(x, y, u, v)
    a, b = standardised(x, u)
    held = np.zeros(len(x), bool)
    held[np.argsort(y, kind="stable")[::5]] = True
    scores = {l2: sklearn_fit(a[~held], y[~held], l2).score(a[held], y[held]) for l2 in linear.GRID}
    # the chosen penalty is as good on the held-out rows as scikit-learn's best, to two rows of two hundred
    assert scores[result.l2] >= max(scores.values()) - 0.0101
    expected = sklearn_fit(a, y, result.l2).predict(b)
    assert abs(result.accuracy - np.mean(expected == v)) <= 0.005
    assert np.mean(result.predictions == expected) > 0.99 and result.accuracy == np.mean(result.predictions == v)


def test_test_rows_take_no_part_and_runs_repeat():
    x, y, u, v = digits()
    first = linear.evaluate(x, y, u, v, grid=(1e-1, 1e-3))
    other = linear.evaluate(x, y, u[:100], np.roll(v, 1)[:100], grid=(1e-3, 1e-1))
    assert first.l2 == other.l2 and other.accuracy < 0.3
    np.testing.assert_array_equal(first.predictions[:100], other.predictions)
    np.testing.assert_array_equal(first.predictions, linear.evaluate(x, y, u, v, grid=(1e-1, 1e-3)).predictions)


def test_the_penalty_matters_and_is_found():
    """Hardly more rows than weights and noisy labels: the weakest penalty overfits, and the choice avoids it."""
    rng = np.random.default_rng(2)
    x, u = rng.standard_normal((250, 100)), rng.standard_normal((1000, 100))
    y, v = ((rows.sum(1) / 10 + 0.5 * rng.standard_normal(len(rows)) > 0).astype(int) for rows in (x, u))
    chosen, weakest = linear.evaluate(x, y, u, v), linear.evaluate(x, y, u, v, grid=(1e-6,))
    assert chosen.l2 >= 1e-2 and chosen.accuracy > weakest.accuracy + 0.01


def test_duplicated_and_constant_columns_stay_finite():
    x, y, u, v = digits()
    both = [np.concatenate([rows, rows, 0 * rows], axis=1) for rows in (x, u)]
    assert abs(linear.evaluate(both[0], y, both[1], v).accuracy - linear.evaluate(x, y, u, v).accuracy) < 0.02


def test_what_cannot_be_read_is_refused():
    x, y, u, v = digits()
    for call, words in ((lambda: linear.evaluate(x * np.nan, y, u, v), "finite"), (lambda: linear.evaluate(x, y - 1, u, v), "unlabelled"),
                        (lambda: linear.evaluate(x, y[1:], u, v), "differ in number"), (lambda: linear.evaluate(x[:, :3], y, u, v), "features"),
                        (lambda: linear.evaluate(x, y, u, v, grid=(0.0,)), "penalties")):
        with pytest.raises(ValueError, match=words):
            call()


def test_costs_without_standardisation_are_scikit_learns_c():
    """The transfer protocol: penalty 1 / (C n) on the weights of the features as they are, whatever their scales."""
    x, y, u, v = digits(noise=6.0)
    x, u = x / 10, u / 10
    result = linear.evaluate(x, y, u, v, costs=(1e-4, 1e-2, 1.0), raw=True, every=10)
    c = 1 / (result.l2 * len(x))
    held = np.zeros(len(x), bool)
    held[np.argsort(y, kind="stable")[::10]] = True
    scores = {cost: LogisticRegression(C=cost, tol=1e-6, max_iter=5000).fit(x[~held], y[~held]).score(x[held], y[held]) for cost in (1e-4, 1e-2, 1.0)}
    assert min(scores, key=lambda cost: abs(cost - c)) == pytest.approx(c) and scores[min(scores, key=lambda cost: abs(cost - c))] >= max(scores.values()) - 0.0101
    expected = LogisticRegression(C=c, tol=1e-6, max_iter=5000).fit(x, y).predict(u)
    assert np.mean(result.predictions == expected) > 0.99


def test_classes_count_alike_where_asked():
    predictions, labels = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1])
    assert linear.per_class(predictions, labels) == pytest.approx((1 + 1 / 2) / 2)


def test_choosing_by_the_test_rows_is_another_choice():
    """A leak that is asked for: with shuffled test labels the choice follows them, and without it does not."""
    x, y, u, v = digits(noise=6.0)
    shuffled = np.random.default_rng(0).permutation(v)
    own = [linear.evaluate(x, y, u, labels, grid=(10.0, 1e-1, 1e-3)).l2 for labels in (v, shuffled)]
    leak = [linear.evaluate(x, y, u, labels, grid=(10.0, 1e-1, 1e-3), select="test") for labels in (v, shuffled)]
    assert own[0] == own[1]
    for result, labels in zip(leak, (v, shuffled)):
        assert result.accuracy == max(linear.evaluate(x, y, u, labels, grid=(l2,), select="test").accuracy for l2 in (10.0, 1e-1, 1e-3))


def test_it_can_be_left_before_any_fit():
    """The poll comes once a fit, as often in every process, and what it raises ends the search."""
    polls = []
    linear.evaluate(*digits(), grid=(1.0, 0.1, 0.01), poll=lambda: polls.append(1), steps=3)
    assert len(polls) == 3 + 1

    def enough():
        polls.append(1)
        if len(polls) == 6:
            raise KeyError("stop")
    with pytest.raises(KeyError, match="stop"):
        linear.evaluate(*digits(), grid=(1.0, 0.1, 0.01), poll=enough, steps=3)
    assert len(polls) == 6
