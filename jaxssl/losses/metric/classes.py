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
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.losses.metric.pairs import logsumexp, mean, pairs, product, root, sine
from jaxssl.losses.unit import EXACT, normalised


class Classes(NamedTuple):
    rows: jax.Array          # [B, D] of unit length
    weights: jax.Array       # [C, D] or [C, K, D] of unit length
    own: jax.Array           # [B, C] bool, the anchor's class
    anchor: jax.Array        # [B], how often the anchor stands
    wrong: jax.Array         # [B] bool, a label that there is no class for


def proxy_nca(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, scale=1.):
    """`nca` with a proxy of each class for candidates. Mean over labelled anchors.

        loss = mean(-log(exp(-scale * d(i, y) ** 2) / sum(exp(-scale * d(i, c) ** 2) for c in classes)) for i with its class y)

    As PML's ProxyNCALoss, which drops anchors whose share underflows to 0. Of unit vectors this is `normalized_softmax` of temperature 1 / (2 scale).
    """
    c = _classes(z, label, weights, 2, reference, weight, mesh)
    return _cross_entropy(c, product(c.rows, c.weights), lambda s: s, 2 * scale, metrics)


def normalized_softmax(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, temperature=.05):
    """Cross entropy of cosines with the classes' directions over a temperature. Mean over labelled anchors.

        loss = mean(-log(softmax([cos(i, c) / temperature for c in classes])[y]) for i with its class y)

    As PML's NormalizedSoftmaxLoss, whose W is [D, C]; so for the losses below.
    """
    c = _classes(z, label, weights, 2, reference, weight, mesh)
    return _cross_entropy(c, product(c.rows, c.weights), lambda s: s, 1 / temperature, metrics)


def cosface(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, margin=.35, scale=64.):
    """Cross entropy of scale * cos(i, c), the own class with scale * (cos(i, y) - margin). Mean over labelled anchors. As PML's CosFaceLoss."""
    c = _classes(z, label, weights, 2, reference, weight, mesh)
    return _cross_entropy(c, product(c.rows, c.weights), lambda s: s - margin, scale, metrics)


def arcface(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, margin=28.6, scale=64.):
    """Cross entropy of scale * cos θ(i, c), the own class with an angle more. Mean over labelled anchors.

        own = cos(θ(i, y) + margin) if θ(i, y) <= π - margin else cos θ(i, y) - margin * sin(margin)

    Args: margin: degrees; 28.6 are half a radian.
    As PML's ArcFaceLoss. Its gradients are not finite at cos θ = ±1, by the arc cosine; here cos(θ + m) is cos θ cos m - sin θ sin m, with the gradient of sin θ 0 at its pole.
    """
    c = _classes(z, label, weights, 2, reference, weight, mesh)
    return _cross_entropy(c, product(c.rows, c.weights), _wider(margin), scale, metrics)


def sub_center_arcface(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, margin=28.6, scale=64.):
    """`arcface` with the nearest of K centres for each class: cos θ(i, c) = max over k of cos(i, weights[c, k]). weights: [C, K, D].

    As PML's SubCenterArcFaceLoss, whose W [D, C K] has a class's centres side by side. One centre at a time: never [B, C, K]. At a tie the first centre has the gradient.
    """
    c = _classes(z, label, weights, 3, reference, weight, mesh)
    nearest = _nearest(c)[1]

    def chosen(k, cosine):
        return jnp.where(nearest == k, cosine, 0.)

    return _cross_entropy(c, _over_centres(c, chosen), _wider(margin), scale, metrics)


def soft_triple(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, scale=20., gamma=.1, margin=.01, center_weight=0.):
    """Cross entropy of a soft maximum over K centres of each class. Mean over labelled anchors. weights: [C, K, D].

        s(i, c) = sum(p * x for p, x in zip(softmax(x / gamma), x)), x = [cos(i, weights[c, k]) for k in range(K)]
        loss = mean(-log(softmax([scale * (s(i, c) - margin * (c == y)) for c in classes])[y]) for i with its class y)
        loss += center_weight / (C K (K - 1)) * sum(d(weights[c, k], weights[c, l]) for c, k < l)

    Args: scale: λ, gamma: γ, margin: δ of the paper. center_weight: τ, which brings superfluous centres together; .2 in the paper, 0 as PML's default.
    As PML's SoftTripleLoss, center_weight with its SparseCentersRegularizer. One centre at a time: never [B, C, K].
    """
    c = _classes(z, label, weights, 3, reference, weight, mesh)
    highest = _nearest(c)[0]

    def shares(k, cosine):
        share = jnp.exp((cosine - highest) / gamma)
        return share, share * cosine

    total, weighed = _over_centres(c, shares)
    C, K, _ = weights.shape
    plus = 0.
    if K > 1 and not (isinstance(center_weight, int | float) and center_weight == 0):
        between = jnp.einsum("ckd,cld->ckl", c.weights, c.weights, precision=EXACT)
        plus = center_weight / (C * K * (K - 1)) * jnp.triu(root(jnp.maximum(2 - 2 * between, 0)), 1).sum()
    return _cross_entropy(c, weighed / total, lambda s: s - margin, scale, metrics, plus)


