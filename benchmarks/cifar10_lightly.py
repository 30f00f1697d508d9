"""The ten methods of lightly's CIFAR-10 table against lightly: same network and initial weights, epochs, batch, views, optimizer and schedule.

    python benchmarks/cifar10_lightly.py --train train.zip --test test.zip                      # writes benchmarks/results/cifar10_lightly.json
    … --method byol dino --seeds 0 1 2 --epochs 5 --parallel 4 --workers 4                      # several runs at a time, each side of each seed in its own process
    … --merge other.json                                                                        # adds the rows of other files, and trains nothing

Needs torch, torchvision and lightly. Recipe: configs/cifar10/NAME.py:laptop on both sides (ResNet-10 of quarter width with the ImageNet stem, AdamW 1e-3, batch 256), for so
many epochs; benchmarks/lightly_methods.py says what lightly's side consists of. Each view is normed by itself, as lightly does (`--norms joint`: both together).
Both sides of a seed start at the same weights: runs that start elsewhere differ by some .7 points of kNN whoever trains them. The order of the images, the draws of the views
and the random rows that banks begin with stay each side's own. Scored are the student's features of the same images, by the same kNN (k 200, T .1), at the end.
Each side runs on a GPU where it finds one, with its own defaults: TF32 in the convolutions of both, and in XLA's products but those of losses. lightly's views are those of its
transforms, of PIL images from memory in `--workers` loader processes; ours are drawn on the device. Decoding the zip is in neither time of training. device_peak: bytes that the
device held at most, with resident images on our side, and what XLA tries out while it compiles; host_peak: resident bytes of the process, without loader processes. Runs side by
side (`--parallel`) slow one another down, so that times beside them are bounds; at_a_time says how many there were.

Predicted for SimCLR before measuring: equal kNN within the spread, since losses, views and schedule agree to rounding; for the nine others the same, but for MoCo and NNCLR, whose
rows never meet themselves here.
"""
import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("simclr", "dcl", "moco_v2", "nnclr", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "dino")
SIDES = ("ours", "lightly")
KEY = ("method", "seed", "epochs", "batch", "norms", "device")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--train", default="")
    flags.add_argument("--test", default="")
    flags.add_argument("--method", nargs="+", default=list(METHODS), choices=METHODS)
    flags.add_argument("--side", nargs="+", default=list(SIDES), choices=SIDES)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0], help="the seeds themselves")
    flags.add_argument("--epochs", type=int, default=5)
    flags.add_argument("--batch", type=int, default=256)
    flags.add_argument("--norms", default="view", choices=("view", "joint"))
    flags.add_argument("--workers", type=int, default=2, help="loader processes of lightly's side")
    flags.add_argument("--parallel", type=int, default=1, help="runs at a time")
    flags.add_argument("--cache", default="off", help="folder of compiled programs; compiling is then in the time of the first seed alone")
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/cifar10_lightly.json"))
    flags.add_argument("--merge", nargs="+", default=[], metavar="FILE")
    flags.add_argument("--worker", nargs=4, metavar=("SIDE", "METHOD", "SEED", "FILE"), help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.worker:
        side, method, seed, file = args.worker
        found = {"start": start, "ours": ours, "lightly": lightly}[side](args, method, int(seed), file)
        print(json.dumps(found))
        return
    out, lock, failed = Path(args.out), threading.Lock(), []
    result = json.loads(out.read_text()) if out.exists() else {"command": "python benchmarks/cifar10_lightly.py --train train.zip --test test.zip", "machines": {}, "rows": []}
    for other in (json.loads(Path(file).read_text()) for file in args.merge):
        result["machines"] |= other["machines"]
        for row in other["rows"]:
            add(result, row)
    if args.merge:
        return write(out, result)
    if not (args.train and args.test):
        flags.error("--train and --test are needed, the zips of CIFAR-10")

    def run(task):
        seed, method, side = task
        found = child(args, side, method, seed)
        with lock:
            if isinstance(found, str):
                failed.append(task)
                print(f"{side} {method} {seed} failed:\n{found[-3000:]}", file=sys.stderr, flush=True)
                return
            print(side, method, seed, json.dumps(found), file=sys.stderr, flush=True)
            device = found.pop("device")
            result["machines"].setdefault(device, machine("jax", "jaxlib", "flax", "optax", "torch", "torchvision", "lightly"))
            found["at_a_time"] = args.parallel
            add(result, {"method": method, "seed": seed, "epochs": args.epochs, "batch": args.batch, "norms": args.norms, "device": device, side: found})
            write(out, result)

    with ThreadPoolExecutor(args.parallel) as pool:
        list(pool.map(run, [(seed, method, side) for seed in args.seeds for method in args.method for side in args.side]))
    print(json.dumps(result.get("summary", {}), indent=1))
    if failed:
        sys.exit(f"{len(failed)} runs failed: {failed}")


def child(args, side, method, seed, file="-"):
    """What a process of its own finds, or what it says where it fails."""
    command = [sys.executable, __file__, "--train", args.train, "--test", args.test, "--epochs", str(args.epochs), "--batch", str(args.batch), "--norms", args.norms,
               "--workers", str(args.workers), "--cache", args.cache, "--worker", side, method, str(seed), file]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    only = {"JAX_PLATFORMS": "cpu"} if side != "ours" else {}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **only})
    return done.stderr or f"exit {done.returncode}" if done.returncode else json.loads(done.stdout.splitlines()[-1])


