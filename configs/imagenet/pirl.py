"""PIRL on ImageNet, ResNet-50, VISSL's recipe (arXiv 1912.01991; facebookresearch/vissl, pirl_jigsaw_4node_resnet50.yaml).

Command:  python -m jaxssl.main --config configs/imagenet/pirl.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: 32 GPUs or TPU v5e-32. Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 64.29 % after 800 epochs at batch 1,024 (published, VISSL's MODEL_ZOO; the paper 63.6 %, as quoted; not run by this project).
Variants: 200ep: published 62.55 %.
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("200ep", "laptop")


def get_config(variant=""):
    colors = dict(interpolation="bilinear", jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, gray=0.2, blur=0.0,
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=1024, total="800_epochs", warmup="0_steps", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, views=1, crop_scale=(0.08, 1.0), **colors),
        # What puzzles are cut from: nine cells of 85 pixels, and of each a patch of 64.
        local=dict(views=1, size=255, crop_scale=(0.6, 1.0), **colors),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="pirl", temperature=0.07, negatives=32000, momentum=0.5, weight=0.5, dim=128),
        # The rate ends at a thousandth of its peak, .03 · 4; everything decays but biases and norms.
        optim=dict(name="sgd", lr=0.03, scaling="linear", schedule="cosine", end_lr=1.2e-4, weight_decay=1e-4, momentum=0.9)))
    if variant == "200ep":
        c.total = "200_epochs"
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.local.size, c.data.canvas, c.precision = 64, 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(dim=64, negatives=256, grid=2)
    return c
