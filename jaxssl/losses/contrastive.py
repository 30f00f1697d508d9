"""Contrastive losses: anchors against all other embeddings of the global batch.

NT-Xent: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1.
"""
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxssl.losses.blockwise import negatives_logsumexp, row_softmax
from jaxssl.losses.unit import EXACT, normalised

BATCH_AXES = ("data", "fsdp")


def nt_xent(z, *, temperature=.1, block=0, mesh=None):
    """NT-Xent, mean over all B·V anchors.

    The naive loop (z flattened to rows [B·V, D], images one after another, and normalised):

        loss = 0
        for i in range(B * V):                             # anchor
            others = [j for j in range(B * V) if j != i]
            lse = log(sum(exp(z[i] @ z[j] / temperature) for j in others))
            positives = [j for j in others if j // V == i // V]
            loss += mean(lse - z[i] @ z[j] / temperature for j in positives)
        loss /= B * V

    With V = 2 there is one positive, row i ^ 1, and this is SimCLR's loss, the value that lightly's NTXentLoss and
    solo-learn return; google-research/simclr adds the means of the two views' losses and so returns twice as much.
    With V > 2 the mean over positives is outside the logarithm and the other positives stay in the denominator (the
    L_out of Khosla et al. 2020, eq. 2); solo-learn sums the positives inside it.

    Args:
      z: [B, V, D] embeddings, any scale, any float type; B ≥ 2, V ≥ 2. Normalised as z / max(|z|, 1e-6), as the
        official code does; normalisation, logits and logsumexp are f32.
      temperature: > 0. A number is checked; a traced scalar (a schedule, a learned temperature) is not, and is
        differentiable.
      block: 0 for the dense logits, or rows per tile of the blockwise form, which never holds them: O(B V D + block²)
        memory. Any B works; 512 to 2048 are good values. The loss is the same within 1e-6, the gradient within 1e-5.
      mesh: None, or the mesh over whose axes "data" and "fsdp" B is sharded. Each device then works on its own rows ×
        all columns. Dense: one all-gather of embeddings forward, one reduce-scatter backward; blockwise: one
        all-gather of embeddings forward, one of two numbers a row backward. The value does not depend on it.
    Returns: scalar f32 in [0, 2 / temperature + log(B V - 1)]; identical embeddings give log(B V - 1).
    Raises: ValueError for a wrong rank or type, B < 2, V < 2, temperature ≤ 0, block < 0, or B not divisible by the
      mesh's devices.
    First derivatives only in the blockwise form.
    """
    axes, mesh = _check(z, temperature, block, mesh)
    B, V, _ = z.shape
    u = _scaled(z, temperature)                                             # [B, V, D]
    positives, own = _positives(u)                                          # [B, V, V]
    own_lse = jax.nn.logsumexp(positives, axis=-1)                          # [B, V]; with two views, the one positive
    own_mean = jnp.where(own, 0., positives).sum(-1) / (V - 1)
    u = u.reshape(B * V, -1)                                                # [B V, D] batch-major
    if block:
        # Cosines are bounded, so the logits are; at lower temperatures the running maximum takes over.
        bound = 1 / float(temperature) if _is_number(temperature) and temperature >= 1 / 40 else None
        lse = negatives_logsumexp(u, group=V, block=block, bound=bound, mesh=mesh, axes=axes)
    else:
        lse = _dense_logsumexp(u, V, mesh, axes)
    # lse over positives and negatives, less the positives, without the cancellation: at the end of training the loss
    # is small, and p - 1 for the positive would leave nothing but rounding in its gradient.
    return jnp.mean(own_lse - own_mean + jax.nn.softplus(lse.reshape(B, V) - own_lse))


