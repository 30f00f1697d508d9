"""DirectCLR (arXiv 2110.09348): SimCLR without a projector, its loss on the first 96 features, on CIFAR-10, ResNet-18.

All else is what configs/cifar10/simclr.py says.
Command:  python -m jaxssl.main --config configs/cifar10/directclr.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: no published value; not run by this project.
Variants: laptop: as there (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("laptop",)


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("simclr.py")))["get_config"](variant)
    c.method.update(layers=0, dim=24 if variant == "laptop" else 96)
    if "hidden" in c.method:
        del c.method.hidden               # there is no projector
    return c
