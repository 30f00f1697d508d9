"""A linear classifier on a frozen encoder, trained on augmented views: SimCLR's linear evaluation (arXiv 2002.05709, appendix B.6).

Several heads of different learning rates share every forward pass. The encoder's weights are no argument of what is differentiated, its batch
norm runs in inference mode, and a digest over its arrays on the devices is taken before and after.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxssl import data as datas, optim, tree
from jaxssl.parallel import mesh as sharding
from jaxssl.encoder import Encoder
from jaxssl.evaluation.tuning import loop


class Trained(NamedTuple):
    """logits(batch of canvases) -> f32 [B, H, C], test-time view. digest: of the encoder's arrays, after training as before. losses: reported ones."""
    logits: Callable
    digest: str
    losses: list[float]


def train(encoder: Encoder, images: loop.Images, plan: loop.Length, *, lrs: Sequence[float] = (.1,), weight_decay: float = 0., momentum: float = .9,
          nesterov: bool = True, layer: str = "backbone", seed: int = 0, log: Callable[[str], None] = print) -> Trained:
    """Trains H = len(lrs) heads by SGD, cosine to 0, no warm-up; lr is for a batch of 256 and scaled linearly.

    Raises: UserError for an unknown layer, RuntimeError if the encoder changed.
    """
    encoder.check_layer(layer)
    whole = sharding.replicated(images.mesh)
    variables, view, key = jax.device_put(used(encoder, layer), whole), loop.train_view(encoder), jax.random.key(seed)
    before = tree.digest(variables)
    width = jax.eval_shape(lambda v, x: encoder.forward(v, x, layer=layer)[0], variables, example(encoder)).shape[1]
    heads = {f"head{i}": {"kernel": jnp.zeros((width, images.classes)), "bias": jnp.zeros(images.classes)} for i in range(len(lrs))}
    optimizer = optim.make(name="sgd", lr=lrs[0], scaling="linear", momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, params=heads,
                           batch_size=plan.batch_size, total=plan.steps, warmup=0, rules=tuple((f"^head{i}/", {"rate": lr / lrs[0]}) for i, lr in enumerate(lrs)))

    @jax.jit
    def step(state, variables, batch, number, key):
        heads, slots = state
        batch = datas.lookup(batch)
        h = encoder.forward(variables, view(jax.random.fold_in(key, number), batch), layer=layer, train=False)[0]      # [B, D]

        def loss(heads):
            losses = loop.cross_entropy(_apply(heads, h), batch["label"])      # [H]
            return losses.sum(), losses
        (_, losses), grads = jax.value_and_grad(loss, has_aux=True)(heads)
        updates, slots = optimizer.tx.update(grads, slots, heads)
        return (jax.tree.map(jnp.add, heads, updates), slots), losses

    state = jax.device_put((heads, optimizer.tx.init(heads)), whole)
    (heads, _), losses = loop.run(lambda state, batch, number: step(state, variables, batch, number, key), state, images, plan, seed=seed, log=log, name="linear head")
    after = tree.digest(variables)
    if after != before:
        raise RuntimeError("the frozen encoder changed while its linear head was trained")
    call = jax.jit(lambda heads, variables, batch: jnp.swapaxes(_apply(heads, encoder.forward(variables, encoder.view(batch), layer=layer)[0]), 0, 1))
    return Trained(lambda batch: call(heads, variables, {name: batch[name] for name in ("image", "size")}), after, losses)


def _apply(heads: dict, h: jax.Array) -> jax.Array:
    """[B, D] to logits [H, B, C] of every head, in one product."""
    kernel, bias = (jnp.stack([head[name] for head in heads.values()]) for name in ("kernel", "bias"))       # [H, D, C], [H, C]
    return jnp.einsum("bd,hdc->hbc", h, kernel, precision=jax.lax.Precision.HIGHEST) + bias[:, None]


def used(encoder: Encoder, layer: str) -> dict:
    """The part of `encoder.variables` that features of `layer` are computed from."""
    name, _, depth = layer.partition(".")
    whole = layer in ("backbone", *encoder.blocks)
    networks = ("encoder",) if whole else ("encoder", *encoder.below(name), name)

    def part(variables):
        found = {network: variables[network] for network in networks}
        if not whole and int(depth) < len(encoder.heads[name][0].dims):
            found[name] = {key: value for key, value in found[name].items() if int(key.lstrip("abcdefghijklmnopqrstuvwxyz_")) <= int(depth)}     # linear1, norm1, …
        return found
    return {kind: part(variables) for kind, variables in encoder.variables.items()}


def example(encoder: Encoder) -> Any:
    """Shapes of a batch of images that the encoder takes."""
    size = encoder.preprocessing["size"]
    return jax.ShapeDtypeStruct((2, size, size, len(encoder.preprocessing["mean"])), jnp.float32)
