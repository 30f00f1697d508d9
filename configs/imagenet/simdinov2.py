"""SimDINOv2 on ImageNet, ViT-L/16, 2 + 10 crops, the official 100 epochs (arXiv 2502.10385; RobinWu218/SimDINO, simdinov2/configs/simdino_config.yaml).

Command:  python -m jaxssl.main --config configs/imagenet/simdinov2.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-128 (8x16). Hours: none measured.
Expected: kNN 81.1 % and linear 82.4 % after 100 epochs at batch 1024 (published in the official README; not run by this project). Its eight devices each took a
          coding rate of their own, hence groups=8. Blur as that code, DINOv2's, applies it: never to the first crop, to .9 of the second.
Variants: base: ViT-B/16: published kNN 78.1 %, linear 79.7 %.
          laptop: a ViT of 64 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("base", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
KNN = dict(protocol="knn", setting=dict(temperature=0.07), weights="teacher")
PUBLISHED = {
    "": [dict(KNN, value=0.811, source="RobinWu218/SimDINO README: SimDINOv2, ViT-L/16, kNN after 100 epochs")],
    "base": [dict(KNN, value=0.781, source="RobinWu218/SimDINO README: SimDINOv2, ViT-B/16, kNN after 100 epochs")],
}


def get_config(variant=""):
    colors = dict(interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur_sigma=(0.1, 2.0), blur_kernel=9,
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=1024, total=125_000, warmup=12_500, log_every=50, eval_every="10_percent", checkpoint_every=3_750, precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.4, 1.0), blur=(0.0, 0.9), solarize=(0.0, 0.2), **colors),
        local=dict(views=10, size=96, crop_scale=(0.05, 0.4), blur=0.5, **colors),
        model=dict(name="vit_large", patch=16, image=224, mask_token=True, layer_scale=0.1, drop_path=0.2, drop_path_shape="uniform", resize="torch"),
        method=dict(name="simdinov2", hidden=2048, dim=256, tau=0.9, groups=8, mask_groups=128),
        optim=dict(name="adamw", lr=4e-3, scaling="sqrt1024", end_lr=1e-6, weight_decay=0.04, weight_decay_end=0.4, clip=3.0, clip_by="network", layer_decay=0.9,
                   rules=((r"^encoder/patch/", dict(rate=0.2)),))))
    if variant == "base":
        c.model.name = "vit_base"
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, 20, 2, 1, "20_steps", 10
        c.augment.size, c.local.size, c.local.views, c.data.canvas, c.precision = 64, 32, 2, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", image=64, width=64, depth=2, heads=1)
        c.method.update(hidden=128, dim=32, groups=2, mask_groups=8)
    return c
