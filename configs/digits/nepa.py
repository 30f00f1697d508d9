"""NEPA on cluttered digits (embedded), a small ViT.

Command:  python -m jaxssl.main --config configs/digits/nepa.py --workdir runs/digits_nepa
Hardware: two CPU cores. Hours: none measured.
Expected: it does not learn classes here: kNN 14.2 % at step 500 (seed 0, one run that was ended there); see docs/open.md.
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=64, total=1000, warmup="5_percent", log_every=50, eval_every="25_percent", checkpoint_every="25_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        augment=dict(views=1, size=32, crop_scale=(0.5, 1.0), flip=0.0, jitter=0.0, gray=0.0, blur=0.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        model=dict(name="vit_tiny", width=96, depth=4, heads=4, patch=4, image=32, pool="mean", positions="rope", qk_norm=True, kernel_init="xavier"),
        method=dict(name="nepa"),
        optim=dict(name="adamw", b2=0.95, lr=2e-3, scaling="none", weight_decay=0.05)))
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "laptop":
        c.total = 40
    return c
