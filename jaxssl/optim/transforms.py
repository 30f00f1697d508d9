"""The links of the common chain, each an optax transformation that looks every array up in the table of rules.

Slots, empty ones too, keep the places and names that they have in a chain of optax's own masked links: checkpoints know them by these.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxssl import schedules, tree
from jaxssl.optim.rules import Row

Table = dict[str, Row]


def _each(f: Callable, updates: Any, params: Any) -> Any:
    """f(path, update, parameter) for every array; the two trees may lack arrays of the table (optax.partition), but the same ones."""
    named, own = tree.names(updates), tree.names(params)
    return jax.tree.unflatten(jax.tree.structure(updates), [f(path, update, own.get(path)) for path, update in named.items()])


def counts(factor: Any, beside: float = 0) -> bool:
    """Whether a factor does anything: it is not `beside`. Of a traced one that is not known, so it does."""
    return isinstance(factor, jax.core.Tracer) or factor != beside


def clip(most: float, table: Table) -> optax.GradientTransformation:
    """Each group's gradients are scaled down to a joint norm of `most`; an array that is a group of its own, layer by layer."""
    one = optax.clip_by_global_norm(most)

    def clipped(gradients):
        return one.update(gradients, optax.EmptyState())[0]

    def update(updates, state, params=None):
        named, groups = tree.names(updates), {}
        for path in named:
            groups.setdefault(table[path].clip, []).append(path)
        for label, paths in groups.items():
            if label:
                alone = table[paths[0]].stacked and paths == [label]
                named.update(zip(paths, (jax.vmap(clipped) if alone else clipped)([named[path] for path in paths])))
        return jax.tree.unflatten(jax.tree.structure(updates), list(named.values())), state
    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def decay(amount: float | schedules.Schedule, table: Table) -> optax.GradientTransformation:
    """Adds weight decay times the parameter."""
    def init(_):
        return optax.MaskedState(optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)) if callable(amount) else optax.EmptyState())

    def update(updates, state, params=None):
        if not callable(amount):
            return (_each(lambda path, u, p: u + amount * table[path].decay * p if counts(table[path].decay) else u, updates, params) if counts(amount) else updates), state
        count = state.inner_state.count
        now = amount(count)
        updates = _each(lambda path, u, p: u + now * table[path].decay * p if counts(table[path].decay) else u, updates, params)
        return updates, optax.MaskedState(optax.ScaleByScheduleState(optax.safe_increment(count)))
    return optax.GradientTransformation(init, update)


def adapt(coefficient: float, table: Table, *, stacked: bool) -> optax.GradientTransformation:
    """LARS's trust ratio of the arrays that are stacked layers, one a layer, or of those that are not."""
    ratio = optax.scale_by_trust_ratio(trust_coefficient=coefficient)

    def scaled(update, parameter):
        return ratio.update(update, optax.EmptyState(), parameter)[0]
    one = jax.vmap(scaled) if stacked else scaled

    def update(updates, state, params=None):
        return _each(lambda path, u, p: one(u, p) if table[path].adapt and table[path].stacked == stacked else u, updates, params), state
    return optax.GradientTransformation(lambda _: optax.MaskedState(optax.EmptyState()), update)


def rate(schedule: schedules.Schedule, peak: float, table: Table) -> optax.GradientTransformation:
    """Scales by minus the learning rate of the step, or the peak where that is fixed, and the array's factors; exactly 0 while it is frozen."""
    def update(updates, state, params=None):
        now = -1 * schedule(state.count)

        def scaled(path, u, _):
            row = table[path]
            u = jnp.array(-peak if row.fixed else now, dtype=u.dtype) * u
            for factor in (row.rate, row.layer):
                if isinstance(factor, tuple):
                    u = u * np.reshape(np.asarray(factor, u.dtype), (-1, *(1,) * (u.ndim - 1)))     # [L, 1, …]
                elif counts(factor, beside=1):
                    u = factor * u
            if row.thaw:
                u = u * jnp.clip((state.count - row.frozen_until) / row.thaw, 0, 1).astype(u.dtype)
            return jnp.where(state.count < row.frozen_until, jnp.zeros_like(u), u) if row.frozen_until else u
        return _each(scaled, updates, params), optax.ScaleByScheduleState(optax.safe_increment(state.count))
    return optax.GradientTransformation(lambda _: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update)


def apart(table: Table) -> optax.GradientTransformation:
    """The Adam of the arrays that have one of their own, at their constant rates."""
    def update(updates, state, params=None):
        return _each(lambda path, u, _: -table[path].adam * u, updates, params), state
    return optax.chain(optax.scale_by_adam(), optax.GradientTransformation(lambda _: optax.EmptyState(), update))
