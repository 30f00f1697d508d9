"""Linear heads on frozen tokens, several learning rates at once: one matrix for all places, its answers enlarged to the pixels before the loss.

DINOv2's dense heads (arXiv 2304.07193, section 7.4): normalised tokens into a 1×1 convolution, AdamW, a warm-up and a linear decay of the rate. Its batch norm takes
mean and deviation of each batch; here they are those of the training set's tokens, once (the same head, without noise).
"""
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxssl.errors import NonFiniteError
from jaxssl.evaluation.dense.windows import interpolation
from jaxssl.evaluation.features.rows import order

_MEASURED = 2**18       # tokens that mean and deviation are taken from, at most


class Heads(NamedTuple):
    """w [L, D, C] and b [L, C], of tokens that are standardised by mean and scale [D]; L heads."""
    w: jax.Array
    b: jax.Array
    mean: jax.Array
    scale: jax.Array

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[B, n, n, D] to [L, B, n, n, C]."""
        x = (tokens.astype(jnp.float32) - self.mean) / self.scale
        return jnp.einsum("byxd,ldc->lbyxc", x, self.w, precision=jax.lax.Precision.HIGHEST) + self.b[:, None, None, None]

    def only(self, head: int) -> "Heads":
        return self._replace(w=self.w[head:head + 1], b=self.b[head:head + 1])


def fit(batches: Iterator[tuple[np.ndarray, np.ndarray]], loss: Callable, *, outputs: int, lrs: tuple[float, ...], steps: int, warmup: int, weight_decay: float,
        mean: np.ndarray, scale: np.ndarray, std: float = .01, seed: int = 0, log: Callable[[str], None] = lambda sentence: None) -> Heads:
    """Trains a head a rate. batches: (tokens [B, n, n, D], targets [B, S, S]), at least `steps` of them. loss(maps [L, B, n, n, C], targets, step) -> [L].

    Naive version of one head: AdamW (.9, .999) of rate lr · min(t / warmup, 1) · (1 - t / steps). Raises: NonFiniteError where every head diverged.
    """
    size = len(mean)
    w = std * jax.random.normal(jax.random.key(seed), (size, outputs))
    heads = Heads(jnp.broadcast_to(w, (len(lrs), size, outputs)), jnp.zeros((len(lrs), outputs)), jnp.asarray(mean), jnp.asarray(scale))
    adam, rates = optax.scale_by_adam(), jnp.asarray(lrs)

    @jax.jit
    def step(params, slots, tokens, targets, t):
        value, grads = jax.value_and_grad(lambda p: loss(heads._replace(w=p[0], b=p[1])(tokens), targets, t).sum())(params)     # heads share nothing
        updates, slots = adam.update(grads, slots)
        rate = rates * jnp.minimum((t + 1) / max(warmup, 1), 1) * (1 - t / steps)
        w, b = (p - rate.reshape(-1, *[1] * (p.ndim - 1)) * (u + (weight_decay * p if p.ndim > 2 else 0)) for p, u in zip(params, updates))
        return (w, b), slots, value
    params = heads.w, heads.b
    slots = adam.init(params)
    for t, (tokens, targets) in zip(range(steps), batches):
        params, slots, value = step(params, slots, tokens, targets, jnp.asarray(t, jnp.float32))
        if t % max(steps // 5, 1) == 0 or t == steps - 1:
            log(f"step {t + 1} of {steps}, loss {float(value) / len(lrs):.4f}")
    if not np.isfinite(np.asarray(params[0])).any():
        raise NonFiniteError(f"every linear head diverged; the lowest rate is {min(lrs):g}: give lower ones")
    return heads._replace(w=params[0], b=params[1])


def standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation f32 [D] of tokens [M, n, n, D], of an even part of the windows where they are many."""
    every = max(x[..., 0].size // _MEASURED, 1)
    flat = x[::every].reshape(-1, x.shape[-1]).astype(np.float32)
    std = flat.std(0, dtype=np.float64)
    return flat.mean(0, dtype=np.float64).astype(np.float32), np.where(std > 1e-8, std, 1).astype(np.float32)


def shuffled(x: np.ndarray, targets: np.ndarray, rows: np.ndarray, *, batch_size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of the windows `rows`, without end, every epoch in another order."""
    size, at = min(batch_size, len(rows)), 0
    while True:
        own = rows[order(seed, at, size, len(rows))]
        yield x[own], targets[own]
        at += size


def cross_entropy(maps: jax.Array, targets: jax.Array, step: jax.Array) -> jax.Array:
    """[L]: mean over the pixels with a class (targets int [B, S, S], -1 = none) of the cross-entropy of maps [L, B, n, n, C] enlarged to them."""
    logits = enlarged(maps, targets.shape[1])
    known = (targets >= 0).astype(jnp.float32)
    picked = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[None, ..., None].astype(jnp.int32), -1)[..., 0]
    return jnp.sum(known * (jax.nn.logsumexp(logits, -1) - picked), (1, 2, 3)) / jnp.maximum(known.sum(), 1)


def enlarged(maps: jax.Array, side: int) -> jax.Array:
    """[..., n, n, C] to [..., S, S, C], linearly."""
    up = interpolation(side, maps.shape[-2])
    return jnp.einsum("Yy,...yxc,Xx->...YXc", up, maps, up)
