"""NEPA on ImageNet, ViT-B/14, 1,600 epochs (arXiv 2512.16922; SihanXU/nepa, scripts/pretrain/nepa_b.sh).

Command:  python -m jaxssl.main --config configs/imagenet/nepa.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16).
Hours:    none measured, the recipe was not run by this project; `python -m jaxssl.plan --config configs/imagenet/nepa.py --topology v5e:16x16` computes them.
Expected: published: 83.8 % fine-tuned, ViT-L/14 85.3 %. It does not stand beside results: the paper fine-tunes with mixup, random augmentation and rates by depth, the
          protocol here without.
Variants: vit_large: ViT-L/14, the same recipe. laptop: a ViT of 48 channels and 2 blocks at 64 px, batch 64, 20 steps, any number of images and classes: shows that
          everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("vit_large", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=4096, total="1600_epochs", warmup="40_epochs", log_every=50, eval_every="10_percent", checkpoint_every="2_epochs", precision="bf16", ema=0.9999,
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(views=1, size=224, crop_scale=(0.08, 1.0), jitter=0.0, gray=0.0, blur=0.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        model=dict(name="vit_base", patch=14, image=224, pool="mean", positions="rope", rope_rescale=2.0, qk_norm=True, layer_scale=1e-5),
        method=dict(name="nepa"),
        optim=dict(name="adamw", lr=3e-4, scaling="linear", weight_decay=0.05, b2=0.95, clip=1.0)))
    if variant == "vit_large":
        c.model.name = "vit_large"
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every, c.ema = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps", 0.0
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", width=48, depth=2, heads=3, patch=16, image=64)
    return c
