"""FCMAE on ImageNet, ConvNeXt V2 Base, 800 epochs (arXiv 2301.00808, appendix A.1).

Command:  python -m jaxssl.main --config configs/imagenet/fcmae.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16).
Hours:    none measured, the recipe was not run by this project; `python -m jaxssl.plan --config configs/imagenet/fcmae.py --topology v5e:16x16` computes them.
Expected: published after 1,600 epochs: 84.9 % fine-tuned. It does not stand beside results: the paper fine-tunes with mixup, random augmentation and rates by depth.
Variants: 1600ep: 1,600 epochs, as published.
          atto: ConvNeXt V2 Atto, published 76.7 % after 1,600 epochs.
          laptop: a ConvNeXt V2 of 16 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("1600ep", "atto", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=4096, total="800_epochs", warmup="40_epochs", log_every=50, eval_every="10_percent", checkpoint_every="2_epochs", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(views=1, size=224, crop_scale=(0.2, 1.0), interpolation="bicubic", jitter=0.0, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="convnextv2_base"),
        method=dict(name="fcmae", mask_ratio=0.6, normalise=True, width=512, depth=1),
        optim=dict(name="adamw", lr=1.5e-4, scaling="linear", weight_decay=0.05, b1=0.9, b2=0.95)))
    if variant == "1600ep":
        c.total = "1600_epochs"
    if variant == "atto":
        c.model.name = "convnextv2_atto"
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="convnextv2_atto", width=16, depths=(1, 1, 1, 1)))
        c.method.update(width=32)
    return c
