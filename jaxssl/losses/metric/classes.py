"""Losses with weights of classes: a softmax over proxies or class directions, with margins.

ProxyNCA: Movshovitz-Attias et al. 2017, "No fuss distance metric learning using proxies", with the positive proxy in the denominator as in ProxyNCA++ (Teh et al. 2020). Proxy
anchor: Kim et al. 2020, "Proxy anchor loss for deep metric learning". Normalised softmax: Zhai and Wu 2019, "Classification is a strong baseline for deep metric learning".
CosFace: Wang et al. 2018. ArcFace: Deng et al. 2019. Sub-centres: Deng et al. 2020, "Sub-center ArcFace". SoftTriple: Qian et al. 2019.

All have the signature of the package with `weights` after the label, and may be sharded by batch, by class, or both. With `mesh=` each of its devices has all rows of z and
its share of the classes, where they can be shared equally: weights are never gathered, nor their gradients summed over devices; no number depends on it.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.losses.metric.pairs import NONE, logsumexp, mean, pairs, product, root, sine
from jaxssl.losses.unit import EXACT, normalised


LOGITS, LEAST = 2 ** 19, 128         # logits that a device holds at a time: 2 MB, which stay in a cache; and classes, whatever the batch


class Classes(NamedTuple):
    rows: jax.Array          # [B, D] of unit length
    weights: jax.Array       # [C, D] or [C, K, D], as they were given
    label: jax.Array         # [B]
    anchor: jax.Array        # [B], how often the anchor stands
    wrong: jax.Array         # [B] bool, a label that there is no class for
    spread: Mesh | None      # over whose devices the classes are spread


def proxy_nca(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, scale=1.):
    """`nca` with a proxy of each class for candidates. Mean over labelled anchors.

        loss = mean(-log(exp(-scale * d(i, y) ** 2) / sum(exp(-scale * d(i, c) ** 2) for c in classes)) for i with its class y)

    As PML's ProxyNCALoss, which drops anchors whose share underflows to 0. Of unit vectors this is `normalized_softmax` of temperature 1 / (2 scale).
    """
    return _cross_entropy(_classes(z, label, weights, 2, reference, weight, mesh), product, lambda s: s, 2 * scale, metrics)


def normalized_softmax(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, temperature=.05):
    """Cross entropy of cosines with the classes' directions over a temperature. Mean over labelled anchors.

        loss = mean(-log(softmax([cos(i, c) / temperature for c in classes])[y]) for i with its class y)

    As PML's NormalizedSoftmaxLoss, whose W is [D, C]; so for the losses below.
    """
    return _cross_entropy(_classes(z, label, weights, 2, reference, weight, mesh), product, lambda s: s, 1 / temperature, metrics)


def cosface(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, margin=.35, scale=64.):
    """Cross entropy of scale * cos(i, c), the own class with scale * (cos(i, y) - margin). Mean over labelled anchors. As PML's CosFaceLoss."""
    return _cross_entropy(_classes(z, label, weights, 2, reference, weight, mesh), product, lambda s: s - margin, scale, metrics)


def arcface(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, margin=28.6, scale=64.):
    """Cross entropy of scale * cos θ(i, c), the own class with an angle more. Mean over labelled anchors.

        own = cos(θ(i, y) + margin) if θ(i, y) <= π - margin else cos θ(i, y) - margin * sin(margin)

    Args: margin: degrees; 28.6 are half a radian.
    As PML's ArcFaceLoss. Its gradients are not finite at cos θ = ±1, by the arc cosine; here cos(θ + m) is cos θ cos m - sin θ sin m, with the gradient of sin θ 0 at its pole.
    """
    return _cross_entropy(_classes(z, label, weights, 2, reference, weight, mesh), product, _wider(margin), scale, metrics)


def sub_center_arcface(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, margin=28.6, scale=64.):
    """`arcface` with the nearest of K centres for each class: cos θ(i, c) = max over k of cos(i, weights[c, k]). weights: [C, K, D].

    As PML's SubCenterArcFaceLoss, whose W [D, C K] has a class's centres side by side. One centre at a time: never [B, C, K]. At a tie the first centre has the gradient.
    """
    def largest(rows, weights):
        nearest = _nearest(rows, weights)[1]
        return _over_centres(rows, weights, lambda k, cosine: jnp.where(nearest == k, cosine, 0.))

    return _cross_entropy(_classes(z, label, weights, 3, reference, weight, mesh), largest, _wider(margin), scale, metrics)


