"""iBOT on ImageNet, ViT-S/16, 2 + 10 crops, 800 epochs (arXiv 2111.07832; bytedance/ibot, README).

Command:  python -m jaxssl.main --config configs/imagenet/ibot.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-128 (8x16). Hours: none measured.
Expected: kNN 75.2 % and linear 77.9 % after 800 epochs at batch 1024 (published in the official README; not run by this project).
Variants: base: ViT-B/16 for 400 epochs with prototypes of length 1 and else the settings above, since the README has no others (its own reached kNN 77.1 %, linear 79.5 %).
          laptop: a ViT of 64 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("base", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
PUBLISHED = {"": [dict(protocol="knn", setting=dict(temperature=0.07), weights="teacher", value=0.752, source="bytedance/ibot README: kNN of ViT-S/16")]}


def get_config(variant=""):
    colors = dict(interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur_sigma=(0.1, 2.0),
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=1024, total="800_epochs", warmup="10_epochs", log_every=50, eval_every="10_percent", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.25, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.2), **colors),
        local=dict(views=10, size=96, crop_scale=(0.05, 0.25), blur=0.5, **colors),
        model=dict(name="vit_small", patch=16, image=224, mask_token=True, drop_path=0.1),
        method=dict(name="ibot", prototypes=8192, norm_last_layer=False, teacher_temp_warmup="30_epochs", tau=0.996, mask_groups=128),
        # Clipped array by array; the prototypes stand still for the first epoch.
        optim=dict(name="adamw", lr=5e-4, scaling="linear", end_lr=1e-6, weight_decay=0.04, weight_decay_end=0.4, clip=3.0, clip_by="array",
                   rules=((r"^head/prototypes/", dict(frozen_until=1 / 800)),))))
    if variant == "base":
        c.total, c.model.name, c.method.norm_last_layer = "400_epochs", "vit_base", True
        c.optim.rules = ((r"^head/prototypes/", dict(frozen_until=1 / 400)),)
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.local.size, c.local.views, c.data.canvas, c.precision = 64, 32, 2, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", image=64, width=64, depth=2, heads=1)
        c.method.update(prototypes=512, hidden=128, bottleneck=32, teacher_temp_warmup="2_steps", mask_groups=8)
        c.optim.rules = ((r"^head/prototypes/", dict(frozen_until=2)),)
    return c