def add(result, row):
    """The row with its key holds both sides, the newest of each."""
    known = next((r for r in result["rows"] if all(r[k] == row[k] for k in KEY)), None)
    if known:
        known.update(row)
    else:
        result["rows"].append(row)


def write(out, result):
    """The file anew, with a summary by protocol: kNN of each method over the seeds that both sides have, and the mean over methods."""
    groups = {}
    for row in result["rows"]:
        if all(side in row for side in SIDES):
            groups.setdefault("{epochs} epochs of batch {batch}, {norms} norms, {device}".format(**row), {}).setdefault(row["method"], []).append(row)
    result["summary"] = {}
    for protocol, methods in groups.items():
        mean = {method: {"seeds": len(rows), **{side: round(statistics.mean(row[side]["knn"] for row in rows), 4) for side in SIDES}} for method, rows in methods.items()}
        ahead = {method: m["ours"] - m["lightly"] for method, m in mean.items()}
        result["summary"][protocol] = {"knn": mean, "methods": len(mean), **{side: round(statistics.mean(m[side] for m in mean.values()), 4) for side in SIDES},
                                       "furthest_behind": {min(ahead, key=ahead.get): round(min(ahead.values()), 4)}}
    part = out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(out)


def recipe(args, method, seed):
    """The config of both sides, and its overrides; the trainer's own evaluation is kept small, since both sides are scored by `score`."""
    overrides = {"seed": seed, "total": f"{args.epochs}_epochs", "batch_size": args.batch, "log_every": "1_epoch", "eval_every": 0, "checkpoint_every": 0, "report": False,
                 "data.examples": 0, "data.path": args.train, "data.test_path": args.test,
                 "eval.reference": 500, "eval.queries": 100, "model.bn_groups": {"view": 2, "joint": 1}[args.norms]}
    return str(ROOT / f"configs/cifar10/{method}.py:laptop"), {key: str(value) for key, value in overrides.items()}


def ours(args, method, seed, _):
    import jax
    import jaxssl
    from jaxssl.parallel import runtime
    from jaxssl.training import train

    begin = time.time()
    runtime.configure(args.cache)
    device = jax.devices()[0]
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as quiet:
        screen, sys.stdout = sys.stdout, quiet
        try:
            run = train.run(*recipe(args, method, seed), f"{folder}/run")
        finally:
            sys.stdout = screen
        memory = {"device_peak": (device.memory_stats() or {}).get("peak_bytes_in_use"), "host_peak": host_peak()}
        encoder = jaxssl.load(f"{folder}/run", weights="student" if method in ("moco_v2", "byol", "dino") else "")
        (images, labels), (queries, wanted) = decoded(args.train), decoded(args.test)
        scored = knn(encoder(queries), wanted, encoder(images), labels)
    return {"knn": scored, **{k: run[k] for k in ("train_seconds", "images_per_second", "compile_seconds")}, **memory, "wall_seconds": time.time() - begin,
            "device": device.device_kind}


def start(args, method, seed, file):
    """Writes the weights that `ours` starts at by their paths, and gives what the config says to lightly's side."""
    import jax
    from jaxssl import config as configs, data as datas, tree
    from jaxssl.parallel import mesh as sharding
    from jaxssl.training import job as jobs

    config = configs.load(*recipe(args, method, seed))
    data = datas.make(**config.data)
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices()), jobs.Facts(len(data.train), len(data.classes), data.canvas, data.resident, data.sides, data.order))
    state = job.init(np.asarray(jax.random.key_data(jax.random.key(config.seed))))
    np.savez(file, **{name: np.asarray(value) for name, value in tree.names(state.params).items()})
    return {"total": job.total, "warmup": job.warmup, "config": {name: config[name].to_dict() for name in ("method", "augment", "optim")}}