def soft_triple(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, scale=20., gamma=.1, margin=.01, center_weight=0.):
    """Cross entropy of a soft maximum over K centres of each class. Mean over labelled anchors. weights: [C, K, D].

        s(i, c) = sum(p * x for p, x in zip(softmax(x / gamma), x)), x = [cos(i, weights[c, k]) for k in range(K)]
        loss = mean(-log(softmax([scale * (s(i, c) - margin * (c == y)) for c in classes])[y]) for i with its class y)
        loss += center_weight / (C K (K - 1)) * sum(d(weights[c, k], weights[c, l]) for c, k < l)

    Args: scale: λ, gamma: γ, margin: δ of the paper. center_weight: τ, which brings superfluous centres together; .2 in the paper, 0 as PML's default.
    As PML's SoftTripleLoss, center_weight with its SparseCentersRegularizer. One centre at a time: never [B, C, K].
    """
    def soft(rows, weights):
        highest = _nearest(rows, weights)[0]

        def shares(k, cosine):
            share = jnp.exp((cosine - highest) / gamma)
            return share, share * cosine

        total, weighed = _over_centres(rows, weights, shares)
        return weighed / total

    c = _classes(z, label, weights, 3, reference, weight, mesh)
    C, K, _ = weights.shape
    plus = 0.
    if K > 1 and not (isinstance(center_weight, int | float) and center_weight == 0):
        centres = normalised(c.weights)
        between = jnp.einsum("ckd,cld->ckl", centres, centres, precision=EXACT)
        plus = center_weight / (C * K * (K - 1)) * jnp.triu(root(jnp.maximum(2 - 2 * between, 0)), 1).sum()
    return _cross_entropy(c, soft, lambda s: s - margin, scale, metrics, plus)


def proxy_anchor(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, margin=.1, alpha=32.):
    """Each proxy against the batch: mean over classes that the batch has of what pulls, and over all classes of what pushes.

        for c in classes:
            pull[c] = log(1 + sum(exp(-alpha * (cos(i, c) - margin)) for i of class c))
            push[c] = log(1 + sum(exp(alpha * (cos(i, c) + margin)) for i of another class))
        loss = sum(pull) / classes in the batch + sum(push) / C

    As PML's ProxyAnchorLoss; a miner's weights count as elsewhere here, PML adds weight - 1 to the exponent.
    """
    c = _classes(z, label, weights, 2, reference, weight, mesh)
    own, cosine, times = c.label[:, None] == jnp.arange(len(weights)), product(c.rows, normalised(c.weights)), c.anchor[:, None]
    if c.spread is not None:
        own = lax.with_sharding_constraint(own, NamedSharding(c.spread, P(None, c.spread.axis_names)))
    mine, theirs = times * own, times * ~own
    pull = jax.nn.softplus(logsumexp(-alpha * (cosine - margin), mine, 0))
    push = jax.nn.softplus(logsumexp(alpha * (cosine + margin), theirs, 0))
    here = (mine > 0).any(0)
    loss = mean(pull, here.astype(jnp.float32)) + push.mean()
    loss = jnp.where((c.wrong & (c.anchor > 0)).any(), jnp.nan, loss)
    active = (here * (pull > 0)).sum() + (push > 0).sum()
    return _answer(c, loss, mean(cosine, mine), mean(cosine, theirs), metrics, active.astype(jnp.float32), here.sum() + len(weights))


def _classes(z, label, weights, rank, reference, weight, mesh):
    if reference is not None:
        raise ValueError("a loss with weights of classes has no use for a reference; leave it away")
    if weights.ndim != rank or weights.shape[-1] != z.shape[-1]:
        raise ValueError(f"weights have shape {weights.shape} and z {z.shape}; expected {'[C, D]' if rank == 2 else '[C, K, D]'} and [B, D]")
    if weight is not None and weight.shape != z.shape[:1]:
        raise ValueError(f"weight has shape {weight.shape}; expected {z.shape[:1]}: a loss with weights of classes has no pairs to weigh")
    p = pairs(z, label, None, (z[:1], label[:1], None), weight)                           # for its checks, the unit rows and the anchors
    rows, spread = p.rows, mesh if mesh is not None and len(weights) % mesh.size == 0 else None
    if spread is not None:
        # Each device has all rows and its own classes: maxima and sums of a row over classes are small, and the gradient of a class stays where it is.
        rows = lax.with_sharding_constraint(rows, NamedSharding(mesh, P()))
        weights = lax.with_sharding_constraint(weights, NamedSharding(mesh, P(mesh.axis_names)))
    return Classes(rows, weights, label, p.anchor, label >= len(weights), spread)


