"""Linear accuracy on frozen features: multinomial logistic regression by L-BFGS, its penalty chosen on a part of the training rows.

The protocol of SimCLR's transfer evaluation (arXiv 2002.05709, appendix B.8: L-BFGS, penalty from a logarithmic grid on held-out
training rows, then a fit on all of them). No augmentation, so it is not the 90-epoch SGD protocol of the ImageNet tables.
"""
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.evaluation.features import rows as cached

SELECT = ("validation", "test")
GRID = tuple(10.0 ** power for power in range(0, -7, -1))  # from strong to weak, so that each fit starts from its neighbour
COSTS = tuple(10.0 ** power for power in np.linspace(-6, 5, 45))  # scikit-learn's C, as DINOv2's transfer protocol tries them
HELD_OUT = 5  # every fifth training row of a class chooses the penalty
_MEMORY = 10  # pairs that L-BFGS remembers
_GAP = 1e-7  # a fit ends when its loss is about so close to the optimum
_RIDGE = 1e-2  # the least penalty that the curvature is prepared for; below it the data decide
_CURVATURE_ROWS = 16_384  # rows that estimate the curvature; it steers the search and does not move the optimum


class Result(NamedTuple):
    accuracy: float  # on the test rows, in [0, 1]
    l2: float  # the penalty of the last fit, of mean cross-entropy + l2/2 |W|^2; C = 1 / (l2 N)
    predictions: np.ndarray  # int64 [M]


