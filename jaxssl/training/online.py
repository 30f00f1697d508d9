"""What is watched while a method trains: a linear probe on detached features, and the collapse monitor on the embeddings."""
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from jaxssl.evaluation.measures import collapse
from jaxssl.methods.base import Method


MOST = 50_000        # classes of the probe; that of ten million would be a hundred times as large as a network


def watch(method: Method, *, classes: int, width: int) -> Method:
    """`method` with `params["probe"]` (a linear classifier, when there are classes) and collapse metrics of the embeddings, where it gives any.

    The probe's loss is added to the method's, but its features are detached: the encoder's gradient is exactly the method's.
    Metric `loss` stays the method's own. Images with label −1 do not count.

    Args:
      classes: 0, and more than `MOST`, leave the probe out. width: D of the features.
    """
    classes = classes if classes <= MOST else 0

    def init(key, batch):
        params, aux = method.init(key, batch)
        if classes:
            params = {**params, "probe": {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros((classes,))}}
        return params, aux

    def loss(params, aux, batch, key, step):
        value, (aux, metrics, seen) = method.loss(params, aux, batch, key, step)
        metrics = {"loss": value, **metrics}
        if "embeddings" in seen:
            metrics |= collapse.metrics(stop_gradient(seen["embeddings"]))
        if not classes or "features" not in seen:
            return value, (aux, metrics, seen)
        probe_loss, accuracy = _probe(params["probe"], stop_gradient(seen["features"]), batch["label"])
        return value + probe_loss, (aux, {**metrics, "probe_loss": probe_loss, "probe_accuracy": accuracy}, seen)

    return method._replace(init=init, loss=loss)


def probe_logits(params: Any, h: jax.Array) -> jax.Array:
    """[..., D] → [..., C]."""
    return h @ params["kernel"] + params["bias"]


def _probe(params, h, label):
    label = jnp.broadcast_to(label[:, None], h.shape[:2])             # [B, V]
    known = (label >= 0).astype(jnp.float32)
    logits = probe_logits(params, h)                                  # [B, V, C]
    error = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))
    count = jnp.maximum(known.sum(), 1)
    return (error * known).sum() / count, ((logits.argmax(-1) == label) * known).sum() / count
