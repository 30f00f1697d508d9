"""Makes correlation.npz: SimDINO's loss and gradient in float64 as its official code computes them (RobinWu218/SimDINO, MIT; torch 2.13.0 when last run).

    python tests/goldens/make_correlation.py PATH/simdino/main_dino.py          # with torch installed; the file of a checkout, of which the loss alone is executed
"""
import sys
from pathlib import Path

import numpy as np


def inputs():
    """name -> float64 array: B = 8 images, two whole views and two crops, K = 6, of unit length."""
    rng = np.random.Generator(np.random.PCG64(12))
    drawn = {"student": rng.normal(size=(8, 4, 6)), "teacher": rng.normal(size=(8, 2, 6))}
    return {name: x / np.linalg.norm(x, axis=-1, keepdims=True) for name, x in drawn.items()}


def reference(source):
    import torch
    text = source[source.index("class MCRLoss"):source.index("class DataAugmentationDINO")]
    scope = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "dist": torch.distributed}
    exec(text, scope)
    student, teacher = (torch.from_numpy(x).requires_grad_() for x in inputs().values())
    value = scope["MCRLoss"](4, 0, 1, .05, 1.)(student.transpose(0, 1).reshape(-1, 6), teacher.detach().transpose(0, 1).reshape(-1, 6))[0]
    value.backward()
    return {"simdino": value.detach().numpy(), "grad_simdino": student.grad.numpy()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "correlation.npz", **inputs(), **reference(Path(sys.argv[1]).read_text()))
