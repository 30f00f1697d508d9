"""Accuracy of a small multi-layer perceptron on frozen features: what is there, but not linearly.

Such probes overfit, so the last epoch is rarely the best: each epoch is judged on a held-out part of the training rows, and the test rows are
classified by the weights of the epoch that did best there.
"""
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxssl.errors import NonFiniteError
from jaxssl.evaluation.features import rows as cached

SELECT = ("validation", "test")
HELD_OUT = 10       # one training row in so many judges the epochs
_JUDGED = 4096      # rows scored at a time


class Epoch(NamedTuple):
    """One point of the curve: mean training loss of the epoch, accuracy in [0, 1] on the rows that judge it."""
    loss: float
    accuracy: float


class Result(NamedTuple):
    """accuracy in [0, 1] and predictions int64 [M] on the test rows by the weights after epoch `best` (from 1) of `curve`; last: accuracy on the
    test rows by the weights of the last epoch; batch_size as used."""
    accuracy: float
    predictions: np.ndarray
    best: int
    last: float
    curve: tuple[Epoch, ...]
    batch_size: int


def evaluate(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, layers: int = 2, hidden: int = 512, epochs: int = 30, batch_size: int = 256,
             lr: float = 1e-3, weight_decay: float = 1e-2, dropout: float = 0., seed: int = 0, select: str = "validation", mesh: Any = None) -> Result:
    """Accuracy on the test rows of a perceptron of `layers` (2 or 3) linear layers with ReLU between them, at its best epoch.

    train_x [N, D], train_y int [N] in [0, C), test_x [M, D], test_y int [M]; features are standardised by the training rows. AdamW, cosine to 0.
    hidden: width. dropout: share of the hidden units that a step leaves out. select: "validation" trains on nine tenths of each class and judges the
    epochs on the rest; "test" trains on all and judges by the test rows, which is no honest estimate. mesh: devices that share each batch.
    ValueError for rows that do not fit together, are not finite or unlabelled, or an option out of its range.
    """
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)
    _check(train_x, train_y, test_x, test_y, select, layers=layers, hidden=hidden, epochs=epochs, batch_size=batch_size, lr=lr, dropout=dropout)
    held = cached.held_out(train_y, HELD_OUT) if select == "validation" else np.zeros(len(train_y), bool)
    fit = np.flatnonzero(~held)
    judge = (train_x[held], train_y[held]) if select == "validation" else (test_x, test_y)
    standard = tuple(map(jnp.asarray, cached.standard(train_x[fit])))
    batch_size = cached.fitting(batch_size, len(fit), mesh)
    per_epoch = max(len(fit) // batch_size, 1)
    tx = optax.adamw(optax.cosine_decay_schedule(lr, epochs * per_epoch), weight_decay=weight_decay, mask=partial(jax.tree.map, lambda p: p.ndim > 1))
    key = jax.random.key(seed)
    params = _start(key, (train_x.shape[1], *(hidden,) * (layers - 1), int(train_y.max()) + 1))
    state, best, curve = (params, tx.init(params)), (-1., 0, params), []
    arrays = {"x": train_x, "y": np.asarray(train_y, np.int32)}
    for epoch in range(1, epochs + 1):
        losses = []
        for first, count, batch in cached.batches(arrays, fit, start=(epoch - 1) * per_epoch, stop=epoch * per_epoch, batch_size=batch_size, seed=seed, mesh=mesh):
            state, loss = _advance(state, batch["x"], batch["y"], first, count, key, standard, update=tx.update, dropout=dropout)
            losses.append(loss)
        curve.append(Epoch(float(sum(losses)) / per_epoch, float(np.mean(_predictions(state[0], judge[0], standard) == judge[1]))))
        if not np.isfinite(curve[-1].loss):
            raise NonFiniteError(f"the MLP probe diverged in epoch {epoch} of {epochs}; lower mlp.lr, which is {lr:g}")
        best = max(best, (curve[-1].accuracy, -epoch, state[0]), key=lambda b: b[:2])        # ties to the earlier
    found, last = (_predictions(p, test_x, standard) for p in (best[2], state[0]))
    return Result(float(np.mean(found == test_y)), found, -best[1], float(np.mean(last == test_y)), tuple(curve), batch_size)


def _start(key, widths):
    """[(kernel [I, O], bias [O])] of each layer: He's normal kernels (arXiv 1502.01852), zeros in the last, whose first logits are then all alike."""
    keys, pairs = jax.random.split(key, len(widths) - 1), list(zip(widths, widths[1:]))
    params = [(jax.random.normal(k, pair) * np.sqrt(2 / pair[0]), jnp.zeros(pair[1])) for k, pair in zip(keys, pairs)]
    return [*params[:-1], (0 * params[-1][0], params[-1][1])]


def _logits(params, x, standard, key=None, dropout=0.):
    """[B, D] to [B, C]; with a key, hidden units are left out."""
    x = (x - standard[0]) / standard[1]
    for i, (kernel, bias) in enumerate(params):
        x = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias
        if i < len(params) - 1:
            x = jax.nn.relu(x)
            if dropout:
                x = x * jax.random.bernoulli(jax.random.fold_in(key, i), 1 - dropout, x.shape) / (1 - dropout)
    return x


@partial(jax.jit, static_argnames=("update", "dropout"))
def _advance(state, x, y, first, count, key, standard, *, update, dropout):
    """The state after the first `count` steps of x [K, B, D], y [K, B], and the sum of their losses."""
    def loss(params, t):
        logits = _logits(params, x[t], standard, jax.random.fold_in(key, first + t), dropout)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[t]).mean()

    def step(t, carry):
        (params, slots), total = carry
        value, grads = jax.value_and_grad(loss)(params, t)
        updates, slots = update(grads, slots, params)
        return (optax.apply_updates(params, updates), slots), total + value

    return jax.lax.fori_loop(0, count, step, (state, jnp.float32(0)))


