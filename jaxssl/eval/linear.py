"""Linear accuracy on frozen features: multinomial logistic regression by L-BFGS, its penalty chosen on a part of the training rows.

The protocol of SimCLR's transfer evaluation (arXiv 2002.05709, appendix B.8: L-BFGS, penalty from a logarithmic grid on held-out
training rows, then a fit on all of them). No augmentation, so it is not the 90-epoch SGD protocol of the ImageNet tables.
"""
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

GRID = tuple(10.0 ** power for power in range(0, -7, -1))  # from strong to weak, so that each fit starts from its neighbour
HELD_OUT = 5  # every fifth training row of a class chooses the penalty
_MEMORY = 10  # pairs that L-BFGS remembers
_GAP = 1e-7  # a fit ends when its loss is about so close to the optimum
_RIDGE = 1e-2  # inside the grid: one factorisation serves all penalties
_CURVATURE_ROWS = 16_384  # rows that estimate the curvature; it steers the search and does not move the optimum


class Result(NamedTuple):
    accuracy: float  # on the test rows, in [0, 1]
    l2: float  # the chosen penalty, of mean cross-entropy + l2/2 |W|^2
    predictions: np.ndarray  # int64 [M]


def evaluate(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, grid: Sequence[float] = GRID,
             steps: int = 300) -> Result:
    """Accuracy on the test rows of a linear classifier fitted to the training rows; test rows take no part in any choice.

    train_x [N, D], train_y int [N] in [0, C), test_x [M, D], test_y int [M]; features are standardised by mean and std of the training
    rows. grid: penalties l2 > 0 on the weights (not the bias) of the mean cross-entropy; scikit-learn's C is 1 / (l2 N). The one
    with the best accuracy on every fifth training row is fitted again on all N; ties go to the stronger. steps: most iterations of
    a fit. Deterministic: no random number is drawn. ValueError for rows that are not finite or unlabelled training rows.
    """
    train_x, test_x, train_y = np.asarray(train_x, np.float32), np.asarray(test_x, np.float32), np.asarray(train_y)
    _check(train_x, train_y, test_x, test_y, grid)
    mean, std = train_x.mean(0, dtype=np.float64), train_x.std(0, dtype=np.float64)
    mean, scale = mean.astype(np.float32), np.where(std > 1e-8, std, 1).astype(np.float32)
    x, u = (_with_one((rows - mean) / scale) for rows in (train_x, test_x))  # [N, D+1], [M, D+1]
    held = np.zeros(len(x), bool)
    held[np.argsort(train_y, kind="stable")[::HELD_OUT]] = True  # evenly from every class

    classes, y = int(train_y.max()) + 1, jnp.asarray(train_y, jnp.int32)
    metric = _metric(x[::-(-len(x) // _CURVATURE_ROWS)], classes=classes)
    w, fits = jnp.zeros((x.shape[1], classes)), {}
    for l2 in sorted(grid, reverse=True):
        w = _fit(w, x, y, jnp.asarray(~held, jnp.float32), metric, l2, steps)
        score = np.mean(np.asarray(_predict(w, x))[held] == train_y[held])
        fits[l2] = (score, w)
    l2 = max(fits, key=lambda penalty: (fits[penalty][0], penalty))
    w = _fit(fits[l2][1], x, y, jnp.ones(len(x)), metric, l2, steps)
    predictions = np.asarray(_predict(w, u)).astype(np.int64)
    return Result(float(np.mean(predictions == np.asarray(test_y))), l2, predictions)


def _check(train_x, train_y, test_x, test_y, grid):
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
def _metric(x, *, classes):
    """An inverse Hessian [D+1, D+1] for one class: (gram / C + ridge)^-1, right at w = 0 and l2 = ridge, near enough elsewhere."""
    gram = _dot(x.T, x) / len(x) / classes
    # the trace bounds the largest eigenvalue, so 1e-6 of it on the diagonal keeps Cholesky in f32 positive
    factor = jax.scipy.linalg.cho_factor(gram + (_RIDGE + 1e-6 * jnp.trace(gram)) * jnp.eye(len(gram)))
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
    """Weights [D+1, C] that minimise mean cross-entropy (rows weighted by `weight` [N]) + l2/2 |W|^2, from `w`.

    L-BFGS whose initial inverse Hessian is `metric`, which is what makes correlated features converge in tens of iterations. The loss is strongly convex, so halving steps need no second condition.
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
