"""The one seam to Flax: a network is called through `Net`, in one pass or in exact micro-batches."""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Net(NamedTuple):
    """A module as two pure functions: what methods, evaluation and exports call instead of `module.apply`.

    module: a Flax module called as module(x, train=…, **how).
    parts: micro-batches of a forward pass. Each is computed by itself and again in the backward pass, so that only one part's activations are held
      (GradCache, arXiv:2101.06983, for every method at once): what the parts give is put together, and the loss sees the whole batch. Part i takes the
      rows i, i + parts, …, so that each lies on all devices and is a ghost group of batch norm (`models.norm`): its statistics are its own.
    still: the module computes in training what it does at test time: batch norm norms by its running statistics and keeps them, and nothing is drawn.
    take: name of the field of the module's output that is given, "pooled" for an encoder's vectors alone; "" is all of it.
    """
    module: Any
    parts: int = 1
    take: str = ""
    still: bool = False

    @property
    def features(self) -> int:
        """D of what the module gives."""
        return self.module.features

    @property
    def pooled(self) -> "Net":
        """The same encoder, giving one vector an image."""
        return self._replace(take="pooled")

    def init(self, key: jax.Array, x: jax.Array, **how: jax.Array) -> tuple[dict, dict]:
        """Parameters and batch statistics for inputs like `x`; {} where there are none."""
        variables = self.module.init(key, x, train=True, **how)
        return variables.get("params", {}), variables.get("batch_stats", {})

    def __call__(self, params: dict, stats: dict, x: jax.Array, *, train: bool = True, key: jax.Array | None = None, **how: jax.Array) -> tuple[Any, dict]:
        """The module's output for the rows of `x` [R, …], and its new batch statistics (the same, and running ones used, unless `train`).

        key: of what is drawn inside, stochastic depth; what a row draws depends on the key and its place alone, whatever the parts. how: arrays [R, …].
        """
        if key is not None:
            how = {"rows": jnp.arange(len(x), dtype=jnp.int32), **how}
        if self.parts == 1 or not train:
            return self._pass(params, stats, x, how, key, train)
        forward = jax.checkpoint(lambda part: self._pass(params, stats, *part, key, train), prevent_cse=False)
        y, new = jax.lax.map(forward, jax.tree.map(self._cut, (x, how)))
        return jax.tree.map(_joined, y), stats if self.still else jax.tree.map(lambda a: a.mean(0), new)

    def per_view(self, params: dict, stats: dict, x: jax.Array, **how: Any) -> tuple[Any, dict]:
        """The same for views [B, V, …], each output [B, V, …]: rows are flattened batch-major, so that with two views the partner of row i is i ^ 1."""
        y, stats = self(params, stats, x.reshape(-1, *x.shape[2:]), **how)                            # [B, V, …] -> [B·V, …]
        return jax.tree.map(lambda a: a.reshape(*x.shape[:2], *a.shape[1:]), y), stats

    def _pass(self, params, stats, x, how, key, train):
        drawn = {} if key is None else {"rngs": {"drop": key}}
        train = train and not self.still
        y, new = self.module.apply({"params": params, "batch_stats": stats}, x, train=train, mutable=["batch_stats"] if train else [], **drawn, **how)
        return getattr(y, self.take) if self.take else y, new.get("batch_stats", stats)

    def _cut(self, a):
        return jnp.swapaxes(a.reshape(len(a) // self.parts, self.parts, *a.shape[1:]), 0, 1)          # [R, …] -> [parts, R / parts, …]


def _joined(a):
    return jnp.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:])                                            # [parts, R / parts, …] -> [R, …]
