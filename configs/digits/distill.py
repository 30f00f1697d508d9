"""Distillation on cluttered digits (embedded): a trained encoder of any family into the ResNet-10 of configs/digits/simclr.py, whose views it has.

Command:  python -m jaxssl.main --config configs/digits/distill.py --workdir runs/small --config.method.teacher=runs/digits
          (the teacher is any weights that jaxssl.load opens, here the run of the quick start)
Hardware: two CPU cores. Hours: none measured on quiet cores.
Expected: after 200 steps (--config.total=200) kNN 62.1 % and linear 71.4 % on held-out images, where SimCLR has 41.1 and 54.8 % after as many of the same network, batch and rate;
          the teacher, of 700 steps, has 64.9 and 78.4 %, an untrained network 28.2 and 32.0 % (seed 0, one run each). With method.weight=0 and method.regression=1
          62.4 and 73.5 %. After 700 steps: not measured.
Variants: clean: the plain digits. laptop: 40 steps, shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=128, total=700, warmup="5_percent", log_every=50, eval_every="25_percent", checkpoint_every="25_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        augment=dict(views=1, size=32, crop_scale=(0.5, 1.0), flip=0.0, jitter=0.8, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, gray=0.0, blur=0.0, invert=0.5,
                     mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        # Blocks that start as identities learn nothing in so short a run, hence no zero_init. At 32 px its last map is one place, so that no patches are compared.
        model=dict(name="resnet10", stem="imagenet", width=0.375, zero_init=False),
        method=dict(name="distill", queue=1024, patch_weight=0.0),
        optim=dict(name="adamw", lr=4e-3, scaling="none", weight_decay=1e-2)))
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "laptop":
        c.total = 40
    return c
