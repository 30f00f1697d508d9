"""Retrieval on your own images: a folder of class/*.jpg, an encoder that you have, and multi-similarity with its miner and a memory.

Command:  python -m jaxssl.main --config configs/retrieval/folder.py --workdir runs/mine --config.data.path=/path/to/images --config.init_from=WEIGHTS \
              --config.init_allow_missing=projector
Data:     JPEG, PNG or WebP of any size, classes as sub-folders with two images each or more; three eighths of the classes are
          trained on and an eighth is held out, so that what is measured is new classes. For a zip add --config.data.source=zip.
Hardware: one GPU with 24 GB or more. Hours: none measured; they depend on the number of images.
Expected: depends on the images. WEIGHTS is whatever `jaxssl.load` opens: a run of this program, or an export; without it a ResNet learns from scratch, which takes
          another rate (1e-3). Batches need 64 classes: fewer take a smaller batch_size, or a larger data.per_class.
Variants: laptop: ResNet-10 of quarter width at 64 px from scratch, 16 classes a batch, 5 epochs (hours not measured either).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="20_epochs", warmup="1_epoch", log_every=50, eval_every="1_epoch", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="folder", path="", split="class_disjoint", canvas=288, sampler="m_per_class", per_class=4),
        augment=dict(views=1, size=224, crop_scale=(0.4, 1.0), interpolation="bicubic", jitter=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.05, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="metric", loss="multi_similarity", miner="multi_similarity", dim=512, memory=2048, memory_start=500, norms="statistics"),
        optim=dict(name="adamw", lr=1e-5, scaling="none", weight_decay=1e-2, rules=(("^projector/", dict(rate=10.0)),))))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.precision = 64, "5_epochs", "10_percent", 10, "f32"
        c.augment.size, c.data.canvas = 64, 72
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.update(dim=64, memory=0, memory_start=0, norms="learned")
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
