"""DINO on cluttered digits (embedded), a small ViT, 2 + 2 crops: shows that everything runs; it does not learn in a few minutes.

Command:  python -m jaxssl.main --config configs/digits/dino.py --workdir runs/digits_dino
Hardware: two CPU cores. Hours: .2 of processor time (about one CPU-second a step).
Expected: kNN (k = 20) 12.2 % on held-out images after 175 of 700 steps, against 12.7 % untrained (seed 0, one run, stopped there): the class token of a ViT of 64
          channels begins almost equal for all images, the targets are uniform (divergence 0, teacher_entropy log 512), and nothing is left to learn from.
Variants: clean: the plain digits (not measured). laptop: 40 steps (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    colors = dict(flip=0.0, jitter=0.8, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, gray=0.0, blur=0.0, invert=0.5,
                  mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    c = ConfigDict(dict(
        batch_size=64, total=700, warmup="10_percent", log_every=50, eval_every="25_percent", checkpoint_every="25_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        augment=dict(size=32, crop_scale=(0.4, 1.0), **colors),
        local=dict(views=2, size=16, crop_scale=(0.2, 0.5), **colors),
        model=dict(name="vit_tiny", patch=4, image=32, width=64, depth=4, heads=2),
        method=dict(name="dino", prototypes=512, hidden=256, bottleneck=64, teacher_temp=0.04, teacher_temp_warmup="0_steps", tau=0.99),
        # Clipped array by array; the prototypes stand still at first.
        optim=dict(name="adamw", lr=1e-3, scaling="none", weight_decay=4e-2, clip=3.0, clip_by="array", rules=((r"^head/prototypes/", dict(frozen_until=0.02)),))))
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "laptop":
        c.total = 40
    return c
