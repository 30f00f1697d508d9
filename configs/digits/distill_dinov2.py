"""DINOv2's distillation on cluttered digits (embedded): a run of configs/digits/dinov2.py into a ViT of half its depth, with its views and crops.

Command:  python -m jaxssl.main --config configs/digits/distill_dinov2.py --workdir runs/small --config.method.teacher=runs/digits_dinov2
Hardware: two CPU cores. Hours: none measured on quiet cores.
Expected: not measured.
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    colors = dict(flip=0.0, jitter=0.8, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, gray=0.0, blur=0.0, invert=0.5,
                  mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    c = ConfigDict(dict(
        batch_size=128, total=700, warmup="10_percent", log_every=50, eval_every="25_percent", checkpoint_every="25_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        augment=dict(size=32, crop_scale=(0.5, 1.0), **colors),
        local=dict(views=2, size=16, crop_scale=(0.2, 0.5), **colors),
        model=dict(name="vit_tiny", patch=4, image=32, width=64, depth=2, heads=4, kernel_init="xavier"),
        method=dict(name="distill_dinov2", prototypes=512, hidden=256, bottleneck=64, layers=2, teacher_temp=0.06, tau=0.97, koleo=0.5),
        optim=dict(name="adamw", lr=2e-3, scaling="none", weight_decay=4e-2, clip=3.0, clip_by="network")))
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "laptop":
        c.total = 40
    return c
