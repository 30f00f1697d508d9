"""VIbCReg on ImageNet, ResNet-50, 100 epochs, with VICReg's views, optimizer and projector; the paper is about time series and has no recipe for images.

Command:  python -m jaxssl.main --config configs/imagenet/vibcreg.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-64 (8x8). Hours: none measured, the recipe was not run by this project.
Expected: no published value is known (solo-learn on ImageNet-100, ResNet-18, 400 epochs: 79.9 % by the online linear probe).
Variants: laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=2048, total="100_epochs", warmup="10_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        # Of the two views one is always blurred, the other hardly ever and sometimes solarized, as BYOL has them.
        augment=dict(size=224, crop_scale=(0.08, 1.0), interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
                     gray=0.2, blur=(1.0, 0.1), blur_sigma=(0.1, 2.0), solarize=(0.0, 0.2), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="vibcreg", sim=25.0, std=50.0, cov=200.0, groups=64, hidden=2048, dim=2048),
        optim=dict(name="lars", lr=0.2, scaling="linear", schedule="cosine", end_lr=1.6e-3, weight_decay=1e-6, momentum=0.9)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(hidden=256, dim=256, groups=16)
    return c
