"""Metric learning on Omniglot's characters from scratch: a small ResNet at 64 pixels, multi-similarity with its miner, four drawings of each of 32 characters in a batch.

Command:  python -m jaxssl.main --config configs/retrieval/omniglot.py --workdir runs/omniglot --config.data.path=images_background_small1.zip
Data:     a zip (or, with --config.data.source=folder, a folder) of alphabet/character/*.png, as Omniglot's are; three eighths of the characters are trained on, an eighth
          is held out (fold 0). --config.data.split_by=parent parts whole alphabets.
Hardware: two CPU cores. Hours: not measured.
Expected: not measured.
Variants: conv4: the four-block convolutional network of few-shot learning on drawings of 28 pixels, eight characters in a batch; what the studies of losses run, some
          three seconds of one core for 150 steps. arcface: weights of the characters in place of pairs. laptop: 40 steps, shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("conv4", "arcface", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=128, total="3000_steps", warmup="5_percent", log_every=50, eval_every="10_percent", checkpoint_every="10_percent", precision="f32",
        data=dict(source="zip", path="", split="class_disjoint", class_depth=2, canvas=112, sampler="m_per_class", per_class=4),
        # Strokes keep their sense: no mirror, no colour.
        augment=dict(views=1, size=64, crop_scale=(0.6, 1.0), flip=0.0, jitter=0.0, gray=0.0, blur=0.0, mean=(0.9, 0.9, 0.9), std=(0.25, 0.25, 0.25)),
        model=dict(name="resnet10", stem="imagenet", width=0.375, zero_init=False),
        method=dict(name="metric", loss="multi_similarity", miner="multi_similarity", dim=128),
        optim=dict(name="adamw", lr=2e-3, scaling="none", weight_decay=1e-2)))
    if variant == "conv4":
        c.batch_size, c.total, c.log_every, c.eval_every, c.checkpoint_every = 32, "150_steps", 50, "25_percent", "25_percent"
        c.data.canvas = c.augment.size = 28
        c.model = ConfigDict(dict(name="conv4", width=32))
        c.eval = ConfigDict(dict(reference=68, batch=68))
        c.method.dim = 0
    if variant == "arcface":
        c.data.per_class = 1
        c.method = ConfigDict(dict(name="metric", loss="arcface", scale=32.0, dim=128))
        c.optim.rules = (("^classes/", dict(rate=5.0, decay=0.0)),)
    if variant == "laptop":
        c.total, c.eval_every, c.checkpoint_every = "40_steps", "40_steps", "20_steps"
    return c
