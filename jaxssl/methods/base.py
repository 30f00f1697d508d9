"""What a method is, and the two reshapes and one call that methods share.

A method is one file beside this one with `make(*, …) -> Method`. Arguments without a default are passed by the program
(`CONTEXT`), arguments with one are the keys of `config.method`.
"""
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxssl import tree

# What a method's `make` may ask for by naming it: the encoder module, the mesh, global batch size, views per image, steps in all.
CONTEXT = ("encoder", "mesh", "batch_size", "views", "total")


class Method(NamedTuple):
    """Four pure functions, and the heads.

    init(key, batch) -> params, aux: aux holds every array that gradients do not touch (`batch_stats`, teacher, queue, …).
    loss(params, aux, batch, key, step) -> loss, (aux, metrics): differentiated in params only; metrics holds scalars, and
      `features` [B, V, D] (encoder output) and `embeddings` [B, V, K] (what the loss sees), which probe and collapse monitor take out.
    post(aux, params, step) -> aux: after the update (EMA, queue, prototype norm).
    embed(params, aux, images) -> [B, D]: what evaluation and export see.

    heads: the modules on top of the encoder by the name of their parameters, so that evaluation can look behind each of their layers.
    """
    init: Callable
    loss: Callable
    post: Callable
    embed: Callable
    heads: dict = {}


def build(make: Callable, config: dict, context: dict) -> Method:
    """`make` called with its keys from `config` and those of `context` it asks for."""
    wanted = [p.name for p in inspect.signature(make).parameters.values() if p.default is p.empty]
    return make(**{name: context[name] for name in wanted}, **config)


def flat(x: jax.Array) -> jax.Array:
    """[B, V, …] → [B·V, …], batch-major: the partner of row i is i ^ 1 when V = 2."""
    return x.reshape(-1, *x.shape[2:])


def unflat(x: jax.Array, views: int) -> jax.Array:
    """[B·V, …] → [B, V, …]."""
    return x.reshape(-1, views, *x.shape[1:])


def init(module: Any, key: jax.Array, x: jax.Array) -> tuple[dict, dict]:
    """Parameters and batch statistics of a module for inputs like `x`."""
    variables = module.init(key, x, train=True)
    return variables.get("params", {}), variables.get("batch_stats", {})


def apply(module: Any, params: dict, stats: dict, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict]:
    """The module's output and its new batch statistics (unchanged, and running ones used, unless `train`)."""
    variables = {"params": params, "batch_stats": stats}
    if not train:
        return module.apply(variables, x, train=False), stats
    y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
    return y, new.get("batch_stats", stats)


def with_ema(method: Method, decay: float, names: tuple[str, ...] = ("encoder",)) -> Method:
    """`method` with a moving average of the parameters and batch statistics under `names` in `aux["ema"]`; `embed` then uses it.

    average ← decay · average + (1 − decay) · current after every update, statistics included (else the teacher drifts).
    """
    def select(params, aux):
        return {"params": {n: params[n] for n in names}, "batch_stats": {n: aux["batch_stats"][n] for n in names if n in aux["batch_stats"]}}

    def init(key, batch):
        params, aux = method.init(key, batch)
        return params, {**aux, "ema": jax.tree.map(jnp.copy, select(params, aux))}

    def post(aux, params, step):
        aux = method.post(aux, params, step)
        return {**aux, "ema": tree.ema(aux["ema"], select(params, aux), decay)}

    def embed(params, aux, images):
        average = aux["ema"]
        return method.embed({**params, **average["params"]}, {**aux, "batch_stats": {**aux["batch_stats"], **average["batch_stats"]}}, images)

    return method._replace(init=init, post=post, embed=embed)
