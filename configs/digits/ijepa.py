"""I-JEPA on cluttered digits (embedded), a small ViT without class token.

Command:  python -m jaxssl.main --config configs/digits/ijepa.py --workdir runs/digits_ijepa
Hardware: two CPU cores. Hours: none measured.
Expected: not measured.
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=64, total=700, warmup="5_percent", log_every=50, eval_every="25_percent", checkpoint_every="25_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        augment=dict(views=1, size=32, crop_scale=(0.5, 1.0), flip=0.0, jitter=0.0, gray=0.0, blur=0.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        model=dict(name="vit_tiny", width=96, depth=4, heads=4, patch=4, image=32, cls=False, pool="mean", positions="sincos", kernel_init="xavier"),
        method=dict(name="ijepa", visible=0.4, tau=0.99, width=48, depth=2, heads=2),
        optim=dict(name="adamw", b2=0.95, lr=2e-3, scaling="none", weight_decay=0.05)))
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "laptop":
        c.total = 40
    return c
