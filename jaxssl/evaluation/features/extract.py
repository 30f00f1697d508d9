"""Features of a whole source: every image once, in order, in fixed-size batches over all devices and processes."""
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxssl.parallel import mesh as sharding


def extract(embed: Callable, batches: Any, mesh: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features f32 [N, D] and labels int32 [N] of `batches`, on every process.

    embed(batch) -> [B, D], given the canvases (`image`, `size`) of a global batch split over `mesh`.
    batches: this process's rows of each global batch, as `data.eval_batches` yields them; rows whose `mask` is False are left out.
    """
    split, whole = sharding.batch(mesh), sharding.replicated(mesh)
    gather = jax.jit(lambda x: x, out_shardings=whole)
    features, labels = [], []
    for batch in batches:
        placed = sharding.put({name: batch[name] for name in ("image", "size", "label", "mask")}, split)
        h = gather(embed({"image": placed["image"], "size": placed["size"]}))
        label, mask = (np.asarray(gather(placed[name])) for name in ("label", "mask"))
        features.append(np.asarray(h, np.float32)[mask])
        labels.append(label[mask])
    return np.concatenate(features), np.concatenate(labels)
