"""DCL (arXiv 2110.06848): SimCLR whose denominator leaves the positive out, on ImageNet, ResNet-50, batch 256.

All else is what configs/imagenet/simclr.py says.
Command:  python -m jaxssl.main --config configs/imagenet/dcl.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Hardware: eight GPUs or TPU v5e-16. Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 65.1 % after 100 epochs at batch 256 and the square-root rate (published: lightly's ImageNet benchmark, SimCLR 63.2 there).
Variants: laptop: as there (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("laptop",)
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
PUBLISHED = {"": [dict(protocol="augmented", setting=dict(epochs=90.0, batch_size=256, lr=0.1, weight_decay=0.0), value=0.651,
                       source="lightly's ImageNet benchmark: DCL, ResNet-50, linear (SGD on augmented views, 90 epochs of batch 256) after 100 epochs of batch 256")]}


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("simclr.py")))["get_config"](variant or "small_batch")
    c.method.objective = "dcl"
    return c
