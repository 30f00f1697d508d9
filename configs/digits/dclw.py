"""DCLW (arXiv 2110.06848): DCL in which pairs that are alike already count less (von Mises-Fisher weights, sigma .5), on cluttered digits (embedded).

All else is what configs/digits/simclr.py says.
Command:  python -m jaxssl.main --config configs/digits/dclw.py --workdir runs/digits_dclw
Hardware: two CPU cores. Hours: none measured on quiet cores; 274 seconds of processor time with evaluations.
Expected: kNN 59.7 % and linear 73.4 % on held-out images, against 28.2 % and 32.0 % untrained (seed 0, one run).
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("simclr.py")))["get_config"](variant)
    c.method.objective = "dclw"
    return c
