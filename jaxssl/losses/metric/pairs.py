"""What losses over pairs share: which rows are pairs and how often each stands, sums that are safe where there is nothing to sum, and sums over triplets in rounds."""
import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.unit import EXACT, normalised

PARTS = "parts"        # in place of metrics=True: what `in_blocks` puts together
NONE = -1e30           # logarithm of no terms at all: finite, so that a gradient through it is 0 and not NaN


class Pairs(NamedTuple):
    """B anchors against R candidates, float32; the weights carry no gradient."""
    rows: jax.Array          # [B, D] of unit length
    others: jax.Array        # [R, D]
    cosine: jax.Array        # [B, R]
    positive: jax.Array      # [B, R], how often the pair stands; 0: no pair
    negative: jax.Array      # [B, R]
    anchor: jax.Array        # [B], how often the anchor stands

    def squared(self):
        """Squared distances of the unit vectors, [B, R] in [0, 4]."""
        return jnp.maximum(2 - 2 * self.cosine, 0)

    def distance(self):
        """[B, R] in [0, 2], from the cosines, so that below 1e-3 they are rounding; equal points have the gradient 0."""
        return root(self.squared())

    def anchors(self):
        """[B], `anchor` where there is a positive, else 0."""
        return self.anchor * (self.positive > 0).any(-1)


def pairs(z, label, id=None, reference=None, weight=None):
    """`Pairs` of the arguments that every loss has; ValueError for what does not fit."""
    _checked("z", "label", "id", z, label, id)
    if reference is None:
        others, kind, name, own = z, label, id, jnp.eye(len(z), dtype=bool)
    else:
        others, kind, name, *numbers = reference
        _checked("the reference's z", "label", "id", others, kind, name)
        own = numbers[0][:, None] == jnp.arange(len(others)) if numbers else jnp.zeros((len(z), len(others)), bool)
        if others.shape[1] != z.shape[1]:
            raise ValueError(f"the reference is {others.shape[1]} wide and z {z.shape[1]}; expected the same")
        if (name is None) != (id is None):
            raise ValueError("of batch and reference only one has ids, so no row can be known as itself; give both, or neither")
    if id is not None:
        own |= (id[:, None] == name) & (id >= 0)[:, None]
    anchor, times = jnp.ones(len(z)), 1.
    if weight is not None:
        if weight.shape not in {(len(z),), own.shape}:
            raise ValueError(f"weight has shape {weight.shape}; expected {(len(z),)}, of anchors, or {own.shape}, of pairs")
        weight = lax.stop_gradient(weight.astype(jnp.float32))
        anchor, times = (weight, 1.) if weight.ndim == 1 else (anchor, weight)
    known = (label >= 0)[:, None] & (kind >= 0) & ~own
    alike = label[:, None] == kind
    rows = normalised(z)
    others = rows if reference is None else normalised(others)
    return Pairs(rows, others, product(rows, others), times * (known & alike), times * (known & ~alike), anchor * (label >= 0))


def _checked(what, label_name, id_name, z, label, id):
    if z.ndim != 2 or not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(f"{what} has shape {z.shape} and type {z.dtype}; expected [B, D] of a floating type")
    for name, x in ((label_name, label), (id_name, id)):
        if x is not None and (x.shape != z.shape[:1] or not jnp.issubdtype(x.dtype, jnp.integer)):
            raise ValueError(f"{name} has shape {x.shape} and type {x.dtype}, {what} shape {z.shape}; expected [B] whole numbers: floats would merge classes beyond 2^24")


def product(a, b):
    """[n, D], [m, D] -> [n, m], exact where the platform's own product is not."""
    return jnp.dot(a, b.T, precision=EXACT)


def root(x):
    """Square root of x ≥ 0, with the gradient 0 at 0."""
    there = x > 0
    return jnp.where(there, jnp.sqrt(jnp.where(there, x, 1.)), 0.)


def sine(cosine):
    """sin θ ≥ 0 of cos θ, which rounding may have put beyond 1; its gradient is 0 where θ cannot be told from 0 or π."""
    return root(jnp.maximum(1 - cosine * cosine, 0))


def mean(x, weight):
    """Σ w x / Σ w, 0 where nothing has a weight. Where it has none, x may be anything finite."""
    total = weight.sum()
    return jnp.where(weight > 0, weight * x, 0.).sum() / jnp.where(total > 0, total, 1.)


def active_mean(x, weight):
    """The mean of x over what is above 0, and the weight of that; x ≥ 0."""
    counted = lax.stop_gradient(weight * (x > 0))
    return mean(x, counted), counted.sum()


def logsumexp(x, weight, axis=-1):
    """log Σ w e^x along an axis, NONE where nothing has a weight."""
    there = weight > 0
    highest = lax.stop_gradient(jnp.max(jnp.where(there, x, NONE), axis, keepdims=True))
    highest = jnp.where(highest > NONE, highest, 0.)
    total = jnp.where(there, weight * jnp.exp(jnp.where(there, x - highest, 0.)), 0.).sum(axis)
    some = total > 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1.)) + highest.squeeze(axis), NONE)


