"""Every method on cluttered digits or CIFAR-10: kNN and linear accuracy beside the untrained encoder's. Each run is a process of its own, several at a time.

    python benchmarks/methods.py digits --jobs 2                                                    # configs/digits/NAME.py
    python benchmarks/methods.py cifar10 --train train.zip --test test.zip --jobs 2                 # configs/cifar10/NAME.py:laptop
    python benchmarks/methods.py cifar10 --train train.zip --test test.zip --epochs 10              # the same for longer
    python benchmarks/methods.py digits --tries benchmarks/tries/digits.txt                         # a search: a method and what to change, a line each

Adds to benchmarks/results/methods_DATA.json as runs end; the same run again replaces its row. Accuracies are shares of the held-out images; kNN at k = 200, T = .1.
"""
import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("knn", "linear", "knn_untrained", "linear_untrained", "rankme", "rankme_untrained", "steps", "train_seconds", "compile_seconds", "wall_seconds")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("data", choices=["digits", "cifar10"])
    flags.add_argument("--train")
    flags.add_argument("--test")
    flags.add_argument("--method", nargs="+", help="names of configs (default: all)")
    flags.add_argument("--epochs", type=int, help="in place of the config's duration (cifar10)")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0])
    flags.add_argument("--tries", help="file of lines: METHOD key=value …")
    flags.add_argument("--jobs", type=int, default=1, help="runs at a time")
    flags.add_argument("--limit", type=float, default=3600, help="seconds after which a run is ended")
    flags.add_argument("--until", type=float, default=float("inf"), help="seconds after which no further run begins")
    flags.add_argument("--device", default="CPU", help="what computes, for the record")
    flags.add_argument("--out")
    args = flags.parse_args()
    if args.data == "cifar10" and not (args.train and args.test):
        flags.error("cifar10 needs --train and --test")
    names = args.method or sorted(p.stem for p in (ROOT / "configs" / args.data).glob("*.py"))
    wanted = [(name, {"total": f"{args.epochs}_epochs"} if args.epochs else {}) for name in names]
    if args.tries:
        lines = [line.split() for line in Path(args.tries).read_text().splitlines() if line.strip() and not line.startswith("#")]
        wanted = [(name, dict(change.split("=", 1) for change in changes)) for name, *changes in lines]
    out, lock, start = Path(args.out or ROOT / f"benchmarks/results/methods_{args.data}.json"), threading.Lock(), time.monotonic()

    def row(name, changes, seed):
        if time.monotonic() - start > args.until:
            return
        found = {"method": name, "changes": changes, "seed": seed, "device": args.device, **run(args, name, {**changes, "seed": str(seed)})}
        with lock:
            old = json.loads(out.read_text())["rows"] if out.exists() else []
            rows = [r for r in old if any(r[k] != found[k] for k in ("method", "changes", "seed", "device"))] + [found]
            out.parent.mkdir(parents=True, exist_ok=True)
            of = {"command": f"python benchmarks/methods.py {args.data}", "machine": machine("jax", "jaxlib", "flax", "optax")}
            out.write_text(json.dumps({**of, "rows": rows}, indent=1) + "\n")
            print(f"{time.monotonic() - start:6.0f} s  {name:16} {' '.join(f'{k}={v}' for k, v in changes.items())}  seed {seed}: {said(found)}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for future in [pool.submit(row, *case, seed) for seed in args.seeds for case in wanted]:
            future.result()


def run(args, name: str, changes: dict[str, str]) -> dict:
    """What one training came to, or under "error" the end of what it said."""
    config = f"configs/{args.data}/{name}.py" + (":laptop" if args.data == "cifar10" else "")
    if args.data == "cifar10":
        changes = {"data.path": args.train, "data.test_path": args.test, **changes}
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jaxssl.main", "--config", config, "--workdir", f"{folder}/run", *(f"--config.{k}={v}" for k, v in changes.items())]
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=args.limit)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {args.limit:.0f} s"}
        if done.returncode:
            text = done.stderr or done.stdout
            return {"error": text if len(text) < 1600 else f"{text[:800]} … {text[-800:]}"}
        result = json.loads(Path(folder, "run/run.json").read_text())
    return {k: result[k] for k in KEPT if k in result}


def said(found: dict) -> str:
    if "error" in found:
        return found["error"][-300:]
    return ", ".join(f"{kind} {100 * found[kind]:.1f} ({100 * found[f'{kind}_untrained']:.1f})" for kind in ("knn", "linear") if f"{kind}_untrained" in found)


if __name__ == "__main__":
    main()
