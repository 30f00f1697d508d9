"""What both ways of training on top of an encoder share: how long, from which images, through which views, step after step."""
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl import augment, data as datas
from jaxssl.parallel import mesh as sharding
from jaxssl.data.sources import Subset
from jaxssl.encoder import Encoder
from jaxssl.errors import NonFiniteError, UserError

_LOGGED = 10        # times that a training reports


class Length(NamedTuple):
    """steps of batch_size images; `epochs` is what they come to."""
    steps: int
    batch_size: int
    epochs: float


def length(images: int, *, epochs: float, batch_size: int, at_most: int = 0, mesh: Any) -> Length:
    """How long `epochs` of so many images are, cut to `at_most` images in all (0: not cut) and a batch to what images and devices allow.

    Raises: UserError for no epoch, or fewer images than devices.
    """
    if epochs <= 0 or batch_size < 1:
        raise UserError(f"epochs and batch_size are {epochs:g} and {batch_size}; both must be above 0")
    if images < mesh.size:
        raise UserError(f"there are {images} images to train on and {mesh.size} devices that would share a batch; give more images, or use fewer devices")
    batch_size = max(min(batch_size, images) // mesh.size, 1) * mesh.size
    wanted = epochs * images
    steps = max(round(min(wanted, at_most or wanted) / batch_size), 1)
    return Length(steps, batch_size, steps * batch_size / images)


class Images:
    """Some training images on their way to the devices.

    data: `jaxssl.data.Data`. rows: places in data.train. store: the decoded training set (`data.store`), which then lives on the devices, or None to stream.
    """

    def __init__(self, data: Any, rows: np.ndarray, store: dict | None, mesh: Any):
        self.data = dataclasses.replace(data, train=Subset(data.train, rows), resident=store is not None)
        self.mesh, self.classes = mesh, len(data.classes)
        self.store = store and sharding.put({name: store[name][rows] for name in ("image", "size", "label")}, sharding.replicated(mesh))

    def __len__(self):
        return len(self.data.train)

    def batches(self, *, seed: int, batch_size: int, steps: int) -> Iterator[dict]:
        """Global batches for `data.lookup` inside the step, in the order of `data.ids`."""
        place = sharding.batch(self.mesh)
        names = ("index",) if self.store else ("image", "size", "label")
        index, count = sharding.share(self.mesh)
        with datas.batches(self.data, drawn=datas.shuffled(seed, batch_size, len(self.data.train)), batch_size=batch_size, total_steps=steps, process_index=index,
                           process_count=count) as stream:
            for _, batch in stream:
                placed = sharding.put({name: batch[name] for name in names}, place)
                yield {**placed, "store": self.store} if self.store else placed


def train_view(encoder: Encoder) -> Callable:
    """(key, batch of canvases) to [B, size, size, 3]: random resized crop and flip, with the ranges of the encoder's own training where it says them.

    These are SimCLR's for a linear head and for fine-tuning (arXiv 2002.05709, appendices B.5 and B.6): no colour, no blur.
    """
    own, seen = encoder.config["augment"], encoder.preprocessing
    first = own.get("flip", .5)
    ranges = {name: tuple(own[name]) for name in ("crop_scale", "crop_ratio") if name in own}
    scale = {name: seen[name] for name in ("mean", "std", "low", "high") if name in seen}
    views = augment.make(size=seen["size"], views=1, interpolation=seen["interpolation"], **scale, jitter=0., gray=0., blur=0.,
                         flip=first[0] if isinstance(first, list | tuple) else first, **ranges)
    return lambda key, batch: views(key, {name: batch[name] for name in ("image", "size")})["views"][:, 0]


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.) -> jax.Array:
    """Mean over the labelled rows of the cross-entropy of logits [..., B, C] with labels int [B] (-1 counts nothing); [...].

    smoothing: share of the target spread evenly over all classes (Szegedy et al., arXiv 1512.00567, section 7).
    """
    classes = logits.shape[-1]
    target = jax.nn.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes                # [B, C]
    known = (labels >= 0).astype(logits.dtype)
    return -jnp.sum(known[:, None] * target * jax.nn.log_softmax(logits), (-2, -1)) / jnp.maximum(known.sum(), 1)


def run(step: Callable, state: Any, images: Images, plan: Length, *, seed: int, log: Callable[[str], None], name: str) -> tuple[Any, list[float]]:
    """`state` after step(state, batch, number) -> (state, loss) for every batch of the plan; and the losses it reported on the way.

    Raises: NonFiniteError when a reported loss is not finite.
    """
    every, losses = max(plan.steps // _LOGGED, 1), []
    for number, batch in enumerate(images.batches(seed=seed, batch_size=plan.batch_size, steps=plan.steps), 1):
        state, loss = step(state, batch, number - 1)
        if number % every == 0 or number == plan.steps:
            losses.append(float(jnp.mean(loss)))
            log(f"{name}: step {number} of {plan.steps}, loss {losses[-1]:.4f}")
            if not np.isfinite(losses[-1]):
                raise NonFiniteError(f"{name}: the loss is {losses[-1]} at step {number}; lower its learning rate")
    return state, losses
