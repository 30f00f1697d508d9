"""Continued training, low-rank additions and a stage of high resolution on CIFAR-10, with a small vision transformer (configs/cifar10/dinov2.py:laptop).

    python benchmarks/continued.py halves train.zip test.zip          # two cores: about an hour at three seeds
    python benchmarks/continued.py lora train.zip test.zip            # a quarter of an hour
    python benchmarks/continued.py resolution train.zip test.zip      # an hour: at 64 px a step costs four times that at 32
    python benchmarks/continued.py halves train.zip test.zip --tiny   # two minutes, of a few hundred images: shows that it runs

halves: trained on five of the classes; its encoder alone, without heads, goes on with the other five, with heads that learn alone at first (head_warmup) and without; kNN of
the teacher on held-out images of these five, before and along the way. Expected before it ran: with, never below its start by more than a point; without, a fall at first.
lora: the same start, all of the encoder against additions of rank 8: kNN, bytes that a step holds as XLA counts them, bytes of parameters and slots that are trained.
resolution: so many epochs at 32 px and a quarter of them at 64 from there, against as many at 64 throughout: kNN at 64 px and seconds of training. Expected: at most a third
of the time, within two points. Images have 32 pixels, so that 64 are enlarged ones: patches of 4 show what 2 × 2 pixels show.
Adds to benchmarks/results/continued.json, a part at a time; a row that fails says so. Every run is a process of its own.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from machine import machine, spread

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "configs/cifar10/dinov2.py:laptop"
EVALUATED = ("knn", "knn_start", "knn_untrained", "linear", "linear_start", "steps", "train_seconds", "compile_seconds")
# Of a run that goes on: a rate of its own, layers below at less of it, schedules of its own length.
ON = {"optim.lr": "3e-4", "optim.end_lr": "1e-5", "optim.layer_decay": ".8", "optim.weight_decay_end": "none", "warmup": "5_percent", "method.tau": ".99",
      "method.teacher_temp_warmup": "0_steps", "optim.rules": "(('^head/', {'rate': 3.0}),)"}
TINY = {"batch_size": "32", "model.width": "16", "model.depth": "2", "model.heads": "2", "method.prototypes": "64", "method.hidden": "16", "method.bottleneck": "8",
        "eval.reference": "200", "eval.queries": "100"}


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("part", choices=["halves", "lora", "resolution"])
    flags.add_argument("train")
    flags.add_argument("test")
    flags.add_argument("--epochs", type=int, default=6, help="of the first training, on what it is trained on; what goes on has half as many (default: %(default)s)")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--rank", type=int, default=8)
    flags.add_argument("--tiny", action="store_true", help="a few hundred images and a network of 16 channels, one epoch")
    flags.add_argument("--device", default="CPU", help="what computes, for the record")
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/continued.json"))
    args = flags.parse_args()
    if args.tiny:
        args.epochs, args.seeds = 2, args.seeds[:1]
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        found = {"halves": halves, "lora": lora, "resolution": resolution}[args.part](args, Path(folder))
        found |= {"command": f"python benchmarks/continued.py {args.part} train.zip test.zip" + (" --tiny" if args.tiny else ""), "epochs": args.epochs, "seeds": args.seeds,
                  "device": args.device, "minutes": round((time.monotonic() - start) / 60, 1), "machine": machine("jax", "jaxlib", "flax", "optax")}
    file = Path(args.out)
    file.parent.mkdir(parents=True, exist_ok=True)
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**old, args.part: found}, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key.startswith("against") or key == "minutes"}, indent=1))


def part_of(source: str, out: Path, classes: slice, most: int = 0) -> str:
    """A zip of the images of some classes of `source`, the first `most` of each; their bytes as they are."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as half:
        names = sorted(name for name in whole.namelist() if not name.endswith("/"))
        for kept in sorted({name.rsplit("/", 1)[0] for name in names})[classes]:
            for name in [name for name in names if name.rsplit("/", 1)[0] == kept][:most or None]:
                half.writestr(name, whole.read(name))
    return str(out)


def data(args, folder: Path, what: str, classes: slice) -> dict[str, str]:
    """Flags of training and held-out images of some classes."""
    files = {kind: folder / f"{kind}_{what}.zip" for kind in ("train", "test")}
    for kind, file in files.items():
        if not file.exists():
            part_of(getattr(args, kind), file, classes, {"train": 64, "test": 16}[kind] if args.tiny else 0)
    return {"data.path": str(files["train"]), "data.test_path": str(files["test"]), "data.examples": "0", "data.classes": "0"}


