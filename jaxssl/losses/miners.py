"""Which pairs a loss of `jaxssl.losses.metric` is to see: one function a miner, each called as

    weight = name(z, label, *, id=None, reference=None, **options)

with the arguments of the losses. weight: [B, B] float32, or [B, R] with a reference, without gradient: how often a pair stands, 0 for one that is left out; of a loss it is the
`weight`. Shapes do not hang on what is found, so that miners run under jit, and they see the global batch. Distances are of unit vectors, in [0, 2]. "PML" is
pytorch-metric-learning 2.9, and "as PML" means that its miner with these options lists the same pairs as often, of several equally far ones perhaps another.

`semi_hard` and `angular` choose triplets. For losses of pairs each pair stands as often as triplets hold it, as PML counts; `metric.triplet` takes the choice itself, by
`only=TRIPLETS[name](…)`, since from weights of pairs it would make triplets that nobody chose.

Multi-similarity: Wang et al. 2019. Batch hard: Hermans, Beyer and Leibe 2017. Easy positives: Xuan, Stylianou and Pless 2020, "Improved embeddings with easy positive triplet
mining". Semi-hard: Schroff, Kalenichenko and Philbin 2015. Distance weighted: Wu et al. 2017. Angular: Wang et al. 2017, "Deep metric learning with angular loss".
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.metric.pairs import over_positives, pairs, picked
from jaxssl.losses.metric.triplets import Chosen, between

STRATEGIES = ("hard", "semi_hard", "easy", "all")


def multi_similarity(z, label, *, id=None, reference=None, epsilon=.1):
    """Negatives nearer than the farthest positive and positives farther than the nearest negative, by a cosine of epsilon more. As PML's MultiSimilarityMiner.

        for i in anchors:
            keep i, k of its negatives if cos(i, k) + epsilon > min(cos(i, j) for j in positives of i)
            keep i, j of its positives if cos(i, j) - epsilon < max(cos(i, k) for k in negatives of i)
    """
    p, positive, negative = _sets(z, label, id, reference)
    farthest = jnp.where(positive, p.cosine, jnp.inf).min(-1, keepdims=True)
    nearest = jnp.where(negative, p.cosine, -jnp.inf).max(-1, keepdims=True)
    return _weight(positive & (p.cosine - epsilon < nearest) | negative & (p.cosine + epsilon > farthest))


def batch_hard(z, label, *, id=None, reference=None):
    """The farthest positive and the nearest negative of each anchor that has both. As PML's BatchHardMiner."""
    return batch_easy_hard(z, label, id=id, reference=reference, positives="hard", negatives="hard")


def batch_easy_hard(z, label, *, id=None, reference=None, positives="easy", negatives="semi_hard"):
    """One positive and one negative of each anchor that has both, or all of one kind.

    Args: positives: "easy" is the nearest, "hard" the farthest, "semi_hard" the farthest that is nearer than the chosen negative. negatives: "easy" is the farthest, "hard" the
    nearest, "semi_hard" the nearest that is farther than the chosen positive. "all": every one, and none of the other kind is left out for want of it.
    As PML's BatchEasyHardMiner without ranges. ValueError for strategies that there are not, and semi_hard on both sides or beside all.
    """
    unknown = [each for each in (positives, negatives) if each not in STRATEGIES]
    if unknown or "semi_hard" in (positives, negatives) and (positives == negatives or "all" in (positives, negatives)):
        raise ValueError(f"positives are {positives!r} and negatives {negatives!r}; choose each of {', '.join(STRATEGIES)}, semi_hard of one of them and not beside all")
    p, positive, negative = _sets(z, label, id, reference)
    d = 1 - p.cosine                                     # in the order of distances

    def chosen(among, farthest):
        """[B, R], one a row at most; and its distance [B, 1]."""
        at = jnp.where(among, d if farthest else -d, -jnp.inf).argmax(-1)
        one = among & (jnp.arange(d.shape[1]) == at[:, None])
        return one, picked(d, one)

    far = {"easy": False, "hard": True, "semi_hard": True}
    if positives == "semi_hard":
        negative, limit = chosen(negative, negatives == "easy")
        positive = chosen(positive & (d < limit) & negative.any(-1, keepdims=True), True)[0]
    else:
        if positives != "all":
            positive, limit = chosen(positive, far[positives])
        if negatives == "semi_hard":
            negative = negative & (d > limit) & positive.any(-1, keepdims=True)
        if negatives != "all":
            negative = chosen(negative, negatives == "easy")[0]
    if "all" not in (positives, negatives):
        both = positive.any(-1, keepdims=True) & negative.any(-1, keepdims=True)
        positive, negative = positive & both, negative & both
    return _weight(positive | negative)


