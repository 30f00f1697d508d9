"""LeJEPA on ImageNet, ViT-S/16, 2 + 6 crops, 100 epochs (arXiv 2511.08544, section 6, with the encoder and batch of lightly's benchmark).

Command:  python -m jaxssl.main --config configs/imagenet/lejepa.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: eight GPUs or TPU v5e-64. Hours: none measured, the recipe was not run by this project.
Expected: lightly has kNN 47.1 % and linear 64.0 % after 100 epochs at batch 512, from before its whole views counted in both terms; the paper 79 % for
          ViT-H/14, epochs not stated. Not run by this project.
Variants: laptop: a ViT of 64 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    colors = dict(interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0), solarize=0.2,
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=512, total="100_epochs", warmup="1_epoch", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.3, 1.0), **colors),
        local=dict(views=6, size=96, crop_scale=(0.05, 0.3), **colors),
        model=dict(name="vit_small", patch=16, image=224),
        method=dict(name="lejepa", weight=0.02, slices=1024, hidden=2048, dim=128),
        optim=dict(name="adamw", lr=5e-4, scaling="none", schedule="cosine", end_lr=5e-7, weight_decay=5e-2)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.local.size, c.local.views, c.data.canvas, c.precision = 64, 32, 2, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="vit_tiny", patch=16, image=64, width=64, depth=2, heads=1))
        c.method.update(hidden=128, dim=32, slices=64)
    return c
