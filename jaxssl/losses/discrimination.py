"""Instance discrimination by a memory bank of what was said last of each training image, by its number: softmax and noise-contrastive estimation over the bank, and its renewal.

Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination" (NPID), eq. 2 to 8. Misra and van der Maaten 2020, "Self-supervised learning of
pretext-invariant representations" (PIRL), section 3.

A bank is [rows, K] of unit length: row i is image i, and rows from `examples` on are of no image, there so that any number of devices shares it equally.
"""
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.bank import rows
from jaxssl.losses.unit import EXACT, normalised


def random_bank(key, examples, dim):
    """Directions drawn at random, [rows, dim]: what official codes begin with."""
    return normalised(jax.random.normal(key, (rows(examples), dim)))


def softmax(q, bank, *, ids, examples, temperature):
    """Cross entropy of which image each of q is of, over all images of the bank, mean over them (NPID, eq. 2).

        loss = 0
        for b, v in queries:
            logits = [q[b, v] @ bank[i] / temperature for i in range(examples)]
            loss += log(sum(exp(logits))) - logits[ids[b]]
        loss /= B * V

    Args: q: [B, V, K], any scale and float type. bank: no gradient. ids: [B] int, below examples. temperature: > 0.
    Returns: scalar f32. Raises: ValueError for shapes that do not fit.
    """
    q, positive = _positive(q, bank, ids, temperature)                                                                # [B, V, K], [B, V]
    number = jnp.arange(len(bank))
    own = (number == ids[:, None]) | (number >= examples)                                                             # [B, rows]
    logits = jnp.einsum("bvk,mk->bvm", q, lax.stop_gradient(normalised(bank)), precision=EXACT) / temperature
    return jax.nn.softplus(jax.nn.logsumexp(jnp.where(own[:, None], -jnp.inf, logits), -1) - positive).mean()


def nce(q, bank, *, ids, drawn, examples, temperature, log_z):
    """Noise-contrastive estimation of the same softmax from images drawn at random, mean over queries (NPID, eq. 5 to 7).

        loss = 0
        for b, v in queries:
            noise = len(drawn) / examples
            p = [exp(q[b, v] @ bank[i] / temperature) / z for i in (ids[b], *drawn)]
            loss -= log(p[0] / (p[0] + noise))
            loss -= sum(log(noise / (x + noise)) for x, i in zip(p[1:], drawn) if i != ids[b])
        loss /= B * V

    Args: as in `softmax`; drawn: [m] int below examples, of the whole batch. log_z: the logarithm of z, by which the softmax is divided; no gradient.
    Returns: scalar f32. Raises: ValueError for shapes that do not fit.
    """
    q, positive = _positive(q, bank, ids, temperature)
    logits = jnp.einsum("bvk,mk->bvm", q, lax.stop_gradient(normalised(bank[drawn])), precision=EXACT) / temperature   # [B, V, m]
    shift = lax.stop_gradient(log_z) + math.log(len(drawn) / examples)
    against = jnp.where((drawn == ids[:, None])[:, None], 0., jax.nn.softplus(logits - shift))
    return (jax.nn.softplus(shift - positive) + against.sum(-1)).mean()


def estimated_log_z(q, bank, *, drawn, examples, temperature):
    """The logarithm of the softmax's denominator, from the images drawn: log(examples · mean(exp(q @ bank[drawn] / temperature))) (NPID, eq. 8); no gradient."""
    logits = jnp.einsum("bvk,mk->bvm", lax.stop_gradient(normalised(q)), normalised(bank[drawn]), precision=EXACT) / temperature
    return lax.stop_gradient(jax.nn.logsumexp(logits) + math.log(examples / logits.size))


def contrast(q, bank, *, ids, key, negatives, examples, temperature, log_z, step):
    """`softmax` where negatives is 0, else `nce` from as many images drawn by `key`.

    log_z: as `nce` takes it; it is estimated at step 0 and kept. Returns: (loss, log_z).
    """
    if not negatives:
        return softmax(q, bank, ids=ids, examples=examples, temperature=temperature), log_z
    drawn = jax.random.randint(key, (negatives,), 0, examples)
    log_z = jnp.where(step == 0, estimated_log_z(q, bank, drawn=drawn, examples=examples, temperature=temperature), log_z)
    return nce(q, bank, ids=ids, drawn=drawn, examples=examples, temperature=temperature, log_z=log_z), log_z


def renewed(bank, z, ids, momentum):
    """The bank after a step: row i goes to the direction of momentum · row + (1 - momentum) · the mean of what was said of image i; no gradient.

    Args: z: [B, V, K], each over its length; an image's mean is over its views and, where it stands twice in the batch, over both places.
    """
    said = lax.stop_gradient(normalised(z)).mean(1)                                                                   # [B, K]
    same = (ids[:, None] == ids).astype(jnp.float32)
    said = jnp.dot(same, said, precision=EXACT) / same.sum(1, keepdims=True)                                          # equal for equal ids: the order of writing is no matter
    return bank.at[ids].set(normalised(momentum * bank[ids] + (1 - momentum) * said))


def _positive(q, bank, ids, temperature):
    if q.ndim != 3 or bank.ndim != 2 or bank.shape[-1] != q.shape[-1] or ids.shape != q.shape[:1]:
        raise ValueError(f"q has shape {q.shape}, bank {bank.shape}, ids {ids.shape}; expected [B, V, K], [rows, K], [B]")
    q = normalised(q)
    return q, jnp.einsum("bvk,bk->bv", q, lax.stop_gradient(normalised(bank[ids])), precision=EXACT) / temperature
