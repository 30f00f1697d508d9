"""The φ/ψ family of contrastive losses: one kernel, and two scalar functions that make it InfoNCE, DCL, triplet, soft triplet, tuplet or lifted.

Tian 2022, "Understanding deep contrastive learning via coordinate-wise optimization", eq. 1 and table 1: with half squared distances of unit vectors, d = 1 - cos, an
anchor's loss is φ(sum over negatives of ψ(d to the positive - d to the negative)), where φ and ψ grow with their arguments.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.contrastive import checked, rows_against_all
from jaxssl.losses.unit import EXACT, normalised


class Pair(NamedTuple):
    """φ and ψ of array and array. logs: psi gives the logarithm of ψ and phi takes that of the sum, so that no exponential overflows."""
    phi: Callable
    psi: Callable
    logs: bool = True


def infonce(temperature, margin):
    """φ = τ log(1 + x), ψ = e^(x/τ): τ times NT-Xent."""
    return Pair(lambda x: temperature * jax.nn.softplus(x), lambda x: x / temperature)


def dcl(temperature, margin):
    """φ = τ log x, ψ = e^(x/τ): τ times DCL."""
    return Pair(lambda x: temperature * x, lambda x: x / temperature)


def triplet(temperature, margin):
    """φ = x, ψ = max(0, x + m)."""
    return Pair(lambda x: x, lambda x: jax.nn.relu(x + margin), logs=False)


def soft_triplet(temperature, margin):
    """φ = τ log(1 + x), ψ = e^(x/τ + m)."""
    return Pair(lambda x: temperature * jax.nn.softplus(x), lambda x: x / temperature + margin)


def tuplet(temperature, margin):
    """φ = log(1 + x), ψ = e^x: (N + 1)-tuplets."""
    return Pair(jax.nn.softplus, lambda x: x)


def lifted(temperature, margin):
    """φ = max(0, log x)², ψ = e^(x + m): lifted structure."""
    return Pair(lambda x: jnp.square(jax.nn.relu(x)), lambda x: x + margin)


FAMILY = {each.__name__: each for each in (infonce, dcl, triplet, soft_triplet, tuplet, lifted)}


def phi_psi(z, pair, *, block=0, mesh=None):
    """The loss of a pair of functions, mean over all anchors and their positives.

    The naive loop, z flattened to unit rows [B·V, D], images one after another:

        for i in range(B * V):
            positives = [p for p in range(B * V) if p != i and p // V == i // V]
            negatives = [j for j in range(B * V) if j // V != i // V]
            loss += mean(phi(sum(psi(z[i] @ z[j] - z[i] @ z[p]) for j in negatives)) for p in positives)
        loss /= B * V

    Args: z: [B, V, D], any scale and float type. pair: a member of `FAMILY`, or a `Pair` of one's own. block: anchors at a time, whose cosines [block, B·V] are held and
      computed again in the backward pass; 0 for all of a device's, [B·V, B·V] over the devices. mesh: as in `nt_xent`; the value depends on neither.
    Returns: scalar f32. Raises: ValueError for a wrong shape or type, B < 2, V < 2 or block < 0.
    """
    axes, mesh = checked(z, 1., block, mesh)
    B, V, _ = z.shape

    def local(rows, everyone, first):
        kin = jnp.arange(len(everyone)) // V

        def of_anchor(row, number):                                                             # [D], which of all rows it is
            cosine, found = jnp.dot(everyone, row, precision=EXACT), 0.                         # [B·V]
            for w in range(1, V):                                                               # the other views of the image, one after another
                value = pair.psi(cosine - cosine[number // V * V + (number + w) % V])
                own = kin == number // V
                total = jax.nn.logsumexp(jnp.where(own, -jnp.inf, value)) if pair.logs else jnp.where(own, 0., value).sum()
                found += pair.phi(total)
            return found / (V - 1)
        numbers = first + jnp.arange(len(rows))
        if not block:
            return jax.vmap(of_anchor)(rows, numbers)
        return lax.map(lambda anchor: jax.checkpoint(of_anchor)(*anchor), (rows, numbers), batch_size=block)

    return rows_against_all(local, normalised(z).reshape(B * V, -1), mesh, axes).mean()         # [B, V, D] -> [B·V, D]
