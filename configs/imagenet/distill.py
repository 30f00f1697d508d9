"""Distillation on ImageNet: a trained encoder of any family into a ResNet-50, by its features (jaxssl/methods/distill.py).

Command:  python -m jaxssl.main --config configs/imagenet/distill.py --workdir gs://bucket/run --config.method.teacher=PATH --config.data.path=/data/tfds/imagenet2012/5.1.0
          (on every worker; PATH: a workdir, an export, or weights that jaxssl.load opens, such as a DINOv2 of another program's file)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-64. Hours: none measured, the recipe was not run by this project. A plan without a teacher reckons with one like the student.
Expected: none published for this recipe.
Variants: convnext: a ConvNeXt-Tiny in place of the ResNet-50. vit: a ViT-S/16.
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("convnext", "vit", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=1536, total="100_epochs", warmup="5_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(views=1, size=224, crop_scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.5,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50"),
        method=dict(name="distill", queue=12288, mix=0.5),
        optim=dict(name="adamw", lr=5e-4, scaling="none", weight_decay=0.05)))
    if variant == "convnext":
        c.model = ConfigDict(dict(name="convnext_tiny"))
    if variant == "vit":
        c.model = ConfigDict(dict(name="vit_small", patch=16, image=224))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(queue=1024)
    return c
