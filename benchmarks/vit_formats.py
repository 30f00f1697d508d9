"""Vision transformers in and out: timm's and transformers' ViT-S/16 and -B/16 against ours with the same random weights, on real images.

    python benchmarks/vit_formats.py test.zip       # CIFAR-10's test images; writes benchmarks/results/vit_formats.json

It needs torch, torchvision, timm and transformers. In: their network is drawn by their own code and every tensor moved at random, so that each
counts; `jaxssl.convert` reads what they save, and features of `--images` images at 224 px by their program and by `jaxssl.load`'s encoder are
compared. Out: that encoder is exported by `jaxssl.export`, whose own check opens it with the library and compares again, and every tensor must
come back bit for bit. A difference is the largest of a feature over the largest feature of its image. The bar is 1e-5 in float32, and bitwise.

Expected before it ran: some 1e-6, as for ResNets: float32 programs that sum twelve blocks in other orders. Measured: 1.7e-6.
"""
import argparse
import json
import os
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
from jaxssl.data.decode import sample  # noqa: E402
from jaxssl.data.open import detect  # noqa: E402
from jaxssl.encoder import load as loading  # noqa: E402

CHUNK = 32
SIZES = {"small": (384, 6), "base": (768, 12)}           # width and heads; twelve blocks
CASES = ("timm small", "timm base", "transformers small", "transformers base", "timm small reg4", "transformers small reg4")      # the last two were not run
PACKAGES = ("jax", "jaxlib", "torch", "torchvision", "timm", "transformers", "safetensors", "numpy")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("data", help="zip or folder of images, for example CIFAR-10's test.zip")
    flags.add_argument("--images", type=int, default=64)
    flags.add_argument("--cases", default=",".join(CASES), help="some of them; other rows of an earlier result stay")
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/vit_formats.json"))
    args = flags.parse_args()
    file = Path(args.out)
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    data = datas.make(source=detect(args.data), path=args.data, canvas=32)
    canvases = np.stack([sample(data.train, int(i), 32)[0] for i in np.linspace(0, len(data.train) - 1, args.images).astype(int)])
    for case in args.cases.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows[case] = measure(*case.split(maxsplit=2), canvases=canvases, folder=Path(folder), args=args)
        print(case, rows[case], flush=True)
        file.write_text(json.dumps(result(rows, args), indent=1) + "\n")
    print(json.dumps(result(rows, args)["against_bars"]))


def result(rows, args):
    return {"command": "python benchmarks/vit_formats.py test.zip", "model": "12 blocks at 224 px, patch 16", "images": args.images, "machine": machine(*PACKAGES), "rows": rows,
            "against_bars": {"largest_difference_in (bar 1e-5)": max(r["in"] for r in rows.values()), "largest_difference_out (bar 1e-5)": max(r["out"] for r in rows.values()),
                             "round_trip_bitwise": all(r["round_trip_bitwise"] for r in rows.values())}}


def measure(library, size, kind="", *, canvases, folder, args):
    import torch
    from safetensors.torch import load_file
    start = time.perf_counter()
    model, features = drawn(torch, library, size, kind, folder / "theirs")
    view = jax.jit(augment.test_view(size=224, resize=256, interpolation="bicubic"))
    chunks = [np.asarray(view({"image": c, "size": np.full((len(c), 2), 32, np.int32)})) for c in np.split(canvases, range(CHUNK, len(canvases), CHUNK))]
    with torch.inference_mode():
        theirs = np.concatenate([features(planes(torch, x)).numpy() for x in chunks])
        exact = features(planes(torch, chunks[0][:8]).double(), model.double()).numpy()
    report = convert.run(str(folder / "theirs"), str(folder / "ours"))
    encoder = loading.load(folder / "ours")
    with jax.default_matmul_precision("highest"):
        forward = jax.jit(lambda v, x: encoder.forward(v, x)[0])
        ours = np.concatenate([np.asarray(forward(encoder.variables, x)) for x in chunks])
    out = export.run(weights=str(folder / "ours"), format=library, out=str(folder / "back"), images=args.images, data=args.data)
    before, back = load_file(folder / "theirs" / "model.safetensors"), load_file(folder / "back" / "model.safetensors")
    compared = [n for n in before if not n.startswith("pooler.")]
    return {"in": export.relative(theirs, ours), "out": out["difference"], "preprocessing": out["preprocessing"], "difference_from_float64_on_8_images": {
                "theirs": export.relative(exact, theirs[:8]), "ours": export.relative(exact, ours[:8])},
            "features": list(ours.shape), "used": len(report["used"]), "unused": len(report["unused"]), "missing": len(report["missing"]), "assumed": list(encoder.origin.assumed),
            "tensors_compared": len(compared),
            "round_trip_bitwise": loading.load(folder / "back").digest == encoder.digest and set(compared) == set(back) and all(torch.equal(before[n], back[n]) for n in compared),
            "seconds": round(time.perf_counter() - start, 1), "load": round(os.getloadavg()[0], 1)}


def drawn(torch, library, size, kind, folder):
    """(network, function from images to features) of a library, its files in `folder`."""
    torch.manual_seed(0)
    width, heads = SIZES[size]
    if library == "timm":
        import timm
        more = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5} if kind else {}
        model, name = timm.create_model(f"vit_{size}_patch16_224", num_classes=0, **more), f"vit_{size}_patch16_224"
        features = lambda x, m=model: m(x)
    else:
        import transformers
        own = {"num_register_tokens": 4} if kind else {"intermediate_size": 4 * width}
        prefix = "Dinov2WithRegisters" if kind else "ViT"
        config = getattr(transformers, f"{prefix}Config")(hidden_size=width, num_attention_heads=heads, patch_size=16, image_size=224, **own)
        model = getattr(transformers, f"{prefix}Model")(config)
        features = lambda x, m=model: m(x).last_hidden_state[:, 0]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    model.eval()
    folder.mkdir()
    if library == "timm":
        from safetensors.torch import save_file
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / "model.safetensors")
        stated = {key: model.pretrained_cfg[key] for key in ("input_size", "interpolation", "crop_pct", "mean", "std") if key in model.pretrained_cfg}
        (folder / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 0, "model_args": more, "pretrained_cfg": stated}))
    else:
        model.save_pretrained(folder)
    return model, features


def planes(torch, x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


if __name__ == "__main__":
    main()
