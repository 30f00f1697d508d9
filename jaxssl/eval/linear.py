"""Linear accuracy on frozen features: multinomial logistic regression by L-BFGS, its penalty chosen on a part of the training features."""
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

GRID = (1e-4, 1e-3, 1e-2, 1e-1)
HELD_OUT = 5  # every fifth training row (after a fixed shuffle) chooses the penalty


class Result(NamedTuple):
    accuracy: float  # on the test rows, in [0, 1]
    l2: float        # the chosen penalty
    predictions: np.ndarray  # int64 [M]


def evaluate(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, grid: tuple[float, ...] = GRID, steps: int = 200) -> Result:
    """Held-out accuracy of a linear classifier. Test rows take no part in any choice.

    train_x [N, D], train_y int [N] in [0, C), test_x [M, D], test_y int [M]. Features are standardised by the training mean and std.
    grid: penalties l2 of mean cross-entropy + l2/2 |W|², the bias free; the best on the held-out fifth is fitted again on all N.
    """
    mean, std = train_x.mean(0), train_x.std(0)
    scale = np.where(std > 1e-8, std, 1)
    x, u = ((a - mean) / scale for a in (train_x, test_x))
    order = np.random.Generator(np.random.Philox(0)).permutation(len(x))
    chosen, fitted = order[::HELD_OUT], np.delete(order, np.s_[::HELD_OUT])
    classes = int(train_y.max()) + 1
    scores = [np.mean(_predict(_fit(x[fitted], train_y[fitted], l2, classes=classes, steps=steps), x[chosen]) == train_y[chosen]) for l2 in grid]
    l2 = grid[int(np.argmax(scores))]
    predictions = _predict(_fit(x, train_y, l2, classes=classes, steps=steps), u)
    return Result(float(np.mean(predictions == test_y)), l2, predictions)


def _predict(weights, x):
    return np.asarray(jnp.argmax(jnp.asarray(x) @ weights[0] + weights[1], axis=1)).astype(np.int64)


@partial(jax.jit, static_argnames=("classes", "steps"))
def _fit(x, y, l2, *, classes, steps):
    def loss(weights):
        kernel, bias = weights
        error = optax.softmax_cross_entropy_with_integer_labels(x @ kernel + bias, y).mean()
        return error + l2 / 2 * jnp.sum(kernel ** 2)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)
    weights = (jnp.zeros((x.shape[1], classes)), jnp.zeros(classes))

    def step(carry):
        weights, state, _, i = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = solver.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(weights, updates), state, optax.global_norm(grad), i + 1

    start = (weights, solver.init(weights), jnp.inf, 0)
    return jax.lax.while_loop(lambda c: (c[2] > 1e-5) & (c[3] < steps), step, start)[0]
