"""Imports: torchvision's and timm's ResNet-50 read by `jaxssl.convert`, compared on real images, and written back.

    python benchmarks/imports.py test.zip           # CIFAR-10's test images; writes benchmarks/results/imports.json

It needs torch, torchvision and timm. Their networks are drawn at random by their own code; 64 of the images in training mode give the batch norms
running statistics, and scales and biases are moved off one and zero. Features of `--images` images at 224 px by their program and by
`jaxssl.load`'s encoder must agree within 1e-4 of an image's largest feature in float32; then the encoder is exported to the same library, and every
tensor but batch counters and classifier must come back bit for bit.

Expected before it ran: differences of some 1e-6, as in exports.py. Measured: 2e-5, and as much between either program and the same network in
float64: blocks whose last norm is not near zero, as in these networks at random, amplify rounding.
"""
import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from jaxssl import augment, convert, data as datas, export  # noqa: E402
from jaxssl.encoder import load as loading
from jaxssl.data.decode import sample  # noqa: E402
from jaxssl.data.open import detect  # noqa: E402

CHUNK = 32


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("data", help="zip or folder of images, for example CIFAR-10's test.zip")
    flags.add_argument("--images", type=int, default=256)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/imports.json"))
    args = flags.parse_args()
    data = datas.make(source=detect(args.data), path=args.data, canvas=32)
    canvases = np.stack([sample(data.train, int(i), 32)[0] for i in np.linspace(0, len(data.train) - 1, args.images).astype(int)])
    rows = {}
    for library in ("torchvision", "timm"):
        with tempfile.TemporaryDirectory() as folder:
            rows[library] = measure(library, canvases, Path(folder), args.data)
        print(library, rows[library], flush=True)
    result = {"command": "python benchmarks/imports.py test.zip", "model": "resnet50 at 224 px", "images": args.images,
              "machine": machine("jax", "jaxlib", "torch", "torchvision", "timm", "safetensors", "numpy"), "rows": rows,
              "against_bars": {"largest_difference (bar 1e-4)": max(r["difference"] for r in rows.values()),
                               "round_trip_bitwise": all(r["round_trip_bitwise"] for r in rows.values())}}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["against_bars"]))


def measure(library, canvases, folder, path):
    import torch
    from safetensors.torch import load_file, save_file
    start = time.perf_counter()
    torch.manual_seed(("torchvision", "timm").index(library))      # their initialisers draw alike: the same seed would give one network twice
    if library == "timm":
        import timm
        model = timm.create_model("resnet50", zero_init_last=False)
    else:
        import torchvision
        model = torchvision.models.resnet50(weights=None)
    view = jax.jit(augment.test_view(size=224, resize=256))
    chunks = [np.asarray(view({"image": c, "size": np.full((len(c), 2), 32, np.int32)})) for c in np.split(canvases, range(CHUNK, len(canvases), CHUNK))]
    settle(torch, model, np.concatenate(chunks[:2]))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "theirs.safetensors")
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        theirs = np.concatenate([model(planes(torch, x)).numpy() for x in chunks])
        exact = model.double()(planes(torch, chunks[0]).double()).numpy()
    report = convert.run(str(folder / "theirs.safetensors"), str(folder / "ours"))
    encoder = loading.load(folder / "ours")
    forward = jax.jit(lambda v, x: encoder.forward(v, x)[0])
    ours = np.concatenate([np.asarray(forward(encoder.variables, x)) for x in chunks])
    export.run(weights=str(folder / "ours"), format=library, out=str(folder / "back"), images=8, data=path)
    rounding = {"theirs": export.relative(exact, theirs[:CHUNK]), "ours": export.relative(exact, ours[:CHUNK])}
    back = load_file(folder / "back" / "model.safetensors")
    compared = [n for n in tensors if not n.endswith("num_batches_tracked") and not n.startswith("fc.")]
    return {"difference": export.relative(theirs, ours), f"difference_from_float64_on_{CHUNK}_images": rounding, "features": list(ours.shape),
            "largest_feature": float(np.abs(theirs).max()),
            "used": len(report["used"]), "unused": len(report["unused"]), "missing": len(report["missing"]), "tensors_compared": len(compared),
            "round_trip_bitwise": all(torch.equal(tensors[n], back[n]) and tensors[n].dtype == back[n].dtype for n in compared),
            "seconds": round(time.perf_counter() - start, 1)}


def settle(torch, model, x):
    """Scales and biases moved at random, then running statistics that are those of the images x."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(planes(torch, x))
    model.eval()


def planes(torch, x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


if __name__ == "__main__":
    main()
