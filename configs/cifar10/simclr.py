"""SimCLR on CIFAR-10, ResNet-18 (google-research/simclr README: LARS, lr 1.0 linear, weight decay 1e-4, temperature .5, batch 512, 1,000 epochs, no blur).

Command:  python -m jaxssl.main --config configs/cifar10/simclr.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: linear about 91 % after 1,000 epochs (published README value).
Variants: sgd200: lightly's benchmark recipe (SGD .06·512/128, weight decay 5e-4, no warm-up, 200 epochs): published kNN .848 at k=200, T=.1.
          laptop: ResNet-10 of quarter width with the ImageNet stem (an eighth of the arithmetic), 3 epochs of batch 256 on two CPU cores:
          .03 hours of training (107 s, .04 hours with compiling and evaluation), kNN 36.9 ± .3 % against 21.3 ± .3 % untrained
          (5 seeds on two quiet cores: benchmarks/results/cifar10_lightly.json).
"""
from ml_collections import ConfigDict

VARIANTS = ("sgd200", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
PUBLISHED = {
    "": [dict(protocol="augmented", setting=dict(epochs=100.0, batch_size=512, lr=0.1, weight_decay=0.0), value=0.91,
              source="google-research/simclr README: about 91 % linear (SGD on augmented views, 100 epochs of batch 512) after 1,000 epochs")],
    "sgd200": [dict(protocol="knn", setting=dict(k=200, temperature=0.1), value=0.848,
                    source="lightly's CIFAR-10 benchmark: SimCLR, batch 512, 200 epochs, kNN k=200 T=.1, best of all epochs")],
}


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=512, total="1000_epochs", warmup="10_epochs", log_every=50, eval_every="20_epochs", checkpoint_every="20_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(size=32, crop_scale=(0.08, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.0,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="resnet18", stem="cifar"),
        method=dict(name="simclr", temperature=0.5, hidden=512, dim=128, layers=2),
        optim=dict(name="lars", lr=1.0, scaling="linear", weight_decay=1e-4, momentum=0.9)))
    if variant == "sgd200":
        c.total, c.warmup = "200_epochs", "0_steps"
        c.augment.update(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
        c.optim = ConfigDict(dict(name="sgd", lr=0.12, scaling="linear", weight_decay=5e-4, momentum=0.9))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.hidden = 256
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
