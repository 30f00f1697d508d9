"""Makes dinov2.npz: what facebookresearch/dinov2 computes in float64 on fixed inputs, and statistics of its masks (commit b8931f7, torch 2.13.0 when last run).

    python tests/goldens/make_dinov2.py CHECKOUT          # a checkout of facebookresearch/dinov2, with torch installed; its code is run and nothing of it is kept
"""
import random
import runpy
import sys
from pathlib import Path

import numpy as np

TEMPS = dict(student=.1, teacher=.04)


def inputs():
    """name -> float64 array: B = 8 images, 2 + 2 crops of K = 6 prototypes; 9 of 12 places of a buffer hold hidden patches, of crops of 12 patches."""
    rng = np.random.Generator(np.random.PCG64(17))
    mask = np.zeros((16, 12), bool)
    for crop, count in ((1, 4), (6, 1), (11, 3), (15, 1)):
        mask[crop, rng.permutation(12)[:count]] = True
    return {"student": rng.uniform(-1, 1, (8, 4, 6)), "teacher": rng.uniform(-1, 1, (8, 2, 6)), "center_before": rng.normal(0, .1, 6), "mask": mask,
            "patch_student": rng.uniform(-1, 1, (9, 6)), "patch_teacher": rng.uniform(-1, 1, (9, 6)), "features": rng.normal(size=(8, 2, 5))}


def reference(checkout):
    """name -> array: losses, `grad_…` of what they are differentiated in, targets, centers and schedules of the official code."""
    import torch
    sys.path.insert(0, str(checkout))
    torch.set_default_dtype(torch.float64)
    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:29876", rank=0, world_size=1)
    # Files by themselves: their package wants torchvision.
    collate_data_and_cast = runpy.run_path(str(checkout / "dinov2/data/collate.py"))["collate_data_and_cast"]
    MaskingGenerator = runpy.run_path(str(checkout / "dinov2/data/masking.py"))["MaskingGenerator"]
    from dinov2.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss
    from dinov2.utils.utils import CosineScheduler
    torch.Tensor.float = torch.Tensor.double                        # its own casts, so that the values have the digits of float64
    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    out, dino, ibot, koleo = {}, DINOLoss(6), iBOTPatchLoss(6), KoLeoLoss()
    dino.center.copy_(x["center_before"])
    ibot.center.copy_(x["center_before"])

    def graded(name, function, array):
        leaf = array.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        out[name], out[f"grad_{name}"] = value.detach().reshape(()), leaf.grad

    swapped = torch.cat([x["teacher"][:, 1], x["teacher"][:, 0]])
    targets = dino.softmax_center_teacher(swapped, TEMPS["teacher"]).view(2, 8, 6)

    def image(s):
        local = dino([s[:, 2], s[:, 3]], targets) / 6
        return local + dino([torch.cat([s[:, 0], s[:, 1]])], [targets.flatten(0, 1)]) * 2 / 6
    graded("dino", image, x["student"])
    dino.update_center(swapped)
    dino.apply_center_update()
    patch_target = ibot.softmax_center_teacher(x["patch_teacher"][None], TEMPS["teacher"])[0]
    graded("ibot", lambda s: ibot.forward_masked(s, patch_target, x["mask"], n_masked_patches=9), x["patch_student"])
    ibot.update_center(x["patch_teacher"][None])
    ibot.apply_center_update()
    graded("koleo", lambda z: koleo(z[:, 0]) + koleo(z[:, 1]), x["features"])
    out |= {"center": dino.center.reshape(6), "center_patch": ibot.center.reshape(6), "sinkhorn": dino.sinkhorn_knopp_teacher(x["teacher"].reshape(16, 6), TEMPS["teacher"]),
            "sinkhorn_patch": ibot.sinkhorn_knopp_teacher(x["patch_teacher"], TEMPS["teacher"], torch.tensor(9))}
    short = dict(lr=CosineScheduler(5.656854249492381e-3, 1e-6, 125000, 12500, 0), decay=CosineScheduler(.04, .4, 125000), momentum=CosineScheduler(.992, 1, 125000),
                 temp=CosineScheduler(.07, .07, 37500, 37500, .04))
    out |= {f"schedule_{name}": torch.tensor([schedule[at] for at in (0, 6000, 12500, 60000, 124999)]) for name, schedule in short.items()}
    random.seed(0)
    torch.set_default_dtype(torch.float32)
    crops = [({"global_crops": [torch.zeros(1)] * 2, "local_crops": [torch.zeros(1)]},)] * 64
    drawn = [collate_data_and_cast(crops, (.1, .5), .5, torch.float32, 196, MaskingGenerator((14, 14), max_num_patches=98)) for _ in range(20)]
    masks = np.stack([one["collated_masks"].numpy() for one in drawn])                         # [20, 128, 196]
    edges = masks.reshape(-1, 14, 14)
    out |= {"mask_crops": torch.tensor((masks.sum(-1) > 0).sum(-1).mean()), "mask_share": torch.tensor(masks.mean()), "upperbound": torch.tensor(drawn[0]["upperbound"]),
            # How blocky: of neighbours of a hidden patch, the share that is hidden too.
            "mask_together": torch.tensor((edges[:, 1:] & edges[:, :-1]).sum() / edges[:, 1:].sum())}
    return {name: array.detach().numpy() for name, array in out.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "dinov2.npz", **inputs(), **reference(Path(sys.argv[1]).resolve()))
