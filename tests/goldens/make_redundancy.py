"""Makes redundancy.npz: the arrays of `inputs`, and what lightly and solo-learn make of them in float64 (lightly 1.6.0, solo-learn 9187ea3, torch 2.13.0 when last run).

    python tests/goldens/make_redundancy.py SOLO          # SOLO: a checkout of solo-learn; with torch, torchvision and lightly installed

Values are stored as they return them; where a formula differs from ours by intent, the test in test_redundancy.py says how.
"""
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
from make_losses import lightly


def inputs():
    """name -> float64 array: B = 24 images, two views, K = 6; for maps 16 places of two views and 4 of a crop, in boxes of a canvas."""
    rng = np.random.Generator(np.random.PCG64(12))
    mix = rng.normal(size=(6, 6))
    p = rng.normal(size=(24, 2, 6)) + .7 * rng.normal(size=(24, 1, 6))
    boxes = np.concatenate([rng.uniform(0, 9, (24, 3, 2)), rng.uniform(11, 23, (24, 3, 2))], -1)      # top, left, height, width: no two distances are equal
    return {"p": p @ mix, "z": rng.normal(size=(24, 2, 6)), "covariance": np.cov(rng.normal(size=(6, 40))) / 6, "directions": rng.normal(size=(6, 5)),
            "maps": rng.normal(size=(24, 2, 16, 6)), "crop": rng.normal(size=(24, 1, 4, 6)), "boxes": boxes, "flips": rng.random((24, 3)) < .5,
            "wide": rng.normal(size=(24, 8)) @ rng.normal(size=(8, 8))}


def solo(folder):
    """solo-learn's modules of losses and whitening, without the package, which imports much that they do not need."""
    misc = types.ModuleType("solo.utils.misc")
    misc.gather = lambda x: x                                                  # of one process
    sys.modules.update({"solo": types.ModuleType("solo"), "solo.utils": types.ModuleType("solo.utils"), "solo.utils.misc": misc, "solo.losses": types.ModuleType("solo.losses")})
    found = []
    for name in ("losses.vicreg", "losses.vibcreg", "utils.whitening"):
        spec = importlib.util.spec_from_file_location(f"solo.{name}", Path(folder) / "solo" / (name.replace(".", "/") + ".py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[f"solo.{name}"] = module
        spec.loader.exec_module(module)
        found.append(module)
    return found[1:]


def grid(boxes, flips, side, torch):
    """Centres of the places of a view, [B, side, side, 2]: numpy's own, place by place."""
    out = np.zeros((len(boxes), side, side, 2))
    for b, (top, left, height, width) in enumerate(boxes):
        for r in range(side):
            for c in range(side):
                out[b, r, c] = top + (r + .5) * height / side, left + ((side - 1 - c if flips[b] else c) + .5) * width / side
    return torch.from_numpy(out)


def reference(folder):
    """name -> float64 array: the values, and `grad_…`, the gradient of a loss with respect to its predictions."""
    torch = lightly()[0]
    from lightly.loss import mmcr_loss, tico_loss, vicregl_loss, visreg_loss, wmse_loss
    torch.set_default_dtype(torch.float64)
    vibcreg, whitening = solo(folder)
    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    unit, out = torch.nn.functional.normalize, {}

    def graded(name, function, array):
        leaf = array.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        out[name], out[f"grad_{name}"] = value.detach().reshape(()), leaf.grad

    # Both views ask at once: as rows of one batch.
    criterion = tico_loss.TiCoLoss(beta=.9, rho=8.)
    criterion.C = x["covariance"]
    graded("tico", lambda p: criterion(torch.cat([p[:, 0], p[:, 1]]), torch.cat([x["z"][:, 1], x["z"][:, 0]])), x["p"])
    out["tico_covariance"] = criterion.C
    # lightly leaves unit length to its caller. In its second term are both networks' views, so weights are compared without a teacher.
    graded("mmcr", lambda p: mmcr_loss.MMCRLoss(0.)(unit(p, dim=-1), unit(x["z"], dim=-1)), x["p"])
    graded("mmcr_weighed", lambda p: mmcr_loss.MMCRLoss(.3)(unit(p[:, :1], dim=-1), unit(p[:, 1:], dim=-1)), x["p"])
    # One sub-batch: lightly's draws of several are its own.
    graded("wmse", lambda p: wmse_loss.WMSELoss(embedding_dim=6, w_size=24, track_running_stats=False)(torch.cat([p[:, 0], p[:, 1]])), x["p"])
    drawn, torch.randn = torch.randn, lambda *shape, **_: x["directions"]
    for name in ("center", "scale"):
        graded(f"visreg_{name}", lambda p: getattr(visreg_loss, f"visreg_{name}_loss")(p.transpose(0, 1)), x["p"])
    graded("visreg_shape", lambda p: visreg_loss.visreg_shape_loss(p.transpose(0, 1), 5), x["p"])
    torch.randn = drawn
    graded("vibcreg", lambda p: vibcreg.vibcreg_loss_func(p[:, 0], p[:, 1]), x["p"])
    norm = whitening.IterNorm(8, num_groups=2, T=5)
    graded("iternorm_square", lambda w: (norm(w) * torch.arange(24 * 8).reshape(24, 8).sin()).sum(), x["wide"])
    out["iternorm"] = norm(x["wide"])

    def in_order(a, b, distances, count):
        """Matches in the order of places, as the official code has them; lightly has them by distance, and variances are of what stands at one number."""
        nearest = distances.min(2)
        kept = nearest.values.topk(min(count, a.shape[1]), 1, largest=False).indices.sort(1).values[..., None].expand(-1, -1, a.shape[2])
        return a.gather(1, kept), b.gather(1, nearest.indices[..., None].expand(-1, -1, a.shape[2])).gather(1, kept)

    vicregl_loss.utils.nearest_neighbors = in_order
    grids = [grid(x["boxes"][:, v].numpy(), x["flips"][:, v].numpy(), side, torch) for v, side in ((0, 4), (1, 4), (2, 2))]

    def local(maps):
        criterion = vicregl_loss.VICRegLLoss(num_matches=(3, 3))
        features = [(m, m.unflatten(1, (s, s))) for m, s in zip((maps[:, 0], maps[:, 1], x["crop"][:, 0]), (4, 4, 2))]
        return criterion._local_loss(features[:2], grids[:2], features[2:], grids[2:])
    graded("vicregl", local, x["maps"])
    return {name: array.detach().numpy() for name, array in out.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "redundancy.npz", **inputs(), **reference(sys.argv[1]))
