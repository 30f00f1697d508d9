"""Metric learning on Cars196, ResNet-50 from ImageNet weights, multi-similarity with its miner as "A metric learning reality check" tuned it there.

Command:  python -m jaxssl.main --config configs/retrieval/cars196.py --workdir runs/cars196 --config.data.path=IMAGES \
              --config.init_from=WEIGHTS --config.init_allow_missing=projector
Data:     one folder of class/*.jpg (a zip with --config.data.source=zip), all 196 classes. They are parted by class as the check does: half are its test, which nothing
          here sees, and of the other half 74 are trained on and the rest held out (fold 0; --config.data.fold for the others).
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: not run by this project. With BN-Inception in place of ResNet-50 the best of 50 trials reached a mean validation MAP@R of .233 (the check's own logs,
          as its repository draws them). Differs from it: the encoder, and views of 224 pixels in place of 227.
Variants: cosface: weights of classes, one image of a class in a batch, the check's numbers too. laptop: a small ResNet at 64 px, 20 steps: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("cosface", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=32, total="20000_steps", warmup="0_steps", log_every=50, eval_every="5_percent", checkpoint_every="5_percent", precision="f32",
        data=dict(source="folder", path="", split="class_disjoint", canvas=288, sampler="m_per_class", per_class=4),
        augment=dict(views=1, size=224, crop_scale=(0.16, 1.0), crop_ratio=(0.75, 1.33), interpolation="bicubic", jitter=0.0, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet"),
        # Batch norms keep ImageNet's statistics; their scales and biases are trained, as in the check's code.
        method=dict(name="metric", loss="multi_similarity", alpha=7.49, beta=47.99, base=0.63, miner="multi_similarity", epsilon=0.72, dim=128, norms="statistics"),
        optim=dict(name="rmsprop", lr=1e-6, scaling="none", schedule="constant", weight_decay=1e-4, momentum=0.9, rules=((1, dict(decay=1.0)),))))
    if variant == "cosface":
        c.data.per_class = 1
        c.method = ConfigDict(dict(name="metric", loss="cosface", margin=0.4324, scale=161.5, dim=128, norms="statistics"))
        c.optim.rules = (("^classes/", dict(rate=7410.0)), (1, dict(decay=1.0)))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.dim, c.method.norms = 64, "learned"
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
