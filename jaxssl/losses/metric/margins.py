"""Pairs against fixed thresholds: contrastive, signal to noise, margin, threshold-consistent margin.

Contrastive: Hadsell, Chopra and LeCun 2006, "Dimensionality reduction by learning an invariant mapping", with a hinge that is not squared and a margin for positives too, as
Musgrave et al. 2020 tune it. SNR: Yuan et al. 2019, "Signal-to-noise ratio: a robust distance metric for deep metric learning". Margin: Wu et al. 2017, "Sampling matters in
deep embedding learning". TCM: Zhang et al. 2024, "Threshold-consistent margin loss for open-world deep metric learning".
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.metric.pairs import active_mean, answer, in_blocks, mean, pairs, product


@in_blocks
def contrastive(z, label, *, id=None, reference=None, weight=None, metrics=False, pos_margin=0., neg_margin=1.):
    """Positives nearer than one distance, negatives beyond another.

        pos = [max(0, d(i, j) - pos_margin) for i, j in positives]
        neg = [max(0, neg_margin - d(i, j)) for i, j in negatives]
        loss = mean(x for x in pos if x > 0) + mean(x for x in neg if x > 0)

    d: distance of unit vectors. As PML's ContrastiveLoss. The mean over what is active stays near the margin while less and less is: read `active` with it.
    """
    p = pairs(z, label, id, reference, weight)
    return _hinges(p, p.distance(), pos_margin, neg_margin, metrics)


@in_blocks
def snr_contrastive(z, label, *, id=None, reference=None, weight=None, metrics=False, pos_margin=0., neg_margin=1., zero_mean=0.):
    """`contrastive` with the noise-to-signal ratio for distance, which is not symmetric; zero_mean times the mean over labelled anchors of |Σ_k z_ik| is added.

        d(i, j) = var(u_i - u_j) / var(u_i)          # over the D numbers of unit vectors

    As PML's SignalToNoiseRatioContrastiveLoss, which holds [B, B, D]; here it is a product. zero_mean is its ZeroMeanRegularizer, of z as it comes. A row of equal numbers
    has no variance and counts nowhere as an anchor; PML's loss is then not finite.
    """
    p = pairs(z, label, id, reference, weight)
    a, b = (x - x.mean(-1, keepdims=True) for x in (p.rows, p.others))
    signal, other = jnp.square(a).sum(-1, keepdims=True), jnp.square(b).sum(-1)
    heard = signal > 1e-12
    p = p._replace(positive=p.positive * heard, negative=p.negative * heard)
    ratio = jnp.maximum(signal + other - 2 * product(a, b), 0) / jnp.where(heard, signal, 1.)
    plus = zero_mean * mean(jnp.abs(z.astype(jnp.float32).sum(-1)), p.anchor)
    return _hinges(p, ratio, pos_margin, neg_margin, metrics, (plus, p.anchor.sum()))


@in_blocks
def threshold_consistent_margin(z, label, *, id=None, reference=None, weight=None, metrics=False, pos_margin=.9, neg_margin=.5, pos_weight=1., neg_weight=1.):
    """Cosines of positives above one threshold, of negatives below another: a regulariser that makes one threshold fit all classes; alone or added to any loss.

        pos = [pos_margin - cos(i, j) for i, j in positives if cos(i, j) <= pos_margin]
        neg = [cos(i, j) - neg_margin for i, j in negatives if cos(i, j) >= neg_margin]
        loss = pos_weight * mean(pos) + neg_weight * mean(neg)

    As PML's ThresholdConsistentMarginLoss without references; PML reads the batch in a reference's place, here the reference is read.
    """
    p = pairs(z, label, id, reference, weight)
    return _hinges(p, -p.cosine, -pos_margin, -neg_margin, metrics, times=(pos_weight, neg_weight))


@in_blocks
def margin(z, label, *, id=None, reference=None, weight=None, metrics=False, beta=1.2, margin=.2, nu=0.):
    """Positives nearer than beta - margin, negatives beyond beta + margin, each pair as often as triplets hold it.

        terms = [x for i, j, k in triplets for x in (max(0, d(i, j) - beta[i] + margin), max(0, beta[i] - d(i, k) + margin))]
        loss = sum(terms) / count(x > 0 for x in terms) + nu * beta

    Args: beta: a number, or [C] by class of the anchor (then Σ over triplets of nu * beta[i] is added to the sum); it may be learned. margin: α of the paper. nu: what a large
    beta costs, with one that is learned.
    As PML's MarginLoss. The paper counts pairs, drawn by their distance; a miner's weights do that.
    """
    p = pairs(z, label, id, reference, weight)
    beta = jnp.asarray(beta, jnp.float32)
    if beta.ndim > 1:
        raise ValueError(f"beta has shape {beta.shape}; expected a number, or [C] by class")
    by_class = beta.ndim == 1
    at = jnp.where(label < len(beta), beta[jnp.clip(label, 0, len(beta) - 1)], jnp.nan)[:, None] if by_class else beta
    positives, negatives = (x.sum(-1, keepdims=True) for x in (p.positive, p.negative))
    d, triplets = p.distance(), p.anchor[:, None] * positives * negatives                                            # [B, 1]
    found = []
    for term, times in ((d - at + margin, p.positive * negatives), (at - d + margin, p.negative * positives)):
        times = p.anchor[:, None] * times
        found.append((jnp.where(times > 0, times * jax.nn.relu(term), 0.).sum(), (times * (lax.stop_gradient(term) > 0)).sum(), times.sum()))
    total, active, terms = map(sum, zip(*found))
    paid = nu * jnp.where(triplets > 0, triplets * at, 0.).sum() if by_class else 0.
    loss = (total + paid) / jnp.where(active > 0, active, 1.)
    fixed = 0. if by_class else nu * jnp.where(triplets.sum() > 0, beta, 0.)
    return answer(loss + fixed, p, metrics, active, terms, [(loss, active), (jnp.float32(fixed), triplets.sum())])


def _hinges(p, distance, pos_margin, neg_margin, metrics, plus=(0., 0.), times=(1., 1.)):
    """Means over positives beyond their margin, and over negatives within theirs."""
    positive, negative = (p.anchor[:, None] * each for each in (p.positive, p.negative))
    near, close = active_mean(jax.nn.relu(distance - pos_margin), positive), active_mean(jax.nn.relu(neg_margin - distance), negative)
    parts = [(times[0] * near[0], near[1]), (times[1] * close[0], close[1]), tuple(map(jnp.float32, plus))]
    return answer(times[0] * near[0] + times[1] * close[0] + plus[0], p, metrics, near[1] + close[1], positive.sum() + negative.sum(), parts)
