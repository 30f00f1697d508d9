"""MoCo v3 on ImageNet, ResNet-50, the published recipe (arXiv 2104.02057; facebookresearch/moco-v3 README and CONFIG.md).

Command:  python -m jaxssl.main --config configs/imagenet/moco_v3.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 72.8 % after 300 epochs at batch 4096 (published, official README; not run by this project).
Variants: 100ep, 1000ep: published 68.9 and 74.6 %. vit_small, vit_base: published 73.2 and 76.7 %, patch projection frozen.
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("100ep", "1000ep", "vit_small", "vit_base", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
LINEAR = dict(protocol="augmented", setting=dict(epochs=90.0, weight_decay=0.0), weights="student")
HOW = "facebookresearch/moco-v3 README: linear (SGD on augmented views, 90 epochs) after"
PUBLISHED = {
    "": [dict(LINEAR, value=0.728, source=f"{HOW} 300 epochs")],
    "100ep": [dict(LINEAR, value=0.689, source=f"{HOW} 100 epochs")],
    "1000ep": [dict(LINEAR, value=0.746, source=f"{HOW} 1,000 epochs")],
    "vit_small": [dict(LINEAR, value=0.732, source=f"{HOW} 300 epochs")],
    "vit_base": [dict(LINEAR, value=0.767, source=f"{HOW} 300 epochs")],
}


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=4096, total="300_epochs", warmup="10_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        # Of the two views one is always blurred, the other hardly ever and sometimes solarized, as BYOL has them.
        augment=dict(size=224, crop_scale=(0.2, 1.0), interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
                     gray=0.2, blur=(1.0, 0.1), blur_sigma=(0.1, 2.0), solarize=(0.0, 0.2), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="moco_v3", temperature=1.0, tau=0.99, hidden=4096, dim=256),
        optim=dict(name="lars", lr=0.3, scaling="linear", schedule="cosine", weight_decay=1.5e-6, momentum=0.9)))
    if variant == "100ep":
        c.total, c.optim.lr, c.optim.weight_decay = "100_epochs", 0.6, 1e-6
    if variant == "1000ep":
        c.total, c.method.tau = "1000_epochs", 0.996
    if variant in ("vit_small", "vit_base"):
        c.warmup, c.augment.crop_scale = "40_epochs", (0.08, 1.0)
        c.model = ConfigDict(dict(name=variant, patch=16, image=224, positions="sincos", frozen_patch=True, kernel_init="xavier"))
        c.method.update(temperature=0.2, projector_layers=3, predictor_norm=True)
        c.optim = ConfigDict(dict(name="adamw", lr=1.5e-4, scaling="linear", schedule="cosine", weight_decay=0.1))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(hidden=128, dim=64)
    return c
