"""PMSN on ImageNet, ViT-S/16, with the settings of configs/imagenet/msn.py (arXiv 2210.07277, which pre-trains on iNaturalist and on uneven parts of ImageNet).

Command:  python -m jaxssl.main --config configs/imagenet/pmsn.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: TPU v5e-128 (8x16). Hours: none measured.
Expected: no published value for this recipe: the paper's numbers are of sets with classes of uneven size.
Variants: laptop: a ViT of 64 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("msn.py")))["get_config"](variant)
    c.method.name = "pmsn"
    return c
