"""Losses that weigh an anchor's pairs against one another: multi-similarity, circle, lifted structure.

Multi-similarity: Wang et al. 2019, "Multi-similarity loss with general pair weighting for deep metric learning". Circle: Sun et al. 2020, "Circle loss: a unified perspective of
pair similarity optimization". Lifted structure: Oh Song et al. 2016, "Deep metric learning via lifted structured feature embedding".
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.metric.pairs import answer, in_blocks, logsumexp, mean, pairs


@in_blocks
def multi_similarity(z, label, *, id=None, reference=None, weight=None, metrics=False, alpha=2., beta=50., base=.5):
    """Soft sums of positives that are too far and negatives that are too near. Mean over all labelled anchors, those with a term of 0 included.

        for i in labelled anchors:
            loss += log(1 + sum(exp(-alpha * (cos(i, j) - base)) for j in positives of i)) / alpha
            loss += log(1 + sum(exp(beta * (cos(i, k) - base)) for k in negatives of i)) / beta
        loss /= their number

    As PML's MultiSimilarityLoss; the official code has the same mean, with beta = 40. The paper's pairs are those that its miner leaves: weight [B, B].
    """
    p = pairs(z, label, id, reference, weight)
    pull = jax.nn.softplus(logsumexp(-alpha * (p.cosine - base), p.positive)) / alpha
    push = jax.nn.softplus(logsumexp(beta * (p.cosine - base), p.negative)) / beta
    term = pull + push
    return answer(mean(term, p.anchor), p, metrics, lax.stop_gradient(p.anchor * (term > 0)).sum(), p.anchor.sum())


@in_blocks
def circle(z, label, *, id=None, reference=None, weight=None, metrics=False, margin=.4, gamma=80.):
    """Each similarity weighed by how far it is from its optimum. Mean over anchors that have both a positive and a negative.

        for i in those anchors:
            pos = sum(exp(-gamma * max(0, 1 + margin - s) * (s - 1 + margin)) for s = cos(i, j), j in positives of i)
            neg = sum(exp(gamma * max(0, s + margin) * (s - margin)) for s = cos(i, k), k in negatives of i)
            loss += log(1 + pos * neg)
        loss /= their number

    No gradient flows through the weights, the max(…). Args: margin, gamma: .4 and 80 for fine-grained retrieval; .25 and 256 for faces.
    As PML's CircleLoss, except that it leaves anchors out of the mean whose term underflows to 0.
    """
    p = pairs(z, label, id, reference, weight)
    s, held = p.cosine, lax.stop_gradient(p.cosine)
    pos = logsumexp(-gamma * jax.nn.relu(1 + margin - held) * (s - 1 + margin), p.positive)
    neg = logsumexp(gamma * jax.nn.relu(held + margin) * (s - margin), p.negative)
    times = p.anchors() * (p.negative > 0).any(-1)
    term = jax.nn.softplus(pos + neg)
    return answer(mean(term, times), p, metrics, lax.stop_gradient(times * (term > 0)).sum(), times.sum())


def lifted_structure(z, label, *, id=None, reference=None, weight=None, metrics=False, neg_margin=1., pos_margin=0.):
    """Each positive pair against all negatives of both its rows. Mean over positive pairs, of half the square.

        for i, j in positives:
            lse = log(sum(exp(neg_margin - d(i, k)) for k in negatives of i) + sum(exp(neg_margin - d(k, j)) for k whose negative j is))
            terms.append(max(0, lse + d(i, j) - pos_margin) ** 2 / 2)
        loss = mean(terms)

    d: distance of unit vectors. As PML's LiftedStructureLoss; with references PML takes row j of the batch for row j of the reference. The paper has no unit vectors.
    """
    p = pairs(z, label, id, reference, weight)
    d = p.distance()
    both = jnp.logaddexp(logsumexp(neg_margin - d, p.negative)[:, None], logsumexp(neg_margin - d, p.negative, 0))         # [B, R]
    term = jnp.square(jax.nn.relu(both + d - pos_margin)) / 2
    times = p.anchor[:, None] * p.positive
    return answer(mean(term, times), p, metrics, lax.stop_gradient(times * (term > 0)).sum(), times.sum())
