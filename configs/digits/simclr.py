"""SimCLR on cluttered digits (embedded: scikit-learn's real glyphs at random place, size, angle and grey): the quick start.

Command:  python -m jaxssl.main --config configs/digits/simclr.py --workdir runs/digits
Hardware: two CPU cores, about 3 minutes.
Expected: see README.
Variants: clean: the plain digits. laptop: 40 steps, shows that everything runs.
"""
from ml_collections import ConfigDict

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total=500, warmup="5_percent", log_every=20, eval_every="20_percent", checkpoint_every="20_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        augment=dict(size=32, crop_scale=(0.6, 1.0), flip=0.0, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.0, hue=0.0, gray=0.0, blur=0.0, invert=0.5,
                     mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        model=dict(name="resnet10", stem="cifar", width=0.25),
        method=dict(name="simclr", temperature=0.1, hidden=256, dim=128, layers=2),
        optim=dict(name="adamw", lr=2e-3, scaling="none", weight_decay=1e-2),
        eval=dict(raw=True)))
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "laptop":
        c.total = 40
    return c
