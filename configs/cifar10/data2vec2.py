"""data2vec 2.0 on CIFAR-10, ViT-Ti with patches of 4 pixels: the recipe of configs/imagenet/data2vec2.py on small images.

Command:  python -m jaxssl.main --config configs/cifar10/data2vec2.py --workdir runs/data2vec2 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: no published figure for this recipe.
Variants: laptop: a small encoder, 1,100 steps of batch 64 (1.4 epochs) in float32:
          kNN 28.0 % against 27.1 % untrained, linear 45.2 % against 36.1 % (seed 0, one run, on an H100, float32 products as TF32).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="200_epochs", warmup="10_percent", log_every=50, eval_every="20_epochs", checkpoint_every="20_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(views=1, size=32, crop_scale=(0.3, 1.0), jitter=0.0, gray=0.0, blur=0.0,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="vit_tiny", patch=4, image=32, pool="cls", positions="sincos"),
        method=dict(name="data2vec2", mask_ratio=0.75, side=2, clones=8, top_layers=10, width=192, depth=4, tau=0.999, tau_end=0.9999, tau_warmup="30_percent"),
        optim=dict(name="adamw", lr=1e-3, scaling="none", weight_decay=0.05, b1=0.9, b2=0.95, clip=4.0)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 64, "1100_steps", "50_steps", 50, "50_percent", "50_percent", "f32"
        c.eval = ConfigDict(dict(reference=5000, queries=2000))
        c.optim.update(lr=2e-3, scaling="none")
        c.model.update(width=96, depth=4, heads=4)
        c.method.update(clones=4, top_layers=3, width=96, depth=2, groups=4, tau=0.98, tau_end=0.999)
    return c
