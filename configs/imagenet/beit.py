"""BEiT on ImageNet, ViT-B/16, 800 epochs (arXiv 2106.08254, section 3.1 and appendix), with tokens by k-means in place of DALL-E's.

Command:  python -m jaxssl.main --config configs/imagenet/beit.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16).
Hours:    none measured, the recipe was not run by this project; `python -m jaxssl.plan --config configs/imagenet/beit.py --topology v5e:16x16` computes them.
Expected: none published with these tokens; with DALL-E's 83.2 % fine-tuned.
Variants: vq: tokens of a small vector-quantised autoencoder of patches, trained beside.
          pixels: k-means of the patches' own pixels.
          laptop: a ViT of 48 channels and 2 blocks at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("vq", "pixels", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=2048, total="800_epochs", warmup="10_epochs", log_every=50, eval_every="10_percent", checkpoint_every="2_epochs", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(views=1, size=224, crop_scale=(0.08, 1.0), interpolation="bicubic", jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="vit_base", patch=16, image=224, mask_token=True, pool="mean", layer_scale=0.1, drop_path=0.1),
        method=dict(name="beit", mask_ratio=75 / 196, smallest=16, tokens=8192),
        optim=dict(name="adamw", lr=1.5e-3, scaling="none", end_lr=1e-5, weight_decay=0.05, clip=3.0)))
    if variant == "vq":
        c.method.tokenizer = "vq"
    if variant == "pixels":
        c.method.tokenizer = "pixels"
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", width=48, depth=2, heads=3, image=64)
        c.method.update(smallest=2, tokens=256)
    return c
