"""SupCon on CIFAR-10, ResNet-50, the official recipe (HobbitLong/SupContrast README: SGD .5, batch 1,024, weight decay 1e-4, temperature .1, 1,000 epochs, cosine).

Command:  python -m jaxssl.main --config configs/cifar10/supcon.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: linear 96.0 % after 1,000 epochs (published README value). Their loss is T / .07 = 1.43 times ours, so that the rate here is .71 and the decay 7e-5.
Variants: laptop: ResNet-10 of quarter width with the ImageNet stem, 3 epochs of batch 256: not measured.
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
PUBLISHED = {"": [dict(protocol="augmented", setting=dict(epochs=100.0, batch_size=512, lr=2.5, weight_decay=0.0), value=0.96,
                       source="HobbitLong/SupContrast README: linear (SGD on augmented views, 100 epochs of batch 512, rate 5) after 1,000 epochs")]}


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=1024, total="1000_epochs", warmup="10_epochs", log_every=50, eval_every="20_epochs", checkpoint_every="20_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(size=32, crop_scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.0,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="resnet50", stem="cifar"),
        method=dict(name="supcon", temperature=0.1, hidden=2048, dim=128),
        # It ends at a thousandth of its peak; everything decays, biases and norms too.
        optim=dict(name="sgd", lr=0.714, scaling="none", schedule="cosine", end_lr=7e-4, weight_decay=7e-5, momentum=0.9, rules=((1, dict(decay=1.0)),))))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.update(hidden=256, norm=True)
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
