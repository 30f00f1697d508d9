"""DirectPred on ImageNet, ResNet-50, in BYOL's recipe with its predictor set (arXiv 2102.06810, section 5 and table 6).

Command:  python -m jaxssl.main --config configs/imagenet/directpred.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 72.4 % after 300 epochs at batch 4096 (paper, table 6, as quoted; not run by this project). Evaluation here is of the average; the online
          encoder is `python -m jaxssl.evaluate --use student`.
Variants: 60ep: published 64.4 %; the rate and decay of BYOL's 100 epochs.
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("60ep", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
LINEAR = dict(protocol="augmented", setting=dict(epochs=80.0, batch_size=1024, weight_decay=0.0), weights="student")
HOW = "linear (SGD with Nesterov momentum on augmented views, 80 epochs of batch 1024)"
PUBLISHED = {
    "": [dict(LINEAR, value=0.724, source=f"arXiv 2102.06810, table 6, as quoted (what it gains over a linear predictor is the abstract's): {HOW} after 300 epochs")],
    "60ep": [dict(LINEAR, value=0.644, source=f"arXiv 2102.06810, table 6, as quoted (what it gains over a linear predictor is the abstract's): {HOW} after 60 epochs")],
}


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=4096, total="300_epochs", warmup="10_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        # Of the two views one is always blurred, the other hardly ever and sometimes solarized (appendix B, table 6).
        augment=dict(size=224, crop_scale=(0.08, 1.0), interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
                     gray=0.2, blur=(1.0, 0.1), blur_sigma=(0.1, 2.0), solarize=(0.0, 0.2), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        # Two ghost groups are the two views: the official code norms each view by itself.
        model=dict(name="resnet50", stem="imagenet", bn_groups=2),
        method=dict(name="directpred", tau=0.99, hidden=4096, dim=256),
        optim=dict(name="lars", lr=0.3, scaling="linear", schedule="cosine", weight_decay=1e-6, momentum=0.9)))
    if variant == "60ep":
        c.total, c.optim.lr = "60_epochs", 0.45
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.hidden, c.method.dim = 256, 64
    return c
