"""Makes losses.npz: the arrays of `inputs`, and what lightly makes of them in float64 (lightly 1.6.0 over torch 2.13.0 when last run).

    python tests/goldens/make_losses.py          # with torch, torchvision and lightly installed

Values are stored as lightly returns them; where its formula differs from ours by intent, the test in test_losses.py says how.
"""
from pathlib import Path

import numpy as np

TEMPS = dict(student=.1, teacher=.04, codes=.05)


def inputs():
    """name -> float64 array: B = 8 images, two whole views and two crops, K = 6; pictures of 4 × 4 pixels in patches of 2."""
    rng = np.random.Generator(np.random.PCG64(11))
    return {"p": rng.normal(size=(8, 2, 6)), "z": rng.normal(size=(8, 2, 6)), "student": rng.uniform(-1, 1, (8, 4, 6)), "teacher": rng.uniform(-1, 1, (8, 2, 6)),
            "center_before": rng.normal(0, .1, 6), "images": rng.normal(size=(8, 4, 4, 3)), "prediction": rng.normal(size=(8, 4, 12)),
            "mask": rng.random((8, 4)) < .75, "directions": rng.normal(size=(6, 5))}


def lightly():
    """Imports lightly's losses and helpers; where torchvision's compiled operators do not fit the installed torch, declares those its import asks for."""
    import torch
    kept = lightly.kept = torch.library.Library("torchvision", "FRAGMENT")  # torch forgets the declarations with the object
    for name in ("nms", "qnms"):
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            kept.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from lightly import loss
    from lightly.loss import swav_loss
    from lightly.models import utils
    return torch, loss, swav_loss, utils


def reference():
    """name -> float64 array: what lightly returns, and `grad_…`, the gradient of a loss with respect to its predictions."""
    torch, loss, swav_loss, utils = lightly()
    from lightly.loss.lejepa_loss import SIGReg
    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    out = {}

    def graded(name, function, array):
        leaf = array.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        out[name], out[f"grad_{name}"] = value.detach().reshape(()), leaf.grad

    def views(array):
        return list(array.unbind(1))

    cosine = loss.NegativeCosineSimilarity()
    graded("byol", lambda p: .5 * (cosine(p[:, 0], x["z"][:, 1]) + cosine(p[:, 1], x["z"][:, 0])), x["p"])
    dino = loss.DINOLoss(6, teacher_temp=TEMPS["teacher"], student_temp=TEMPS["student"]).double()
    dino.center.copy_(x["center_before"])
    graded("dino", lambda s: dino(views(x["teacher"]), views(s)), x["student"])
    out["center"] = dino.center.reshape(6)
    out["sinkhorn"] = swav_loss.sinkhorn(x["teacher"].reshape(16, 6), epsilon=TEMPS["codes"]).reshape(8, 2, 6)
    # lightly takes its codes from the student's own whole views, without gradient.
    graded("swav", lambda s: loss.SwaVLoss(temperature=TEMPS["student"], sinkhorn_epsilon=TEMPS["codes"])(views(s[:, :2]), views(s[:, 2:])), x["student"])
    out["patches"] = utils.patchify(x["images"].permute(0, 3, 1, 2), 2)
    # The losses as lightly's documentation of MAE and SimMIM computes them: torch's own, over the masked patches alone.
    graded("mae", lambda p: torch.nn.MSELoss()(p[x["mask"]], utils.normalize_mean_var(out["patches"])[x["mask"]]), x["prediction"])
    graded("simmim", lambda p: torch.nn.L1Loss()(p[x["mask"]], out["patches"][x["mask"]]), x["prediction"])
    graded("vicreg", lambda z: loss.VICRegLoss()(*views(z)), x["p"])
    graded("barlow_twins", lambda z: loss.BarlowTwinsLoss(.0051)(*views(z)), x["p"])
    sigreg = SIGReg().double()
    sigreg._generate_unit_vectors = lambda *_: x["directions"] / x["directions"].norm(dim=0)      # ours, in place of its own draws
    graded("sigreg", lambda z: sum(map(sigreg, views(z))) / 4, x["student"])
    return {name: array.detach().numpy() for name, array in out.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "losses.npz", **inputs(), **reference())
