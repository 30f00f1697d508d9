"""Self-distillation: a student predicts what a teacher says of another view of the same image.

BYOL: Grill et al. 2020, "Bootstrap your own latent", section 3.1, eq. 2. DINO: Caron et al. 2021, "Emerging properties in self-supervised vision
transformers", section 3.1, eq. 1 to 3. Sinkhorn: Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments"
(SwAV), section 3.1, eq. 3 to 5; as DINO's teacher: Oquab et al. 2023, "DINOv2: learning robust visual features without supervision", section 4.

View t of the teacher and view t of the student are the same crop: the teacher sees the first T of the student's V views, and no pair (t, t) is
compared. No gradient flows to what the teacher says, whether or not the caller stopped it. Everything is computed in float32, over the global batch.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxssl.losses.rows import summed
from jaxssl.losses.unit import EXACT, normalised


def cosine_regression(p, z):
    """BYOL's loss: squared distance between the normalised prediction and the normalised target, 2 - 2 cos, mean over pairs of views and images.

    The naive loop:

        loss = 0
        for b in range(B):
            for t in range(T):
                for s in range(V):
                    if s != t:
                        loss += 2 - 2 * cos(p[b, s], z[b, t])
        loss /= B * T * (V - 1)

    With T = V = 2 this is the swap. The paper and its official code add the two views' losses where this takes their mean, so they return twice as
    much; SimSiam's loss (Chen and He 2020, eq. 2) is half of this, less one.

    Args:
      p: [B, V, K] predictions of the student, any scale, any float type; V ≥ 2.
      z: [B, T, K] projections of the teacher, 1 ≤ T ≤ V. Both are normalised as x / max(|x|, 1e-6).
    Returns: scalar f32 in [0, 4]. It is computed from the difference, so that a loss of 1e-6 has its digits; where a vector is zero it is the
      other's squared length, 1, and not 2.
    Raises: ValueError for shapes or types that do not fit.
    """
    pairs = _pairs(p, z)
    p, z = normalised(p), lax.stop_gradient(normalised(z))
    # T is one or two: a target at a time keeps XLA from ever holding [B, T, V, K].
    apart = jnp.stack([jnp.square(p - z[:, t, None]).sum(-1) for t in range(z.shape[1])], 1)  # [B, T, V]
    return _mean_over(pairs, apart)


def cross_entropy(student, teacher, *, student_temp, weights=None):
    """DINO's loss: cross entropy between the teacher's probabilities and the student's softmax, mean over pairs of different views and images.

    The naive loop:

        loss = 0
        for b in range(B):
            for t in range(T):
                for s in range(V):
                    if s != t:
                        loss += -sum(teacher[b, t, k] * log_softmax(student[b, s] / student_temp)[k] for k in range(K))
        loss /= B * T * (V - 1)

    With 2 global and 8 local crops that is 2 × 9 pairs of equal weight, as in the official code. The same function on `sinkhorn` of each view is SwAV's
    swapped prediction. The largest arrays are [B, V, K]; pairs meet in one batched product, never as [B, V, T, K].

    Args:
      student: [B, V, K] logits of all views, the teacher's first (global, then local), any float type; V ≥ 2.
      teacher: [B, T, K] probabilities, as `centered` or `sinkhorn` give them, 1 ≤ T ≤ V. A row of zeros adds nothing and still counts in the mean.
      student_temp: > 0, .1 in the paper. A number is checked; a traced scalar is not.
      weights: None, or one a view of the student, of its pairs in the sum; their number stays what is divided by (DINOv3's weight of local crops).
    Returns: scalar f32, at least the teacher's entropy; at equal logits log K.
    Raises: ValueError for shapes or types that do not fit.
    """
    pairs = _pairs(student, teacher)
    logits = _over(student, student_temp, "student_temp")                                   # [B, V, K]
    teacher = lax.stop_gradient(teacher.astype(jnp.float32))                                # [B, T, K]
    # The maximum is taken away first: what is left of a large logit after logsumexp - logit would be rounding.
    logits = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
    lse = jax.nn.logsumexp(logits, axis=-1)                                                 # [B, V]
    agreement = jnp.einsum("btk,bvk->btv", teacher, logits, precision=EXACT)                # [B, T, V]
    each = teacher.sum(-1)[:, :, None] * lse[:, None] - agreement
    return _mean_over(pairs, each if weights is None else each * jnp.asarray(weights, jnp.float32))


def token_cross_entropy(student, teacher, weight, *, student_temp):
    """iBOT's loss of masked patches: the weighed sum of the cross entropies between what teacher and student say of a patch.

        loss = 0
        for i in range(M):
            loss += weight[i] * -sum(teacher[i, k] * log_softmax(student[i] / student_temp)[k] for k in range(K))

    Args: student: [M, K] logits. teacher: [M, K] probabilities. weight: [M], 0 for rows of padding, which may hold anything.
    Returns: scalar f32.
    Raises: ValueError for shapes that do not fit.
    """
    if student.shape != teacher.shape or weight.shape != student.shape[:1]:
        raise ValueError(f"student, teacher and weight have shapes {student.shape}, {teacher.shape} and {weight.shape}; expected [M, K] twice and [M]")
    teacher = lax.stop_gradient(teacher.astype(jnp.float32))
    logits = _over(student, student_temp, "student_temp")
    logits = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
    each = teacher.sum(-1) * jax.nn.logsumexp(logits, -1) - (teacher * logits).sum(-1)     # [M]
    return jnp.sum(each * weight)


def centered(teacher, center, temp):
    """DINO's target (section 3.1, "Avoiding collapse"): softmax((teacher - center) / temp) over the last axis; no gradient.

    Args:
      teacher: [..., K] logits. center: [K]. temp: > 0, .04 to .07 in the paper; below the student's, which sharpens. A traced schedule is taken as it is.
    Returns: [..., K] f32, every row sums to 1.
    """
    if center.shape != teacher.shape[-1:]:
        raise ValueError(f"center has shape {center.shape} and teacher {teacher.shape}; expected one number a prototype, {teacher.shape[-1:]}")
    return lax.stop_gradient(jax.nn.softmax(_over(teacher.astype(jnp.float32) - center, temp, "temp"), axis=-1))


def update_center(center, logits, momentum, weight=None):
    """The moving average of the teacher's logits (DINO, eq. 4): momentum * center + (1 - momentum) * mean(logits over all axes but the last).

    In the official code a step's target uses the center of the steps before it: call `centered` first. The mean is over the global batch and all views.

    Args:
      center: [K] f32. logits: [..., K] of the teacher, before any temperature. momentum: .9 in the paper.
      weight: None, or [...]: 1 for rows that count and 0 for padding; one is there at least.
    Returns: [K] f32; no gradient.
    """
    axes = tuple(range(logits.ndim - 1))
    logits = logits.astype(jnp.float32)
    mean = logits.mean(axes) if weight is None else jnp.where(weight[..., None] > 0, logits, 0.).sum(axes) / jnp.maximum((weight > 0).sum(), 1)
    return lax.stop_gradient(momentum * center.astype(jnp.float32) + (1 - momentum) * mean)


def sinkhorn(logits, *, temp, iterations=3, weight=None):
    """Probabilities of rows over prototypes that use every prototype equally often: Sinkhorn-Knopp on exp(logits / temp); no gradient.

    The naive loop, with the leading axes flattened to n rows and the rows of weight 0 left out:

        Q = exp(logits / temp)                             # [n, K]
        for _ in range(iterations):
            Q = Q / (Q.sum over rows) / K                  # every prototype gets 1 / K of the mass
            Q = Q / (Q.sum over prototypes) / n            # every row gives 1 / n of it
        return n * Q

    All leading axes are one set of rows, over the global batch: a [B, T, K] array assigns both views together, as DINOv2 does; SwAV assigns each view on
    its own, `jax.vmap(lambda view: sinkhorn(view, temp=.05), 1, 1)(logits)`. Official codes compute exp without a shift, which overflows in float32
    at logits / temp of 88; here the whole is in logarithms, any scale is fine, and only one number a prototype and one a row pass between iterations.
    Where theirs do not overflow the values are the same.

    Args:
      logits: [..., K], any float type.
      temp: > 0; .05 in SwAV, .04 to .07 in DINOv2. A traced schedule is taken as it is.
      iterations: ≥ 1; 3 in both.
      weight: None, or [...]: 0 for rows of padding, which take no part whatever they hold, 1 for others. Fractions weigh a row's share of the mass.
    Returns: [..., K] f32; a row sums to 1, a row of weight 0 is all 0. Prototypes are equally used only in the limit of many iterations.
    """
    if weight is not None and weight.shape != logits.shape[:-1]:
        raise ValueError(f"weight has shape {weight.shape} and logits {logits.shape}; expected one weight a row, {logits.shape[:-1]}")
    present = None if weight is None else (weight > 0)[..., None]                           # [..., 1]
    logits = lax.stop_gradient(logits if weight is None else jnp.where(present, logits, 0.))
    shift = prototype_shifts([(logits, weight)], temp=temp, iterations=iterations, axes=tuple(range(logits.ndim - 1)))
    q = jax.nn.softmax(_over(logits, temp, "temp") + shift, axis=-1)
    return q if weight is None else jnp.where(present, q, 0.)


def prototype_shifts(parts, *, temp, iterations=3, block=0, axes=0):
    """What `sinkhorn` adds to the logits / temp of a row before its softmax, for several views that are assigned each on its own; no gradient.

    Args:
      parts: (logits [n, T, K], weight [n] or None), …: rows of T views that take part together, as of the batch and of a queue; a row of weight 0 does not.
      block: rows at a time, on one device (`losses.rows`); 0 for all. axes: along which the rows lie, for logits of another shape. The others as in `sinkhorn`.
    Returns: [T, K] f32; `sinkhorn` of view t is softmax(logits[:, t] / temp + shifts[t]). Raises: as `sinkhorn`.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; expected at least 1, usually 3")

    def mass(rows, shift, first):
        """log of the mass that the prototypes get of some rows, [T, K], once each row gives the same; the first time as they come."""
        logits, weight = rows
        logits = _over(logits, temp, "temp")                                                # [n, T, K]
        if weight is not None:
            weight = weight.astype(jnp.float32).reshape(*weight.shape, *(1,) * (logits.ndim - weight.ndim))
            logits, weight = jnp.where(weight > 0, logits, 0.), jnp.log(weight)             # -inf for padding
        row = 0. if first else -jax.nn.logsumexp(logits + shift, axis=-1, keepdims=True)
        return jax.nn.logsumexp(logits + (row if weight is None else row + weight), axis=axes)
    parts, shift = lax.stop_gradient(parts), 0.
    for i in range(iterations):
        # Q = exp(logits + row + prototype): scaling to 1 / K and 1 / n adds constants that the softmax at the end does not see.
        found = [summed(functools.partial(mass, shift=shift, first=i == 0), rows, block, add=jnp.logaddexp, start=-jnp.inf) for rows in parts]
        shift = -functools.reduce(jnp.logaddexp, found)
    return shift


def swapped(logits, shifts, *, temp, student_temp, block=0):
    """SwAV's loss: `cross_entropy` of the student's logits with the assignments of its first T views, and `distillation_metrics` of both.

        codes = [softmax(logits[:, t] / temp + shifts[t]) for t in range(T)]                # `sinkhorn` of each whole view
        loss = cross_entropy(logits, codes, student_temp)

    Args: logits: [B, V, K], all views. shifts: [T, K], of each whole view, as `prototype_shifts` gives them; no gradient. block: images at a time, on one device.
    Returns: (loss, metrics). Raises: ValueError as `cross_entropy`.
    """
    def sums(part):
        codes = lax.stop_gradient(jax.nn.softmax(_over(part[:, :len(shifts)], temp, "temp") + shifts, axis=-1))
        said = jax.nn.softmax(lax.stop_gradient(_over(part, student_temp, "student_temp")), axis=-1)
        return cross_entropy(part, codes, student_temp=student_temp) * len(part), [f(x) * len(part) for x in (codes, said) for f in (_mean_entropy, _mean_use)]
    total, of = summed(sums, logits, block)
    told, used, said, student_used = (lax.stop_gradient(x) / len(logits) for x in of)
    return total / len(logits), _named(told, entropy(used), said, entropy(student_used))


def distillation_metrics(student, teacher, *, student_temp):
    """How sure both sides are, and which collapse is near; arguments as in `cross_entropy`. No gradient.

    Returns: dict of scalars, nats, in [0, log K]:
      teacher_entropy: mean entropy of a target. The loss is this plus the divergence from the target (DINO, section 5.3): log K says that all targets
        became uniform.
      student_entropy: mean entropy of the student's softmax.
      usage_entropy: entropy of the mean target over images and views. 0, with a teacher_entropy of 0, says that all images share one prototype.
      target_information: the difference of the last and the first, what a target says of the image: 0 in either collapse. student_information: the same of the student.
    """
    _pairs(student, teacher, least=1)
    teacher = lax.stop_gradient(teacher.astype(jnp.float32))
    logp = jax.nn.log_softmax(lax.stop_gradient(_over(student, student_temp, "student_temp")), axis=-1)
    return _named(_mean_entropy(teacher), entropy(_mean_use(teacher)), -jnp.mean(jnp.sum(jnp.exp(logp) * logp, -1)), entropy(_mean_use(jnp.exp(logp))))


def information(p):
    """What probabilities [B, V, …, K] say of the image, in nats: the entropy of their mean over images and views, less their mean entropy; 0 where all are equal. No gradient."""
    p = lax.stop_gradient(p)
    return entropy(p.mean((0, 1))).mean() - entropy(p).mean()


def prototypes_used(teacher):
    """Share of prototypes that are the largest of some row of the targets [..., K], of as many as could be, K or the rows; a scalar f32, no gradient."""
    best = jnp.argmax(lax.stop_gradient(teacher), -1).reshape(-1)
    return jnp.zeros(teacher.shape[-1]).at[best].set(1.).sum() / min(len(best), teacher.shape[-1])


def entropy(p):
    """[..., K] probabilities → [...] f32, -sum p log p in nats; a probability of 0 adds 0."""
    p = p.astype(jnp.float32)
    return -jnp.sum(jax.scipy.special.xlogy(p, p), axis=-1)


def _mean_entropy(p):
    return entropy(p).mean()


def _mean_use(p):
    return p.mean((0, 1))


def _named(teacher, usage, student, student_usage):
    return {"teacher_entropy": teacher, "student_entropy": student, "usage_entropy": usage, "target_information": usage - teacher,
            "student_information": student_usage - student}


def _pairs(student, teacher, least=2):
    """[T, V] f32 of numpy, 1 where views are compared; ValueError where shapes or types do not fit."""
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[::2] != teacher.shape[::2]:
        raise ValueError(f"the student has shape {student.shape} and the teacher {teacher.shape}; expected [B, V, K] and [B, T, K], of the same images and width")
    V, T = student.shape[1], teacher.shape[1]
    if V < least or not 1 <= T <= V:
        raise ValueError(f"the student has {V} views and the teacher {T}; expected at least {least}, and for the teacher the first 1 to {max(V, least)} of them")
    for name, x in (("the student", student), ("the teacher", teacher)):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {x.dtype}; expected a floating type")
    return 1 - np.eye(T, V, dtype=np.float32)


def _mean_over(pairs, values):
    """[B, T, V] → the mean over images and the pairs that are compared."""
    return jnp.sum(values * pairs) / (len(values) * pairs.sum())


def _over(logits, temp, name):
    if isinstance(temp, int | float | np.number) and not temp > 0:
        raise ValueError(f"{name} is {temp}; expected a number above 0, usually 0.04 to 0.1")
    return logits.astype(jnp.float32) / temp