def answer(loss, p, metrics, active, terms, parts=None):
    """The loss, or with metrics the loss and what the package's text says of them; active, terms: weights of the terms above 0 and of all.

    parts: [(mean, weight of what it is the mean of)], whose means add up to the loss; by default the loss is the mean over `terms`.
    """
    if not metrics:
        return loss
    positive, negative = (p.anchor[:, None] * each for each in (p.positive, p.negative))
    if metrics == PARTS:
        sums = (active, terms, positive.sum(), negative.sum(), (p.cosine * positive).sum(), (p.cosine * negative).sum())
        means, weights = zip(*(parts or [(loss, terms)]))
        return jnp.stack(means), lax.stop_gradient((jnp.stack(weights), jnp.stack(sums)))
    return loss, lax.stop_gradient({"active": active, "active_share": active / jnp.where(terms > 0, terms, 1.), "positive_pairs": positive.sum(),
                                    "positive_similarity": mean(p.cosine, positive), "negative_similarity": mean(p.cosine, negative)})


def in_blocks(loss):
    """A loss whose terms are of one anchor each, with `block=`: so many anchors are compared with all candidates at a time, forward and backward, and nothing of the shape [B, R] is
    kept; 0 is all at once. The value is the same: what is summed over blocks are sums and counts, never means. Block i takes the rows i, i + n, …, so that each lies on all devices.
    """
    @functools.wraps(loss)
    def blocked(z, label, *, id=None, reference=None, weight=None, metrics=False, block=0, **options):
        B = len(z)
        if not 0 < block < B:
            return loss(z, label, id=id, reference=reference, weight=weight, metrics=metrics, **options)
        pairs(z[:1], label[:1], None if id is None else id[:1], reference)                                   # for its checks
        others = reference or (z, label, id)
        count = -(-B // block)

        def cut(x, fill):
            x = jnp.pad(x, ((0, count * block - B), *((0, 0),) * (x.ndim - 1)), constant_values=fill)
            return jnp.swapaxes(x.reshape(block, count, *x.shape[1:]), 0, 1)                                  # [B, …] -> [count, block, …]

        @jax.checkpoint
        def one(rows):
            candidates = others if reference else (*others, rows["number"])
            return loss(rows["z"], rows["label"], id=rows.get("id"), reference=candidates, weight=rows.get("weight"), metrics=PARTS, **options)

        rows = {"z": cut(z, 0), "label": cut(label, -1), "number": cut(jnp.arange(B), -1), **({} if id is None else {"id": cut(id, -1)}),
                **({} if weight is None else {"weight": cut(lax.stop_gradient(weight), 0)})}
        means, (weights, sums) = lax.map(one, rows)                                                           # [count, parts], [count, parts], [count, 6]
        value, s = sum(mean(means[:, i], weights[:, i]) for i in range(means.shape[1])), sums.sum(0)
        if not metrics:
            return value
        share, positive, negative = (a / jnp.where(n > 0, n, 1.) for a, n in ((s[0], s[1]), (s[4], s[2]), (s[5], s[3])))
        return value, {"active": s[0], "active_share": share, "positive_pairs": s[2], "positive_similarity": positive, "negative_similarity": negative}

    signature = inspect.signature(loss)
    keys = list(signature.parameters.values())
    at = 1 + [p.name for p in keys].index("metrics")
    blocked.__signature__ = signature.replace(parameters=[*keys[:at], inspect.Parameter("block", inspect.Parameter.KEYWORD_ONLY, default=0), *keys[at:]])
    return blocked


def triplets(p):
    """How many triplets there are, with their weights."""
    return (p.anchor * p.positive.sum(-1) * p.negative.sum(-1)).sum()


# ---------------------------------------------------------------- in rounds


def over_positives(function, p, floats):
    """Σ over rounds of function(hit, floats, p): round r is of every anchor's positive number r, so that work and memory are [B, R] a round and as many rounds run as
    the anchor with most positives has; never [B, R, R].

    Args: function: (hit [B, R] bool, True at the round's positive and nowhere in the row of an anchor that has no more, floats, p) → a tree of floats; it may use no traced
    value beside its arguments. floats: a tree of arrays that gradients flow to. p: `Pairs`, without gradient here.
    Returns: the tree. First derivatives only: forward and backward are loops of a number of rounds that is known when they run.
    """
    place = jnp.cumsum(p.positive > 0, -1) * (p.positive > 0)                             # [B, R], from 1; 0: no positive
    return _summed(function, floats, (place, lax.stop_gradient(p)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(function, floats, given):
    place, p = given

    def one(r):
        return function(place == r + 1, floats, p)

    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0))
    return lax.fori_loop(0, place.max(), lambda r, sums: jax.tree.map(jnp.add, sums, one(r)), empty)


def _forward(function, floats, given):
    return _summed(function, floats, given), (floats, given)


def _backward(function, kept, cotangent):
    floats, (place, p) = kept

    def add(r, sums):
        pull = jax.vjp(lambda x: function(place == r + 1, x, p), floats)[1]
        return jax.tree.map(jnp.add, sums, pull(cotangent)[0])

    return lax.fori_loop(0, place.max(), add, jax.tree.map(jnp.zeros_like, floats)), None


_summed.defvjp(_forward, _backward)


def picked(x, hit):
    """[B, R] at the hit of each row, 0 where the row has none: [B, 1]."""
    return jnp.where(hit, x, 0.).sum(-1, keepdims=True)
