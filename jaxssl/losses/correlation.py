"""What is set or asked of the spectrum of an embedding's second moments: DirectPred's predictor, and the coding rate that keeps SimDINO from collapse.

DirectPred: Tian, Chen and Ganguli 2021, "Understanding self-supervised learning dynamics without contrastive pairs", eq. 18 and 19; with another power Wang, Chen, Du
and Tian 2021, "Towards demystifying representation learning with non-contrastive self-supervision" (DirectSet; DirectCopy at power 1). Coding rate: Yu et al. 2020,
"Learning diverse and discriminative representations via the principle of maximal coding rate reduction", eq. 1; Wu et al. 2025, "Simplifying DINO via coding rate
regularization", section 3.

z is [B, V, K]: images, views, dimensions; any float type, computed in float32. Every mean is over the global batch unless groups are asked for.
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.unit import EXACT


def update_correlation(correlation, z, *, momentum):
    """The moving average of E[z zᵀ] over images and views (eq. 19, not centred): momentum · correlation + (1 - momentum) · mean of z zᵀ. [K, K] f32, no gradient."""
    z = lax.stop_gradient(_checked(z))
    new = jnp.einsum("bvi,bvj->ij", z, z, precision=EXACT) / (z.shape[0] * z.shape[1])
    return momentum * lax.stop_gradient(correlation.astype(jnp.float32)) + (1 - momentum) * new


def direct_predictor(correlation, *, power, epsilon):
    """The linear predictor that a correlation asks for (eq. 18): W = U diag(p) Uᵀ with correlation = U diag(s) Uᵀ and p = (s / max(s)) ^ power + epsilon.

    The paper has √s + epsilon · max(s) at power ½; as in its official code the spectrum is scaled first, so that epsilon does not depend on the scale of z,
    which the loss does not see. W is a smooth function of the correlation: which eigenvectors of equal eigenvalues were found does not show.

    Args: correlation: [K, K], symmetric, no eigenvalue below 0 but for rounding, not all 0. power: > 0. epsilon: 0 or more.
    Returns: (W [K, K] f32, rank): no gradient. rank: exp(entropy of s / sum(s)), from 1 to K: 1 says that all embeddings lie on a line.
    """
    correlation = lax.stop_gradient(correlation.astype(jnp.float32))
    with jax.default_matmul_precision("float32"):
        s, u = jnp.linalg.eigh((correlation + correlation.T) / 2)
    s = jnp.maximum(s, 0)
    share = s / s.sum()
    rank = jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))
    return jnp.einsum("ik,k,jk->ij", u, (s / s[-1]) ** power + epsilon, u, precision=EXACT), rank


def coding_rate(z, *, epsilon, groups=1):
    """How many nats the embeddings of a view take at a given precision; large where they fill all directions.

        rate = 0
        for v in views:
            for g in groups:                                                          # image b lies in group b % groups
                Z = [z[b, v] for b in the group]                                      # n = B / groups of them
                rate += logdet(I + K / (n * groups * epsilon) * Z.T @ Z) / 2
        rate /= V * groups

    The official code takes each device's own ZᵀZ over the global number of images: `groups` of the number of devices gives what it computes, whatever the
    devices here; 1 is the paper's formula.

    Args: z: of length 1 or, where it is a mean of such, less. epsilon: > 0, the squared precision (.05 in the published runs). groups: divides B.
    Returns: scalar f32; of length 1 from ½ log(1 + K / (groups · epsilon)), where all are equal, to K / 2 · log(1 + 1 / (groups · epsilon)), where they fill K directions.
    Raises: ValueError for shapes that do not fit.
    """
    z = _checked(z)
    B, V, K = z.shape
    if groups < 1 or B % groups:
        raise ValueError(f"groups is {groups}; expected a divisor of the {B} images")
    z = z.reshape(B // groups, groups, V, K)
    moments = jnp.einsum("bgvi,bgvj->gvij", z, z, precision=EXACT)                                         # [groups, V, K, K]
    with jax.default_matmul_precision("float32"):
        root = jnp.linalg.cholesky(jnp.eye(K) + K / (B * epsilon) * moments)
    return jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1).mean()


def _checked(z):
    if z.ndim != 3 or not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(f"z has shape {z.shape} and dtype {z.dtype}; expected [B, V, K] of a floating type")
    return z.astype(jnp.float32)
