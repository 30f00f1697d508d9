"""Exports against the libraries that open them: the largest feature difference on real images, and where the time goes.

    python benchmarks/exports.py test.zip           # CIFAR-10's test images; writes benchmarks/results/exports.json

It needs torch, torchvision, timm, transformers, onnx and onnxruntime. ResNet-18 and ResNet-50 at 224 px with the ImageNet stem in every format, and
ResNet-18 at 32 px with the CIFAR stem in those that have one. Weights are drawn from seed 0, statistics are those of 64 of the images and scales and
biases are moved off their initial values, so that every tensor counts (no trained ResNet-50 is at hand). Each row is the command itself,
`jaxssl.export.run`, on `--images` images evenly spread over the set: it writes, opens with the target library and compares. A difference is the
largest of a feature over the largest feature of its image; the bar is 1e-4 in float32.

Expected before it ran: two float32 programs that sum 50 layers in other orders differ by some 1e-6; preprocessing by Pillow rounds to 8 bits after
resizing 32 to 256 pixels, at most .5/255 of .23, .004 standard deviations on average.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from jaxssl import data as datas, encoder as encoders, export
from jaxssl.encoder import formats as interop  # noqa: E402
from jaxssl.data.decode import sample  # noqa: E402
from jaxssl.data.open import detect  # noqa: E402
from jaxssl.errors import UserError  # noqa: E402
from jaxssl.encoder.formats import safetensors  # noqa: E402

CASES = {"resnet18 224": ("resnet18", "imagenet", 224), "resnet50 224": ("resnet50", "imagenet", 224), "resnet18 32 cifar stem": ("resnet18", "cifar", 32)}
PACKAGES = ("jax", "jaxlib", "torch", "torchvision", "timm", "transformers", "onnx", "onnxruntime", "safetensors", "numpy")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("data", help="zip or folder of images, for example CIFAR-10's test.zip")
    flags.add_argument("--images", type=int, default=256)
    flags.add_argument("--cases", default=",".join(CASES), help="some of them; other rows of an earlier result stay")
    flags.add_argument("--formats", default=",".join(interop.WRITTEN))
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/exports.json"))
    args = flags.parse_args()
    file = Path(args.out)
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for case in args.cases.split(","):
            name, stem, size = CASES[case]
            safetensors.save(settled(encoder_of(name, stem, size), args.data), Path(folder) / "weights.safetensors")
            for format in args.formats.split(","):
                rows.setdefault(case, {})[format] = measure(format, args, Path(folder))
                print(case, format, rows[case][format], flush=True)
                file.write_text(json.dumps(result(rows, args), indent=1) + "\n")
    print(json.dumps(result(rows, args)["against_bars"]))


def result(rows, args):
    differences = [row["difference"] for formats in rows.values() for row in formats.values() if "difference" in row]
    return {"command": "python benchmarks/exports.py test.zip", "images": args.images, "machine": machine(*PACKAGES), "rows": rows,
            "against_bars": {"largest_difference (bar 1e-4)": max(differences, default=None), "exports_checked": len(differences)}}


def measure(format, args, folder):
    start = time.perf_counter()
    try:
        found = export.run(weights=str(folder / "weights.safetensors"), format=format, out=str(folder / "out"), images=args.images, data=args.data)
    except UserError as error:
        return {"refused": str(error)}
    row = {key: found[key] for key in ("difference", "preprocessing", "images") if key in found}
    row |= {"megabytes": round(sum(f.stat().st_size for f in (folder / "out").iterdir()) / 1e6, 1), "seconds": round(time.perf_counter() - start, 1),
            "load": round(os.getloadavg()[0], 1)}
    shutil.rmtree(folder / "out")
    return row


def encoder_of(name, stem, size):
    """A network from seed 0; without momentum, its running statistics are those of the last batch it saw in training mode."""
    config = {"model": {"name": name, "stem": stem, "bn_momentum": 0.0},
              "augment": {"size": size, "interpolation": "bilinear", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}}
    return encoders.build(config, encoders.fill(config, {"params": {}, "batch_stats": {}}), name=name)


def settled(encoder, path, count=64):
    """The encoder with scales and biases moved, and running statistics of `count` real images."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: a if a.ndim > 1 else (np.where(a == 0, 0.3, a) * rng.uniform(0.5, 1.5, a.shape)).astype(np.float32), encoder.variables["params"])
    data = datas.make(source=detect(path), path=path, canvas=32)
    pixels = np.stack([sample(data.train, int(i), 32)[0] for i in np.linspace(0, len(data.train) - 1, count).astype(int)])
    call = jax.jit(lambda variables, batch: encoder.forward(variables, encoder.view(batch), train=True)[1])
    stats = call({**encoder.variables, "params": params}, {"image": pixels, "size": np.full((count, 2), 32, np.int32)})
    return encoders.build(encoder.config, {"params": params, "batch_stats": jax.tree.map(np.asarray, stats)}, name=encoder.name)


if __name__ == "__main__":
    main()
