"""Little data: five methods on 1,000 to 50,000 images of CIFAR-10, one device, three seeds: what to use by number of images.

    python benchmarks/small_data.py --train train.zip --test test.zip [--sizes 1000 5000] [--methods simclr] [--seeds 0] [--rows 4]

Each row trains configs/cifar10/METHOD.py:laptop (ResNet-10 of quarter width at 32 px, batch 256, AdamW) from scratch on so many training images, as many of each class, the
same for every method and seed and smaller sets within larger ones. All rows see the same number of images, repeats counted (--examples), so that small sets are repeated more
often. The encoder is then evaluated alike: kNN (k = 20, T = .07) and linear accuracy on the 10,000 test images, against all 50,000 labelled training images, so that the rows
differ by what the encoder learned and not by how many labels a classifier has. Adds to benchmarks/results/small_data.json row by row: the same command goes on where it was
stopped, and --rows ends it after so many new ones.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from machine import machine  # noqa: E402

SIZES, METHODS, SEEDS = (1000, 5000, 20_000, 50_000), ("simclr", "vicreg", "byol", "dino", "lejepa"), (0, 1, 2)
KEY = ("images", "method", "seed", "examples", "changes")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--train", required=True)
    flags.add_argument("--test", required=True)
    flags.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    flags.add_argument("--methods", nargs="+", default=METHODS, help="names of configs/cifar10 with a variant laptop")
    flags.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    flags.add_argument("--examples", type=int, default=150_000, help="images that a run sees, repeats counted (default: %(default)s, three epochs of all)")
    flags.add_argument("--rows", type=int, default=10**9, help="new rows at most")
    flags.add_argument("--changes", nargs="*", default=[], metavar="KEY=VALUE", help="of the config, for a try")
    flags.add_argument("--out", default=ROOT / "benchmarks/results/small_data.json", type=Path)
    args = flags.parse_args()
    changes, made = dict(change.split("=", 1) for change in args.changes), 0
    for images, method, seed in [(n, m, s) for s in args.seeds for n in args.sizes for m in args.methods]:      # seed by seed, so that what is there is a whole table soon
        known = {"images": images, "method": method, "seed": seed, "examples": args.examples, "changes": changes}
        rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
        if any("error" not in row and all(row[key] == known[key] for key in KEY) for row in rows):
            continue
        if made >= args.rows:
            break
        made, start = made + 1, time.monotonic()
        found = {**known, **run(args, images, method, seed, changes), "wall_seconds": round(time.monotonic() - start, 1)}
        rows = [row for row in rows if any(row[key] != known[key] for key in KEY)] + [found]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"command": "python benchmarks/small_data.py --train train.zip --test test.zip", "machine": machine("jax", "jaxlib", "flax", "optax"),
                                        "table": table(rows), "rows": rows}, indent=1) + "\n")
        print(f"{images:6,} {method:10} seed {seed}: " + (found["error"][-300:] if "error" in found else ", ".join(
            f"{name} {100 * found[name]:.1f}" for name in ("knn", "linear")) + f", {found['wall_seconds']:.0f} s"), flush=True)


def manifest(path: str, images: int, out: Path) -> Path:
    """A manifest of the first images of each class in an order that is drawn once for all sizes."""
    import numpy as np
    from jaxssl import data as datas
    from jaxssl.data import manifest as manifests
    source = datas.make(source="zip" if path.endswith(".zip") else "folder", path=path, holdout=0.).train
    labels, order = np.array([source.entry(i)[0] for i in range(len(source))]), np.random.default_rng(0).permutation(len(source))
    share = images // len(source.classes)
    rows = np.sort(np.concatenate([order[labels[order] == label][:share] for label in range(len(source.classes))]))
    if len(rows) != images:
        raise SystemExit(f"{path} has no {share:,} images of each class")
    out.write_text(manifests.text([source.id(int(i)) for i in rows], np.ones(len(rows), int)))
    return out


def run(args, images: int, method: str, seed: int, changes: dict) -> dict:
    """Scores of one training as shares, or under "error" the end of what it said. own_knn_untrained: by the run itself, against its own few images (k = 200, T = .1)."""
    environment = {**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    kind = "zip" if args.train.endswith(".zip") else "folder"

    def said(*command):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout)[-1200:])
        return done.stdout
    with tempfile.TemporaryDirectory() as folder:
        steps = max(round(args.examples / 256), 2)
        keys = {"data.source": kind, "data.path": os.path.abspath(args.train), "data.test_path": os.path.abspath(args.test),
                "data.manifest": str(manifest(args.train, images, Path(folder) / "some.jsonl")), "seed": seed,
                "total": f"{steps}_steps", "eval_every": "0", "checkpoint_every": "0",
                "eval.raw": "false", "report": "false", "log.tensorboard": "false", **changes}
        config = [f"--config.{key}={value}" for key, value in keys.items()]
        try:
            said("jaxssl.main", "--config", f"configs/cifar10/{method}.py:laptop", "--workdir", f"{folder}/run", *config)
            result = json.loads(Path(folder, "run/run.json").read_text())
            table = json.loads(said("jaxssl.evaluate", "--workdir", f"{folder}/run", "--protocols", "knn,linear", "--set", "knn.k=20", "--set", "knn.temperature=.07", "--set",
                                    "knn.majority=false", "--json"))
        except RuntimeError as error:
            return {"error": str(error)}
    return {"steps": steps, "epochs": round(args.examples / images, 2), **scores(table), "train_seconds": round(result["train_seconds"], 1), "rankme": result.get("rankme"),
            "own_knn_untrained": result.get("knn_untrained")}


def scores(table: dict) -> dict:
    return {row["protocol"]: row["value"] for row in table["rows"] if row["metric"] == "accuracy" and row["protocol"] in ("knn", "linear")}


def table(rows: list[dict]) -> list[dict]:
    """Mean and deviation over seeds of each size and method, as far as there are rows."""
    found = []
    for images, method in sorted({(row["images"], row["method"]) for row in rows if "error" not in row}):
        own = [row for row in rows if (row["images"], row["method"]) == (images, method) and "error" not in row]
        values = {name: [row[name] for row in own] for name in ("knn", "linear")}
        spread = {name: [round(statistics.mean(each), 4), round(statistics.stdev(each), 4) if len(own) > 1 else None] for name, each in values.items()}
        found.append({"images": images, "method": method, "seeds": len(own), **spread})
    return found


if __name__ == "__main__":
    main()
