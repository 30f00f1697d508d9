"""VICReg on CIFAR-10, ResNet-18, 300 epochs, with the settings of facebookresearch/eb_jepa.

Command:  python -m jaxssl.main --config configs/cifar10/vicreg.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: 90.1 % by the online linear probe (eb_jepa's own VICReg; its weights of the terms are not stated, these are the paper's).
Variants: laptop: ResNet-10 of quarter width with the ImageNet stem, 3 epochs of batch 256:
          kNN 35.4 % against 20.9 % untrained, linear 38.9 % against 22.4 % (seed 0, one run, two shared CPU cores).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="300_epochs", warmup="10_epochs", log_every=50, eval_every="20_epochs", checkpoint_every="20_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(size=32, crop_scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur=0.0, solarize=0.1,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="resnet18", stem="cifar"),
        method=dict(name="vicreg", sim=25.0, std=25.0, cov=1.0, hidden=2048, dim=2048),
        optim=dict(name="lars", lr=0.3, scaling="linear", weight_decay=1e-4, momentum=0.9)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.update(hidden=512, dim=256, layers=2)
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
