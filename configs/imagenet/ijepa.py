"""I-JEPA on ImageNet, ViT-B/16, 600 epochs (arXiv 2301.08243, appendix A.1).

Command:  python -m jaxssl.main --config configs/imagenet/ijepa.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16).
Hours:    none measured, the recipe was not run by this project; `python -m jaxssl.plan --config configs/imagenet/ijepa.py --topology v5e:16x16` computes them.
Expected: published after 600 epochs: 72.9 % linear, on the mean of the last blocks' patches (table 1; the best of two ways of pooling, so that no protocol here is that).
Variants: vit_huge: ViT-H/14, 300 epochs, a predictor of 12 blocks, published 79.3 % linear.
          laptop: a ViT of 48 channels and 2 blocks at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("vit_huge", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=2048, total="600_epochs", warmup="40_epochs", log_every=50, eval_every="10_percent", checkpoint_every="2_epochs", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(views=1, size=224, crop_scale=(0.3, 1.0), interpolation="bicubic", jitter=0.0, flip=0.0, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="vit_base", patch=16, image=224, cls=False, pool="mean", positions="sincos"),
        method=dict(name="ijepa", tau=0.996, width=384, depth=6, heads=12),
        optim=dict(name="adamw", lr=1e-3, scaling="none", end_lr=1e-6, weight_decay=0.04, weight_decay_end=0.4)))
    if variant == "vit_huge":
        c.total = "300_epochs"
        c.model.update(name="vit_huge", patch=14)
        c.method.depth = 12
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", width=48, depth=2, heads=3, image=64)
        c.method.update(width=48, depth=1, heads=3, targets=2)
    return c