def evaluate(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, grid: Sequence[float] = GRID, costs: Sequence[float] = (),
             raw: bool = False, balanced: bool = False, every: int = HELD_OUT, select: str = "validation", steps: int = 300,
             among: np.ndarray | None = None, poll: Callable[[], None] = lambda: None) -> Result:
    """Accuracy on the test rows of a linear classifier fitted to the training rows; test rows take no part in any choice.

    train_x [N, D], train_y int [N] in [0, C), test_x [M, D], test_y int [M]; features are standardised by mean and std of the training
    rows. grid: penalties l2 > 0 on the weights (not the bias) of the mean cross-entropy; scikit-learn's C is 1 / (l2 N). The one
    with the best accuracy on every fifth training row is fitted again on all N; ties go to the stronger. steps: most iterations of
    a fit. Deterministic: no random number is drawn. ValueError for rows that are not finite or unlabelled training rows.

    costs: values of C instead of a grid of l2; a fit to n rows then has l2 = 1 / (C n). raw: the penalty is on the weights of the features
    as they came, so that the optimum is that of a fit without standardisation. balanced: chosen by the mean of the classes' accuracies.
    poll: called before every fit, as often whatever the rows are; what it raises ends the search.
    among: classes int that answers on the test rows are restricted to; None is all. every: one training row in so many chooses.
    select: "test" chooses by the test rows, with fits to all N, which is no honest estimate.
    """
    train_x, test_x, train_y, test_y = np.asarray(train_x, np.float32), np.asarray(test_x, np.float32), np.asarray(train_y), np.asarray(test_y)
    _check(train_x, train_y, test_x, test_y, costs or grid, select)
    mean, scale = cached.standard(train_x)
    x, u = (_with_one((rows - mean) / scale) for rows in (train_x, test_x))  # [N, D+1], [M, D+1]
    held = cached.held_out(train_y, every) if select == "validation" else np.zeros(len(x), bool)
    judge, truth = (x[held], train_y[held]) if select == "validation" else (u, test_y)

    classes, y = int(train_y.max()) + 1, jnp.asarray(train_y, jnp.int32)
    gram = _gram(x[::-(-len(x) // _CURVATURE_ROWS)], classes=classes)
    per_weight = jnp.asarray(np.append(1 / scale.astype(np.float64) ** 2 if raw else np.ones(len(scale)), 1), jnp.float32)  # the bias's is not used

    def penalty(value, rows):
        return 1 / (value * rows) if costs else value

    def fit(w, value, used):
        poll()
        ridge = penalty(value, used.sum()) * per_weight
        return _fit(w, x, y, jnp.asarray(used, jnp.float32), _inverse_of(gram, jnp.maximum(ridge, _RIDGE)), ridge, steps)
    w, fits, order = jnp.zeros((x.shape[1], classes)), {}, sorted(costs or grid, reverse=not costs)  # from strong to weak, each from the one before
    for place, value in enumerate(order):
        w = fit(w, value, ~held)
        fits[value] = (_score(np.asarray(_predict(w, judge)), truth, balanced), -place, w)
    value = max(fits, key=lambda v: fits[v][:2])
    w = fit(fits[value][2], value, np.ones(len(x), bool)) if held.any() else fits[value][2]
    answers = np.arange(classes) if among is None else np.asarray(among)
    predictions = answers[np.asarray(_predict(w[:, answers], u))].astype(np.int64)
    return Result(float(np.mean(predictions == test_y)), penalty(value, len(x)), predictions)


def per_class(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the share of their rows that is predicted right; int [N] each."""
    return float(np.mean((predictions == labels) * class_weights(labels)))


def class_weights(labels: np.ndarray) -> np.ndarray:
    """f64 [N]: what each row counts, so that every class that occurs counts alike; their mean is 1."""
    _, of, count = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(count) * count[of])


def _score(predictions, labels, balanced):
    return per_class(predictions, labels) if balanced else np.mean(predictions == labels)


def _check(train_x, train_y, test_x, test_y, grid, select):
    if select not in SELECT:
        raise ValueError(f"select is {select!r}; choose one of {', '.join(SELECT)}")
    if train_x.ndim != 2 or test_x.ndim != 2 or train_x.shape[1] != test_x.shape[1] or len(train_x) < 2 or not len(test_x):
        raise ValueError(f"the linear evaluation needs features [N, D] and [M, D] with N >= 2, got {train_x.shape} and {test_x.shape}")
    if len(train_y) != len(train_x) or len(test_y) != len(test_x):
        raise ValueError(f"features and labels differ in number: {len(train_x)} and {len(train_y)}, {len(test_x)} and {len(test_y)}")
    if not (np.isfinite(train_x).all() and np.isfinite(test_x).all()):
        raise ValueError("a feature is not finite")
    if train_y.min() < 0:
        raise ValueError("a training row is unlabelled (label below 0): select the labelled rows first")
    if not grid or not min(grid) > 0:
        raise ValueError(f"the penalties must be above 0, got {grid}")


def _with_one(x: np.ndarray) -> jax.Array:
    return jnp.asarray(np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1))  # the last weight is the bias


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


@partial(jax.jit, static_argnames="classes")
def _gram(x, *, classes):
    """Curvature [D+1, D+1] of the cross-entropy for one class at w = 0, nearly."""
    return _dot(x.T, x) / len(x) / classes


@jax.jit
def _inverse_of(gram, ridge):
    """An inverse Hessian [D+1, D+1] for one class: (gram + ridge)^-1, right at w = 0, near enough elsewhere. ridge: [D+1]."""
    # the trace bounds the largest eigenvalue, so 1e-6 of it on the diagonal keeps Cholesky in f32 positive
    factor = jax.scipy.linalg.cho_factor(gram + jnp.diag(ridge) + 1e-6 * jnp.trace(gram) * jnp.eye(len(gram)))
    return jax.scipy.linalg.cho_solve(factor, jnp.eye(len(gram)))


_predict = jax.jit(lambda w, x: jnp.argmax(_dot(x, w), axis=1))


class _State(NamedTuple):
    w: jax.Array  # [D+1, C]
    logits: jax.Array  # [N, C], kept beside w, so that a line search needs no product with x
    grad: jax.Array  # [D+1, C]
    moves: jax.Array  # [m, D+1, C], the newest last; zeros where there is none yet
    turns: jax.Array  # [m, D+1, C], what the gradient did on each move
    step: jax.Array
    done: jax.Array


@jax.jit
def _fit(w, x, y, weight, metric, l2, steps):
    """Weights [D+1, C] that minimise mean cross-entropy (rows weighted by `weight` [N]) + l2/2 |W|^2, from `w`; l2: a number, or [D+1], one a row.

    L-BFGS whose initial inverse Hessian is `metric`, which is what makes correlated features converge in tens of iterations. The loss is strongly convex, so
    halving steps need no second condition.
    """
    rows, classes = weight / weight.sum(), w.shape[1]
    ridge = jnp.full(len(w), l2).at[-1].set(0)[:, None]  # [D+1, 1]; the bias is free

    # a second copy, laid out for the gradient: on CPUs the product with x read crosswise takes five times as long
    xt = jax.lax.optimization_barrier(x.T)

    def loss(w, logits):
        error = jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
        return jnp.sum(rows * error) + 0.5 * jnp.sum(ridge * w * w)

    def gradient(w, logits):
        wrong = jax.nn.softmax(logits) - jax.nn.one_hot(y, classes)  # [N, C]
        return _dot(xt, rows[:, None] * wrong) + ridge * w

    def iterate(state):
        direction = -_inverse(state, metric)
        slope, along, value = jnp.sum(direction * state.grad), _dot(x, direction), loss(state.w, state.logits)

        def too_long(t):
            # the slack is f32's rounding of the loss itself, without which the last steps could never be taken
            return (loss(state.w + t * direction, state.logits + t * along) > value + 1e-4 * t * slope + 1e-7 * value) & (t > 1e-6)
        t = jax.lax.while_loop(too_long, lambda t: t / 2, jnp.float32(1))
        w, logits = state.w + t * direction, state.logits + t * along
        grad = gradient(w, logits)

        def push(kept, new):
            return jnp.concatenate([kept[1:], new[None]])
        return _State(w, logits, grad, push(state.moves, w - state.w), push(state.turns, grad - state.grad), state.step + 1, -slope / 2 < _GAP)

    logits, empty = _dot(x, w), jnp.zeros((_MEMORY, *w.shape))
    start = _State(w, logits, gradient(w, logits), empty, empty, jnp.int32(0), jnp.bool_(False))
    return jax.lax.while_loop(lambda state: ~state.done & (state.step < steps), iterate, start).w


def _inverse(state: _State, metric: jax.Array) -> jax.Array:
    """L-BFGS's two loops (Nocedal and Wright, algorithm 7.4): the inverse Hessian times the gradient. Empty or flat pairs count nothing."""
    curved = jnp.sum(state.moves * state.turns, axis=(1, 2))  # [m]
    inverse = jnp.where(curved > 0, 1 / jnp.where(curved > 0, curved, 1), 0)
    q, shares = state.grad, [0.0] * _MEMORY
    for i in reversed(range(_MEMORY)):
        shares[i] = inverse[i] * jnp.sum(state.moves[i] * q)
        q = q - shares[i] * state.turns[i]
    newest = state.turns[-1]
    flat = jnp.sum(newest * _dot(metric, newest))
    q = _dot(metric, q) * jnp.where((curved[-1] > 0) & (flat > 0), curved[-1] / jnp.where(flat > 0, flat, 1), 1)
    for i in range(_MEMORY):
        q = q + (shares[i] - inverse[i] * jnp.sum(state.turns[i] * q)) * state.moves[i]
    return q
