"""DirectCLR (arXiv 2110.09348): SimCLR without a projector, its loss on the first 64 features, on cluttered digits (embedded).

All else is what configs/digits/simclr.py says.
Command:  python -m jaxssl.main --config configs/digits/directclr.py --workdir runs/digits_directclr
Hardware: two CPU cores. Hours: none measured on quiet cores; 278 seconds of processor time with evaluations.
Expected: kNN 67.6 % and linear 78.8 % on held-out images, against 28.2 % and 32.0 % untrained (seed 0, one run).
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("simclr.py")))["get_config"](variant)
    c.method.update(layers=0, dim=64)
    if "hidden" in c.method:
        del c.method.hidden               # there is no projector
    return c
