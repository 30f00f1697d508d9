"""SimSiam on ImageNet, ResNet-50, the published recipe (arXiv 2011.10566, section 3; facebookresearch/simsiam, main_simsiam.py's defaults).

Command:  python -m jaxssl.main --config configs/imagenet/simsiam.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: eight GPUs or TPU v5e-32. Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 68.3 % after 100 epochs at batch 512 (published, official README; not run by this project).
Variants: laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
PUBLISHED = {"": [dict(protocol="augmented", setting=dict(epochs=90.0, batch_size=4096, weight_decay=0.0), value=0.683,
                       source="facebookresearch/simsiam README: linear (LARS on augmented views, 90 epochs of batch 4096) after 100 epochs of batch 512")]}


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=512, total="100_epochs", warmup="0_steps", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0),
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="simsiam", hidden=2048, dim=2048, predictor=512),
        # Everything decays, biases and norms too; the predictor's rate stands still.
        optim=dict(name="sgd", lr=0.05, scaling="linear", schedule="cosine", weight_decay=1e-4, momentum=0.9,
                   rules=(("^predictor/", dict(fixed=True)), (1, dict(decay=1.0))))))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(hidden=256, dim=128, predictor=32)
    return c
