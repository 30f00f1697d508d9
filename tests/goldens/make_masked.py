"""Makes masked.npz: arrays, and what torch makes of them in float64 (torch 2.13.0 when last run): its smooth L1, cross entropy, cosine, instance and layer norms.

    python tests/goldens/make_masked.py          # with torch installed
"""
from pathlib import Path

import numpy as np


def inputs():
    """name -> float64 array: B = 4 images of N = 6 patches, D = 8 features of L = 3 blocks, K = 5 tokens."""
    rng = np.random.Generator(np.random.PCG64(12))
    return {"prediction": 2 * rng.normal(size=(4, 6, 8)), "told": rng.normal(size=(4, 6, 3, 8)) * np.array([1., 5., .2])[:, None] + rng.normal(size=(3, 8)),
            "logits": rng.normal(size=(4, 6, 5)), "labels": rng.integers(0, 5, (4, 6)), "mask": rng.random((4, 6)) < .6}


def reference():
    """name -> float64 array, and `grad_…`, the gradient of a loss with respect to its predictions."""
    import torch
    from torch.nn import functional as F
    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    out, mask = {}, x["mask"]

    def graded(name, function, array):
        leaf = array.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        out[name], out[f"grad_{name}"] = value.detach().reshape(()), leaf.grad
    layers = [F.instance_norm(x["told"][:, :, i].transpose(1, 2)).transpose(1, 2) for i in range(3)]
    target = out["target"] = F.layer_norm(sum(layers) / 3, (8,))
    out["standardised"] = F.layer_norm(x["told"], (8,))
    graded("ijepa", lambda p: F.smooth_l1_loss(p[mask], target[mask]), x["prediction"])
    graded("dbot", lambda p: F.smooth_l1_loss(p[mask], target[mask], beta=2.), x["prediction"])
    graded("data2vec2", lambda p: (F.mse_loss(p[mask], target[mask], reduction="none") / 8**.5).sum() / mask.sum(), x["prediction"])
    graded("nepa", lambda p: -F.cosine_similarity(p[:, :-1], x["prediction"][:, 1:], -1).mean(), x["prediction"])
    graded("beit", lambda p: F.cross_entropy(p[mask], x["labels"][mask]), x["logits"])
    return {name: array.detach().numpy() for name, array in out.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "masked.npz", **inputs(), **reference())
