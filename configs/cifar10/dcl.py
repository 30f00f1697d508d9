"""DCL (arXiv 2110.06848): SimCLR whose denominator leaves the positive out, on CIFAR-10, ResNet-18, with the settings of lightly's benchmark.

All else is what configs/cifar10/simclr.py says.
Command:  python -m jaxssl.main --config configs/cifar10/dcl.py --workdir runs/cifar10 --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: one GPU. Hours: none measured, the recipe was not run by this project.
Expected: kNN 84.0 % at k=200, T=.1, the best of all epochs (published: as the variant sgd200 there, with a temperature of .1).
Variants: 800ep: published kNN 87.4 %. laptop: as there:
          kNN 36.9 % against 20.9 % untrained, linear 38.3 % against 22.4 % (seed 0, one run, two shared CPU cores).
"""
import runpy
from pathlib import Path

VARIANTS = ("800ep", "laptop")
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
KNN = dict(protocol="knn", setting=dict(k=200, temperature=0.1))
PUBLISHED = {
    "": [dict(KNN, value=0.84, source="lightly's CIFAR-10 benchmark: DCL, batch 512, 200 epochs, kNN k=200 T=.1, best of all epochs")],
    "800ep": [dict(KNN, value=0.874, source="lightly's CIFAR-10 benchmark: DCL, batch 512, 800 epochs, kNN k=200 T=.1, best of all epochs")],
}


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("simclr.py")))["get_config"](variant if variant == "laptop" else "sgd200")
    c.method.objective, c.method.temperature = "dcl", 0.1
    if variant == "800ep":
        c.total = "800_epochs"
    return c
