"""PMSN on CIFAR-10, ViT-Ti with patches of 4 pixels, 2 + 6 crops: the recipe of configs/imagenet/pmsn.py on small images.

Command:  python -m jaxssl.main --config configs/cifar10/pmsn.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Data:     zips or folders of class/*.png|jpg; they stay resident on the device.
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: no published value.
Variants: laptop: a ViT of 64 channels and 4 blocks, 3 epochs of batch 256 (not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("msn.py")))["get_config"](variant)
    c.method.name = "pmsn"
    return c