_classes_of = jax.jit(lambda params, x, standard: jnp.argmax(_logits(params, x, standard), axis=1))


def _predictions(params, x, standard):
    """Classes int64 [N] of the rows x [N, D]."""
    size, parts = min(_JUDGED, len(x)), []
    for start in range(0, len(x), size):
        part = np.asarray(x[start:start + size], np.float32)
        parts.append(np.asarray(_classes_of(params, np.pad(part, ((0, size - len(part)), (0, 0))), standard))[:len(part)])      # one size compiles
    return np.concatenate(parts).astype(np.int64)


def _check(train_x, train_y, test_x, test_y, select, *, layers, hidden, epochs, batch_size, lr, dropout):
    if select not in SELECT:
        raise ValueError(f"select is {select!r}; choose one of {', '.join(SELECT)}")
    if not lr > 0:
        raise ValueError(f"lr must be above 0, got {lr:g}")
    if layers not in (2, 3) or min(hidden, epochs, batch_size) < 1 or not 0 <= dropout < 1:
        raise ValueError(f"layers must be 2 or 3, hidden, epochs and batch_size at least 1 and dropout in [0, 1), got {layers}, {hidden}, {epochs}, {batch_size} and {dropout}")
    if train_x.ndim != 2 or test_x.ndim != 2 or train_x.shape[1] != test_x.shape[1] or len(train_x) != len(train_y) or len(test_x) != len(test_y) or not len(test_x):
        raise ValueError(f"features are {train_x.shape} for {len(train_y)} labels and {test_x.shape} for {len(test_y)}; expected [N, D] and [M, D]")
    if not (np.isfinite(train_x).all() and np.isfinite(test_x).all()):
        raise ValueError("a feature is not finite")
    if len(train_y) < 2 or train_y.min() < 0:
        raise ValueError("there must be at least two training rows, all labelled (0 or above): select the labelled rows first")
