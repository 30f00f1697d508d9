"""Contrastive losses: anchors against all other embeddings of the global batch.

NT-Xent: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1. DCL and DCLW: Yeh et al. 2022, "Decoupled contrastive
learning", eq. 5 and 6. SupCon: Khosla et al. 2020, "Supervised contrastive learning", eq. 2. All three are what `_shares` gives, put together in another way, so that
each is dense or in tiles, on one device or many.
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
    _, _, own_lse, own_mean, lse = _shares(z, temperature, block, mesh)
    # lse over positives and negatives, less the positives, without the cancellation: at the end of training the loss
    # is small, and p - 1 for the positive would leave nothing but rounding in its gradient.
    return jnp.mean(own_lse - own_mean + jax.nn.softplus(lse - own_lse))


def dcl(z, *, temperature=.1, sigma=0., block=0, mesh=None):
    """DCL: NT-Xent without the positives in its denominator; DCLW, where sigma is not 0; mean over all B·V anchors.

    The naive loop, z as in `nt_xent`:

        for i in range(B * V):
            lse = log(sum(exp(z[i] @ z[j] / temperature) for j in others of another image))
            loss += mean(lse - w[i, p] * z[i] @ z[p] / temperature for p in positives)
        loss /= B * V

    where w is 1, or in DCLW 2 - exp(z[i] @ z[p] / sigma) / its mean over the anchors of view v and their positives of view w: a pair that is alike already counts
    less (eq. 6). No gradient flows to w. With V = 2 this is lightly's DCLLoss and DCLWLoss; theirs takes w's mean on each device alone.

    Args: sigma: of the von Mises-Fisher weights, .5 in the paper; 0 for none. The others as in `nt_xent`.
    Returns: scalar f32, at most 2 / temperature + log(B V - V) from 0 where w is 1; it has no floor at 0. Raises: as `nt_xent`, and ValueError for sigma < 0.
    """
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}; expected a number above 0, usually 0.5, or 0 for DCL without weights")
    _, positives, _, own_mean, lse = _shares(z, temperature, block, mesh)
    if not sigma:
        return jnp.mean(lse - own_mean)
    V = z.shape[1]
    own = jnp.eye(V, dtype=bool)
    alike = lax.stop_gradient(positives) * (temperature / sigma)                                        # [B, V, V], cosine / sigma
    weights = 2 - len(z) * jax.nn.softmax(jnp.where(own, 0., alike), axis=0)
    return jnp.mean(lse - jnp.where(own, 0., weights * jnp.where(own, 0., positives)).sum(-1) / (V - 1))


def sup_con(z, labels, *, classes, temperature=.1, block=0, mesh=None):
    """SupCon (L_out): all other views of a class are positives; mean over all B·V anchors.

    The naive loop, z as in `nt_xent`:

        for i in range(B * V):
            others = [j for j in range(B * V) if j != i]
            lse = log(sum(exp(z[i] @ z[j] / temperature) for j in others))
            positives = [j for j in others if j // V == i // V or labels[j // V] == labels[i // V] >= 0]
            loss += mean(lse - z[i] @ z[j] / temperature for j in positives)
        loss /= B * V

    An image without a label has its own views for positives, as in `nt_xent`. The sum over a class's positives is a product with the sum of its views, so no array
    of pairs is needed for it either. The official code multiplies by temperature / .07 what stands here; its unlabelled images would be one class.

    Args: labels: [B] int, -1 for none. classes: labels are below it. The others as in `nt_xent`.
    Returns: scalar f32, at least 0 and at most 2 / temperature + log(B V - 1). Raises: as `nt_xent`, and ValueError for labels of another shape.
    """
    if labels.shape != z.shape[:1]:
        raise ValueError(f"labels have shape {labels.shape} and z {z.shape}; expected [B] and [B, V, D]")
    u, _, own_lse, own_mean, lse = _shares(z, temperature, block, mesh)
    known = labels >= 0
    place = jnp.where(known, labels, classes)                                                           # a class of its own for what has none, which is not read
    total = jax.ops.segment_sum(u.sum(1), place, classes + 1)[place]                                    # [B, D], over all views of the class
    count = jax.ops.segment_sum(jnp.ones(len(z)), place, classes + 1)[place] * z.shape[1] - 1           # [B], positives of an anchor
    of_class = (jnp.einsum("bvd,bd->bv", u, total, precision=EXACT) - jnp.square(u).sum(-1)) / count[:, None]
    return jnp.mean(own_lse - jnp.where(known[:, None], of_class, own_mean) + jax.nn.softplus(lse - own_lse))


def contrastive_metrics(z, *, temperature=.1, block=0, mesh=None):
    """How well an anchor finds its own image among the other B·V - 1 embeddings; arguments as in `nt_xent`.

    Costs one more product of all pairs and carries no gradient: leave it out of the steps that are not logged. The
    official code's metrics of these names see the B candidates of the other view only, so they read a little higher.

    Returns: dict of scalars:
      accuracy: share of anchors whose nearest other embedding is a positive, in [0, 1]; a tie with a negative is a
        miss, so a collapsed encoder scores 0.
      entropy: mean entropy of the softmax over candidates, nats, in [0, log(B V - 1)].
    """
    axes, mesh = checked(z, temperature, block, mesh)
    B, V, _ = z.shape
    u = lax.stop_gradient(_scaled(z, temperature))                          # [B, V, D]

    def local(rows, everyone, first):
        return row_softmax(rows, everyone, first, group=V, block=block or B * V)

    highest, total, expected = (
        x.reshape(B, V) for x in rows_against_all(local, u.reshape(B * V, -1), mesh, axes))
    positives, own = _positives(u)                                          # [B, V, V]
    negatives_lse = highest + jnp.log(total)                                # [B, V]
    lse = jnp.logaddexp(negatives_lse, jax.nn.logsumexp(positives, axis=-1))
    p = jnp.exp(positives - lse[..., None])                                 # [B, V, V]
    mean = jnp.exp(negatives_lse - lse) * expected + jnp.where(own, 0., p * positives).sum(-1)
    # Rounding must not decide a tie: cosines closer than 1e-6 are equal.
    return {"accuracy": jnp.mean(positives.max(-1) > highest + 1e-6 / temperature, dtype=jnp.float32),
            "entropy": jnp.mean(lse - mean)}


def _shares(z, temperature, block, mesh):
    """What the losses are made of, arguments as in `nt_xent`: u [B, V, D], scaled so that logits are products; positives [B, V, V]; over an anchor's positives the
    logsumexp and mean, and over its negatives the logsumexp, [B, V] each."""
    axes, mesh = checked(z, temperature, block, mesh)
    B, V, _ = z.shape
    scaled = u = _scaled(z, temperature)                                    # [B, V, D]
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
    return scaled, positives, own_lse, own_mean, lse.reshape(B, V)


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

    return rows_against_all(local, u, mesh, axes)


def rows_against_all(function, u, mesh, axes):
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


def checked(z, temperature, block, mesh):
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
