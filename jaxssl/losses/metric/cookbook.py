"""Contrastive, NCA and (N + 1)-tuplet as "A Cookbook of Self-Supervised Learning" (Balestriero et al. 2023) writes them: sums over pairs and no means, of z as it comes.

They are other numbers than `contrastive`, `nca` and `tuplet`, which practice calls by those names; its triplet is `triplet`'s term, of unit vectors there. They grow with the
batch, so that a rate found for one batch size does not fit another. Pairs are ordered: (i, j) and (j, i) both count.
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.metric.pairs import answer, logsumexp, pairs, product, root


def cookbook_contrastive(z, label, *, id=None, reference=None, weight=None, metrics=False, margin=1.):
    """sum(|z[i] - z[j]| for i, j in positives) + sum(max(0, margin - |z[i] - z[k]|) ** 2 for i, k in negatives): the hinge squared, the distance not. PML has no such form."""
    p = pairs(z, label, id, reference, weight)
    d = root(_squared(z, reference))
    positive, negative = (p.anchor[:, None] * each for each in (p.positive, p.negative))
    short = jax.nn.relu(margin - d)
    loss = (positive * d).sum() + (negative * jnp.square(short)).sum()
    active = lax.stop_gradient((positive * (d > 0)).sum() + (negative * (short > 0)).sum())
    return answer(loss, p, metrics, active, positive.sum() + negative.sum())


def cookbook_nca(z, label, *, id=None, reference=None, weight=None, metrics=False):
    """-sum(exp(-|z[i] - z[j]| ** 2) for i, j in positives) / sum(exp(-|z[k] - z[l]| ** 2) for all labelled k, l): no logarithm.

    One denominator for all, which holds k = l too. In [-1, 0]. PML has no such form."""
    p = pairs(z, label, id, reference, weight)
    kind = label if reference is None else reference[1]
    logits, times = -_squared(z, reference), p.anchor[:, None] * p.positive
    lse = logsumexp(logits.ravel(), (p.anchor[:, None] * (kind >= 0)).ravel())
    loss = -jnp.where(times > 0, times * jnp.exp(jnp.where(times > 0, logits - lse, 0.)), 0.).sum()
    return answer(loss, p, metrics, times.sum(), times.sum())


def cookbook_tuplet(z, label, *, id=None, reference=None, weight=None, metrics=False, beta=0.):
    """-sum(log(exp(z[i] @ z[j]) / sum(exp(z[i] @ z[l]) for k, l in positives)) for i, j in positives) + beta * sum(z ** 2), of labelled rows.

    The denominator is over the second rows of all positive pairs: with one view for z, and the other for reference, every image of the other view. PML has no such form.
    """
    p = pairs(z, label, id, reference, weight)
    x, y = _floats(z, reference)
    logits, times = product(x, y), p.anchor[:, None] * p.positive
    lse = logsumexp(logits, jnp.broadcast_to(times.sum(0), logits.shape))
    term = lse[:, None] - logits
    loss = jnp.where(times > 0, times * term, 0.).sum() + beta * (p.anchor[:, None] * jnp.square(x)).sum()
    return answer(loss, p, metrics, lax.stop_gradient(times * (term > 0)).sum(), times.sum())


def _floats(z, reference):
    x = z.astype(jnp.float32)
    return x, x if reference is None else reference[0].astype(jnp.float32)


def _squared(z, reference):
    """Squared distances of rows as they come, [B, R], of what is left of their mean."""
    x, y = _floats(z, reference)
    x, y = x - lax.stop_gradient(y.mean(0)), y - lax.stop_gradient(y.mean(0))
    return jnp.maximum(jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1) - 2 * product(x, y), 0)
