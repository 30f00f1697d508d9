"""Makes miners.npz: how often each pair stands in what pytorch-metric-learning's miners list, in float64 (2.9.0 over torch 2.13.0 when last run); the rows are those of metric.npz.

    python tests/goldens/make_miners.py          # with torch and pytorch-metric-learning installed

AngularMiner takes rows as they come, whatever its distance says, and is given unit ones. DistanceWeightedMiner draws, so that its row is the mean of 20,000 draws.
TripletMarginLoss is given the triplets of two miners: its values stand beside them.
"""
from pathlib import Path

import numpy as np

from make_metric import inputs

DRAWS = 20000


def counted(n, found):
    """The pairs of a miner's tuple as [n, n] counts."""
    out = np.zeros((n, n))
    pairs = [found[:2], found[2:]] if len(found) == 4 else [found[:2], (found[0], found[2])]
    for a, b in pairs:
        np.add.at(out, (a.numpy(), b.numpy()), 1)
    return out


def reference():
    import torch
    from pytorch_metric_learning import losses, miners
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    z, labels = (torch.from_numpy(inputs()[name]) for name in ("z", "labels"))
    easy_hard = {f"batch_easy_hard, {p}, {n}": miners.BatchEasyHardMiner(p.replace("_", ""), n.replace("_", "")) for p, n in
                 (("easy", "semi_hard"), ("semi_hard", "hard"), ("easy", "easy"), ("all", "hard"), ("hard", "all"))}
    made = {"multi_similarity": miners.MultiSimilarityMiner(), "batch_hard": miners.BatchHardMiner(), **easy_hard, "semi_hard": miners.TripletMarginMiner(.2, "semihard"),
            "angular": miners.AngularMiner(40), "pair_margin": miners.PairMarginMiner(.9, 1.3)}
    out = {}
    for batch, label in enumerate(labels):
        rows, kind = z[label >= 0], label[label >= 0]
        for name, miner in made.items():
            found = miner(torch.nn.functional.normalize(rows) if name == "angular" else rows, kind)
            out[f"{name}/{batch}"] = counted(len(rows), found)
            if len(found) == 3:
                out[f"triplet, {name}/{batch}"] = losses.TripletMarginLoss(margin=.3)(rows, kind, found).numpy()
        drawn = miners.DistanceWeightedMiner(.5, 1.4)
        out[f"distance_weighted/{batch}"] = sum(counted(len(rows), drawn(rows, kind)) for _ in range(DRAWS)) / DRAWS
    return out


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "miners.npz", **reference())
