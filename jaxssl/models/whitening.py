"""Iterative normalisation: features that are uncorrelated within groups of channels, by Newton's iteration in place of an eigendecomposition."""
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.models.norm import decay, split


class IterNorm(nn.Module):
    """Iterative normalisation of vectors (Huang et al., arXiv:1904.03441): `[B, C]` of any float dtype in, float32 of the same shape out.

    Channels are cut into `groups` of neighbours. Those of a group are centred and turned by P/√trace, P being `iterations` steps of P ← (3 P - P³ Σ/trace) / 2 from
    the identity, towards the inverse root of their covariance Σ: with few steps directions of small variance stay smaller than 1. Then scale and bias.

    The batch is the global one, or `bn_groups` ghost groups of it, as in `BatchNorm`. Running averages are of the mean and of the turning matrix.
    """
    groups: int
    iterations: int = 5
    momentum: float = 0.9
    eps: float = 1e-5
    bn_groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        if width % self.groups:
            raise UserError(f"{self.groups} groups of whitening do not divide the {width} channels of the projector's output; choose a divisor of them.")
        each, exact = width // self.groups, jax.lax.Precision.HIGHEST
        running_center = self.variable("batch_stats", "center", jnp.zeros, (self.groups, each), jnp.float32)
        running_turn = self.variable("batch_stats", "turn", lambda: jnp.tile(jnp.eye(each), (self.groups, 1, 1)))
        scale, bias = self.param("scale", nn.initializers.ones, (width,), jnp.float32), self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        grouped = split(x.astype(jnp.float32).reshape(len(x), self.groups, each), self.bn_groups if train else 1)               # [G, B/G, groups, each]
        if train:
            center = grouped.mean(1)                                                                                            # [G, groups, each]
            centred = grouped - center[:, None]
            covariance = jnp.einsum("gnci,gncj->gcij", centred, centred, precision=exact) / centred.shape[1] + self.eps * jnp.eye(each)
            trace = jnp.trace(covariance, axis1=-2, axis2=-1)[..., None, None]
            root, turn = covariance / trace, jnp.broadcast_to(jnp.eye(each), covariance.shape)
            for _ in range(self.iterations):                                    # root → (Σ/trace)^½ beside it: P³ Σ computed from P alone drifts away after ten steps
                step = 1.5 * jnp.eye(each) - 0.5 * jnp.matmul(turn, root, precision=exact)
                root, turn = jnp.matmul(root, step, precision=exact), jnp.matmul(step, turn, precision=exact)
            turn = turn * jax.lax.rsqrt(trace)
            if not self.is_initializing():
                running_center.value = decay(running_center.value, center.mean(0), self.momentum)
                running_turn.value = decay(running_turn.value, turn.mean(0), self.momentum)
        else:
            centred, turn = grouped - running_center.value, running_turn.value[None]
        y = jnp.einsum("gcij,gncj->gnci", turn, centred, precision=exact)
        return jnp.swapaxes(y, 0, 1).reshape(len(x), width) * scale + bias