def _wider(margin):
    """cos θ -> cos(θ + margin), and below θ = π - margin what keeps falling."""
    m = jnp.radians(margin)
    return lambda s: jnp.where(s >= -jnp.cos(m), s * jnp.cos(m) - sine(s) * jnp.sin(m), s - m * jnp.sin(m))


def _cross_entropy(c, cosines, target, scale, metrics, plus=0.):
    """Of scale * cosine with each class, the own one with target(cosine). cosines(rows [B, D], unit weights of n classes) -> [B, n]."""
    rest, mine, theirs = _in_parts(c, cosines, scale, metrics)
    term = jax.nn.softplus(rest - scale * target(mine))
    term = jnp.where(c.wrong, jnp.nan, term)
    others = len(c.weights) - (c.label >= 0)
    return _answer(c, mean(term, c.anchor) + plus, mean(mine, c.anchor), mean(theirs / jnp.maximum(others, 1), c.anchor * others), metrics, (c.anchor * (term > 0)).sum(),
                   c.anchor.sum())


def _in_parts(c, cosines, scale, metrics):
    """[B] each: log Σ exp(scale * cosine) over the other classes, NONE without one; the cosine with the own class; the sum of those with the others, 0 unless `metrics`.

    A part of the classes at a time, forward and backward, so that nothing of the shape [B, C] is kept: the gradient computes the cosines of a part again.
    """
    C, over = len(c.weights), 1 if c.spread is None else c.spread.size
    size = over * max(LOGITS // len(c.rows), LEAST)
    count = -(-C // size)
    if c.spread is not None:                                                              # parts of equal size on all devices, without moving a class
        count = next((n for n in range(count, 4 * count) if C % (n * over) == 0), 1)
    size = -(-C // count)

    def of(weights, number):
        own, cosine = c.label[:, None] == number, cosines(c.rows, normalised(weights))
        other = jnp.where(own | (number < 0), NONE, scale * cosine)
        rest = jax.nn.logsumexp(other, -1)
        theirs = lax.stop_gradient(jnp.where(own | (number < 0), 0., cosine).sum(-1)) if metrics else jnp.zeros_like(rest)
        return rest, jnp.where(own, cosine, 0.).sum(-1), theirs

    if count == 1:
        return of(c.weights, jnp.arange(C))

    def cut(x, fill):
        x = jnp.pad(x, ((0, count * size - C), *((0, 0),) * (x.ndim - 1)), constant_values=fill)
        if c.spread is None:
            return x.reshape(count, size, *x.shape[1:])                                   # [C, …] -> [count, size, …]
        return jnp.swapaxes(x.reshape(size, count, *x.shape[1:]), 0, 1)                   # a device's classes are in all parts

    rest, mine, theirs = lax.map(lambda part: jax.checkpoint(of)(*part), (cut(c.weights, 0), cut(jnp.arange(C), -1)))
    return jax.nn.logsumexp(rest, 0), mine.sum(0), theirs.sum(0)


def _answer(c, loss, positive, negative, metrics, active, terms):
    if not metrics:
        return loss
    return loss, lax.stop_gradient({"active": active, "active_share": active / jnp.where(terms > 0, terms, 1), "positive_pairs": c.anchor.sum(),
                                    "positive_similarity": positive, "negative_similarity": negative})


def _over_centres(rows, weights, function):
    """Σ over k of function(k, cosines with centre k of each class [B, C]), a tree; nothing of the shape [B, C] is kept for the gradient."""
    one = jax.checkpoint(lambda k, centre: function(k, product(rows, centre)))
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0, weights[:, 0]))
    K = weights.shape[1]
    return lax.scan(lambda sums, x: (jax.tree.map(jnp.add, sums, one(*x)), None), empty, (jnp.arange(K), jnp.moveaxis(weights, 1, 0)))[0]


def _nearest(rows, weights):
    """The highest cosine of each anchor with a centre of each class, and the centre's number: [B, C] each, without gradient."""
    rows, weights = lax.stop_gradient((rows, weights))

    def better(best, x):
        k, centre = x
        cosine = product(rows, centre)
        return (jnp.maximum(best[0], cosine), jnp.where(cosine > best[0], k, best[1])), None

    shape = len(rows), len(weights)
    return lax.scan(better, (jnp.full(shape, -2.), jnp.zeros(shape, jnp.int32)), (jnp.arange(weights.shape[1]), jnp.moveaxis(weights, 1, 0)))[0]
