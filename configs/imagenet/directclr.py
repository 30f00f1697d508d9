"""DirectCLR (arXiv 2110.09348): SimCLR without a projector, its loss on the first 360 features, on ImageNet, ResNet-50.

All else is what configs/imagenet/simclr.py says.
Command:  python -m jaxssl.main --config configs/imagenet/directclr.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Hardware: TPU v5e-256 (16x16). Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 62.7 % after 100 epochs at batch 4096 (published, official README; their negatives are of the other view alone; not run by this project).
Variants: laptop: as there (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("simclr.py")))["get_config"](variant)
    c.method.update(layers=0, dim=64 if variant == "laptop" else 360)
    if "hidden" in c.method:
        del c.method.hidden               # there is no projector
    return c
