"""Linear accuracy by a grid of classifiers: learning rates × weight decays × forms of the features × blocks of features, all trained at once.

One pass over the cached features feeds every head, since the heads of a block share one product with it (the protocol of DINOv2, arXiv
2304.07193, section 7.1, which took it from BEiT: SGD with momentum .9, cosine to 0). The head is chosen on a held-out part of the training rows.
"""
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.errors import NonFiniteError
from jaxssl.evaluation.features import rows as cached

FORMS = ("raw", "standard", "white", "l2")
SELECT = ("validation", "test")
RATES = tuple(10 ** (power / 2) for power in range(-6, 7))     # 13 half decades, .001 to 1,000: features of any scale find theirs
DINOV2_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
HELD_OUT = 5                     # one training row in so many chooses the head
MOMENTUM = .9
_JUDGED = 4096                   # rows scored at a time
_CORRELATED = 16                 # rows for each feature, at most, that the correlations are taken from
_RIDGE = 1e-3                    # on the correlations that "white" inverts, so that directions of hardly any variance stay quiet


class Head(NamedTuple):
    """A linear classifier to train.

    block: name of the features. form: what it sees of them: "raw"; "standard", by mean and deviation of the training rows (batch norm without
    a scale, as MAE's probe); "white", standardised and decorrelated, so that a few epochs reach the optimum; "l2", on the unit sphere.
    lr: for a batch of 256, scaled linearly. weight_decay: of the weights, not the bias.
    """
    block: str
    form: str
    lr: float
    weight_decay: float


class Cut(NamedTuple):
    """Where the worst heads drop out: behind this share of the steps, but not before so many steps, the best `heads` of each form go on, or of
    all forms together."""
    share: float
    least: int
    heads: int
    each_form: bool = True


# White heads lead at first and need not at the end, so that forms compete last.
RACE = (Cut(.008, 20, 4), Cut(.032, 80, 2), Cut(.064, 160, 1), Cut(.15, 280, 1, each_form=False))


class Result(NamedTuple):
    """accuracy in [0, 1] and predictions int64 [M] on the test rows by `head`; `scores` [H]: log-likelihood, nats, of all heads on the rows that chose it, each after
    `trained` [H] of the steps; batch_size as used."""
    accuracy: float
    predictions: np.ndarray
    head: Head
    scores: np.ndarray
    trained: np.ndarray
    batch_size: int


class _Block(NamedTuple):
    """The heads of one block: which of the grid they are, int [H]; weights w [H, C, D] and bias b [H, C] with their momentum; lr, weight decay,
    and whether they see raw (or l2) rather than standardised features and whether l2, all [H]; mean and deviation [D] of the training rows.

    The last `white` heads have the metric [D, D], the inverse correlations of the training rows: SGD on white features is SGD on standardised
    ones whose gradient is multiplied by it.
    """
    white: int
    index: np.ndarray
    w: jax.Array
    b: jax.Array
    wm: jax.Array
    bm: jax.Array
    lr: jax.Array
    decay: jax.Array
    raw: jax.Array
    l2: jax.Array
    mean: jax.Array
    scale: jax.Array
    metric: jax.Array | None

    def of(self, keep: np.ndarray) -> "_Block":
        """Only the heads bool [H]."""
        kept = np.flatnonzero(keep)
        per_head = ("index", "w", "b", "wm", "bm", "lr", "decay", "raw", "l2")
        return self._replace(white=int(keep[len(keep) - self.white:].sum()), **{f: getattr(self, f)[kept] for f in per_head})


def make(blocks: Sequence[str], *, lrs: Sequence[float] = RATES, weight_decays: Sequence[float] = (0.,), forms: Sequence[str] = ("raw", "white")) -> tuple[Head, ...]:
    """The grid of every combination; the defaults are 26 heads a block. `lrs=DINOV2_RATES, forms=("raw",)` is DINOv2's."""
    return tuple(Head(block, form, lr, decay) for block in blocks for form in forms for decay in weight_decays for lr in lrs)


