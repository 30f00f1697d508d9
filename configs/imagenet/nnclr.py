"""NNCLR on ImageNet, ResNet-50, the published recipe (arXiv 2104.14548, section 4.1).

Command:  python -m jaxssl.main --config configs/imagenet/nnclr.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 75.6 % after 1,000 epochs at batch 4096 (published, abstract, which does not say of how many crops; not run by this project).
Variants: multicrop: six crops of 96 px beside the two views, as SwAV has them (the paper's own are not known; not run by this project).
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("multicrop", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=4096, total="1000_epochs", warmup="10_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.08, 1.0), interpolation="bicubic", jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, gray=0.2, blur=0.5,
                     blur_sigma=(0.1, 2.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="nnclr", temperature=0.1, queue=98304, hidden=2048, dim=256, layers=3, predictor=4096),
        optim=dict(name="lars", lr=0.3, scaling="linear", schedule="cosine", weight_decay=1e-6, momentum=0.9)))
    if variant == "multicrop":
        c.augment.crop_scale = (0.14, 1.0)
        c.local = ConfigDict({**c.augment, **dict(views=6, size=96, crop_scale=(0.05, 0.14))})
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(hidden=128, dim=64, predictor=128, queue=1024)
    return c
