"""DenseCL on cluttered digits (embedded), with the encoder and the views of configs/digits/simclr.py, but a stem that leaves a map of 4 × 4 places.

Command:  python -m jaxssl.main --config configs/digits/densecl.py --workdir runs/digits_densecl
Hardware: two CPU cores. Hours: none measured.
Expected: kNN 17.0 % and linear 27.2 % against 21.4 and 24.7 % untrained (seed 0, one run on shared cores): it does not learn classes here in these steps.
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=128, total=700, warmup="5_percent", log_every=50, eval_every="25_percent", checkpoint_every="25_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        augment=dict(size=32, crop_scale=(0.5, 1.0), flip=0.0, jitter=0.8, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, gray=0.0, blur=0.0, invert=0.5,
                     mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        # Blocks that start as identities learn nothing in so short a run, hence no zero_init.
        model=dict(name="resnet10", stem="cifar", width=0.1875, zero_init=False),
        method=dict(name="densecl", temperature=0.2, queue=1024, tau=0.9, norm=True, hidden=256, dim=128),
        optim=dict(name="adamw", lr=4e-3, scaling="none", weight_decay=1e-2)))
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "laptop":
        c.total = 40
    return c
