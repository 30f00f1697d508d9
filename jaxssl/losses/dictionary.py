"""A dictionary of keys that carry no gradient: a queue of earlier images that repels (MoCo), lends its neighbours (NNCLR, MSF) or is what images are described by
(ISD, ReSSL); or the other images of the batch (MoCo v3).

MoCo: He et al. 2020, "Momentum contrast for unsupervised visual representation learning", eq. 1. MoCo v3: Chen, Xie and He 2021, "An empirical study of
training self-supervised vision transformers", eq. 1 and algorithm 1. NNCLR: Dwibedi et al. 2021, "With a little help from my friends", eq. 2 and algorithm 1. MSF:
Koohpayegani, Tejankar and Pirsiavash 2021, "Mean shift for self-supervised learning", eq. 1. ISD: Tejankar et al. 2021, "ISD: self-supervised learning by iterative
similarity distillation", eq. 1 to 3. ReSSL: Zheng et al. 2021, "ReSSL: relational self-supervised learning with weak augmentation", eq. 4 to 6.

A queue is rows [M, K] and, of the same length, the ids of the images that they are of, -1 for none. Rows of an image itself, from an earlier epoch or from a second
place in the batch, are never its negatives, its neighbours, or what it is described by.

q and k are [B, V, K]: query v of an image has key v of it as its positive, usually of another view. Any scale and float type; computed in float32 over the
global batch, each vector over its length.
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.distillation import distillation_metrics
from jaxssl.losses.unit import EXACT, normalised

LOWEST = -1e4          # in place of a cosine: exp of it over a temperature is 0, and 0 times it is too, where 0 times -inf is NaN


def queue_nce(q, k, queue, *, ids, queue_ids, temperature):
    """InfoNCE of each query over its key and the queue, mean over queries.

        loss = 0
        for b, v in queries:
            others = [queue[m] for m in range(M) if queue_ids[m] != ids[b]]          # never the image itself
            logits = [q[b, v] @ k[b, v], *(q[b, v] @ x for x in others)] / temperature
            loss += log(sum(exp(logits))) - logits[0]
        loss /= B * V

    Args: queue: [M, K], no gradient. ids: [B] int of the images, queue_ids: [M], -1 for a row that is of none. temperature: > 0.
    Returns: (loss, accuracy), scalars f32; accuracy: share of queries nearer to their key than to all of the queue, without gradient.
    Raises: ValueError for shapes that do not fit.
    """
    q, k = _checked(q, k)
    positive = jnp.sum(q * k, -1) / temperature                                                                       # [B, V]
    negative = _similar(q, queue, ids, queue_ids, -jnp.inf) / temperature                                                        # [B, V, M]
    loss = jax.nn.softplus(jax.nn.logsumexp(negative, -1) - positive)
    return loss.mean(), lax.stop_gradient(jnp.mean(positive > negative.max(-1), dtype=jnp.float32))


def batch_nce(q, k, *, temperature):
    """InfoNCE of each query over keys v of all images of the batch, mean over queries.

        loss = 0
        for b, v in queries:
            logits = [q[b, v] @ k[c, v] for c in range(B)] / temperature
            loss += log(sum(exp(logits))) - logits[b]
        loss /= B * V

    Returns: (loss, accuracy), scalars f32; accuracy: share of queries whose nearest key is their own, without gradient. Raises: ValueError for shapes that do not fit.
    """
    return _in_batch(*_checked(q, k), temperature)


def neighbour_nce(neighbours, p, *, temperature):
    """NNCLR's loss: InfoNCE of each neighbour over the predictions v of all images of the batch, mean over images and views.

        loss = 0
        for b, v in neighbours:
            logits = [neighbours[b, v] @ p[c, v] for c in range(B)] / temperature
            loss += log(sum(exp(logits))) - logits[b]
        loss /= B * V

    Args: neighbours: [B, V, K], what `nearest` finds for another view of the image; no gradient. p: [B, V, K] predictions, the only ones with gradient.
    Returns: as `batch_nce`. Raises: ValueError for shapes that do not fit.
    """
    p, neighbours = _checked(p, neighbours)
    return _in_batch(neighbours, p, temperature)


def nearest(z, queue, *, ids, queue_ids, count=1):
    """The `count` rows of other images in the queue that are nearest to each of z [B, V, K], nearest first; without gradient.

    Returns: ([B, V, count, K] of unit length, their cosines [B, V, count]). Raises: ValueError for shapes that do not fit and a queue of fewer rows.
    """
    if not 1 <= count <= len(queue):
        raise ValueError(f"{count} neighbours are asked of a queue of {len(queue)}")

    def next_one(left, _):
        best, at = left.max(-1), left.argmax(-1)
        return jnp.where(jnp.arange(len(queue)) == at[..., None], -3., left), (best, at)

    # One after another, and not by top_k: for that XLA would bring the cosines of the whole batch to every device, [B, V, M].
    _, (similar, found) = lax.scan(next_one, _similar(lax.stop_gradient(normalised(z)), queue, ids, queue_ids, -2.), length=count)
    return jnp.moveaxis(normalised(queue)[found], 0, 2), jnp.moveaxis(similar, 0, 2)                                  # [count, B, V, …] -> [B, V, count, …]


def neighbour_metrics(z, queue, cosine):
    """How near the neighbours are: arguments of `nearest`, and the cosines that it found. No gradient.

    Returns: dict of scalars: neighbour_cosine, the mean of these; neighbour_margin, that less the mean cosine of z with all of the queue, 0 where all point the same way.
    """
    at_large = jnp.mean(lax.stop_gradient(normalised(z)), (0, 1)) @ normalised(queue).mean(0)
    return {"neighbour_cosine": cosine.mean(), "neighbour_margin": cosine.mean() - at_large}


def mean_shift(q, target, neighbours):
    """MSF's loss: squared distance to the target and to its neighbours, mean over them, images and views.

        loss = 0
        for b, v in queries:
            near = [target[b, v], *neighbours[b, v]]
            loss += mean(2 - 2 * cos(q[b, v], x) for x in near)
        loss /= B * V

    Args: q: [B, V, K] predictions. target: [B, V, K]. neighbours: [B, V, n, K], n ≥ 0. Neither of these has a gradient.
    Returns: scalar f32 in [0, 4]. Raises: ValueError for shapes that do not fit.
    """
    q, target = _checked(q, target)
    near = jnp.concatenate([target[:, :, None], lax.stop_gradient(normalised(neighbours))], 2)                        # [B, V, 1 + n, K]
    return jnp.square(q[:, :, None] - near).sum(-1).mean()


def relational(q, k, queue, *, ids, queue_ids, student_temp, teacher_temp):
    """How like the queue's rows a student finds an image should be what a teacher finds: cross entropy of their softmaxes over the queue, mean over images and views.

        loss = 0
        for b, v in queries:
            others = [queue[m] for m in range(M) if queue_ids[m] != ids[b]]
            p = softmax([k[b, v] @ x for x in others] / teacher_temp)
            loss += -sum(p * log_softmax([q[b, v] @ x for x in others] / student_temp))
        loss /= B * V

    This is ReSSL's loss (eq. 6); less the teacher's entropy, which has no gradient, it is ISD's divergence (eq. 3).
    Args: q, k: of student and teacher, k without gradient, or k [B, 1, K] for all views of the student. student_temp, teacher_temp: > 0; the teacher's is the lower
      one, which sharpens.
    Returns: (loss, metrics of `distillation.distillation_metrics` with the queue's rows as prototypes). Raises: ValueError for shapes that do not fit.
    """
    _checked(q[:, :1], k[:, :1])
    q, k = normalised(q), lax.stop_gradient(normalised(k))
    similar = _similar(q, queue, ids, queue_ids, LOWEST)                                                                         # [B, V, M]
    p = jax.nn.softmax(_similar(k, queue, ids, queue_ids, LOWEST) / teacher_temp, -1)
    return -jnp.sum(p * jax.nn.log_softmax(similar / student_temp, -1), -1).mean(), distillation_metrics(similar, p, student_temp=student_temp)


def random_queue(key, size, dim):
    """A queue of `size` directions drawn at random that are of no image: what official codes begin with."""
    return {"keys": normalised(jax.random.normal(key, (size, dim))), "ids": jnp.full((size,), -1, jnp.int32)}


def refilled(queue, k, ids, step):
    """The queue after `step`: its oldest rows replaced by k [B, V, K] of images `ids` [B], each over its length; without gradient. M is a multiple of B · V."""
    B, V, K = k.shape
    return {"keys": enqueue(queue["keys"], normalised(k).reshape(B * V, K), step), "ids": enqueue(queue["ids"], jnp.repeat(ids, V), step)}       # [B, V, K] -> [B·V, K]


def enqueue(queue, rows, step):
    """queue [M, …] whose oldest rows, after steps that each brought n, are replaced by rows [n, …], which get no gradient. M is a multiple of n; step: traced or not."""
    at = step % (len(queue) // len(rows)) * len(rows)                         # not step * n % M, which a long run takes beyond int32
    return lax.dynamic_update_slice(queue, lax.stop_gradient(rows).astype(queue.dtype), (at,) + (0,) * (queue.ndim - 1))


def _checked(q, k):
    if q.ndim != 3 or q.shape != k.shape:
        raise ValueError(f"q has shape {q.shape} and k {k.shape}; expected the same [B, V, K]")
    return normalised(q), lax.stop_gradient(normalised(k))


def _similar(q, queue, ids, queue_ids, own):
    """Cosines of unit vectors q [B, V, K] with the queue's rows, [B, V, M], and `own` where a row is of the image itself."""
    if queue.ndim != 2 or queue.shape[-1] != q.shape[-1] or ids.shape != q.shape[:1] or queue_ids.shape != queue.shape[:1]:
        raise ValueError(f"queue has shape {queue.shape}, ids {ids.shape}, queue_ids {queue_ids.shape}, q {q.shape}; expected [M, K], [B], [M], [B, V, K]")
    similar = jnp.einsum("bvk,mk->bvm", q, lax.stop_gradient(normalised(queue)), precision=EXACT)
    return jnp.where((ids[:, None] == queue_ids)[:, None], own, similar)


def _in_batch(anchors, candidates, temperature):
    """InfoNCE of unit vectors [B, V, K] over candidates v of all images, and the share of anchors whose nearest candidate is their own."""
    logits = jnp.einsum("bvk,cvk->bvc", anchors, candidates, precision=EXACT) / temperature                           # [B, V, B]
    own = jnp.eye(len(anchors), dtype=bool)[:, None]
    positive = jnp.sum(anchors * candidates, -1) / temperature
    others = jnp.where(own, -jnp.inf, logits)
    loss = jax.nn.softplus(jax.nn.logsumexp(others, -1) - positive)
    return loss.mean(), lax.stop_gradient(jnp.mean(positive > others.max(-1), dtype=jnp.float32))