def evaluate(train: Mapping[str, np.ndarray], train_y: np.ndarray, test: Mapping[str, np.ndarray], test_y: np.ndarray, *, heads: Sequence[Head], steps: int,
             batch_size: int = 1024, seed: int = 0, select: str = "validation", race: Sequence[Cut] = RACE, mesh: Any = None) -> Result:
    """Accuracy on the test rows of the best head.

    train, test: {block: features f32 [N, D_b]}, {block: [M, D_b]}, memory-mapped or not. labels int [N] in [0, C) and [M].
    steps, batch_size: of each head; a batch larger than the training rows is cut to them. select: "validation" chooses by the log-likelihood of every
    fifth training row of a class, which varies far less from seed to seed than accuracy does, and trains the chosen head again on all of them;
    "test" trains on all and chooses by the accuracy on the test rows, which is what DINOv2 reports and is no honest estimate. race: the worst heads drop
    out early, by their log-likelihood; () trains every head to the end. A head that goes on is trained exactly as it would be alone.
    mesh: devices that share each batch. ValueError for rows that do not fit together, are not finite or unlabelled.
    """
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)
    _check(train, train_y, test, test_y, heads, steps, select, race)
    everything, held = np.arange(len(train_y)), cached.held_out(train_y, HELD_OUT)
    own = select == "validation"
    fit = everything[~held] if own else everything
    judge = ({n: x[held] for n, x in train.items()}, train_y[held]) if own else (test, test_y)
    options = dict(steps=steps, classes=int(train_y.max()) + 1, seed=seed, mesh=mesh)
    size = cached.fitting(batch_size, len(fit), mesh)
    blocks, scores, trained = fit_heads(train, train_y, fit, heads, batch_size=size, judge=judge, race=race, **options)
    final = scores if own else _accuracies(blocks, test, test_y, len(heads))
    best = max(np.concatenate([b.index for b in blocks.values()]), key=lambda h: (final[h], -h))
    head = heads[best]
    if final[best] == -np.inf:
        raise NonFiniteError(f"every head of the grid diverged; the lowest rate is {min(h.lr for h in heads):g}: give lower ones")
    if own:
        blocks, _, _ = fit_heads(train, train_y, everything, [head], batch_size=size, **options)
        best = 0
    block = blocks[head.block]
    predictions = _predictions(block.of(block.index == best), test[head.block])[0]
    return Result(float(np.mean(predictions == test_y)), predictions.astype(np.int64), head, scores, trained, size)


