"""Metric learning on Stanford Online Products, ResNet-50 from ImageNet weights, multi-similarity with its miner as "A metric learning reality check" tuned it there.

Command:  python -m jaxssl.main --config configs/retrieval/sop.py --workdir runs/sop --config.data.path=IMAGES \
              --config.init_from=WEIGHTS --config.init_allow_missing=projector
Data:     one folder of class/*.jpg (a zip with --config.data.source=zip), all 22,634 classes. They are parted by class as the check does: half are its test, which nothing
          here sees, and of the other half 8,488 are trained on and the rest held out (fold 0; --config.data.fold for the others).
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: not run by this project. With BN-Inception in place of ResNet-50 the best of 50 trials reached a mean validation MAP@R of .420 (the check's own logs,
          as its repository draws them). Differs from it: the encoder, and views of 224 pixels in place of 227.
Variants: cosface: weights of classes, one image of a class in a batch, the check's numbers too. laptop: a small ResNet at 64 px,
          20 steps: shows that everything runs (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("cosface", "laptop")


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("cub.py")))["get_config"](variant)
    c.total = c.total if variant == "laptop" else "50000_steps"
    if variant == "cosface":
        c.method.update(margin=0.3364, scale=100.0)
        c.optim.rules = (("^classes/", dict(rate=2160.0)), (1, dict(decay=1.0)))
    else:
        c.method.update(alpha=15.94, beta=156.61, base=0.72, epsilon=0.34)
    return c
