"""Makes augment.npz from torchvision (0.29.2 over torch 2.13.0 when last run): `python tests/goldens/make_augment.py`.

Inputs are smooth random images, uint8; outputs are torchvision's float results on fixed parameters, stored as uint8 (error 0.5/255).
`reference(name)` is also what the live comparison in test_augment_ops.py calls.
"""
from pathlib import Path

import numpy as np

CROPS = [(0, 0, 48, 48), (3, 7, 41, 20), (10, 1, 9, 30), (20, 22, 5, 4), (0, 5, 48, 17)]  # top, left, height, width of a 48 px canvas
RESIZES = [(48, 48), (48, 31), (20, 48), (33, 40)]  # valid height, width
FACTORS = {"brightness": (0.0, 0.2, 0.7, 1.0, 1.8), "contrast": (0.0, 0.2, 0.7, 1.0, 1.8), "saturation": (0.0, 0.2, 0.7, 1.0, 1.8)}
HUES = (-0.5, -0.2, -0.03, 0.1, 0.33, 0.5)
JITTERS = [((0, 1, 2, 3), 1.4, 0.6, 1.7, 0.15), ((3, 2, 1, 0), 0.5, 1.5, 0.3, -0.2), ((2, 0, 3, 1), 1.7, 1.6, 0.4, 0.05)]  # order, b, c, s, h
SIGMAS = (0.1, 0.5, 1.0, 2.0)
KERNEL = 9


def images():
    """[5, 48, 48, 3] uint8: blocks of colour with a gradient and noise; some saturated, some grey pixels."""
    rng = np.random.Generator(np.random.PCG64(7))
    coarse = np.kron(rng.random((5, 6, 6, 3)), np.ones((1, 8, 8, 1)))
    ramp = np.linspace(0, 0.3, 48)[None, :, None, None] * rng.random((5, 1, 1, 3))
    x = np.clip((coarse + ramp) * 1.1 - 0.1 + rng.normal(0, 0.03, coarse.shape), 0, 1)
    x[:, :8, :8] = x[:, :8, :8, :1]  # grey: hue undefined
    return np.round(x * 255).astype(np.uint8)


def torchvision():
    """Imports torchvision; where its compiled operators do not fit the installed torch, declares the one its import needs."""
    import torch

    try:
        import torchvision
    except RuntimeError:
        torchvision_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torch, torchvision.transforms.functional


class _Library:
    """Keeps the declaration alive: torch forgets it with the object."""

    kept = []

    def define(self, schema):
        import torch

        self.kept.append(torch.library.Library("torchvision", "FRAGMENT"))
        self.kept[-1].define(schema)


torchvision_library = _Library()


def reference():
    """name -> uint8 array, channels first."""
    torch, F = torchvision()
    x = torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255
    modes = {"bilinear": F.InterpolationMode.BILINEAR, "bicubic": F.InterpolationMode.BICUBIC}
    out = {}
    for name, mode in modes.items():
        for size in (16, 40):  # 16 shrinks most of the boxes, 40 enlarges most
            out[f"crop_{name}_{size}"] = [F.resized_crop(i, *box, [size, size], mode, antialias=True) for i, box in zip(x, CROPS)]
        resized = [F.resize(x[0, :, :h, :w], 28, mode, antialias=True) for h, w in RESIZES]
        out[f"center_{name}"] = [F.center_crop(i, [24, 24]) for i in resized]
    for name, factors in FACTORS.items():
        out[name] = [getattr(F, f"adjust_{name}")(i, f) for i, f in zip(x, factors)]
    out["hue"] = [F.adjust_hue(x[k % 5], h) for k, h in enumerate(HUES)]
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    out["jitter"] = []
    for i, (order, *factors) in zip(x, JITTERS):
        for op in order:
            i = steps[op](i, factors[op])
        out["jitter"].append(i)
    out["gray"] = [F.rgb_to_grayscale(i, 3) for i in x]
    out["blur"] = [F.gaussian_blur(i, KERNEL, s) for i, s in zip(x, SIGMAS)]
    out["solarize"] = [F.solarize(i, 0.5) for i in x]
    out["invert"] = [F.invert(i) for i in x]
    return {k: np.round(np.clip(torch.stack(v).numpy(), 0, 1) * 255).astype(np.uint8) for k, v in out.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("augment.npz"), **reference())
