"""DirectCLR (arXiv 2110.09348): SimCLR without a projector, its loss on the first 64 features, on cluttered digits (embedded).

All else is what configs/digits/simclr.py says.
Command:  python -m jaxssl.main --config configs/digits/directclr.py --workdir runs/digits_directclr
Hardware: two CPU cores. Hours: none measured.
Expected: not measured; its tests build it.
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("simclr.py")))["get_config"](variant)
    c.method.layers, c.method.dim = 0, 64
    return c