def run(workdir: Path, *changes: dict) -> dict:
    """One training: of run.json what is kept, and the curve {step: kNN}. Raises: RuntimeError with the end of what it said."""
    flags = {"report": "false", "log.tensorboard": "false", "log_every": "20", **{key: value for each in changes for key, value in each.items()}}
    command = [sys.executable, "-m", "jaxssl.main", "--config", RECIPE, "--workdir", str(workdir), *(f"--config.{k}={v}" for k, v in flags.items())]
    done = subprocess.run(command, cwd=ROOT, env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout)[-1500:])
    result = json.loads((workdir / "run.json").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {**{key: result[key] for key in EVALUATED if key in result}, "curve": {row["step"]: round(row["knn"], 4) for row in rows if "knn" in row},
            "last_line": done.stdout.strip().splitlines()[-1]}


def headless(workdir: Path, out: Path) -> str:
    """The encoder of a run's teacher alone, as a released file has it: in timm's names, without heads and mask token."""
    code = ("import sys; from jaxssl.encoder import load; from jaxssl.encoder.formats import timm, vits, names; from jaxssl import tree; import safetensors.numpy, numpy as np\n"
            "e = load.load(sys.argv[1]); side = timm.SIDES[vits]; table = side.table(e.module)\n"
            "t = names.theirs(table, tree.names({'params': {'encoder': e.variables['params']['encoder']}, 'batch_stats': {}}))\n"
            "safetensors.numpy.save_file({n: np.ascontiguousarray(a) for n, a in t.items() if n != 'mask_token'}, sys.argv[2])\n")
    subprocess.run([sys.executable, "-c", code, str(workdir), str(out)], cwd=ROOT, check=True)
    return str(out)


def begun(args, folder: Path, seed: int) -> str:
    """The headless encoder of a run on the first five classes."""
    first = data(args, folder, "first", slice(0, 5))
    own = TINY if args.tiny else {}
    run(folder / f"first{seed}", own, first, {"seed": str(seed), "total": f"{args.epochs}_epochs", "eval_every": "0", "checkpoint_every": "0"})
    return headless(folder / f"first{seed}", folder / f"first{seed}.safetensors")


def going_on(args, folder: Path, seed: int) -> dict[str, str]:
    """Flags of a run on the other five classes; the heads are as large as the first's."""
    return {**(TINY if args.tiny else {}), **data(args, folder, "second", slice(5, 10)), **ON, "seed": str(seed), "total": f"{max(args.epochs // 2, 1)}_epochs",
            "eval_every": "10_percent", "checkpoint_every": "0"}


def halves(args, folder: Path) -> dict:
    rows = []
    for seed in args.seeds:
        weights = begun(args, folder, seed)
        for name, how in {"with": {"head_warmup": "20_percent"}, "without": {"init_allow_missing": "head,encoder/mask"}}.items():
            found = run(folder / f"{name}{seed}", going_on(args, folder, seed), {"init_from": weights}, how)
            lowest = min(found["curve"].values())
            rows.append({"heads_alone_at_first": name == "with", "seed": seed, **found, "lowest": lowest, "lowest_below_start": round(found["knn_start"] - lowest, 4)})
            print(f"{name} head_warmup, seed {seed}: kNN {found['knn_start']:.3f} -> lowest {lowest:.3f}, end {found['knn']:.3f}", flush=True)
    of = {kind: [row for row in rows if row["heads_alone_at_first"] == kind] for kind in (True, False)}
    return {"rows": rows, "against_bars": {
        "with: most points below the start anywhere (bar 1)": round(100 * max(row["lowest_below_start"] for row in of[True]), 2),
        "without: most points below the start anywhere": round(100 * max(row["lowest_below_start"] for row in of[False]), 2),
        **{f"{'with' if kind else 'without'}: end minus start": spread(row["knn"] - row["knn_start"] for row in of[kind]) for kind in of}}}


def lora(args, folder: Path) -> dict:
    rows = []
    for seed in args.seeds:
        weights = begun(args, folder, seed)
        for name, how in {"all": {}, f"rank {args.rank}": {"model.lora": str(args.rank), "optim.layer_decay": "1.", "optim.lr": "1e-3"}}.items():
            changes = (going_on(args, folder, seed), {"init_from": weights, "head_warmup": "20_percent"}, how)
            rows.append({"trained": name, "seed": seed, **run(folder / f"{name}{seed}", *changes), **sizes(args, changes)})
            print(name, seed, {key: rows[-1][key] for key in ("knn_start", "knn", "step_bytes", "trained_bytes")}, flush=True)
    kinds = sorted({row["trained"] for row in rows})
    of = {name: [row for row in rows if row["trained"] == name] for name in kinds}
    return {"rank": args.rank, "rows": rows, "against_full": {name: {"knn": spread(row["knn"] for row in own), **{key: own[0][key] for key in SIZES}} for name, own in of.items()}}


SIZES = ("step_bytes", "state_bytes", "slot_bytes", "trained_bytes")


def sizes(args, changes: tuple) -> dict:
    """Bytes of a step, the state and temporaries, as XLA counts them; of the state; of the optimizer's slots; and of what is trained of the encoder."""
    code = ("import json, sys, jax; from jaxssl import config, data, tree; from jaxssl.training import job; from jaxssl.parallel import mesh\n"
            "c = config.load(sys.argv[1], json.loads(sys.argv[2])); d = data.make(**c.data)\n"
            "j = job.prepare(c, mesh.make_mesh(devices=jax.devices()[:1]), job.Facts(len(d.train), len(d.classes), d.canvas, d.resident))\n"
            "m = j.step.lower(j.state, j.batch).compile().memory_analysis(); size = lambda t: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(t))\n"
            "still = {n for n, g in j.optim.groups.items() if g.get('still')}\n"
            "print(json.dumps({'step_bytes': m.argument_size_in_bytes + m.temp_size_in_bytes, 'state_bytes': size(j.state), 'slot_bytes': size(j.state.opt_state),\n"
            "    'trained_bytes': size([x for n, x in tree.names(j.state.params).items() if n not in still and n.startswith('encoder/')])}))\n")
    flags = {key: value for each in changes for key, value in each.items()}
    done = subprocess.run([sys.executable, "-c", code, RECIPE, json.dumps(flags)], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def seconds(row: dict) -> float:
    return row["train_seconds"]


def resolution(args, folder: Path) -> dict:
    every = data(args, folder, "all", slice(0, 10))
    large = {"augment.size": "64", "local.size": "32", "data.canvas": "64", "model.image": "64"}
    rows = []
    for seed in args.seeds:
        own = {**(TINY if args.tiny else {}), **every, "seed": str(seed), "eval_every": "20_percent", "checkpoint_every": "0"}
        small = run(folder / f"small{seed}", own, {"total": f"{args.epochs}_epochs"})
        stage = run(folder / f"stage{seed}", own, large, {"total": f"{max(args.epochs // 4, 1)}_epochs", "init_from": str(folder / f"small{seed}"), "optim.lr": "5e-4",
                                                           "method.teacher_temp_warmup": "0_steps"})
        mixed = run(folder / f"mixed{seed}", own, large, {"total": f"{max(args.epochs // 4, 1)}_epochs", "init_from": str(folder / f"small{seed}"), "optim.lr": "5e-4",
                                                           "method.teacher_temp_warmup": "0_steps", "sizes": "((48, 16, .5), (64, 32, .5))"})
        whole = run(folder / f"whole{seed}", own, large, {"total": f"{args.epochs}_epochs"})
        rows.append({"seed": seed, "at_32": small, "stage_at_64": stage, "stage_of_mixed_sizes": mixed, "at_64_throughout": whole})
        print(seed, {name: (round(row["knn"], 3), round(row["train_seconds"])) for name, row in rows[-1].items() if name != "seed"}, flush=True)
    return {"rows": rows, "against_bars": {
        "seconds of both stages over those at 64 throughout": spread((seconds(r["at_32"]) + seconds(r["stage_at_64"])) / seconds(r["at_64_throughout"]) for r in rows),
        "seconds of the stage over those at 64 throughout (bar 1/3)": spread(seconds(r["stage_at_64"]) / seconds(r["at_64_throughout"]) for r in rows),
        "kNN of the stage minus that at 64 throughout, in points (bar -2)": spread(100 * (r["stage_at_64"]["knn"] - r["at_64_throughout"]["knn"]) for r in rows),
        "the same of mixed sizes": spread(100 * (r["stage_of_mixed_sizes"]["knn"] - r["at_64_throughout"]["knn"]) for r in rows)}}


if __name__ == "__main__":
    main()
