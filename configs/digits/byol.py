"""BYOL on cluttered digits (embedded): a method that does not beat its untrained encoder here, and why that is worth a config.

Command:  python -m jaxssl.main --config configs/digits/byol.py --workdir runs/digits_byol
Hardware: two CPU cores. Hours: .03 of processor time (113 CPU-seconds for the 900 steps).
Expected: kNN (k = 20) 17.1 % on held-out images against 32.7 % untrained (seed 0, one run), while the loss falls to .55 and a linear probe on training views rises from
          12 to 32 %: it learns, but place, size and contrast, which two crops share too, and which without negatives are enough. With tau .9 and crops from .3 on it is
          15.1 %; with tau .97, batch 128 and width .375 17.5 % after 261 of 350 steps, against 37.9 % untrained. SimCLR on the same images: configs/digits/simclr.py.
          BYOL learns on photographs: configs/cifar10/byol.py:laptop.
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=64, total=900, warmup="5_percent", log_every=50, eval_every="25_percent", checkpoint_every="25_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        augment=dict(size=32, crop_scale=(0.5, 1.0), flip=0.0, jitter=0.8, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, gray=0.0, blur=0.0, invert=0.5,
                     mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        model=dict(name="resnet10", stem="imagenet", width=0.25, zero_init=False),
        method=dict(name="byol", tau=0.99, hidden=512, dim=128),
        optim=dict(name="adamw", lr=2e-3, scaling="none", weight_decay=1e-2)))
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "laptop":
        c.total = 40
    return c
