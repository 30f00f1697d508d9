"""What moves arrays between the slices that they lie in between steps and where a step uses them."""
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxssl import tree
from jaxssl.parallel import mesh as sharding
from jaxssl.training.step import TrainState

ENCODER_KERNEL = re.compile(r"(^|/)encoder/.*kernel$")


def movers(config: Any, mesh: Mesh, state: TrainState, placed: TrainState, places: tuple) -> tuple[Callable, Callable, Callable]:
    """What moves arrays between their slices and where they are used: `gathered`, `sliced` and `restored` of `train_step`."""
    used, aux_used = sharding.parameters(state.params, mesh), sharding.parameters(state.aux, mesh)
    read_only = jax.tree.map(lambda kind: kind == "slices", sharding.kinds(state.aux, places))

    def half(tree_):
        # In bf16 the encoder's kernels are cast before they travel: half the bytes, and it would cast them anyway. Heads compute in float32.
        if config.precision != "bf16":
            return tree_
        cast = [x.astype(jnp.bfloat16) if ENCODER_KERNEL.search(name) and x.ndim > 1 else x for name, x in tree.names(tree_).items()]
        return jax.tree.unflatten(jax.tree.structure(tree_), cast)

    def gathered(params, aux):
        read = jax.tree.map(lambda x, h, s, only: jax.lax.with_sharding_constraint(h, s) if only else x, aux, half(aux), aux_used, read_only)
        return jax.lax.with_sharding_constraint(half(params), used), read

    def sliced(grads):
        # Two constraints in a row: the sum over devices ends in the first; with the second alone XLA for TPUs splits the convolutions of
        # the weight gradients over channels and gathers their activations (measured on v5e:4x4: 41 GB moved a step instead of 20).
        return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(grads, used), placed.params)

    def restored(read, stored):
        return jax.tree.map(lambda r, s, only: s if only else r, read, stored, read_only)

    return gathered, sliced, restored
