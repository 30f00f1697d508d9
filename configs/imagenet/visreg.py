"""VISReg on ImageNet, ViT-B/16, 4 + 6 crops, 400 epochs (arXiv 2606.02572).

Command:  python -m jaxssl.main --config configs/imagenet/visreg.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 75.7 % (published; not run by this project).
Variants: laptop: a ViT of 64 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    colors = dict(interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0), solarize=0.2,
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=512, total="400_epochs", warmup="5_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, views=4, crop_scale=(0.3, 1.0), **colors),
        local=dict(views=6, size=96, crop_scale=(0.05, 0.3), **colors),
        model=dict(name="vit_base", patch=16, image=224),
        method=dict(name="visreg", weight=0.9, slices=4096, hidden=2048, dim=256),
        optim=dict(name="adamw", lr=9e-4, scaling="none", schedule="cosine", weight_decay=5e-2, clip=1.0)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="vit_tiny", patch=16, image=64, width=64, depth=2, heads=1))
        c.local.size, c.local.views, c.augment.views = 32, 2, 2
        c.method.update(hidden=128, dim=32, slices=64)
    return c
