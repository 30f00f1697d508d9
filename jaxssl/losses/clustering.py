"""Clusters of all images as labels: k-means over a memory bank (DeepCluster v2), and equal shares of it (SeLa v2). What is found carries no gradient.

DeepCluster: Caron et al. 2018, "Deep clustering for unsupervised learning of visual features". SeLa: Asano, Rupprecht and Vedaldi 2020, "Self-labelling via
simultaneous clustering and representation learning", section 3. Their second versions: Caron et al. 2020, "Unsupervised learning of visual features by
contrasting cluster assignments" (SwAV), section 4.1 and appendix. SMoG: Pang et al. 2022, "Unsupervised visual representation learning by synchronous momentum
grouping".

A bank is [N, K]: a row an image, `weight` [N] 1 where there is one and 0 elsewhere. Everything is computed in float32, in parts of the rows that each lie on all devices,
so that [N, C] is never held.
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.bank import parts
from jaxssl.losses.unit import EXACT, normalised


def hard_cross_entropy(logits, labels, *, temperature):
    """Cross entropy of every view with its image's label, mean over images, views and heads.

        loss = 0
        for b, v, h in images, views, heads:
            loss -= log_softmax(logits[b, v, h] / temperature)[labels[b, h]]
        loss /= B * V * H

    Args: logits: [B, V, H, C], any float type. labels: [B, H] int. temperature: > 0.
    Returns: scalar f32, at least 0.
    Raises: ValueError for shapes that do not fit.
    """
    if logits.ndim != 4 or labels.shape != (logits.shape[0], logits.shape[2]):
        raise ValueError(f"logits have shape {logits.shape} and labels {labels.shape}; expected [B, V, H, C] and [B, H]")
    logits = logits.astype(jnp.float32) / temperature
    own = jnp.take_along_axis(logits, labels[:, None, :, None], -1)[..., 0]                 # [B, V, H]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - own)


def spherical_kmeans(bank, weight, centroids, *, iterations):
    """Centroids of unit length after so many iterations of k-means by cosine.

        for _ in range(iterations):
            nearest = [argmax(centroids @ row) for row in bank]
            for c in range(C):
                if some row of weight 1 is nearest to c:
                    centroids[c] = unit(mean of these rows)

    A centroid that no row is nearest to stays where it is (as in the official code of DeepCluster v2, which starts from rows drawn at random).
    Args: bank: [N, K]. weight: [N]. centroids: [C, K], where it starts. iterations: 0 or more.
    Returns: [C, K] f32.
    """
    bank, centroids = lax.stop_gradient((bank, normalised(centroids)))

    def iterate(_, centroids):
        def add(total, part):
            rows, weight = part
            nearest = jnp.argmax(_cosines(rows, centroids), -1)
            share = jax.nn.one_hot(nearest, len(centroids)) * weight[:, None]               # [n, C]
            return total + jnp.einsum("nc,nk->ck", share, rows, precision=EXACT), None
        sums = lax.scan(add, jnp.zeros(centroids.shape), parts(bank, weight))[0]
        return jnp.where(jnp.any(sums != 0, -1, keepdims=True), normalised(sums), centroids)
    return lax.fori_loop(0, iterations, iterate, centroids)


def drawn_rows(key, bank, weight, former):
    """[C, K] different rows of weight 1 of the bank, drawn at random; where there are fewer than C, the rest of `former` [C, K]."""
    count = min(len(former), len(bank))
    rank, chosen = lax.top_k(jnp.where(weight > 0, jax.random.uniform(key, weight.shape), -1.), count)
    return jnp.concatenate([jnp.where(rank[:, None] >= 0, bank[chosen], former[:count]), former[count:]])


def equal_shares(bank, weight, prototypes, *, temp, iterations):
    """What to add to a row's logits so that all prototypes get equal shares of the bank: Sinkhorn-Knopp on exp(cosines / temp), as in `distillation.sinkhorn`.

        Q = exp(bank @ prototypes.T / temp)                # [N, C], rows of weight 1
        for _ in range(iterations):
            Q = Q / (Q.sum over rows) / C
            Q = Q / (Q.sum over prototypes) / N
        shift = log(what the columns of Q were multiplied by in all)

    Q is softmax(cosines / temp + shift), so `nearest` finds a row's largest share without [N, C] ever being there.
    Args: bank: [N, K]. weight: [N]. prototypes: [C, K] of unit length. temp: > 0. iterations: at least 1.
    Returns: [C] f32, its mean 0; where no row has weight, 0.
    """
    bank, prototypes = lax.stop_gradient((bank, prototypes))

    def iterate(i, shift):
        def add(total, part):
            rows, weight = part
            logits = _cosines(rows, prototypes) / temp                                      # [n, C]
            scaled = jnp.where(i > 0, jax.nn.logsumexp(logits + shift, -1), 0.)             # the first time rows are as they come
            return jnp.logaddexp(total, jax.nn.logsumexp(logits + (jnp.log(weight) - scaled)[:, None], 0)), None
        shift = -lax.scan(add, jnp.full(len(prototypes), -jnp.inf), parts(bank, weight))[0]
        return shift - shift.mean()
    return jnp.where(weight.any(), lax.fori_loop(0, iterations, iterate, jnp.zeros(len(prototypes))), 0.)


def momentum_groups(groups, z, *, momentum):
    """Groups moved towards the embeddings that belong to them (SMoG, section 3.2); gradient flows to z, none to the groups.

        for c in range(C):
            own = [row for row in z if argmax(cosine(row, g) for g in groups) == c]
            if own:
                groups[c] = momentum * groups[c] + (1 - momentum) * mean(own)

    Args: groups: [C, K], z: [B, K], of one scale. Returns: [C, K] f32.
    """
    groups, z = lax.stop_gradient(groups.astype(jnp.float32)), z.astype(jnp.float32)
    own = jax.nn.one_hot(jnp.argmax(_cosines(lax.stop_gradient(z), normalised(groups)), -1), len(groups))             # [B, C]
    count = own.sum(0)[:, None]
    mean = jnp.einsum("bc,bk->ck", own, z, precision=EXACT) / jnp.maximum(count, 1)
    return jnp.where(count > 0, momentum * groups + (1 - momentum) * mean, groups)


def nearest(rows, centroids, shift=0., temp=1.):
    """rows [B, K], centroids [C, K] → [B] int: of the largest cosine / temp + shift; shift: [C], as `equal_shares` gives it."""
    return jnp.argmax(_cosines(rows, centroids) / temp + shift, -1)


def _cosines(rows, centroids):
    return jnp.einsum("nk,ck->nc", rows, centroids, precision=EXACT)
