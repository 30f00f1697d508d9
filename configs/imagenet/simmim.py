"""SimMIM on ImageNet, ViT-B/16, 800 epochs (arXiv 2111.09886, section 4.1; microsoft/SimMIM, configs/vit_base__800ep).

Command:  python -m jaxssl.main --config configs/imagenet/simmim.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16).
Hours:    none measured, the recipe was not run by this project; `python -m jaxssl.plan --config configs/imagenet/simmim.py --topology v5e:16x16` computes them.
Expected: published after 800 epochs: 83.8 % fine-tuned. It does not stand beside results: the paper fine-tunes with mixup, random augmentation and rates by depth, the
          protocol here without.
Variants: laptop: a ViT of 48 channels and 2 blocks at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=2048, total="800_epochs", warmup="10_epochs", log_every=50, eval_every="10_percent", checkpoint_every="2_epochs", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(views=1, size=224, crop_scale=(0.67, 1.0), interpolation="bicubic", jitter=0.0, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="vit_base", patch=16, image=224, mask_token=True, pool="mean", drop_path=0.1),
        method=dict(name="simmim", mask_ratio=0.6, unit=2),
        optim=dict(name="adamw", lr=5e-5, scaling="linear", schedule="step", lr_steps=(0.875,), lr_gamma=0.1, weight_decay=0.05, b2=0.999, clip=5.0)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", width=48, depth=2, heads=3, image=64)
    return c
