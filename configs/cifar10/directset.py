"""DirectSet at power 1 (DirectCopy, arXiv 2110.04947) on CIFAR-10, ResNet-18, with the optimizer of DirectPred's code (as configs/cifar10/directpred.py).

Command:  python -m jaxssl.main --config configs/cifar10/directset.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: no published kNN; epsilon is this project's choice.
Variants: 500ep: DirectPred's longer run.
          laptop: ResNet-10 of quarter width with the ImageNet stem, 3 epochs of batch 256: not measured.
"""
from ml_collections import ConfigDict

VARIANTS = ("500ep", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=128, total="100_epochs", warmup="0_steps", log_every=50, eval_every="10_epochs", checkpoint_every="10_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(size=32, crop_scale=(0.08, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.0,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="resnet18", stem="cifar", bn_groups=2),
        method=dict(name="directpred", tau=0.996, hidden=512, dim=128, power=1.0, epsilon=0.3),
        optim=dict(name="sgd", lr=0.03, scaling="none", schedule="constant", weight_decay=4e-4, momentum=0.9)))
    if variant == "500ep":
        c.total = "500_epochs"
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.update(hidden=256, tau=0.97)
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
