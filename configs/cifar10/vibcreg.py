"""VIbCReg on CIFAR-10, ResNet-18, 1,000 epochs, solo-learn's recipe (scripts/pretrain/cifar/vibcreg.yaml).

Command:  python -m jaxssl.main --config configs/cifar10/vibcreg.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: 91.2 % by the online linear probe (solo-learn's README; its convolutions pad the stem by one pixel more).
Variants: laptop: ResNet-10 of quarter width with the ImageNet stem, 3 epochs of batch 256: not measured.
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="1000_epochs", warmup="10_epochs", log_every=50, eval_every="50_epochs", checkpoint_every="50_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(size=32, crop_scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur=0.0, solarize=0.1,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="resnet18", stem="cifar"),
        method=dict(name="vibcreg", sim=25.0, std=50.0, cov=200.0, groups=64, hidden=2048, dim=2048),
        optim=dict(name="lars", lr=0.3, scaling="linear", weight_decay=1e-4, momentum=0.9, trust_coefficient=0.02)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.update(hidden=512, dim=256, groups=8, layers=2)
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
