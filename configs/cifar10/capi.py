"""CAPI on CIFAR-10, ViT-Ti with patches of 4 pixels: the recipe of configs/imagenet/capi.py on small images.

Command:  python -m jaxssl.main --config configs/cifar10/capi.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: no published value.
Variants: laptop: a ViT of 64 channels and 4 blocks, 3 epochs of batch 256:
          kNN 31.7 % against 31.1 % untrained, linear 36.0 % against 35.8 % (seed 0, one run, on an H100, float32 products as TF32).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    colors = dict(jitter=0.0, gray=0.0, blur=0.0, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
    c = ConfigDict(dict(
        batch_size=512, total="200_epochs", warmup="10_epochs", log_every=50, eval_every="20_epochs", checkpoint_every="20_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(views=1, size=32, crop_scale=(0.6, 1.0), **colors),
        model=dict(name="vit_tiny", patch=4, image=32, cls=False, pool="mean", registers=4, drop_path=0.1),
        method=dict(name="capi", clusters=512, predicted=0.2, depth=4, heads=3, tau=0.999),
        optim=dict(name="adamw", lr=5e-4, scaling="linear", weight_decay=0.1, b2=0.95,
                   rules=((r"^encoder/patch/", dict(rate=0.2)), (r"^clusters/", dict(rate=0.5))))))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.model.update(width=64, depth=4, heads=4, kernel_init="xavier", drop_path=0.0)
        c.method.update(clusters=128, depth=2, heads=4, tau=0.99)
        c.optim.update(lr=1e-3, scaling="none")
    return c
