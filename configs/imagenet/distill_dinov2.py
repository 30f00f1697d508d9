"""DINOv2's distillation on ImageNet: a run of configs/imagenet/dinov2.py, ViT-L/16 of its short recipe, into a ViT-S/16 (arXiv 2304.07193, section 5, and table 16).

Command:  python -m jaxssl.main --config configs/imagenet/distill_dinov2.py --workdir gs://bucket/run --config.method.teacher=gs://bucket/large
          --config.data.path=/data/tfds/imagenet2012/5.1.0
          (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: none published for this recipe; from ViT-g/14 on 142 million images ViT-S/14 has kNN 79.0 and linear 81.1 % (DINOv2's README).
Variants: dinov3: DINOv3's settings for its students, 20 × 1,250 steps of 1,920 images at a rate of 2e-4, for a teacher with two heads (configs/imagenet/dinov2.py:constant).
          laptop: a ViT of 64 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("dinov3", "laptop")
EPOCH = 1250          # steps, whatever the number of images


def get_config(variant=""):
    colors = dict(interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur_sigma=(0.1, 2.0), blur_kernel=9,
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=2048, total=100 * EPOCH, warmup=10 * EPOCH, log_every=50, eval_every="10_percent", checkpoint_every=3 * EPOCH, precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.32, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.2), **colors),
        local=dict(views=8, size=96, crop_scale=(0.05, 0.32), blur=0.5, **colors),
        model=dict(name="vit_small", patch=16, image=224, layer_scale=1e-5, resize="torch"),
        method=dict(name="distill_dinov2"),
        optim=dict(name="adamw", lr=1e-3, scaling="sqrt1024", end_lr=1e-6, weight_decay=0.04, clip=3.0, clip_by="network")))
    if variant == "dinov3":
        c.batch_size, c.total, c.warmup = 1920, 20 * EPOCH, EPOCH
        c.model.update(positions="rope", registers=4)
        c.method.separate = True
        c.optim.update(lr=2e-4, scaling="none")
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, 20, 2, 1, "20_steps", 10
        c.augment.size, c.local.size, c.local.views, c.data.canvas, c.precision = 64, 32, 2, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", image=64, width=64, depth=2, heads=1)
        c.method.update(prototypes=512, hidden=128, bottleneck=32)
    return c
