"""Makes clustering.npz: what is found without a gradient, in float64 (lightly 1.6.0 over torch 2.13.0 when last run).

SMoG's groups, loss and gradient are lightly's, and so are SeLa's shares (its Sinkhorn over all rows). DeepCluster v2's spherical k-means and DirectPred's predictor are
torch's own, written down here from the papers.

    PYTHONPATH=. python tests/goldens/make_clustering.py          # with torch, torchvision and lightly installed
"""
from pathlib import Path

import numpy as np

from tests.goldens.make_losses import lightly


def inputs():
    """name -> float64 array: B = 8 embeddings of each branch, C = 5 groups, K = 6; a bank of 40 rows of unit length, of which some are not there."""
    rng, other = (np.random.Generator(np.random.PCG64(seed)) for seed in (13, 14))
    bank = other.normal(size=(40, 6))
    banked = {"bank": bank / np.linalg.norm(bank, axis=1, keepdims=True), "written": other.random(40) < .8}
    return {**banked, "groups": rng.normal(size=(5, 6)), "encoded": rng.normal(size=(8, 6)), "answered": rng.normal(size=(8, 6)), "mix": rng.normal(size=(6, 6))}


def reference():
    """The prediction is a linear map of what was encoded, so that gradient flows both through it and through the groups."""
    torch, *_ = lightly()
    from lightly.models.modules.heads import SMoGPrototypes
    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    smog, encoded = SMoGPrototypes(x["groups"], .9), x["encoded"].clone().requires_grad_()
    labels, groups = smog.assign_groups(x["answered"]), smog.get_updated_group_features(encoded)
    value = torch.nn.functional.cross_entropy(smog(encoded @ x["mix"], groups, temperature=.1), labels)
    value.backward()
    from lightly.loss.swav_loss import sinkhorn
    F, bank, centroids = torch.nn.functional, x["bank"][x["written"]], torch.nn.functional.normalize(x["groups"], dim=1)
    shares = sinkhorn(bank @ centroids.T, iterations=4, epsilon=.3)
    for _ in range(3):
        own, empty = (bank @ centroids.T).argmax(1), torch.zeros(5, 6, dtype=bank.dtype)
        sums = empty.index_add(0, own, bank)
        centroids = torch.where(own.bincount(minlength=5)[:, None] > 0, F.normalize(sums, dim=1), centroids)
    s, u = torch.linalg.eigh(x["mix"] @ x["mix"].T)
    predictor = u @ torch.diag((s / s.max()).sqrt() + .1) @ u.T
    found = {"shares": shares.numpy(), "kmeans": centroids.numpy(), "predictor": predictor.numpy()}
    return {**found, "labels": labels.numpy(), "moved": groups.detach().numpy(), "smog": value.detach().numpy(), "grad_smog": encoded.grad.numpy()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "clustering.npz", **inputs(), **reference())
