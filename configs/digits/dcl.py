"""DCL (arXiv 2110.06848): SimCLR whose denominator leaves the positive out, on cluttered digits (embedded).

All else is what configs/digits/simclr.py says.
Command:  python -m jaxssl.main --config configs/digits/dcl.py --workdir runs/digits_dcl
Hardware: two CPU cores. Hours: none measured on quiet cores; 281 seconds of processor time with evaluations.
Expected: kNN 65.9 % and linear 79.0 % on held-out images, against 28.2 % and 32.0 % untrained (seed 0, one run).
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("simclr.py")))["get_config"](variant)
    c.method.objective = "dcl"
    return c
