"""NEPA on CIFAR-10, ViT-Ti with patches of 4 pixels: the recipe of configs/imagenet/nepa.py on small images.

Command:  python -m jaxssl.main --config configs/cifar10/nepa.py --workdir runs/nepa --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: no published figure for this recipe.
Variants: laptop: a small encoder, 1,100 steps of batch 64 (1.4 epochs) in float32 (not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=512, total="800_epochs", warmup="20_epochs", log_every=50, eval_every="20_epochs", checkpoint_every="20_epochs", precision="bf16", ema=0.9999,
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(views=1, size=32, crop_scale=(0.2, 1.0), jitter=0.0, gray=0.0, blur=0.0,
                     mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        model=dict(name="vit_tiny", patch=4, image=32, pool="mean", positions="rope", rope_rescale=2.0, qk_norm=True, layer_scale=1e-5),
        method=dict(name="nepa"),
        optim=dict(name="adamw", lr=3e-4, scaling="linear", weight_decay=0.05, b2=0.95, clip=1.0)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 64, "1100_steps", "50_steps", 50, "50_percent", "50_percent", "f32"
        c.ema, c.eval = 0.0, ConfigDict(dict(reference=5000, queries=2000))
        c.optim.update(lr=2e-3, scaling="none")
        c.model.update(width=96, depth=4, heads=4, layer_scale=0.0, kernel_init="xavier")
    return c
