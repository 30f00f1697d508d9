"""Makes metric.npz: the arrays of `inputs`, and what pytorch-metric-learning makes of them in float64 (2.9.0 over torch 2.13.0 when last run).

    python tests/goldens/make_metric.py          # with torch and pytorch-metric-learning installed

Two batches of 16 rows: four classes of four in PML's order, and ragged classes with unlabelled rows, which PML is not given. Values and gradients are stored as PML returns them.
"""
from pathlib import Path

import numpy as np

C, K, D = 6, 3, 8


def inputs():
    rng = np.random.Generator(np.random.PCG64(13))
    ragged = np.array([0, 1, 2, 0, -1, 2, 2, 0, 3, -1, 5, 5, 1, -1, 2, 1])
    return {"z": rng.normal(size=(16, D)), "proxies": rng.normal(size=(C, D)), "centres": rng.normal(size=(C, K, D)), "beta": rng.uniform(.9, 1.3, C),
            "labels": np.stack([np.arange(16) // 4, ragged])}


def reference():
    import torch
    from pytorch_metric_learning import losses, regularizers
    torch.set_default_dtype(torch.float64)
    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    proxies, sizes = {"W": x["proxies"].T, "proxies": x["proxies"]}, dict(num_classes=C, embedding_size=D)
    side_by_side = x["centres"].reshape(C * K, D).T
    made = {
        "contrastive": (losses.ContrastiveLoss(), {}),
        "snr_contrastive": (losses.SignalToNoiseRatioContrastiveLoss(pos_margin=.1, neg_margin=.9, embedding_regularizer=regularizers.ZeroMeanRegularizer(),
                                                                     embedding_reg_weight=.3), {}),
        "threshold_consistent_margin": (losses.ThresholdConsistentMarginLoss(lambda_plus=2., lambda_minus=3., margin_minus=.1), {}),
        "margin": (losses.MarginLoss(), {}),
        "margin, by class": (losses.MarginLoss(nu=.1, learn_beta=True, num_classes=C), {"beta": x["beta"]}),
        "triplet": (losses.TripletMarginLoss(), {}),
        "triplet, smooth, swapped": (losses.TripletMarginLoss(smooth_loss=True, swap=True), {}),
        "nt_xent_labelled": (losses.NTXentLoss(), {}),
        "tuplet": (losses.TupletMarginLoss(), {}),
        "sup_con": (losses.SupConLoss(), {}),
        "nca": (losses.NCALoss(), {}),
        "n_pairs": (losses.NPairsLoss(), {}),
        "multi_similarity": (losses.MultiSimilarityLoss(), {}),
        "circle": (losses.CircleLoss(), {}),
        "lifted_structure": (losses.LiftedStructureLoss(), {}),
        "fast_ap": (losses.FastAPLoss(), {}),
        "smooth_ap, own": (losses.SmoothAPLoss(), {}),
        "proxy_nca": (losses.ProxyNCALoss(**sizes), {"proxies": proxies["proxies"]}),
        "proxy_anchor": (losses.ProxyAnchorLoss(**sizes), {"proxies": proxies["proxies"]}),
        "normalized_softmax": (losses.NormalizedSoftmaxLoss(**sizes), {"W": proxies["W"]}),
        "cosface": (losses.CosFaceLoss(**sizes), {"W": proxies["W"]}),
        "arcface": (losses.ArcFaceLoss(**sizes), {"W": proxies["W"]}),
        "sub_center_arcface": (losses.SubCenterArcFaceLoss(sub_centers=K, **sizes), {"W": side_by_side}),
        "soft_triple": (losses.SoftTripleLoss(centers_per_class=K, weight_regularizer=regularizers.SparseCentersRegularizer(C, K), weight_reg_weight=.2, **sizes),
                        {"fc": side_by_side}),
    }
    out = {}
    for name, (loss, weights) in made.items():
        for batch, label in enumerate(x["labels"]):
            if name == "smooth_ap, own" and batch:                       # PML refuses ragged classes
                continue
            for key, value in weights.items():
                getattr(loss, key).data = value.clone()
            loss.zero_grad()
            z = x["z"].clone().requires_grad_()
            value = loss(z[label >= 0], label[label >= 0])
            value.backward()
            out[f"{name}/{batch}"], out[f"{name}/{batch}/z"] = value.detach().reshape(()), z.grad.float()
            for key in weights:
                grad = getattr(loss, key).grad
                grad = grad.T if key in ("W", "fc") else grad
                out[f"{name}/{batch}/weights"] = grad.reshape(x["centres"].shape).float() if len(grad) == C * K else grad.float()
    return {name: array.detach().numpy() for name, array in out.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "metric.npz", **inputs(), **reference())
