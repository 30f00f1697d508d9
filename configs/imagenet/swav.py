"""SwAV on ImageNet, ResNet-50, 2 + 6 crops, the published recipe (arXiv 2006.09882, appendix A; facebookresearch/swav, scripts/swav_400ep_pretrain.sh).

Command:  python -m jaxssl.main --config configs/imagenet/swav.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 74.6 % after 400 epochs at batch 4096 (published, official README; not run by this project).
Variants: 100ep, 800ep: published 72.1 and 75.3 %. small_batch: batch 256, 200 epochs, a queue of 3,840: published 72.7 %.
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("100ep", "800ep", "small_batch", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
LINEAR = dict(protocol="augmented", setting=dict(epochs=100.0, batch_size=256, lr=0.3, weight_decay=1e-6))
HOW = "facebookresearch/swav README: linear (SGD on augmented views, 100 epochs of batch 256, rate .3) after"
PUBLISHED = {
    "": [dict(LINEAR, value=0.746, source=f"{HOW} 400 epochs")],
    "100ep": [dict(LINEAR, value=0.721, source=f"{HOW} 100 epochs")],
    "800ep": [dict(LINEAR, value=0.753, source=f"{HOW} 800 epochs")],
    "small_batch": [dict(LINEAR, value=0.727, source=f"{HOW} 200 epochs of batch 256")],
}


def get_config(variant=""):
    colors = dict(interpolation="bicubic", jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0),
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=4096, total="400_epochs", warmup="10_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.14, 1.0), **colors),
        local=dict(views=6, size=96, crop_scale=(0.05, 0.14), **colors),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="swav", prototypes=3000, hidden=2048, dim=128),
        # 4.8 at batch 4096; prototypes stand still for 313 steps, an epoch.
        optim=dict(name="lars", lr=0.3, scaling="linear", schedule="cosine", end_lr=4.8e-3, weight_decay=1e-6, momentum=0.9,
                   rules=((r"^head/prototypes/", dict(frozen_until=313)),))))
    if variant in ("100ep", "800ep"):
        c.total = variant.replace("ep", "_epochs")
    if variant == "small_batch":
        c.batch_size, c.warmup, c.total = 256, "0_steps", "200_epochs"
        c.method.update(queue=3840, queue_from="15_epochs")
        c.optim.update(lr=0.6, end_lr=6e-4, rules=((r"^head/prototypes/", dict(frozen_until=5005)),))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.local.size, c.local.views, c.data.canvas, c.precision = 64, 32, 2, 96, "f32"
        c.optim.rules = ()
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(hidden=128, dim=32, prototypes=128)
    return c
