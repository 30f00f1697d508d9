"""MMCR on ImageNet, ResNet-50, 2 views, 100 epochs, the official recipe (arXiv 2303.03307; ThomasYerxa/mmcr, pretrain_imagenet.py with --n_aug 2).

Command:  python -m jaxssl.main --config configs/imagenet/mmcr.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: no value was checked.
Variants: eight_views: the official default, four of each kind.
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("eight_views", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=2048, total="100_epochs", warmup="10_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        # Of the two views one is always blurred, the other hardly ever and sometimes solarized, as BYOL has them.
        augment=dict(size=224, crop_scale=(0.08, 1.0), interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
                     gray=0.2, blur=(1.0, 0.1), blur_sigma=(0.1, 2.0), solarize=(0.0, 0.2), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="mmcr", weight=0.0, tau=0.99, hidden=8192, dim=512),
        optim=dict(name="lars", lr=0.8, scaling="linear", schedule="cosine", end_lr=6.4e-3, weight_decay=1e-6, momentum=0.9)))
    if variant == "eight_views":
        c.augment.update(views=8, blur=(1.0, 0.1) * 4, solarize=(0.0, 0.2) * 4)
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(hidden=256, dim=64)
    return c
