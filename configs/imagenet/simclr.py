"""SimCLR on ImageNet, ResNet-50, the published recipe (arXiv 2002.05709; google-research/simclr README).

Command:  python -m jaxssl.main --config configs/imagenet/simclr.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     a prepared TFDS directory of imagenet2012; or `--config.data.source=folder --config.data.path=…` with train/ and val/ inside;
          or ArrayRecord shards made by `python -m jaxssl.data pack`.
Hardware: TPU v5e-256 (16x16).
Hours:    .16 for the 100 epochs, .06 at best, that is if copies on the chip cost nothing: planned by `python -m jaxssl.plan --config configs/imagenet/simclr.py
          --topology v5e:16x16` (benchmarks/results/plan_tpu.json; without input, evaluation and saving), not measured.
Expected: linear evaluation 64.5 % after 100 epochs at batch 4096 (published; not run by this project), by `python -m jaxssl.evaluate --protocols augmented
          --budget published`. run.json's own `linear` is fitted to 50 images a class (eval.reference) and reads lower.
Variants: 1000ep: 1,000 epochs, published 69.3 %. small_batch: batch 256 and the square-root rule, lr = .075·√256 = 1.2, published 62.8 % (table B.1).
          v2: SimCLRv2's (arXiv 2006.10029): a projector of three layers, 800 epochs, the square-root rule, weight decay 1e-4: published 71.7 %.
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("1000ep", "small_batch", "v2", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
LINEAR = dict(protocol="augmented", setting=dict(epochs=90.0, batch_size=4096, lr=0.1, weight_decay=0.0))
HOW = "linear (SGD on augmented views, 90 epochs of batch 4096)"
PUBLISHED = {
    "": [dict(LINEAR, value=0.645, source=f"google-research/simclr README: {HOW} after 100 epochs of batch 4096")],
    "1000ep": [dict(LINEAR, value=0.693, source=f"arXiv 2002.05709, section 6: {HOW} after 1,000 epochs")],
    "small_batch": [dict(LINEAR, value=0.628, source=f"arXiv 2002.05709, table B.1: {HOW} after 100 epochs of batch 256, square-root rate")],
    "v2": [dict(LINEAR, value=0.717, source=f"google-research/simclr README, SimCLRv2: {HOW} after 800 epochs")],
}


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=4096, total="100_epochs", warmup="10_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.08, 1.0), interpolation="bicubic", jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2,
                     gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="simclr", temperature=0.1, hidden=2048, dim=128, layers=2),
        optim=dict(name="lars", lr=0.3, scaling="linear", schedule="cosine", weight_decay=1e-6, momentum=0.9)))
    if variant == "1000ep":
        c.total = "1000_epochs"
    if variant == "small_batch":
        c.batch_size, c.optim.lr, c.optim.scaling = 256, 0.075, "sqrt"
    if variant == "v2":
        c.total, c.warmup, c.method.layers = "800_epochs", "5_percent", 3
        c.optim.update(lr=0.1, scaling="sqrt", weight_decay=1e-4)
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.hidden = 256
    return c
