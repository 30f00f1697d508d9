"""Distillation on CIFAR-10: a trained encoder of any family into a ResNet-18, by its features (jaxssl/methods/distill.py).

Command:  python -m jaxssl.main --config configs/cifar10/distill.py --workdir runs/small --config.method.teacher=PATH --config.data.path=train.zip --config.data.test_path=test.zip
          (PATH: a workdir, an export, or weights that jaxssl.load opens; for one trained at 224 px, --config.method.teacher_size=128 is a third of the arithmetic)
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: no published figure for this recipe.
Variants: large: views of 64 px, for teachers that were trained on larger images.
          laptop: ResNet-10 of quarter width with the ImageNet stem, 3 epochs of batch 256 on two CPU cores, as configs/cifar10/simclr.py:laptop has them
          (hours not measured; benchmarks/distill.py compares the two).
"""
from ml_collections import ConfigDict

VARIANTS = ("large", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=512, total="200_epochs", warmup="5_epochs", log_every=50, eval_every="20_epochs", checkpoint_every="20_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(views=1, size=32, crop_scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.0,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="resnet18", stem="cifar"),
        method=dict(name="distill", queue=4096, patch_weight=1.0),
        optim=dict(name="adamw", lr=1e-3, scaling="none", weight_decay=0.05)))
    if variant == "large":
        c.augment.size = c.data.canvas = 64
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.patch_weight = 0.0                  # the last map of 32 px is one place
        c.optim.update(lr=1e-3, weight_decay=1e-2)
    return c
