"""Metric learning on iNaturalist 2018, ResNet-50 from ImageNet weights: Smooth-AP, and a memory of earlier images for its many classes.

Command:  python -m jaxssl.main --config configs/retrieval/inaturalist.py --workdir runs/inat --config.data.path=IMAGES \
              --config.init_from=WEIGHTS --config.init_allow_missing=projector
Data:     one folder of class/*.jpg, 8,142 species; three eighths of them are trained on and an eighth is held out (fold 0). Smooth-AP's split has 5,690 to train on:
          --config.data.test_classes=LIST of the 2,452 others gives it.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: not run by this project. Smooth-AP's own run (arXiv 2007.12163) has no memory and batches of 224 to 384 by classes of four.
Variants: laptop: a small ResNet at 64 px, 20 steps: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=384, total="100_epochs", warmup="1_epoch", log_every=50, eval_every="5_percent", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="folder", path="", split="class_disjoint", canvas=288, sampler="m_per_class", per_class=4),
        augment=dict(views=1, size=224, crop_scale=(0.16, 1.0), interpolation="bicubic", jitter=0.0, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="metric", loss="smooth_ap", temperature=0.01, dim=512, memory=3840, memory_start=2000, norms="statistics"),
        optim=dict(name="adam", lr=1e-5, scaling="none", schedule="cosine", weight_decay=4e-5, rules=(("^projector/", dict(rate=2.0)),))))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(dim=64, memory=640, memory_start=5, norms="learned")
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
