"""SSCD on ImageNet, ResNet-50, the published recipe (arXiv 2202.10261; facebookresearch/sscd-copy-detection, docs/Training.md), with its views of strong blur.

Command:  python -m jaxssl.main --config configs/imagenet/sscd.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: it finds copies; published are µAP on DISC's (61.4 with advanced views on DISC's training images, as quoted), which no protocol here measures (not run by this project).
Variants: laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=4096, total="100_epochs", warmup="5_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.08, 1.0), jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, gray=0.2, blur=0.5, blur_sigma=(1.0, 5.0),
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="sscd", temperature=0.05, entropy=30.0, mixup=0.05, dim=512),
        optim=dict(name="lars", lr=0.3, scaling="linear", schedule="cosine", weight_decay=1e-6, momentum=0.9)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(entropy=10.0, dim=64)
    return c
