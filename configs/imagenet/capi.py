"""CAPI on ImageNet, ViT-L/14, one crop, batch 16,384 (arXiv 2502.08769; facebookresearch/capi, default_pretrain_config.yaml).

Command:  python -m jaxssl.main --config configs/imagenet/capi.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5p-256. Hours: none measured.
Expected: 82.9 % by an attentive probe and 29.2 on ADE20k by kNN after 500,000 steps (published in the paper; neither is a protocol of ours; not run by this project).
          The official rate stops at four fifths of its cosine, at a tenth of the peak, which end_lr has here.
Variants: small: ViT-S/16 of batch 2,048 with 2,048 clusters (no published value).
          laptop: a ViT of 64 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("small", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=16384, total=500_000, warmup=50_000, log_every=50, eval_every="10_percent", checkpoint_every=3_750, precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(views=1, size=224, crop_scale=(0.6, 1.0), interpolation="bicubic", jitter=0.0, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="vit_large", patch=14, image=224, cls=False, pool="mean", registers=16, drop_path=0.2, drop_path_shape="uniform", kernel_init="xavier", eps=1e-5,
                   remat="dots"),
        method=dict(name="capi", mask_ratio=0.65, predicted=0.05, clusters=16384, depth=12, heads=16, tau=0.999),
        optim=dict(name="adamw", lr=1e-3, scaling="none", end_lr=1e-4, weight_decay=0.1, b1=0.9, b2=0.95,
                   rules=((r"^encoder/patch/", dict(rate=0.2)), (r"^clusters/", dict(rate=0.5))))))
    if variant == "small":
        c.batch_size, c.model.name, c.model.patch = 2048, "vit_small", 16
        c.method.update(clusters=2048, depth=6, heads=6)
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, 20, 2, 1, "20_steps", 10
        c.augment.size, c.data.canvas, c.precision, c.data.examples, c.data.classes = 56, 64, "f32", 0, 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", image=56, width=64, depth=2, heads=1, registers=4, remat="none")
        c.method.update(clusters=64, depth=1, heads=2, predicted=0.5)
    return c
