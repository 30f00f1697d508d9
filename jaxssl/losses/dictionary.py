"""Contrast with a dictionary of keys that carry no gradient: a queue of earlier images (MoCo), or the other images of the batch (MoCo v3).

MoCo: He et al. 2020, "Momentum contrast for unsupervised visual representation learning", eq. 1. MoCo v3: Chen, Xie and He 2021, "An empirical study of
training self-supervised vision transformers", eq. 1 and algorithm 1.

q and k are [B, V, K]: query v of an image has key v of it as its positive, usually of another view. Any scale and float type; computed in float32 over the
global batch, each vector over its length.
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.unit import EXACT, normalised


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
    if queue.ndim != 2 or queue.shape[-1] != q.shape[-1] or ids.shape != q.shape[:1] or queue_ids.shape != queue.shape[:1]:
        raise ValueError(f"queue has shape {queue.shape}, ids {ids.shape}, queue_ids {queue_ids.shape}, q {q.shape}; expected [M, K], [B], [M], [B, V, K]")
    positive = jnp.sum(q * k, -1) / temperature                                                                       # [B, V]
    negative = jnp.einsum("bvk,mk->bvm", q, lax.stop_gradient(normalised(queue)), precision=EXACT) / temperature      # [B, V, M]
    negative = jnp.where((ids[:, None] == queue_ids)[:, None], -jnp.inf, negative)
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
    q, k = _checked(q, k)
    logits = jnp.einsum("bvk,cvk->bvc", q, k, precision=EXACT) / temperature                                          # [B, V, B]
    own = jnp.eye(len(q), dtype=bool)[:, None]
    positive = jnp.sum(q * k, -1) / temperature
    others = jnp.where(own, -jnp.inf, logits)
    loss = jax.nn.softplus(jax.nn.logsumexp(others, -1) - positive)
    return loss.mean(), lax.stop_gradient(jnp.mean(positive > others.max(-1), dtype=jnp.float32))


def enqueue(queue, rows, at):
    """queue [M, …] with its rows `at` to at + n - 1 replaced by rows [n, …], which get no gradient; at: a multiple of n below M, traced or not."""
    return lax.dynamic_update_slice(queue, lax.stop_gradient(rows).astype(queue.dtype), (at,) + (0,) * (queue.ndim - 1))


def _checked(q, k):
    if q.ndim != 3 or q.shape != k.shape:
        raise ValueError(f"q has shape {q.shape} and k {k.shape}; expected the same [B, V, K]")
    return normalised(q), lax.stop_gradient(normalised(k))
