"""Features of a whole source: every image once, in order, in fixed-size batches over all devices and processes."""
import functools
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
    split, gather = sharding.batch(mesh), _gather(mesh)
    features, labels = [], []
    for batch in batches:
        placed = sharding.put({name: batch[name] for name in ("image", "size", "label", "mask")}, split)
        h = gather(embed({"image": placed["image"], "size": placed["size"]}))
        label, mask = (np.asarray(gather(placed[name])) for name in ("label", "mask"))
        features.append(np.asarray(h, np.float32)[mask])
        labels.append(label[mask])
    return np.concatenate(features), np.concatenate(labels)


def gathered(rows: np.ndarray, mesh: Any) -> np.ndarray:
    """The rows [B, …] of a global batch, of which each process has its own."""
    return np.asarray(_gather(mesh)(sharding.put(rows, sharding.batch(mesh))))


@functools.cache
def _gather(mesh):
    return jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
