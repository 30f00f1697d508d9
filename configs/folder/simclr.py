"""SimCLR on your own images: a folder (root/class/*.jpg, or flat without labels) or a zip of one.

Command:  python -m jaxssl.main --config configs/folder/simclr.py --workdir runs/mine --config.data.path=/path/to/images
Data:     JPEG, PNG or WebP of any size; with classes as sub-folders a tenth is held out for kNN and linear accuracy, without them label-free
          measures are reported. For a zip add --config.data.source=zip.
Hardware: one GPU with 24 GB or more. Hours: none measured; they depend on the number of images, and for TPUs `python -m jaxssl.plan --topology …` with
          the same flags computes them.
Expected: depends on the images; watch knn rise and collapse_std stay near 1/√128. Square-root scaling and temperature .2, as SimCLR's
          authors advise for small batches (google-research/simclr issue 166).
Variants: laptop: ResNet-10 of quarter width at 64 px, batch 64, 5 epochs, for a laptop's CPU (hours not measured either).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="200_epochs", warmup="10_epochs", log_every=50, eval_every="5_percent", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="folder", path="", canvas=288),
        augment=dict(size=224, crop_scale=(0.08, 1.0), interpolation="bicubic", jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2,
                     gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="simclr", temperature=0.2, hidden=2048, dim=128, layers=2),
        optim=dict(name="lars", lr=0.075, scaling="sqrt", weight_decay=1e-6, momentum=0.9)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.precision = 64, "5_epochs", "10_percent", 10, "f32"
        c.augment.size, c.data.canvas = 64, 72
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.hidden = 256
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
