"""Distillation on CIFAR-10 against SimCLR of equal budget, into the ResNet-10 of configs/cifar10/simclr.py:laptop: the same images, steps, batch, rate and seed.

    python benchmarks/distill.py --train train.zip --test test.zip --row vit                                # a ViT trained here (DINOv2) → ResNet-10 at 32 px
    python benchmarks/distill.py --train train.zip --test test.zip --row lite --weights WEIGHTS             # EfficientNet-Lite0 at 128 px → ResNet-10 at 64 px
    python benchmarks/distill.py … --teacher_only                                                           # no more than the teacher's own kNN

WEIGHTS is what jaxssl.load opens of EfficientNet-Lite0: a file of EfficientNet-PyTorch's or timm's names, or `python -m jaxssl.convert FILE FOLDER` of it. Images are the first of
each class. Adds a row to benchmarks/results/distill.json; accuracies are shares of the held-out images, kNN at k = 200, T = .1 and k = 20, T = .07. The goals: kNN 3 points above
SimCLR for the ViT, 5 for EfficientNet-Lite0. A step of SimCLR sees two views of an image, one of distillation one view, and its teacher the same one.
"""
import argparse
import dataclasses
import io
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from machine import machine
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks/results/distill.json"
KEPT = ("knn", "knn_k20", "linear", "knn_untrained", "linear_untrained", "rankme", "steps", "train_seconds", "compile_seconds", "wall_seconds")
GOAL = {"vit": 0.03, "lite": 0.05}
SIDE = {"vit": 32, "lite": 64}


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--train", required=True)
    flags.add_argument("--test", required=True)
    flags.add_argument("--row", choices=sorted(GOAL), required=True)
    flags.add_argument("--weights", help="of EfficientNet-Lite0")
    flags.add_argument("--images", type=int, help="training images (default: 20,000 for vit, 5,000 for lite)")
    flags.add_argument("--queries", type=int, default=2000, help="held-out images")
    flags.add_argument("--epochs", type=int, default=6)
    flags.add_argument("--batch_size", type=int, default=256)
    flags.add_argument("--teacher_epochs", type=int, default=12, help="of the ViT")
    flags.add_argument("--teacher_size", type=int, default=128, help="what EfficientNet-Lite0 sees")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0])
    flags.add_argument("--teacher_only", action="store_true")
    flags.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the method, such as regression=1")
    flags.add_argument("--limit", type=float, default=3600, help="seconds after which a run is ended")
    flags.add_argument("--out", default=str(OUT))
    args = flags.parse_args()
    if args.row == "lite" and not args.weights:
        flags.error("--row lite needs --weights")
    args.images = args.images or {"vit": 20_000, "lite": 5_000}[args.row]
    with tempfile.TemporaryDirectory() as folder:
        args.train, args.test = (part(path, count, Path(folder, f"{name}.zip")) for path, count, name in ((args.train, args.images, "train"), (args.test, args.queries, "test")))
        found = measured(args, folder)
    found = {"row": args.row, "images": args.images, "queries": args.queries, "epochs": args.epochs, "batch_size": args.batch_size, "side": SIDE[args.row],
             "method": args.set, **found}
    out = Path(args.out)
    rows = [row for row in (json.loads(out.read_text())["rows"] if out.exists() else []) if (row["row"], row["method"]) != (found["row"], found["method"])] + [found]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"command": "python benchmarks/distill.py", "machine": machine("jax", "jaxlib", "flax", "optax"), "rows": rows}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def measured(args, folder: str) -> dict:
    """The teacher's own kNN and, for each seed, that of SimCLR and of the student."""
    start = time.monotonic()
    if args.row == "vit":
        teacher = f"{folder}/teacher"
        of = run(args, "configs/cifar10/dinov2.py:laptop", teacher, {"total": f"{args.teacher_epochs}_epochs", "eval_every": "100_percent"})
    else:
        teacher, of = args.weights, {"size": args.teacher_size, **own_knn(args)}
    found = {"teacher": of, "teacher_seconds": round(time.monotonic() - start, 1), "simclr": [], "student": []}
    if "error" in of or args.teacher_only:
        return found
    common = {"total": f"{args.epochs}_epochs", "batch_size": str(args.batch_size), "eval_every": "100_percent", "augment.size": str(SIDE[args.row]),
              "data.canvas": str(SIDE[args.row])}
    own = {"teacher": teacher, "teacher_size": "0" if args.row == "vit" else str(args.teacher_size), **dict(each.split("=", 1) for each in args.set)}
    for seed in args.seeds:
        found["simclr"].append(run(args, "configs/cifar10/simclr.py:laptop", f"{folder}/simclr{seed}", {**common, "seed": str(seed)}))
        found["student"].append(run(args, "configs/cifar10/distill.py:laptop", f"{folder}/student{seed}",
                                    {**common, "seed": str(seed), **{f"method.{key}": value for key, value in own.items()}}))
        print({name: found[name][-1].get("knn", found[name][-1]) for name in ("simclr", "student")}, flush=True)
    pairs = list(zip(found["simclr"], found["student"]))
    if all("knn" in row for pair in pairs for row in pair):
        gain = float(np.mean([student["knn"] - simclr["knn"] for simclr, student in pairs]))
        found |= {"gain": round(gain, 4), "goal": GOAL[args.row], "reached": gain >= GOAL[args.row]}
    return found


