"""What spreads vectors or assignments over the room they have, and anchors how patches are like each other: the terms beside the cross entropies of DINOv2, DINOv3 and MSN.

KoLeo: Sablayrolles et al. 2018, "Spreading vectors for similarity search", section 3.2; as Oquab et al. 2023, "DINOv2", use it. Gram anchoring: Siméoni et al. 2025,
"DINOv3", section 4. The prior of mean assignments: Assran et al. 2022, "Masked siamese networks for label-efficient learning", eq. 2, and Assran et al. 2023, "The hidden
uniform cluster prior in self-supervised learning" (PMSN), section 4.

Everything is computed in float32 over the global batch, or over groups that are asked for: group g holds the images g, g + groups, …
"""
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxssl.losses.unit import EXACT, normalised

EPS = 1e-8                                            # the official code adds it to each difference and to the distance


def koleo(z, *, ids=None, groups=1, floor=0., earlier=None, earlier_ids=None):
    """The Kozachenko-Leonenko estimate of the entropy of unit vectors, negative: minus the mean log distance to the nearest neighbour; a view at a time.

        loss = 0
        for v in views:
            for g in groups:
                x = [unit(z[b, v]) for b in range(B) if b % groups == g]
                others = x + [unit(earlier[q, v]) for q in range(Q) if earlier_ids[q] >= 0]
                for i, row in enumerate(x):
                    near = max((j for j != i), key=lambda j: row @ others[j])
                    loss -= log(|row - others[near] + 1e-8| + 1e-8)
        loss /= V * B

    Args:
      z: [B, V, D], any float type. groups: divides B, at least two images in each; the official code has one a GPU.
      ids: [B] int or None: images of the same id are no neighbours.
      floor: pairs that are nearer count as if at this distance, without a gradient; else three equal images have a gradient of 1e7, and
        the whole step is theirs (of two the gradients are each other's opposites).
      earlier, earlier_ids: [Q, V, D] of earlier steps and whose they are, [Q] int, below 0 for none: neighbours for all groups, which get no gradient. Small batches have
        few neighbours, none of them near. None: the batch alone.
    Returns: (scalar f32, metrics): koleo_distance, the smallest distance; duplicates, the share of vectors with one within 1e-3. The gradient flows through both points.
    Raises: ValueError for shapes that do not fit, and groups of less than two images.
    """
    B, V, D = z.shape
    if groups < 1 or B % groups or B // groups < 2:
        raise ValueError(f"groups is {groups}; expected a divisor of the {B} images that leaves at least two in a group, each the other's neighbour")
    x = normalised(z).reshape(B // groups, groups, V, D)
    whose = jnp.arange(B) if ids is None else ids
    whose = whose.reshape(B // groups, groups).T                                            # [G, n]
    rows = jnp.moveaxis(x, 0, 2)                                                            # [n, G, V, D] -> [G, V, n, D]
    others, theirs = rows, whose
    if earlier is not None:
        old = lax.stop_gradient(normalised(earlier)).transpose(1, 0, 2)                     # [Q, V, D] -> [V, Q, D]
        others = jnp.concatenate([rows, jnp.broadcast_to(old, (groups, *old.shape))], 2)    # [G, V, n + Q, D]
        theirs = jnp.concatenate([whose, jnp.broadcast_to(earlier_ids, (groups, len(earlier_ids)))], 1)
    cosines = jnp.einsum("gvid,gvjd->gvij", lax.stop_gradient(rows), lax.stop_gradient(others), precision=EXACT)
    same = ((whose[:, :, None] == theirs[:, None]) | (theirs < 0)[:, None])[:, None]        # [G, 1, n, n + Q]
    near = jnp.argmax(jnp.where(same, -2., cosines), -1)                                    # [G, V, n]
    apart = rows - jnp.take_along_axis(others, near[..., None], 2) + EPS
    square = jnp.square(apart).sum(-1)
    distance = jnp.sqrt(jnp.maximum(square, floor**2)) if floor else jnp.sqrt(square)
    here = jnp.where(same.all((1, 3))[:, None] if ids is not None else False, 0., 1.)       # a group of one id has no neighbours
    value = -jnp.sum(jnp.log(distance + EPS) * here) / (V * B)
    least = lax.stop_gradient(jnp.sqrt(square))
    return value, {"koleo_distance": least.min(), "duplicates": (least < 1e-3).mean()}


def gram(student, teacher):
    """How far the likeness of an image's patches is from a teacher's: squared difference of all cosines between them, mean over pairs of patches and images.

        loss = mean((unit(s[p]) @ unit(s[q]) - unit(t[p]) @ unit(t[q])) ** 2 for s, t in images for p, q in patches)

    Args: student, teacher: [R, N, D] patches, widths may differ; no gradient flows to the teacher's.
    Returns: scalar f32, in [0, 4].
    Raises: ValueError for shapes that do not fit.
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(f"patches have shapes {student.shape} and {teacher.shape}; expected [R, N, D] of the same images and places")
    of = [jnp.einsum("rpd,rqd->rpq", x, x, precision=EXACT) for x in (normalised(student), lax.stop_gradient(normalised(teacher)))]
    return jnp.square(of[0] - of[1]).mean()


def patch_relations(student, teacher, *, temperature):
    """How far the neighbourhoods of an image's patches are from a teacher's: divergence of softmaxes over the cosines of a patch with all others, mean over patches and images.

        loss = 0
        for s, t in images:
            for p in range(N):
                told, said = ([unit(x[p]) @ unit(x[o]) / temperature for o in range(N) if o != p] for x in (t, s))
                loss += sum(softmax(told) * (log_softmax(told) - log_softmax(said)))
        loss /= R * N

    Args: student, teacher: [R, N, D] patches at the same N ≥ 2 places, widths may differ; no gradient flows to the teacher's. temperature: > 0.
    Returns: scalar f32, at least 0. Raises: ValueError for shapes that do not fit.
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2] or student.shape[1] < 2:
        raise ValueError(f"patches have shapes {student.shape} and {teacher.shape}; expected [R, N, D] of the same images and places, two at least")
    own = jnp.eye(student.shape[1], dtype=bool)

    def near(x):
        cosines = jnp.einsum("rpd,rqd->rpq", x, x, precision=EXACT)
        return jax.nn.log_softmax(jnp.where(own, -1e4, cosines / temperature), -1)
    said, told = near(normalised(student)), near(lax.stop_gradient(normalised(teacher)))
    return jnp.sum(jnp.exp(told) * (told - said), -1).mean()


def mean_prior(probabilities, prior):
    """MSN's and PMSN's regulariser: KL(mean assignment ‖ prior), over all leading axes. With a uniform prior it is log K less the mean's entropy, MSN's `me-max`.

    Args: probabilities: [..., K] of the student's anchors. prior: [K] that sums to 1, all above 0.
    Returns: scalar f32, at least 0.
    """
    mean = probabilities.astype(jnp.float32).mean(tuple(range(probabilities.ndim - 1)))
    return jnp.sum(jax.scipy.special.xlogy(mean, mean) - mean * np.log(np.asarray(prior, np.float32)))


def power_law(prototypes, exponent):
    """[K] numpy f32: k ^ -exponent for k = 1, 2, …, made to sum to 1; 0 is uniform (MSN), .25 and more are PMSN's."""
    weights = np.arange(1, prototypes + 1) ** -float(exponent)
    return (weights / weights.sum()).astype(np.float32)
