"""Metric learning on cluttered digits (embedded), with the encoder and the views of configs/digits/simclr.py: multi-similarity, its miner, a linear head and a memory.

Command:  python -m jaxssl.main --config configs/digits/metric.py --workdir runs/digits_metric
Hardware: two CPU cores. Hours: not measured.
Expected: kNN 89.7 % and linear 90.5 % on held-out images, against 28.2 % and 32.0 % untrained (seed 0, one run).
Variants: arcface: weights of the ten classes in place of pairs. clean: the plain digits. laptop: 40 steps, shows that everything runs (none of these measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("arcface", "clean", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=128, total=700, warmup="5_percent", log_every=50, eval_every="25_percent", checkpoint_every="25_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        augment=dict(views=1, size=32, crop_scale=(0.5, 1.0), flip=0.0, jitter=0.8, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, gray=0.0, blur=0.0, invert=0.5,
                     mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        # Blocks that start as identities learn nothing in so short a run, hence no zero_init.
        model=dict(name="resnet10", stem="imagenet", width=0.375, zero_init=False),
        method=dict(name="metric", loss="multi_similarity", miner="multi_similarity", dim=64, memory=512, memory_start=100),
        optim=dict(name="adamw", lr=4e-3, scaling="none", weight_decay=1e-2)))
    if variant == "arcface":
        c.method = ConfigDict(dict(name="metric", loss="arcface", scale=16.0, dim=64))
        c.optim.rules = (("^classes/", dict(rate=2.5, decay=0.0)),)
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "laptop":
        c.total = 40
    return c
