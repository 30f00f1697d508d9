"""`python -m jaxssl.convert SRC DST`: weights of another program as a file of ours, with every name accounted for.

SRC is a file (.safetensors, .npz, .pth) or a folder (timm's, transformers', an export of ours); DST is a new folder, which `jaxssl.load`,
`--weights` and `--config.init_from` take. SimCLR's checkpoints: see jaxssl/encoder/formats/simclr.py.
"""
import argparse
import json
import math
import os

from jaxssl import encoder as encoders
from jaxssl.encoder import formats as interop
from jaxssl.encoder import load as loading
from jaxssl.errors import UserError, listed
from jaxssl.encoder.formats import files, safetensors
from jaxssl.command import guarded, local, number, place, process, whole

NAMES = "names.json"


def run(source: str, destination: str, *, allow_missing: tuple[str, ...] = (), prefix: str = "", model: str = "", preprocessing: dict | None = None,
        told: dict | None = None) -> dict:
    """Converts, reads back what it wrote, and returns {layout, used, unused, missing, notes, model, …}: names as SRC has them, and sentences.

    DST holds the weights, and NAMES with every name that was used, unused and missing.

    allow_missing: names of tensors, or folders of names ("encoder/stage4"), that are drawn from seed 0 when SRC lacks them.
    prefix: what stands before every wanted name in SRC. model: the architecture, where the names leave it open.
    preprocessing: size, mean, std or interpolation that SRC does not state. told: the same of a vision transformer's heads, eps and pool.
    Raises: UserError; DST is not there then.
    """
    with files.fresh(destination) as partial:
        if interop.is_workdir(source):
            raise UserError(f"{source} is a run's workdir; use python -m jaxssl.export --workdir {source} --format safetensors --out {destination}")
        with encoders.understood(source):
            found = interop.read(source, model=model, prefix=prefix, preprocessing=preprocessing, told=told)
            interop.demand(found, allow_missing)
            variables = encoders.fill(found.config, found.variables) if found.missing else found.variables
            made = encoders.build(found.config, variables, name=found.name, weights=found.weights, step=found.step,
                                  origin=encoders.Origin(assumed=found.assumed, replaced=found.replaced))
        safetensors.write(made, partial)
        if loading.load(partial).digest != made.digest:
            raise UserError(f"what was written to {destination} was read back with other values; do not trust this disk")
        accounts = {"used": found.used, "unused": found.unused, "missing": tuple(found.missing.values())}
        (partial / NAMES).write_text(json.dumps({"layout": found.layout, **{what: sorted(who) for what, who in accounts.items()}}, indent=1))
    return {"layout": found.layout, **accounts, "notes": found.notes, "model": made.config["model"], "width": made.width, "preprocessing": made.preprocessing,
            "names": os.path.join(destination, NAMES)}


def report(found: dict) -> str:
    """What became of the names, in short, and the file that has all of them."""
    return "\n".join([f"layout: {found['layout']}; model: {', '.join(f'{k} {v}' for k, v in found['model'].items())}; {found['width']} features",
                      f"used: {len(found['used'])} tensors",
                      f"unused: {len(found['unused'])} ({listed(found['unused'])})",
                      f"missing, drawn from seed 0: {len(found['missing'])} ({listed(found['missing'])})",
                      f"every name: {found['names']}",
                      f"preprocessing: {', '.join(f'{k} {v}' for k, v in found['preprocessing'].items())}",
                      *(f"note: {note}" for note in found["notes"])])


def three(value: str) -> tuple[float, ...]:
    """"(.5,.5,.5)" or ".5,.5,.5" as three numbers up to 1. Raises: ArgumentTypeError, which argparse prints."""
    try:
        numbers = tuple(float(number) for number in value.strip("()[] ").split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{value!r}: write three numbers with commas, such as .485,.456,.406")
    if max(numbers) > 1:
        raise argparse.ArgumentTypeError(f"{value!r}: these are of pixels in [0, 1]; divide those of pixels up to 255 by 255")
    return numbers


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.convert", allow_abbrev=False,
                                description="Read weights of torchvision, timm, transformers, SimCLR's official code, DINO, DINOv2, DeiT, MAE, MoCo v3 or an export, and write "
                                "them as ours.",
                                epilog="Exit code 2: wrong input, or a tensor is missing that --allow_missing does not name.")
    p.add_argument("source", type=place, metavar="SRC", help=".safetensors, .npz, .pth (read with weights_only), or a folder with such a file")
    p.add_argument("destination", type=local, metavar="DST", help="a new folder")
    p.add_argument("--allow_missing", default="", metavar="NAMES",
                   help="names or folders of names that may be missing, with commas between them; they are drawn from seed 0")
    p.add_argument("--prefix", default="", help="what stands before every wanted name, for example module.encoder_q.")
    p.add_argument("--model", default="", help="the architecture, where the names leave it open, for example resnet50")
    p.add_argument("--heads", type=whole, default=None, help="of a vision transformer's attention, where nothing states them (MoCo v3's ViT-S has 12)")
    p.add_argument("--eps", type=number, default=None, help="of a vision transformer's layer norms")
    p.add_argument("--pool", choices=("cls", "mean"), default=None, help="what a vision transformer's feature is")
    p.add_argument("--size", type=whole, default=None, help="side of the images it was trained on")
    p.add_argument("--mean", type=three, default=None, metavar="R,G,B", help="of pixels in [0, 1]")
    p.add_argument("--std", type=three, default=None, metavar="R,G,B")
    p.add_argument("--interpolation", choices=("bilinear", "bicubic"), default=None)
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    stated, told = ({key: getattr(flags, key) for key in keys if getattr(flags, key) is not None} for keys in (("size", "mean", "std", "interpolation"), ("heads", "eps", "pool")))

    def body():
        allowed = tuple(name for name in flags.allow_missing.split(",") if name)
        print(report(run(flags.source, flags.destination, allow_missing=allowed, prefix=flags.prefix, model=flags.model, preprocessing=stated, told=told)))
        print(f"done: {flags.destination}", flush=True)

    return guarded(body, flags.debug)


if __name__ == "__main__":
    process(main)