def fit_heads(x: Mapping[str, np.ndarray], y: np.ndarray, rows: np.ndarray, heads: Sequence[Head], *, steps: int, batch_size: int, classes: int, seed: int = 0,
              judge: tuple | None = None, race: Sequence[Cut] = (), mesh: Any = None) -> tuple[dict, np.ndarray, np.ndarray]:
    """Trains `heads` on `rows` of the features and drops the worst on the way; ({name: _Block}, scores [H], steps trained [H]).

    Naive version, for one head and φ its form of the features: W = 0, b = 0; for step t with rows i of the batch: p = softmax(φ(x_i) W + b) - onehot(y_i);
    m = .9 m + φ(x)ᵀ p / B + decay W; W -= lr B/256 (1 + cos(π t / steps))/2 m; likewise b without decay. judge: (features, labels) that score the heads; before the end on
    `_JUDGED` to twice as many of these rows, evenly spread.
    """
    blocks = {name: _start(x[name], rows, heads, name, classes, batch_size) for name in dict.fromkeys(h.block for h in heads)}
    scores, trained = np.full(len(heads), np.nan), np.zeros(len(heads), np.int64)
    cuts = [(min(max(round(cut.share * steps), cut.least), steps), cut) for cut in race]
    at = 0
    while at < steps:
        arrays = {**{name: x[name] for name in blocks}, "": np.asarray(y, np.int32)}
        for first, count, batch in cached.batches(arrays, rows, start=at, stop=steps, batch_size=batch_size, seed=seed, mesh=mesh):
            labels = batch.pop("")
            while at < first + count:
                until = min(cuts[0][0] if cuts else steps, first + count)
                for name, block in blocks.items():
                    w, b, wm, bm = _advance(block[2:], batch[name], labels, at - first, until - first, first, steps, white=block.white)
                    blocks[name] = block._replace(w=w, b=b, wm=wm, bm=bm)
                at = until
                while cuts and cuts[0][0] <= at < steps:
                    _score(blocks, judge, max(len(judge[1]) // _JUDGED, 1), at, scores, trained)        # few rows are enough to drop the worst
                    blocks = _survivors(blocks, heads, scores, cuts.pop(0)[1])
            if len(blocks) < len(batch):
                break                                          # and read on without the features that no head sees any more
    _score(blocks, judge, 1, steps, scores, trained)
    return blocks, scores, trained


def _score(blocks, judge, every, at, scores, trained):
    """Writes the log-likelihood of every `every`th row of judge and the steps trained of the heads that are left."""
    for name, block in blocks.items():
        trained[block.index] = at
        if judge is not None:
            found = _over_rows(_log_likelihood, block, judge[0][name][::every], judge[1][::every]).mean(1)
            scores[block.index] = np.where(np.isnan(found), -np.inf, found)              # of a head that diverged


def _survivors(blocks, heads, scores, cut):
    """The heads with the best scores, of each form or of all, ties to the earlier in the grid."""
    left = sorted(np.concatenate([b.index for b in blocks.values()]), key=lambda h: (-scores[h], h))
    rivals = [[h for h in left if heads[h].form == form] for form in FORMS] if cut.each_form else [left]
    kept = {h for group in rivals for h in group[:cut.heads]}
    found = {name: block.of(np.array([h in kept for h in block.index])) for name, block in blocks.items()}
    return {name: block for name, block in found.items() if len(block.index)}


def _start(x, rows, heads, block, classes, batch_size):
    """Heads at zero: a convex problem may as well start there, and the first logits are then the same for every class."""
    index = np.array(sorted((i for i, h in enumerate(heads) if h.block == block), key=lambda i: heads[i].form == "white"))
    white = sum(heads[i].form == "white" for i in index)
    part = x if len(rows) == len(x) else x[rows]
    mean, scale = cached.standard(part)
    w, b = jnp.zeros((len(index), classes, x.shape[1])), jnp.zeros((len(index), classes))
    column = {name: jnp.asarray([f(heads[i]) for i in index], jnp.float32) for name, f in (
        ("lr", lambda h: h.lr * batch_size / 256), ("decay", lambda h: h.weight_decay), ("raw", lambda h: h.form in ("raw", "l2")), ("l2", lambda h: h.form == "l2"))}
    return _Block(white, index, w, b, w, b, **column, mean=jnp.asarray(mean), scale=jnp.asarray(scale), metric=_metric(part, mean, scale) if white else None)


def _metric(x, mean, scale):
    """Inverse [D, D] of the correlations of evenly spread rows of x [N, D], summed over parts of them, with a little on the diagonal."""
    x = x[::max(len(x) // (_CORRELATED * x.shape[1]), 1)]
    total = sum(_gram(jnp.asarray(x[at:at + _JUDGED]), mean, scale) for at in range(0, len(x), _JUDGED))
    return jnp.asarray(np.linalg.inv(np.asarray(total, np.float64) / len(x) + _RIDGE * np.eye(x.shape[1])), jnp.float32)


@jax.jit
def _gram(x, mean, scale):
    z = (x - mean) / scale
    return _dot(z, z, ((0,), (0,)))


def _dot(a, b, axes):
    return jax.lax.dot_general(a, b, (axes, ((), ())), precision=jax.lax.Precision.HIGHEST)


def _logits(block: tuple, x: jax.Array) -> tuple[jax.Array, ...]:
    """Logits [H, C, B] of every head for rows x [B, D], with what the gradient needs again: standardised rows [B, D], mean and deviation that
    turn these into what a head sees [H, 1, D], and its factor for each row [H, 1, B].

    All heads share one product with the standardised rows z: x = scale z + mean, so W x = (W scale) z + W mean, and l2 divides the sum by |x|.
    """
    w, b, raw, l2, mean, scale = block
    z = (x - mean) / scale
    raw, l2 = raw[:, None, None], l2[:, None, None]
    offset, factor = raw * mean, 1 + raw * (scale - 1)                                                           # [H, 1, D]
    norm = jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=1), 1e-24))
    row = 1 + l2 * (1 / norm - 1)                                                                                # [H, 1, B]
    product = _dot((w * factor).reshape(-1, w.shape[2]), z, ((1,), (1,))).reshape(*b.shape, len(x))              # [H, C, B]
    return (product + jnp.sum(w * offset, -1)[..., None]) * row + b[..., None], z, offset, factor, row


@partial(jax.jit, static_argnames="white")
def _advance(block, x, y, begin, end, first, total, *, white):
    """(w, b, wm, bm) after the batches [begin, end) of x [K, B, D], y [K, B]; the first of the K is the step `first` of `total`."""
    w, b, wm, bm, lr, decay, *form, metric = block
    heads, classes, width = w.shape

    def step(t, state):
        w, b, wm, bm = state
        labels = y[t]
        logits, z, offset, factor, row = _logits((w, b, *form), x[t])
        wrong = (jax.nn.softmax(logits, axis=1) - jax.nn.one_hot(labels, classes, axis=0)) / len(labels)          # [H, C, B]
        gb, wrong = wrong.sum(-1), wrong * row
        # Turned over first, and held so: on CPUs the product is then up to four times as fast for few heads, and never slower.
        columns = jax.lax.optimization_barrier(wrong.reshape(heads * classes, -1).T)                              # [B, H C]
        gw = _dot(columns, z, ((0,), (0,))).reshape(w.shape)                                                      # [H, C, D]
        gw = gw * factor + wrong.sum(-1)[..., None] * offset
        if white:
            gw = jnp.concatenate([gw[:-white], _dot(gw[-white:], metric, ((2,), (0,)))])
        gw = gw + decay[:, None, None] * w
        rate = lr * .5 * (1 + jnp.cos(jnp.pi * (first + t) / total))                                              # [H]
        wm, bm = MOMENTUM * wm + gw, MOMENTUM * bm + gb
        return w - rate[:, None, None] * wm, b - rate[:, None] * bm, wm, bm

    return jax.lax.fori_loop(begin, end, step, (w, b, wm, bm))


@jax.jit
def _classes_of(block, x):
    return jnp.argmax(_logits(block, x)[0], axis=1)                                                               # [H, B]


@jax.jit
def _log_likelihood(block, x, y):
    """Of the labels, in nats, [H, B]; 0 where a label is of no class that was trained."""
    logits = _logits(block, x)[0]                                                                                 # [H, C, B]
    return jnp.sum(jax.nn.log_softmax(logits, axis=1) * jax.nn.one_hot(y, logits.shape[1], axis=0), axis=1)


def _accuracies(blocks, x, y, count):
    """[count] of the heads that are left, NaN of the others."""
    found = np.full(count, np.nan)
    for name, block in blocks.items():
        found[block.index] = np.mean(_predictions(block, x[name]) == y, axis=1)
    return found


def _predictions(block: _Block, x: np.ndarray) -> np.ndarray:
    """Classes int32 [H, N] of the rows x [N, D] by every head."""
    return _over_rows(_classes_of, block, x)


def _over_rows(function, block: _Block, x: np.ndarray, *labels: np.ndarray) -> np.ndarray:
    """function(state, x, …) -> [H, B] for all rows x [N, D] with their labels [N], a part at a time: [H, N]."""
    size, parts = min(_JUDGED, len(x)), []
    state = (block.w, block.b, block.raw, block.l2, block.mean, block.scale)
    for start in range(0, len(x), size):
        own = [np.asarray(a[start:start + size], kind) for a, kind in ((x, np.float32), *((y, np.int32) for y in labels))]
        padded = [np.pad(a, ((0, size - len(a)), *((0, 0),) * (a.ndim - 1))) for a in own]      # one size compiles
        parts.append(np.asarray(function(state, *padded))[:, :len(own[0])])
    return np.concatenate(parts, axis=1)


def _check(train, train_y, test, test_y, heads, steps, select, race):
    if select not in SELECT:
        raise ValueError(f"select is {select!r}; choose one of {', '.join(SELECT)}")
    if not heads or steps < 1:
        raise ValueError(f"a grid needs at least one head and one step, got {len(heads)} and {steps}")
    if len(train_y) < 2 or not len(test_y) or train_y.min() < 0:
        raise ValueError(f"a grid needs at least two labelled training rows and a test row, got {np.sum(train_y >= 0)} of {len(train_y)} and {len(test_y)}")
    for head in heads:
        if head.form not in FORMS or not head.lr > 0 or not head.weight_decay >= 0:
            raise ValueError(f"{head}: the form must be one of {', '.join(FORMS)}, lr above 0 and weight_decay 0 or more")
        if head.block not in train or head.block not in test:
            raise ValueError(f"there are no features {head.block!r}; there are {', '.join(train)}")
    for name in {h.block for h in heads}:
        x, u = train[name], test[name]
        if x.ndim != 2 or u.ndim != 2 or x.shape[1] != u.shape[1] or len(x) != len(train_y) or len(u) != len(test_y):
            raise ValueError(f"features {name!r} are {x.shape} for {len(train_y)} labels and {u.shape} for {len(test_y)}; expected [N, D] and [M, D]")
        if not (np.isfinite(x).all() and np.isfinite(u).all()):
            raise ValueError(f"a feature of {name!r} is not finite")
    if any(not (0 < cut.share < 1 and cut.least >= 0 and cut.heads >= 1) for cut in race):
        raise ValueError(f"a race needs cuts with a share between 0 and 1, least steps of 0 or more and at least one head that goes on, got {race}")
