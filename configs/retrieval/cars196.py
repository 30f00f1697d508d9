"""Metric learning on Cars196, ResNet-50 from ImageNet weights, multi-similarity with its miner as "A metric learning reality check" tuned it there.

Command:  python -m jaxssl.main --config configs/retrieval/cars196.py --workdir runs/cars196 --config.data.path=IMAGES \
              --config.init_from=WEIGHTS --config.init_allow_missing=projector
Data:     one folder of class/*.jpg (a zip with --config.data.source=zip), all 196 classes. They are parted by class as the check does: half are its test, which nothing
          here sees, and of the other half 74 are trained on and the rest held out (fold 0; --config.data.fold for the others).
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: not run by this project. With BN-Inception in place of ResNet-50 the best of 50 trials reached a mean validation MAP@R of .233 (the check's own logs,
          as its repository draws them). Differs from it: the encoder, and views of 224 pixels in place of 227.
Variants: cosface: weights of classes, one image of a class in a batch, the check's numbers too. laptop: a small ResNet at 64 px,
          20 steps: shows that everything runs (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("cosface", "laptop")


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("cub.py")))["get_config"](variant)
    if variant == "cosface":
        c.method.update(margin=0.4324, scale=161.5)
        c.optim.rules = (("^classes/", dict(rate=7410.0)), (1, dict(decay=1.0)))
    else:
        c.method.update(alpha=7.49, beta=47.99, base=0.63, epsilon=0.72)
    return c