def contrastive_metrics(z, *, temperature=.1, block=0, mesh=None):
    """How well an anchor finds its own image among the other B·V - 1 embeddings; arguments as in `nt_xent`.

    Costs one more product of all pairs and carries no gradient: leave it out of the steps that are not logged. The
    official code's metrics of these names see the B candidates of the other view only, so they read a little higher.

    Returns: dict of scalars:
      accuracy: share of anchors whose nearest other embedding is a positive, in [0, 1]; a tie with a negative is a
        miss, so a collapsed encoder scores 0.
      entropy: mean entropy of the softmax over candidates, nats, in [0, log(B V - 1)].
    """
    axes, mesh = _check(z, temperature, block, mesh)
    B, V, _ = z.shape
    u = lax.stop_gradient(_scaled(z, temperature))                          # [B, V, D]

    def local(rows, everyone, first):
        return row_softmax(rows, everyone, first, group=V, block=block or B * V)

    highest, total, expected = (
        x.reshape(B, V) for x in _rows_against_all(local, u.reshape(B * V, -1), mesh, axes))
    positives, own = _positives(u)                                          # [B, V, V]
    negatives_lse = highest + jnp.log(total)                                # [B, V]
    lse = jnp.logaddexp(negatives_lse, jax.nn.logsumexp(positives, axis=-1))
    p = jnp.exp(positives - lse[..., None])                                 # [B, V, V]
    mean = jnp.exp(negatives_lse - lse) * expected + jnp.where(own, 0., p * positives).sum(-1)
    # Rounding must not decide a tie: cosines closer than 1e-6 are equal.
    return {"accuracy": jnp.mean(positives.max(-1) > highest + 1e-6 / temperature, dtype=jnp.float32),
            "entropy": jnp.mean(lse - mean)}


def _positives(u):
    """[B, V, D] → logits between the views of an image [B, V, V], -inf at the anchor itself; where that is [V, V]."""
    own = jnp.eye(u.shape[1], dtype=bool)
    return jnp.where(own, -jnp.inf, jnp.einsum("bvd,bwd->bvw", u, u, precision=EXACT)), own


def _scaled(z, temperature):
    """[B, V, D] f32, normalised, over sqrt(temperature): the logits of all pairs are then a plain Gram matrix."""
    return normalised(z) / jnp.sqrt(jnp.asarray(temperature, jnp.float32))


def _dense_logsumexp(u, group, mesh, axes):
    """[n, D] → [n], over rows of other images, with the logits [n, n] (on W devices [n / W, n] each)."""
    def local(rows, everyone, first):
        logits = jnp.dot(rows, everyone.T, precision=EXACT)                 # [R, n]
        anchor, other = (first + jnp.arange(len(rows))) // group, jnp.arange(len(everyone)) // group
        return jax.nn.logsumexp(jnp.where(anchor[:, None] == other, -jnp.inf, logits), axis=-1)

    return _rows_against_all(local, u, mesh, axes)


def _rows_against_all(function, u, mesh, axes):
    """function(rows [R, D], all [n, D], number of the first row) → arrays [R], on each device's rows of u [n, D]."""
    if mesh is None:
        return function(u, u, 0)

    def local(rows):
        everyone = lax.all_gather(rows, axes, tiled=True)                   # [n, D]; its transpose is a reduce-scatter
        return function(rows, everyone, lax.axis_index(axes) * len(rows))

    # Means are taken outside: a mean inside, differentiated inside, would be W times too large on W devices.
    return jax.shard_map(local, mesh=mesh, in_specs=P(axes), out_specs=P(axes))(u)


def _is_number(x):
    return isinstance(x, int | float | np.number)


def _check(z, temperature, block, mesh):
    """The mesh axes of the batch and the mesh, (), None where one device holds everything; ValueError for bad input."""
    if z.ndim != 3:
        raise ValueError(f"z has shape {z.shape}; expected [B, V, D]: images, views, embedding width")
    B, V, _ = z.shape
    if V < 2 or B < 2:
        raise ValueError(f"z has shape {z.shape}: {B} images of {V} views; NT-Xent needs at least 2 images of 2 views")
    if not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(f"z has dtype {z.dtype}; expected a floating type")
    if _is_number(temperature) and not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a number above 0, usually 0.05 to 0.5")
    if block < 0:
        raise ValueError(f"block is {block}; expected 0 (dense logits) or a number of rows per tile, usually 1024")
    if mesh is None or mesh.size == 1:
        return (), None
    axes = tuple(name for name in mesh.axis_names if name in BATCH_AXES)
    shards = int(np.prod([mesh.shape[name] for name in axes]))
    if not axes:
        raise ValueError(f"the mesh has axes {mesh.axis_names}; expected at least one of {BATCH_AXES}")
    if B % shards:
        raise ValueError(f"z holds {B} images, which {shards} devices do not divide; take a multiple of {shards}")
    return axes, mesh