def lightly(args, method, seed, _):
    import torch
    from lightly_methods import Peer

    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:              # by a process of its own: loaders fork, and must not fork a process in which JAX runs
        given = child(args, "start", method, seed, f"{folder}/start.npz")
        if isinstance(given, str):
            sys.exit(given)
        weights = dict(np.load(f"{folder}/start.npz"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    augment, optim, total, warmup = given["config"]["augment"], given["config"]["optim"], given["total"], given["warmup"]
    (images, labels), (queries, wanted) = decoded(args.train), decoded(args.test)
    peer = Peer(method, given["config"]["method"], total, args.norms == "joint").start(weights).to(device)
    encoder = peer.student["encoder"]
    untrained = [embed(encoder, x, augment, device) for x in (queries, images)]
    free = [p for p in peer.student.parameters() if p.requires_grad]
    groups = [{"params": [p for p in free if p.ndim > 1], "weight_decay": optim["weight_decay"]}, {"params": [p for p in free if p.ndim <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=optim["lr"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: t / warmup if t < warmup else 0.5 * (1 + math.cos(math.pi * (t - warmup) / (total - warmup))))
    loader = torch.utils.data.DataLoader(Views(images, transform(augment)), batch_size=args.batch, shuffle=True, num_workers=args.workers, drop_last=True,
                                         persistent_workers=args.workers > 0, pin_memory=device.type == "cuda")
    since, step = time.time(), 0
    while step < total:
        for a, b in loader:
            loss = peer.loss(a.to(device, non_blocking=True), b.to(device, non_blocking=True), step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step == total:
                break
    value = loss.item()                                        # waits for the device
    seconds = time.time() - since
    memory = {"device_peak": torch.cuda.max_memory_allocated() if device.type == "cuda" else None, "host_peak": host_peak()}
    if not math.isfinite(value):
        sys.exit(f"the loss of lightly's {method} is {value}")
    trained = [embed(encoder, x, augment, device) for x in (queries, images)]
    scored, before = (knn(q, wanted, r, labels) for q, r in (trained, untrained))
    return {"knn": scored, "knn_untrained": before, "train_seconds": seconds, "images_per_second": total * args.batch / seconds, "compile_seconds": 0.0, **memory,
            "wall_seconds": time.time() - begin, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}


class Views:
    def __init__(self, images, view):
        self.images, self.view = images, view

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        from PIL import Image
        return self.view(Image.fromarray(self.images[i]))


def transform(augment):
    """lightly's transform with the distribution of the config: SimCLR's, or VICReg's where images are solarized."""
    import lightly

    try:
        from lightly.transforms import SimCLRTransform, VICRegTransform
    except ImportError:                                        # of what another transform asks for: these two files alone
        sys.modules["lightly.transforms"] = package = types.ModuleType("lightly.transforms")
        package.__path__ = [str(Path(lightly.__file__).parent / "transforms")]
        from lightly.transforms.simclr_transform import SimCLRTransform
        from lightly.transforms.vicreg_transform import VICRegTransform
    how = dict(input_size=augment["size"], cj_prob=augment["jitter"], cj_strength=1.0, cj_bright=augment["brightness"], cj_contrast=augment["contrast"],
               cj_sat=augment["saturation"], cj_hue=augment["hue"], min_scale=augment["crop_scale"][0], random_gray_scale=augment["gray"], gaussian_blur=augment["blur"],
               hf_prob=0.5, normalize={"mean": list(augment["mean"]), "std": list(augment["std"])})
    return VICRegTransform(**how, solarize_prob=augment["solarize"]) if augment["solarize"] else SimCLRTransform(**how)


def embed(encoder, images, augment, device):
    import torch

    mean, std = (torch.tensor(augment[name], device=device) for name in ("mean", "std"))
    encoder.eval()
    with torch.no_grad():
        parts = [encoder(((torch.from_numpy(images[i:i + 500]).to(device).float() / 255 - mean) / std).permute(0, 3, 1, 2)).cpu().numpy() for i in range(0, len(images), 500)]
    encoder.train()
    return np.concatenate(parts)


def knn(queries, wanted, reference, labels):
    from jaxssl.evaluation.measures import knn as measure

    return measure.evaluate(queries, wanted, reference, labels)[0].accuracy


def decoded(path):
    """uint8 [N, 32, 32, 3] and labels of a zip of class/*.jpg, in the order of the names."""
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if not n.endswith("/"))
        classes = sorted({Path(n).parts[-2] for n in names})
        images = np.stack([np.asarray(Image.open(BytesIO(archive.read(n))).convert("RGB")) for n in names])
    return images, np.array([classes.index(Path(n).parts[-2]) for n in names])


def host_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