def proxy_anchor(z, label, weights, *, id=None, reference=None, weight=None, metrics=False, mesh=None, margin=.1, alpha=32.):
    """Each proxy against the batch: mean over classes that the batch has of what pulls, and over all classes of what pushes.

        for c in classes:
            pull[c] = log(1 + sum(exp(-alpha * (cos(i, c) - margin)) for i of class c))
            push[c] = log(1 + sum(exp(alpha * (cos(i, c) + margin)) for i of another class))
        loss = sum(pull) / classes in the batch + sum(push) / C

    As PML's ProxyAnchorLoss; a miner's weights count as elsewhere here, PML adds weight - 1 to the exponent.
    """
    c = _classes(z, label, weights, 2, reference, weight, mesh)
    cosine, times = product(c.rows, c.weights), c.anchor[:, None]
    mine, theirs = times * c.own, times * ~c.own
    pull = jax.nn.softplus(logsumexp(-alpha * (cosine - margin), mine, 0))
    push = jax.nn.softplus(logsumexp(alpha * (cosine + margin), theirs, 0))
    here = (mine > 0).any(0)
    loss = mean(pull, here.astype(jnp.float32)) + push.mean()
    loss = jnp.where((c.wrong & (c.anchor > 0)).any(), jnp.nan, loss)
    active = (here * (pull > 0)).sum() + (push > 0).sum()
    return _answer(c, loss, cosine, metrics, active.astype(jnp.float32), here.sum() + len(weights))


def _classes(z, label, weights, rank, reference, weight, mesh):
    if reference is not None:
        raise ValueError("a loss with weights of classes has no use for a reference; leave it away")
    if weights.ndim != rank or weights.shape[-1] != z.shape[-1]:
        raise ValueError(f"weights have shape {weights.shape} and z {z.shape}; expected {'[C, D]' if rank == 2 else '[C, K, D]'} and [B, D]")
    if weight is not None and weight.shape != z.shape[:1]:
        raise ValueError(f"weight has shape {weight.shape}; expected {z.shape[:1]}: a loss with weights of classes has no pairs to weigh")
    p = pairs(z, label, None, (z[:1], label[:1], None), weight)                           # for its checks, the unit rows and the anchors
    rows, weights, own = p.rows, normalised(weights), label[:, None] == jnp.arange(len(weights))
    if mesh is not None and len(weights) % mesh.size == 0:
        # Each device has all rows and its own classes: maxima and sums of a row over classes are small, and the gradient of a class stays where it is.
        rows = lax.with_sharding_constraint(rows, NamedSharding(mesh, P()))
        weights = lax.with_sharding_constraint(weights, NamedSharding(mesh, P(mesh.axis_names)))
        own = lax.with_sharding_constraint(own, NamedSharding(mesh, P(None, mesh.axis_names)))
    return Classes(rows, weights, own, p.anchor, label >= len(weights))


def _wider(margin):
    """cos θ -> cos(θ + margin), and below θ = π - margin what keeps falling."""
    m = jnp.radians(margin)
    return lambda s: jnp.where(s >= -jnp.cos(m), s * jnp.cos(m) - sine(s) * jnp.sin(m), s - m * jnp.sin(m))


def _cross_entropy(c, cosine, target, scale, metrics, plus=0.):
    """Of scale * cosine [B, C], the own class with target(cosine)."""
    mine = jnp.where(c.own, cosine, 0.).sum(-1)
    term = jax.nn.softplus(logsumexp(scale * cosine, jnp.where(c.own, 0., 1.)) - scale * target(mine))
    term = jnp.where(c.wrong, jnp.nan, term)
    return _answer(c, mean(term, c.anchor) + plus, cosine, metrics, (c.anchor * (term > 0)).sum(), c.anchor.sum())


def _answer(c, loss, cosine, metrics, active, terms):
    if not metrics:
        return loss
    times = c.anchor[:, None]
    return loss, lax.stop_gradient({"active": active, "active_share": active / jnp.where(terms > 0, terms, 1), "positive_pairs": c.anchor.sum(),
                                    "positive_similarity": mean(cosine, times * c.own), "negative_similarity": mean(cosine, times * ~c.own)})


def _over_centres(c, function):
    """Σ over k of function(k, cosines with centre k of each class [B, C]), a tree; nothing of the shape [B, C] is kept for the gradient."""
    one = jax.checkpoint(lambda k, centre: function(k, product(c.rows, centre)))
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0, c.weights[:, 0]))
    K = c.weights.shape[1]
    return lax.scan(lambda sums, x: (jax.tree.map(jnp.add, sums, one(*x)), None), empty, (jnp.arange(K), jnp.moveaxis(c.weights, 1, 0)))[0]


def _nearest(c):
    """The highest cosine of each anchor with a centre of each class, and the centre's number: [B, C] each, without gradient."""
    rows, weights = lax.stop_gradient((c.rows, c.weights))

    def better(best, x):
        k, centre = x
        cosine = product(rows, centre)
        return (jnp.maximum(best[0], cosine), jnp.where(cosine > best[0], k, best[1])), None

    start = (jnp.full(c.own.shape, -2.), jnp.zeros(c.own.shape, jnp.int32))
    return lax.scan(better, start, (jnp.arange(weights.shape[1]), jnp.moveaxis(weights, 1, 0)))[0]
