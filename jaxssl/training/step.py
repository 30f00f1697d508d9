"""The train state and the one train step that every method shares: the only place that differentiates and updates."""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxssl.methods.base import Method


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step reads and writes; a checkpoint is exactly this.

    step: int32 []; params: trained; opt_state: optax's; aux: every array that gradients do not touch; key: uint32 [2], never changes.
    """
    step: jax.Array
    params: Any
    opt_state: Any
    aux: Any
    key: jax.Array


def init_state(key_data: jax.Array, batch: dict, *, method: Method, tx: optax.GradientTransformation) -> TrainState:
    """A fresh state from uint32 key data [2] and a batch of a few images, as the loss will see it, that only gives shapes."""
    params, aux = method.init(jax.random.wrap_key_data(key_data), batch)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), aux, key_data)


def train_step(state: TrainState, batch: dict, *, method: Method, augment: Callable, tx: optax.GradientTransformation,
               moving: Callable = lambda params: params, gathered: Callable = lambda params, aux: (params, aux), sliced: Callable = lambda tree: tree,
               restored: Callable = lambda read, stored: read):
    """One update. `moving` takes the gradient from what stands still; `gathered` brings what is stored in slices, of params and of aux, where the loss uses it,
    `sliced` the gradients where the update does, and `restored` puts back the stored slices of aux, which the loss only read.

    Returns: the next state, and metrics of scalars; `finite` is 1 while loss and gradient norm are.
    """
    # Two keys of one split: a method may split or fold its own as it likes and never meets the keys by which images were cropped.
    views_key, key = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))
    with jax.named_scope("views"):
        batch = augment(views_key, batch)            # uint8 canvas → views [B, V, H, W, C], local [B, L, h, w, C]

    def loss_fn(params):
        return method.loss(*gathered(moving(params), state.aux), batch, key, state.step)

    (loss, (aux, metrics, _)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads = sliced(grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, aux = method.post(params, restored(aux, state.aux), state.step)
    norm = optax.tree.norm(grads)
    metrics = {"loss": loss, "grad_norm": norm, "finite": (jnp.isfinite(loss) & jnp.isfinite(norm)).astype(jnp.int32), **metrics}
    return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state, aux=aux), metrics
