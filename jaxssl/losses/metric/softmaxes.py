"""Shares of a softmax: what a positive has among the negatives.

NT-Xent: Sohn 2016 and Chen et al. 2020, with labels as PML has it. SupCon: Khosla et al. 2020, "Supervised contrastive learning", eq. 2. N-pairs and (N + 1)-tuplets: Sohn 2016,
"Improved deep metric learning with multi-class N-pair loss objective". Tuplet margin: Yu and Tao 2019, "Deep metric learning with tuplet margin loss". NCA: Goldberger et al.
2004, "Neighbourhood components analysis", with the logarithm.
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.metric.pairs import answer, in_blocks, logsumexp, mean, pairs, product, sine


@in_blocks
def nt_xent_labelled(z, label, *, id=None, reference=None, weight=None, metrics=False, temperature=.07):
    """Each positive against the anchor's negatives; other positives are not in the denominator. Mean over positive pairs.

        terms = [-log(exp(cos(i, j) / t) / (exp(cos(i, j) / t) + sum(exp(cos(i, k) / t) for k in negatives of i))) for i, j in positives]
        loss = mean(terms)

    As PML's NTXentLoss, until that saturates: it adds the smallest number of the type to the share, so that in float32 no term is above 87.3 and those that would be have no
    gradient, which temperatures below .023 can reach. `contrastive.nt_xent` keeps all other rows in the denominator.
    """
    p = pairs(z, label, id, reference, weight)
    logits = p.cosine / temperature
    return _of_positives(p, jax.nn.softplus(logsumexp(logits, p.negative)[:, None] - logits), metrics)


@in_blocks
def tuplet(z, label, *, id=None, reference=None, weight=None, metrics=False, margin=5.73, scale=64.):
    """(N + 1)-tuplets: each positive against all negatives, with a slack for the positive's angle. Mean over positive pairs.

        terms = [log(1 + sum(exp(scale * (cos(i, k) - cos(θ(i, j) - margin))) for k in negatives of i)) for i, j in positives]
        loss = mean(terms)

    Args: margin: degrees; 0 with scale 1 is Sohn's (N + 1)-tuplet loss of unit vectors, whose own form is `cookbook_tuplet`.
    As PML's TupletMarginLoss, which is NaN where rounding puts a cosine beyond 1 and has no finite gradient at equal points.
    """
    p = pairs(z, label, id, reference, weight)
    slack = jnp.radians(margin)
    eased = p.cosine * jnp.cos(slack) + sine(p.cosine) * jnp.sin(slack)                                # cos(θ - margin)
    return _of_positives(p, jax.nn.softplus(logsumexp(scale * p.cosine, p.negative)[:, None] - scale * eased), metrics)


@in_blocks
def sup_con(z, label, *, id=None, reference=None, weight=None, metrics=False, temperature=.1):
    """Each positive against all other rows, mean over the anchor's positives outside of the logarithm (L_out), mean over anchors that have one.

        for i in anchors with a positive:
            lse = log(sum(exp(cos(i, k) / t) for k in positives and negatives of i))
            loss += mean(lse - cos(i, j) / t for j in positives of i)
        loss /= their number

    As PML's SupConLoss, except that PML gives 0 to a batch without a negative, and leaves anchors out whose term is not above 0. The formula's value for one class is
    log(positives) at equal points. `contrastive.sup_con` has views [B, V, D] and tiles; its unlabelled images have their own views.
    """
    p = pairs(z, label, id, reference, weight)
    logits = p.cosine / temperature
    own, count = logsumexp(logits, p.positive), p.positive.sum(-1)
    average = (logits * p.positive).sum(-1) / jnp.where(count > 0, count, 1.)
    # lse over both, less the average, without the cancellation that leaves only rounding once the positives have won.
    return _of_anchors(p, own - average + jax.nn.softplus(logsumexp(logits, p.negative) - own), metrics)


@in_blocks
def nca(z, label, *, id=None, reference=None, weight=None, metrics=False, scale=1.):
    """The probability that a neighbour drawn by distance is of the anchor's class: -log, mean over anchors that have a positive.

        for i in anchors with a positive:
            share = {k: exp(-scale * d(i, k) ** 2) for k in positives and negatives of i}
            loss -= log(sum(share[j] for j in positives of i) / sum(share.values()))
        loss /= their number

    As PML's NCALoss. It tells a row from itself by the identity of tensors, so that gathered or copied ones have themselves for a positive, and drops anchors whose share has
    underflowed, the worst; here ids decide, and every anchor counts.
    """
    p = pairs(z, label, id, reference, weight)
    logits = -scale * p.squared()
    return _of_anchors(p, jax.nn.softplus(logsumexp(logits, p.negative) - logsumexp(logits, p.positive)), metrics)


def n_pairs(z, label, *, id=None, reference=None, weight=None, metrics=False, normalise=True):
    """One pair a class, each anchor's positive against the other classes' positives. Mean over classes that have a pair.

        pairs = [(i, j) of the class's lowest id i that has a positive, and the lowest of its positives j, for each class]
        terms = [-log(exp(z[i] @ z[j]) / sum(exp(z[i] @ z[l]) for _, l in pairs)) for i, j in pairs]
        loss = mean(terms)

    Args: id: also the order in which pairs are chosen, so that it does not hang on how a batch is laid out; of equal ones, and with None, the place in the batch. normalise: False
    for the paper's products of z as it comes (it adds the mean squared length to the loss). weight [B, B]: 0 keeps a pair from being chosen, other numbers are not read.
    As PML's NPairsLoss where ids ascend; PML refuses references, whose rows are here the positives.
    """
    p = pairs(z, label, id, reference, weight)
    others, names = (z, id) if reference is None else (reference[0], reference[2])
    allowed = p.positive > 0
    position, age = _positions(id, len(z)), _positions(names, len(others))
    partner = jnp.where(allowed, age, len(others)).argmin(-1)                                             # [B]
    able = allowed.any(-1) & (p.anchor > 0)
    before = (label[:, None] == label) & able & (position < position[:, None])
    chosen = able & ~before.any(-1)
    logits = p.cosine if normalise else product(z.astype(jnp.float32), others.astype(jnp.float32))
    logits = logits[:, partner]                                                                           # [B, B], anchor × partner of an anchor
    rest = chosen & ~jnp.eye(len(z), dtype=bool)
    term = jax.nn.softplus(logsumexp(logits, jnp.where(rest, 1., 0.)) - jnp.diagonal(logits))
    counted = p.anchor * chosen
    return answer(mean(term, counted), p, metrics, (counted * (term > 0)).sum(), counted.sum())


def _positions(id, count):
    """[count], the place of each row in the order of ids; equal ones as they lie."""
    return jnp.arange(count) if id is None else jnp.argsort(jnp.argsort(id, stable=True))


def _of_positives(p, term, metrics):
    """Mean over positive pairs of term [B, R]."""
    times = p.anchor[:, None] * p.positive
    return answer(mean(term, times), p, metrics, lax.stop_gradient(times * (term > 0)).sum(), times.sum())


def _of_anchors(p, term, metrics):
    """Mean over anchors with a positive of term [B]."""
    times = p.anchors()
    return answer(mean(term, times), p, metrics, lax.stop_gradient(times * (term > 0)).sum(), times.sum())