def semi_hard(z, label, *, id=None, reference=None, band=.2):
    """Triplets whose negative is farther than the positive, but by less than `band`. As PML's TripletMarginMiner(band, "semihard")."""
    return _counted(z, label, id, reference, TRIPLETS["semi_hard"](band=band))


def angular(z, label, *, id=None, reference=None, angle=20.):
    """Triplets whose negative sees half of the line between anchor and positive, from its middle, under more than `angle` degrees. As PML's AngularMiner of unit rows; it takes
    them as they come, whatever its distance says.

        keep i, j, k if atan(d(i, j) / (2 * |z[k] - (z[i] + z[j]) / 2|)) > angle
    """
    return _counted(z, label, id, reference, TRIPLETS["angular"](angle=angle))


def distance_weighted(z, label, *, id=None, reference=None, cutoff=.5, nonzero=1.4):
    """Every positive, and for each of them one negative drawn by how rare its distance is: the share of draws that each negative gets, so that nothing is drawn.

        for i in anchors:
            share = {k: 1 / (d ** (D - 2) * (1 - d ** 2 / 4) ** ((D - 3) / 2)) for d = max(d(i, k), cutoff), k in negatives of i if d(i, k) < nonzero}
            weight[i, k] = share[k] / sum(share.values()) * number of positives of i

    An anchor without a negative within `nonzero` has no pairs. PML's DistanceWeightedMiner, and the paper, draw one triplet a positive from these shares: this is the mean over
    all draws, equal on every device and at every repetition.
    """
    p, positive, negative = _sets(z, label, id, reference)
    D, squared = z.shape[1], p.squared()
    near = negative & (squared < nonzero * nonzero)
    squared = jnp.where(near, jnp.maximum(squared, cutoff * cutoff), 1.)
    share = jax.nn.softmax(jnp.where(near, -(D - 2) / 2 * jnp.log(squared) - (D - 3) / 2 * jnp.log1p(-squared / 4), -1e30), -1)
    able = near.any(-1, keepdims=True)
    return _weight(able * (positive + jnp.where(near, share, 0.) * positive.sum(-1, keepdims=True)))


def pair_margin(z, label, *, id=None, reference=None, far=.2, near=.8):
    """Positives farther than `far` and negatives nearer than `near`. As PML's PairMarginMiner, which calls them pos_margin and neg_margin."""
    p, positive, negative = _sets(z, label, id, reference)
    d = p.distance()
    return _weight(positive & (d > far) | negative & (d < near))


# name -> function of the miner's options that gives the choice of triplets for `metric.triplet`.
TRIPLETS = {
    "semi_hard": lambda *, band=.2: Chosen(lambda near, far, across: (far > near) & (far < near + band)),
    # the middle of anchor and positive: |k - m|² = |k - i|² / 2 + |k - j|² / 2 - |i - j|² / 4
    "angular": lambda *, angle=20.: Chosen(lambda near, far, across: near ** 2 > 4 * jnp.tan(jnp.radians(angle)) ** 2 * (far ** 2 / 2 + across ** 2 / 2 - near ** 2 / 4), True),
}


def _sets(z, label, id, reference):
    """The pairs, without gradient, and which there are, [B, R] bool each."""
    p = lax.stop_gradient(pairs(z, label, id, reference))
    return p, p.positive > 0, p.negative > 0


def _weight(x):
    return lax.stop_gradient(x.astype(jnp.float32))


def _counted(z, label, id, reference, chosen):
    """How many of the chosen triplets hold each pair; in rounds."""
    p, _, _ = _sets(z, label, id, reference)
    d = p.distance()
    floats = {"d": d, **({"between": between(p, d, reference)} if chosen.across else {})}

    def round(hit, floats, p):
        d = floats["d"]
        kept = hit.any(-1, keepdims=True) & (p.negative > 0) & chosen.keep(picked(d, hit), d, floats["between"][hit.argmax(-1)] if chosen.across else None)
        return kept + jnp.where(hit, kept.sum(-1, keepdims=True), 0).astype(jnp.float32)

    return _weight(over_positives(round, p, floats))
