"""VICRegL on ImageNet, ResNet-50, alpha .75, 300 epochs, the published recipe (arXiv 2210.01571; facebookresearch/VICRegL README).

Command:  python -m jaxssl.main --config configs/imagenet/vicregl.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 70.4 % (published, official README; 71.2 % with --config.method.alpha=0.9; not run by this project).
Variants: convnext_small, convnext_base: six crops of 96 px beside the two views, 400 epochs of batch 576: published 74.6 and 76.3 %.
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("convnext_small", "convnext_base", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
LINEAR = dict(protocol="augmented", setting=dict(epochs=100.0, batch_size=256, lr=0.02, weight_decay=1e-6))
WIDE = {**LINEAR, "setting": {**LINEAR["setting"], "lr": 0.3}}
HOW = "facebookresearch/VICRegL README: linear (SGD on augmented views, 100 epochs of batch 256, rate"
PUBLISHED = {
    "": [dict(LINEAR, value=0.704, source=f"{HOW} .02) after 300 epochs, alpha .75")],
    "convnext_small": [dict(WIDE, value=0.746, source=f"{HOW} .3), ConvNeXt-S, alpha .75")],
    "convnext_base": [dict(WIDE, value=0.763, source=f"{HOW} .3), ConvNeXt-B, alpha .75")],
}


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=2048, total="300_epochs", warmup="10_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        # Of the two views one is always blurred, the other hardly ever and sometimes solarized, as BYOL has them.
        augment=dict(size=224, crop_scale=(0.08, 1.0), interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
                     gray=0.2, blur=(1.0, 0.1), blur_sigma=(0.1, 2.0), solarize=(0.0, 0.2), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="vicregl", alpha=0.75, sim=25.0, std=25.0, cov=1.0, hidden=8192, dim=8192),
        optim=dict(name="lars", lr=0.2, scaling="linear", schedule="cosine", end_lr=1.6e-3, weight_decay=1e-6, momentum=0.9)))
    if variant in ("convnext_small", "convnext_base"):
        c.batch_size, c.total, c.augment.crop_scale = 576, "400_epochs", (0.4, 1.0)
        c.local = ConfigDict({**c.augment, **dict(views=6, size=96, crop_scale=(0.08, 0.4), blur=0.5, solarize=0.1)})
        c.model = ConfigDict(dict(name=variant, layer_scale=0.0, drop_path=0.1))
        c.optim = ConfigDict(dict(name="adamw", lr=5e-4, scaling="linear", schedule="cosine", end_lr=1.1e-6, weight_decay=0.05))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(hidden=256, dim=256, maps_hidden=64, maps_dim=64)
    return c