def run(args, config: str, workdir: str, changes: dict[str, str]) -> dict:
    """What one training came to, or under "error" the end of what it said."""
    changes = {"data.path": args.train, "data.test_path": args.test, "data.examples": "0", "report": "false", **changes}
    command = [sys.executable, "-m", "jaxssl.main", "--config", config, "--workdir", workdir, *(f"--config.{k}={v}" for k, v in changes.items())]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=args.limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {args.limit:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr or done.stdout)[-1200:]}
    result = json.loads(Path(workdir, "run.json").read_text())
    return {k: result[k] for k in KEPT if k in result}


def own_knn(args) -> dict:
    """kNN of the weights themselves, of the same images as the students' are measured by, enlarged to what the teacher sees."""
    sys.path.insert(0, str(ROOT))
    from jaxssl.encoder import load as loading
    from jaxssl.evaluation.measures import knn
    encoder = loading.load(args.weights)
    view = {**encoder.config["augment"], "size": args.teacher_size, "resize": args.teacher_size}
    encoder = dataclasses.replace(encoder, config={**encoder.config, "augment": view})
    (train, classes), (test, truth) = (read(path) for path in (args.train, args.test))
    start, reference = time.monotonic(), encoder(train)
    rate = len(train) / (time.monotonic() - start)
    scores = knn.evaluate(encoder(test), truth, reference, classes)
    return {"knn": scores[0].accuracy, "knn_k20": scores[1].accuracy, "images_per_second": round(rate, 1)}


def part(path: str, count: int, to: Path) -> str:
    """A zip of the first images of each class, `count` in all."""
    with zipfile.ZipFile(path) as whole:
        named = {}
        for name in sorted(n for n in whole.namelist() if n.lower().endswith((".png", ".jpg"))):
            named.setdefault(Path(name).parent, []).append(name)
        with zipfile.ZipFile(to, "w") as made:
            for names in named.values():
                for name in names[:-(-count // len(named))]:
                    made.writestr(name, whole.read(name))
    return str(to)


def read(path: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Images uint8 [h, w, 3] of a zip and their classes."""
    with zipfile.ZipFile(path) as file:
        names = [name for name in file.namelist() if name.lower().endswith((".png", ".jpg"))]
        images = [np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB")) for name in names]
    return images, np.unique([str(Path(name).parent) for name in names], return_inverse=True)[1]


if __name__ == "__main__":
    main()
