"""DINOv2's distillation on CIFAR-10: a run of configs/cifar10/dinov2.py into a ViT of a third of its depth, 2 + 6 crops.

Command:  python -m jaxssl.main --config configs/cifar10/distill_dinov2.py --workdir runs/small --config.method.teacher=runs/cifar10
          --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: no published value.
Variants: laptop: a ViT of 64 channels and 2 blocks, 3 epochs of batch 256, from configs/cifar10/dinov2.py:laptop (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    colors = dict(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur=0.0,
                  mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
    c = ConfigDict(dict(
        batch_size=512, total="200_epochs", warmup="10_epochs", log_every=50, eval_every="20_epochs", checkpoint_every="20_epochs", precision="bf16",
        data=dict(source="zip", path="", test_path="", canvas=32, examples=50000, classes=10),
        augment=dict(size=32, crop_scale=(0.32, 1.0), **colors),
        local=dict(views=6, size=16, crop_scale=(0.1, 0.32), **colors),
        model=dict(name="vit_tiny", patch=4, image=32, depth=4),
        method=dict(name="distill_dinov2", prototypes=4096, hidden=1024, bottleneck=256),
        optim=dict(name="adamw", lr=5e-4, scaling="linear", end_lr=1e-6, weight_decay=0.04, clip=3.0, clip_by="network")))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 256, "3_epochs", "5_percent", 20, "1_epoch", "1_epoch", "f32"
        c.local.views = 2
        c.model.update(width=64, depth=2, heads=4, kernel_init="xavier")
        c.method.update(prototypes=1024, hidden=256, bottleneck=64, tau=0.97)
        c.optim.update(lr=1e-3, scaling="none")
    return c
