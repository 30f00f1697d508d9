"""PMSN on cluttered digits (embedded), a small ViT, two crops.

Command:  python -m jaxssl.main --config configs/digits/pmsn.py --workdir runs/digits_pmsn
Hardware: two CPU cores. Hours: none measured on quiet cores.
Expected: not measured.
Variants: clean: the plain digits (not measured). laptop: 40 steps, shows that everything runs (hours not measured).
"""
import runpy
from pathlib import Path

VARIANTS = ("clean", "laptop")


def get_config(variant=""):
    c = runpy.run_path(str(Path(__file__).with_name("msn.py")))["get_config"](variant)
    c.method.name = "pmsn"
    return c
