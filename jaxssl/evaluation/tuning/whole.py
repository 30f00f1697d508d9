"""Fine-tuning: encoder and a new classifier trained together, from the backbone or from the middle of the projector (SimCLRv2, arXiv 2006.10029).

Layer decay as in BEiT and MAE (arXiv 2111.06377, appendix A.1): the rate falls by a factor from each layer to the one below it.
"""
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxssl import data as datas, optim
from jaxssl.parallel import mesh as sharding
from jaxssl.encoder import Encoder
from jaxssl.errors import UserError
from jaxssl.evaluation.tuning import frozen, loop

OPTIMIZERS = ("lars", "sgd", "adamw")


class Trained(NamedTuple):
    """logits(batch of canvases) -> f32 [B, C], test-time view, batch norm in inference mode. variables: {"params", "batch_stats"} after training, with
    the classifier among the params. losses: reported ones. describe: the optimizer in words."""
    logits: Callable
    variables: dict
    losses: list[float]
    describe: str


def train(encoder: Encoder, images: loop.Images, plan: loop.Length, *, layer: str = "backbone", optimizer: str = "lars", lr: float = .005, scaling: str = "sqrt",
          momentum: float = .9, weight_decay: float = 0., warmup: float = 0., layer_decay: float = 1., drop_path: float = 0., label_smoothing: float = 0., seed: int = 0,
          log: Callable[[str], None] = print) -> Trained:
    """Trains everything below and at `layer`, and a linear classifier on it that starts at zero. Batch norm sees the batch, as in pre-training.

    optimizer: lars, sgd (Nesterov) or adamw (which reads no momentum); lr and scaling as in `optim.make`, cosine to 0. warmup: share of the steps.
    layer_decay: factor on the rate from a layer to the one below, in (0, 1]. drop_path: chance that the last residual block is left out for an image
    (`models.droppath`). label_smoothing: in [0, 1). Raises: UserError for what is out of range or what this network has not.
    """
    encoder.check_layer(layer)
    _check(optimizer, warmup, layer_decay, drop_path, label_smoothing)
    start = frozen.used(encoder, layer)
    width = jax.eval_shape(lambda v, x: encoder.forward(v, x, layer=layer)[0], start, frozen.example(encoder)).shape[1]
    params = {**start["params"], "classifier": {"kernel": jnp.zeros((width, images.classes)), "bias": jnp.zeros(images.classes)}}
    trained = dataclasses.replace(encoder, module=encoder.module.clone(drop_path=drop_path))
    options = {"sgd": {"momentum": momentum, "nesterov": True}, "lars": {"momentum": momentum, "rules": (("^classifier/", {"decay": 0., "adapt": False}),)}, "adamw": {}}[optimizer]
    made = optim.make(name=optimizer, lr=lr, scaling=scaling, weight_decay=weight_decay, params=params, batch_size=plan.batch_size, total=plan.steps,
                      warmup=round(warmup * plan.steps), layer_decay=layer_decay, networks=tuple(start["params"]), **options)
    view, key = loop.train_view(encoder), jax.random.key(seed)

    def loss(params, stats, batch, own):
        views_key, key = jax.random.split(own)
        logits, stats = _logits(trained, params, stats, view(views_key, batch), layer, train=True, key=key)
        return loop.cross_entropy(logits, batch["label"], label_smoothing), stats

    @partial(jax.jit, donate_argnums=0)
    def step(state, batch, number, key):
        params, stats, slots = state
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, datas.lookup(batch), jax.random.fold_in(key, number))
        updates, slots = made.tx.update(grads, slots, params)
        return (jax.tree.map(jnp.add, params, updates), stats, slots), value

    # copied, since the step gives its arguments' memory to its results
    state = jax.device_put(jax.tree.map(jnp.array, (params, start["batch_stats"], made.tx.init(params))), sharding.replicated(images.mesh))
    (params, stats, _), losses = loop.run(lambda state, batch, number: step(state, batch, number, key), state, images, plan, seed=seed, log=log, name="fine-tuning")
    call = jax.jit(lambda params, stats, batch: _logits(encoder, params, stats, encoder.view(batch), layer, train=False)[0])
    return Trained(lambda batch: call(params, stats, {name: batch[name] for name in ("image", "size")}), {"params": params, "batch_stats": stats}, losses, made.describe)


def _logits(encoder, params: dict, stats: dict, x: jax.Array, layer: str, *, train: bool, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
    """[B, H, W, 3] to logits [B, C], and the batch statistics after it."""
    h, stats = encoder.forward({"params": {n: p for n, p in params.items() if n != "classifier"}, "batch_stats": stats}, x, layer=layer, train=train, key=key)
    head = params["classifier"]
    return jnp.matmul(h, head["kernel"], precision=jax.lax.Precision.HIGHEST) + head["bias"], stats


def _check(optimizer, warmup, layer_decay, drop_path, label_smoothing):
    faults = []
    if optimizer not in OPTIMIZERS:
        faults.append(f"optimizer is {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    for name, value, good, words in (("warmup", warmup, 0 <= warmup < 1, "[0, 1), a share of the steps"), ("layer_decay", layer_decay, 0 < layer_decay <= 1, "(0, 1]"),
                                     ("drop_path", drop_path, 0 <= drop_path < 1, "[0, 1)"), ("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "[0, 1)")):
        if not good:
            faults.append(f"{name} is {value:g}; it lies in {words}")
    if faults:
        raise UserError("; ".join(faults))
