"""Average precision of the list that an anchor is answered with, made smooth.

FastAP: Cakir et al. 2019, "Deep metric learning to rank". SmoothAP: Brown et al. 2020, "Smooth-AP: smoothing the path towards large-scale image retrieval".
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.metric.pairs import answer, in_blocks, mean, over_positives, pairs, picked


@in_blocks
def fast_ap(z, label, *, id=None, reference=None, weight=None, metrics=False, bins=10):
    """1 - average precision over a soft histogram of squared distances. Mean over anchors that have a positive.

        for i in anchors with a positive:
            for b in range(bins + 1):
                pulse = lambda j: max(0, 1 - |d(i, j) ** 2 - b * 4 / bins| * bins / 4)
                pos[b], all[b] = (sum(pulse(j) for j in set) for set in (positives of i, positives and negatives of i))
            loss += 1 - sum(pos[b] * sum(pos[:b + 1]) / sum(all[:b + 1]) for b in range(bins + 1)) / number of positives of i
        loss /= their number

    As PML's FastAPLoss. One bin at a time: never [bins, B, R].
    """
    p = pairs(z, label, id, reference, weight)
    squared, width = p.squared(), 4 / bins

    @jax.checkpoint
    def counted(middle):
        pulse = jax.nn.relu(1 - jnp.abs(squared - middle) / width)
        return (p.positive * pulse).sum(-1), (p.negative * pulse).sum(-1)

    pos, neg = lax.map(counted, width * jnp.arange(bins + 1, dtype=jnp.float32))                         # [bins + 1, B] each
    below, all = jnp.cumsum(pos, 0), jnp.cumsum(pos + neg, 0)
    count, times = p.positive.sum(-1), p.anchors()
    precision = (pos * below / jnp.where(all > 0, all, 1.)).sum(0) / jnp.where(count > 0, count, 1.)
    term = 1 - precision
    return answer(mean(term, times), p, metrics, lax.stop_gradient(times * (term > 1e-6)).sum(), times.sum())


@in_blocks
def smooth_ap(z, label, *, id=None, reference=None, weight=None, metrics=False, temperature=.01, own=False):
    """1 - average precision with a sigmoid in place of each comparison. Mean over anchors that have a positive, of which a class may have any number; in rounds.

        for i in anchors with a positive:
            above = lambda j, k: sigmoid((cos(i, k) - cos(i, j)) / temperature)
            ranks = [(1 + sum(above(j, k) for k in positives of i but j), sum(above(j, k) for k in negatives of i)) for j in positives of i]
            loss += 1 - mean(pos / (pos + neg) for pos, neg in ranks)
        loss /= their number

    Args: own: True, as in the official code, puts the anchor among its own positives, at cosine 1, which makes every loss smaller.
    PML's SmoothAPLoss is `own`, and right only where a class has as many images as there are classes (it takes the one number for the other), and refuses classes of unequal
    size. Both hold [B, B, B].
    """
    p = pairs(z, label, id, reference, weight)

    def ratio(similarity, positive, negative, s, t, plus):
        above = jax.nn.sigmoid((s - similarity) / t)                                                     # [B, R]
        rank = 1 + (positive * above).sum(-1) + plus
        return rank / (rank + (negative * above).sum(-1))

    def round(hit, floats, p):
        s, t = floats
        mine, times = picked(s, hit), picked(p.positive, hit)[:, 0]
        rest = jnp.where(hit, jnp.maximum(p.positive - 1, 0), p.positive)
        return times * ratio(mine, rest, p.negative, s, t, jax.nn.sigmoid((1 - mine[:, 0]) / t) if own else 0.)

    count, times, t = p.positive.sum(-1), p.anchors(), jnp.float32(temperature)
    total = over_positives(round, p, (p.cosine, t))
    if own:
        total, count = total + ratio(1., p.positive, p.negative, p.cosine, t, 0.), count + 1
    term = 1 - total / jnp.where(count > 0, count, 1.)
    return answer(mean(term, times), p, metrics, lax.stop_gradient(times * (term > 1e-6)).sum(), times.sum())
