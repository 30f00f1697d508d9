"""The perceptron against its gradient by differences and scikit-learn's; its epochs are judged on held-out rows only."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from jaxssl.parallel import mesh as sharding
from jaxssl.evaluation.features import rows as cached
from jaxssl.evaluation.measures import mlp

X, Y = load_digits(return_X_y=True)


def rings(n, seed):
    """Two rings around each other: nothing for a linear classifier, all for one hidden layer."""
    rng = np.random.default_rng(seed)
    y, angle = rng.integers(0, 2, n), rng.uniform(0, 2 * np.pi, n)
    radius = 1 + y + .1 * rng.standard_normal(n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32), y


@pytest.mark.parametrize("layers", [2, 3])
def test_it_learns_what_is_not_linear(layers):
    x, y = rings(600, 0)
    u, v = rings(400, 1)
    result = mlp.evaluate(x, y, u, v, layers=layers, hidden=32, epochs=30, batch_size=64, lr=1e-2)
    theirs = MLPClassifier((32,) * (layers - 1), learning_rate_init=1e-2, max_iter=300, random_state=0).fit(x, y).score(u, v)
    assert result.accuracy >= theirs - .02 > .9
    assert result.accuracy == np.mean(result.predictions == v)


def test_logits_are_the_networks():
    """A numpy forward pass, ReLU between the layers, inputs standardised."""
    params = mlp._start(jax.random.key(0), (5, 7, 6, 3))
    params = [(k, jnp.arange(len(b), dtype=jnp.float32) / 3 - .5) for k, b in params[:-1]] + [(jax.random.normal(jax.random.key(1), (6, 3)), jnp.ones(3))]
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    h = (x - .3) / 2
    for i, (kernel, bias) in enumerate(params):
        h = h @ np.asarray(kernel) + np.asarray(bias)
        h = np.maximum(h, 0) if i < 2 else h
    np.testing.assert_allclose(mlp._logits(params, x, (jnp.float32(.3), jnp.float32(2.))), h, rtol=1e-4, atol=1e-5)
    dropped = np.asarray(mlp._logits([params[0], (jnp.eye(7), jnp.zeros(7))], x, (0., 1.), jax.random.key(2), .5))
    hidden = np.maximum(x @ np.asarray(params[0][0]) + np.asarray(params[0][1]), 0)
    assert np.all(np.isclose(dropped, 0) | np.isclose(dropped, 2 * hidden, rtol=1e-4)) and 0 < np.mean(dropped[hidden > 0] == 0) < 1


def test_the_best_epoch_is_not_the_last_and_is_chosen_without_the_test_rows():
    """Few noisy rows overfit: the curve turns, the best epoch comes early, and shuffled test labels change nothing but the score."""
    rng = np.random.default_rng(0)
    x = X[:200] + 12 * rng.standard_normal((200, 64))
    u, v = X[200:] + 12 * rng.standard_normal((len(X) - 200, 64)), Y[200:]
    options = dict(hidden=64, epochs=25, batch_size=32, lr=3e-3, weight_decay=0.)
    result = mlp.evaluate(x, Y[:200], u, v, **options)
    curve = [point.accuracy for point in result.curve]
    assert len(curve) == 25 and result.best == int(np.argmax(curve)) + 1 < 25 and result.curve[-1].loss < result.curve[result.best - 1].loss
    shuffled = mlp.evaluate(x, Y[:200], u, rng.permutation(v), **options)
    assert shuffled.best == result.best and shuffled.curve == result.curve
    np.testing.assert_array_equal(shuffled.predictions, result.predictions)
    leak = mlp.evaluate(x, Y[:200], u, v, **options, select="test")
    assert leak.accuracy == max(point.accuracy for point in leak.curve)


def test_held_out_labels_do_not_reach_the_weights():
    """With the labels of the judging rows changed the training losses are the same, bit for bit, and their accuracies are not."""
    x, y = X[:300], Y[:300]
    held = cached.held_out(y, mlp.HELD_OUT)
    # classes trade places among the held-out rows of their own order, so that the same rows are held out
    changed = y.copy()
    changed[held] = np.roll(y[held], 15)
    kept = cached.held_out
    mlp.cached.held_out = lambda labels, every: held
    try:
        a, b = (mlp.evaluate(x, labels, X[300:], Y[300:], hidden=16, epochs=3, batch_size=64) for labels in (y, changed))
    finally:
        mlp.cached.held_out = kept
    assert [p.loss for p in a.curve] == [p.loss for p in b.curve] and [p.accuracy for p in a.curve] != [p.accuracy for p in b.curve]


def test_one_device_and_eight_agree():
    x, y = X[:400], Y[:400]
    found = [mlp.evaluate(x, y, X[400:], Y[400:], hidden=16, epochs=2, batch_size=64, mesh=mesh).curve[-1].loss for mesh in (None, sharding.make_mesh(devices=jax.devices()))]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_what_cannot_be_read_is_refused():
    for changes, words in (({"layers": 4}, "layers"), ({"select": "best"}, "validation"), ({"dropout": 1.}, "dropout"), ({"batch_size": 0}, "batch_size"),
                           ({"train_y": Y - 1}, "labelled"), ({"train_x": X * np.nan}, "finite"), ({"train_x": X[:, :3]}, "expected")):
        with pytest.raises(ValueError, match=words):
            mlp.evaluate(**{**dict(train_x=X, train_y=Y, test_x=X, test_y=Y, epochs=1), **changes})
