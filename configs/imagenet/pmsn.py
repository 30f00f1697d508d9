"""PMSN on ImageNet, ViT-S/16, with the settings of configs/imagenet/msn.py (arXiv 2210.07277, which pre-trains on iNaturalist and on uneven parts of ImageNet).

Command:  python -m jaxssl.main --config configs/imagenet/pmsn.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-128 (8x16). Hours: none measured.
Expected: no published value for this recipe: the paper's numbers are of sets with classes of uneven size.
Variants: laptop: a ViT of 64 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    colors = dict(interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0),
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=1024, total="800_epochs", warmup="15_epochs", log_every=50, eval_every="10_percent", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.3, 1.0), **colors),
        local=dict(views=10, size=96, crop_scale=(0.05, 0.3), **colors),
        model=dict(name="vit_small", patch=16, image=224),
        method=dict(name="pmsn", prototypes=1024, hidden=2048, dim=256, tau=0.996, patch_drop=0.15),
        optim=dict(name="adamw", lr=1e-3, scaling="none", end_lr=1e-6, weight_decay=0.04, weight_decay_end=0.4, clip=3.0, clip_by="array")))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.local.size, c.local.views, c.data.canvas, c.precision = 64, 32, 2, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", image=64, width=64, depth=2, heads=1)
        c.method.update(prototypes=128, hidden=128, dim=32)
    return c
