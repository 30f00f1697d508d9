"""MoCo v2 on ImageNet, ResNet-50, the published recipe (arXiv 2003.04297; facebookresearch/moco, main_moco.py --mlp --moco-t .2 --aug-plus --cos).

Command:  python -m jaxssl.main --config configs/imagenet/moco_v2.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: eight GPUs or TPU v5e-16. Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 67.5 % after 200 epochs at batch 256 (published, paper table 1; not run by this project).
Variants: 800ep: published 71.1 %. v1: one layer, temperature .07, weaker views, rate in steps: published 60.6 % (MoCo v1).
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("800ep", "v1", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
LINEAR = dict(protocol="augmented", setting=dict(epochs=100.0, batch_size=256, lr=30.0, weight_decay=0.0), weights="student")
HOW = "linear (SGD on augmented views, 100 epochs of batch 256, rate 30)"
PUBLISHED = {
    "": [dict(LINEAR, value=0.675, source=f"arXiv 2003.04297, table 1: {HOW} after 200 epochs")],
    "800ep": [dict(LINEAR, value=0.711, source=f"arXiv 2003.04297, table 1: {HOW} after 800 epochs")],
    "v1": [dict(LINEAR, value=0.606, source=f"arXiv 1911.05722, section 4.1: {HOW} after 200 epochs")],
}


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="200_epochs", warmup="0_steps", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0),
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet", bn_groups=8),
        method=dict(name="moco_v2", temperature=0.2, queue=65536, tau=0.999, hidden=2048, dim=128),
        # Everything decays, biases and norms too. Eight ghost groups are the eight GPUs between which the official code shuffles.
        optim=dict(name="sgd", lr=0.03, scaling="linear", schedule="cosine", weight_decay=1e-4, momentum=0.9, rules=((1, dict(decay=1.0)),))))
    if variant == "800ep":
        c.total = "800_epochs"
    if variant == "v1":
        c.method.update(temperature=0.07, layers=1)
        c.augment.update(jitter=1.0, hue=0.4, blur=0.0)
        c.optim.update(schedule="step", lr_steps=(0.6, 0.8))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(hidden=128, dim=64, queue=1024)
    return c
