"""Triplets of an anchor, a positive and a negative, all of them, without a list of them.

Triplet: Schroff, Kalenichenko and Philbin 2015, "FaceNet"; smooth: Hermans, Beyer and Leibe 2017, "In defense of the triplet loss"; swap: Balntas et al. 2016, "Learning local
feature descriptors with triplets and shallow convolutional neural networks". The φ/ψ family: Tian 2022, see jaxssl.losses.unified.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.metric.pairs import answer, in_blocks, logsumexp, mean, over_positives, pairs, picked, product, root, triplets


class Chosen(NamedTuple):
    """Which triplets a loss is to see: keep(d(i, j) [B, 1], d(i, k) [B, R], d(j, k) [B, R]) -> [B, R] bool. across: it reads d(j, k), which is None otherwise."""
    keep: Callable
    across: bool = False


@in_blocks
def triplet(z, label, *, id=None, reference=None, weight=None, metrics=False, margin=.05, smooth=False, swap=False, only=None):
    """The positive nearer than the negative by a margin, over all triplets; in rounds.

        terms = [max(0, d(i, j) - d(i, k) + margin) for i, j, k in triplets]      # i, j of one class, k of another
        loss = mean(x for x in terms if x > 0)

    Args: margin: distance of unit vectors, in [0, 2]; .05 is PML's, .2 FaceNet's (of squared distances), .1 what tuning finds. smooth: log(1 + e^x) in place of max(0, x), and
    the mean over all triplets. swap: min(d(i, k), d(j, k)) in place of d(i, k), where the positive is nearer to the negative than the anchor is. only: `Chosen`, the triplets that
    count, as of `miners.TRIPLETS`; without gradient.
    As PML's TripletMarginLoss; with references and swap PML reads distances of other rows, here d(j, k) is of the reference's own rows.
    Memory [B, R] of one round of positives; [R, R] more with swap and a reference. B = 4,096 with every triplet runs: three rounds where a class has four images.
    """
    p = pairs(z, label, id, reference, weight)
    d = p.distance()
    floats = {"d": d, "margin": jnp.float32(margin)}
    if swap or only and only.across:
        floats["between"] = between(p, d, reference)

    def round(hit, floats, p):
        d, far = floats["d"], floats["d"]
        if swap:
            far = jnp.minimum(far, floats["between"][hit.argmax(-1)])                     # [B, R], of the positive to the candidates
        violated = picked(d, hit) - far + floats["margin"]
        times = p.anchor[:, None] * picked(p.positive, hit) * p.negative                  # 0 in rows without a hit
        if only:
            near, all, across = lax.stop_gradient((picked(d, hit), d, floats["between"][hit.argmax(-1)] if only.across else None))
            times = times * only.keep(near, all, across)
        term = jax.nn.softplus(violated) if smooth else jax.nn.relu(violated)
        return jnp.where(times > 0, times * term, 0.).sum(), (times * (term > 0)).sum()

    total, active = over_positives(round, p, floats)
    value = total / jnp.where(active > 0, active, 1.)
    return answer(value, p, metrics, active, triplets(p), [(value, active)])


def between(p, d, reference):
    """Distances between all candidates, [R, R]; p, d: `Pairs` and its distances."""
    return d if reference is None else root(jnp.maximum(2 - 2 * product(p.others, p.others), 0))


@in_blocks
def phi_psi(z, label, *, pair, id=None, reference=None, weight=None, metrics=False):
    """The φ/ψ family with labels; in rounds.

        for i in anchors with a positive and a negative:
            loss += mean(phi(sum(psi(cos(i, k) - cos(i, j)) for k in negatives of i)) for j in positives of i)
        loss /= their number

    Args: pair: of `jaxssl.losses.unified`, FAMILY["infonce"](temperature, margin) and others, or a `Pair` of one's own; of plain numbers, not traced ones. On two images a class
    it is `unified.phi_psi`. PML has no such family; its NT-Xent is "infonce" over the temperature, where every anchor has as many positives.
    """
    p = pairs(z, label, id, reference, weight)
    both = p._replace(anchor=p.anchors() * (p.negative > 0).any(-1))

    def round(hit, cosine, p):
        value = pair.psi(jnp.where(p.negative > 0, cosine - picked(cosine, hit), 0.))
        total = logsumexp(value, p.negative) if pair.logs else (value * p.negative).sum(-1)
        times = picked(p.positive, hit)[:, 0]
        live = (times > 0) & (p.anchor > 0)                                               # without a negative φ may be anything
        term = jnp.where(live, times * pair.phi(jnp.where(live, total, 0.)), 0.)
        return term, (p.anchor * times * (term > 0)).sum()

    terms, active = over_positives(round, both, p.cosine)
    count = p.positive.sum(-1)
    value = mean(terms / jnp.where(count > 0, count, 1.), both.anchor)
    return answer(value, p, metrics, active, (both.anchor * count).sum(), [(value, both.anchor.sum())])
