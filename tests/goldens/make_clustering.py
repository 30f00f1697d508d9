"""Makes clustering.npz: SMoG's groups, loss and gradient in float64 as lightly computes them (lightly 1.6.0 over torch 2.13.0 when last run).

    PYTHONPATH=. python tests/goldens/make_clustering.py          # with torch, torchvision and lightly installed
"""
from pathlib import Path

import numpy as np

from tests.goldens.make_losses import lightly


def inputs():
    """name -> float64 array: B = 8 embeddings of each branch, C = 5 groups, K = 6."""
    rng = np.random.Generator(np.random.PCG64(13))
    return {"groups": rng.normal(size=(5, 6)), "encoded": rng.normal(size=(8, 6)), "answered": rng.normal(size=(8, 6)), "mix": rng.normal(size=(6, 6))}


def reference():
    """The prediction is a linear map of what was encoded, so that gradient flows both through it and through the groups."""
    torch, *_ = lightly()
    from lightly.models.modules.heads import SMoGPrototypes
    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    smog, encoded = SMoGPrototypes(x["groups"], .9), x["encoded"].clone().requires_grad_()
    labels, groups = smog.assign_groups(x["answered"]), smog.get_updated_group_features(encoded)
    value = torch.nn.functional.cross_entropy(smog(encoded @ x["mix"], groups, temperature=.1), labels)
    value.backward()
    return {"labels": labels.numpy(), "moved": groups.detach().numpy(), "smog": value.detach().numpy(), "grad_smog": encoded.grad.numpy()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "clustering.npz", **inputs(), **reference())
