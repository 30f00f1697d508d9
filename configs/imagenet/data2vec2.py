"""data2vec 2.0 on ImageNet, ViT-B/16, 200 epochs (arXiv 2212.07525, appendix).

Command:  python -m jaxssl.main --config configs/imagenet/data2vec2.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16).
Hours:    none measured, the recipe was not run by this project; `python -m jaxssl.plan --config configs/imagenet/data2vec2.py --topology v5e:16x16` computes them.
Expected: published after 200 epochs: 85.5 % fine-tuned (second hand). It does not stand beside results: the paper fine-tunes with mixup, random augmentation and rates by depth.
Variants: vit_large: ViT-L/16, 150 epochs, published 86.8 % (abstract).
          laptop: a ViT of 48 channels and 2 blocks at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("vit_large", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="200_epochs", warmup="13_percent", log_every=50, eval_every="10_percent", checkpoint_every="2_epochs", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(views=1, size=224, crop_scale=(0.3, 1.0), interpolation="bicubic", jitter=0.0, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="vit_base", patch=16, image=224, pool="cls", positions="sincos"),
        method=dict(name="data2vec2", mask_ratio=0.8, clones=16, top_layers=10),
        optim=dict(name="adamw", lr=1e-3, scaling="none", weight_decay=0.05, b1=0.9, b2=0.95, clip=4.0)))
    if variant == "vit_large":
        c.total = "150_epochs"
        c.model.name = "vit_large"
        c.method.update(mask_ratio=0.75, clones=8, top_layers=18, width=1024, depth=3, kernel=5)
        c.optim.lr = 4e-4
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", width=48, depth=2, heads=3, image=64)
        c.method.update(side=2, clones=2, top_layers=2, width=48, depth=1, groups=4)
    return c
