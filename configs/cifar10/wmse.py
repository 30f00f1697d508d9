"""W-MSE on CIFAR-10, ResNet-18, 1,000 epochs, 4 views of an image, the official recipe (htdt/self-supervised, README; the 500 steps of warm-up are quoted from memory).

Command:  python -m jaxssl.main --config configs/cifar10/wmse.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: linear 92.0 %, 5-NN 89.9 % (paper, table 1, from memory; not run by this project).
Variants: laptop: ResNet-10 of quarter width with the ImageNet stem, 3 epochs of batch 256: not measured.
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="1000_epochs", warmup="500_steps", log_every=50, eval_every="50_epochs", checkpoint_every="50_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(size=32, views=4, crop_scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.1, blur=0.0,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="resnet18", stem="cifar"),
        method=dict(name="wmse", subbatch=128, hidden=1024, dim=64),
        optim=dict(name="adam", lr=3e-3, scaling="none", schedule="step", lr_steps=(0.95, 0.975), lr_gamma=0.2, weight_decay=1e-6)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.update(hidden=256, dim=32)
        c.augment.views = 2
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
