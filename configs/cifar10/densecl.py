"""DenseCL on CIFAR-10, ResNet-18, 200 epochs, with the views and the optimizer of configs/cifar10/moco_v2.py; maps are 4 × 4.

Command:  python -m jaxssl.main --config configs/cifar10/densecl.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: no published value is known.
Variants: laptop: ResNet-10 of an eighth width, 3 epochs of batch 256: not measured.
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=512, total="200_epochs", warmup="0_steps", log_every=50, eval_every="20_epochs", checkpoint_every="20_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(size=32, crop_scale=(0.08, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.0,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="resnet18", stem="cifar"),
        method=dict(name="densecl", temperature=0.1, queue=4096, tau=0.99, hidden=512, dim=128),
        optim=dict(name="sgd", lr=0.12, scaling="linear", weight_decay=5e-4, momentum=0.9)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.model = ConfigDict(dict(name="resnet10", stem="cifar", width=0.125))
        c.method.update(hidden=256, tau=0.9, norm=True)
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
