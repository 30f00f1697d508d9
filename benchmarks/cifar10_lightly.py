"""SimCLR on CIFAR-10 against lightly: same network and initial weights, epochs, batch, views, loss, optimizer and schedule, in turns, five seeds each.

    python benchmarks/cifar10_lightly.py --train cifar10/train.zip --test cifar10/test.zip      # writes benchmarks/results/cifar10_lightly.json

Needs torch and lightly. Both sides: ResNet-10 of quarter width with the ImageNet stem (an eighth of the CIFAR stem's arithmetic, so that three
seeds fit in an hour of two cores), projector of two layers, NT-Xent at temperature .5, AdamW, three epochs of batch 256, crops from .08, jitter
.4/.4/.4/.1, grey .2, no blur. Each side's features of the same images are scored by the same kNN (k 200, T .1).
Both sides of a seed start at the same weights: runs that start elsewhere differ by some .7 points of kNN whoever trains them, so that earlier runs with
initial weights of their own said little with three seeds. The order of the images and the draws of the views stay each side's own.
lightly reads PIL images from memory with two loader workers; decoding the zip is not in its time, and is in ours.

Predicted before measuring: equal kNN within the spread, since losses, views and schedule agree to rounding; wall time about equal: XLA's convolutions on
CPUs are slower than PyTorch's (.4 of the speed on a ResNet-18), and its views about ten times cheaper.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from machine import machine, spread

ROOT = Path(__file__).resolve().parent.parent
EPOCHS, BATCH, LR, DECAY, TEMPERATURE, WARMUP, HIDDEN, DIM = 3, 256, 1e-3, 1e-2, 0.5, 0.05, 256, 128
JITTER = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
REFERENCE, QUERIES = 50_000, 10_000


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--train", required=True)
    flags.add_argument("--test", required=True)
    flags.add_argument("--seeds", type=int, default=5)
    flags.add_argument("--epochs", type=int, default=EPOCHS)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/cifar10_lightly.json"))
    flags.add_argument("--worker", nargs=2, metavar=("SIDE", "SEED"))
    args = flags.parse_args()
    if args.worker:
        side, seed = args.worker
        print(json.dumps({"ours": ours, "lightly": lightly}[side](args.train, args.test, int(seed), args.epochs)))
        return
    runs = {"ours": [], "lightly": []}
    for seed in range(args.seeds):
        for side in runs:                                      # in turns, so that a busy minute hits both
            command = [sys.executable, __file__, "--train", args.train, "--test", args.test, "--epochs", str(args.epochs), "--worker", side, str(seed)]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"})
            if done.returncode:
                sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
            runs[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(side, seed, runs[side][-1], file=sys.stderr, flush=True)
            rows = {name: {key: spread([r[key] for r in rs]) for key in rs[0]} for name, rs in runs.items() if rs}
            result = {"command": "python benchmarks/cifar10_lightly.py --train train.zip --test test.zip", "epochs": args.epochs, "batch": BATCH, "seeds": seed + 1,
                      "machine": machine("jax", "jaxlib", "flax", "optax", "torch", "torchvision", "lightly"), "rows": rows}
            Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["rows"], indent=1))


def recipe(train, test, seed, epochs):
    """The overrides of configs/cifar10/simclr.py:laptop that both sides follow."""
    overrides = {"seed": seed, "total": f"{epochs}_epochs", "batch_size": BATCH, "warmup": f"{100 * WARMUP:g}_percent", "log_every": 20, "eval_every": 0, "checkpoint_every": 0,
                 "report": False,
                 "data.path": train, "data.test_path": test, "method.temperature": TEMPERATURE, "method.hidden": HIDDEN, "method.dim": DIM, "eval.reference": REFERENCE,
                 "eval.queries": QUERIES, "optim.name": "adamw", "optim.lr": LR, "optim.scaling": "none", "optim.weight_decay": DECAY, "model.name": "resnet10",
                 "model.width": 0.25,
                 "model.stem": "imagenet", "precision": "f32", **{f"augment.{k}": v for k, v in JITTER.items()}}
    return "configs/cifar10/simclr.py:laptop", {k: str(v) for k, v in overrides.items()}


def ours(train, test, seed, epochs):
    from jaxssl.parallel import runtime
    from jaxssl.training import train as training

    runtime.configure("off")
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as quiet:
        screen, sys.stdout = sys.stdout, quiet
        try:
            run = training.run(*recipe(train, test, seed, epochs), f"{folder}/run")
        finally:
            sys.stdout = screen
    return {"knn": run["knn"], "knn_untrained": run["knn_untrained"], "train_seconds": run["train_seconds"], "images_per_second": run["images_per_second"],
            "compile_seconds": run["compile_seconds"], "wall_seconds": run["wall_seconds"]}


def lightly(train, test, seed, epochs):
    import torch
    from jaxssl.evaluation.measures import knn
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    torch.manual_seed(seed)
    start = time.time()
    images, labels = decoded(train)
    view = SimCLRTransform(input_size=32, cj_prob=0.8, cj_strength=1.0, cj_bright=JITTER["brightness"], cj_contrast=JITTER["contrast"], cj_sat=JITTER["saturation"],
                           cj_hue=JITTER["hue"], min_scale=0.08, random_gray_scale=0.2, gaussian_blur=0.0, hf_prob=0.5,
                           normalize={"mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.2435, 0.2616]})
    encoder = resnet10()
    head = torch.nn.Sequential(torch.nn.Linear(128, HIDDEN, bias=False), torch.nn.BatchNorm1d(HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, DIM, bias=False),
                               torch.nn.BatchNorm1d(DIM))
    torch.nn.init.zeros_(head[4].bias).requires_grad_(False)
    start_at(initial(*recipe(train, test, seed, epochs)), encoder, head)
    model = torch.nn.Sequential(encoder, head)
    untrained = score(knn, encoder, images, labels, test)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": [p for p in model.parameters() if p.ndim <= 1 and p.requires_grad], "weight_decay": 0.0}],
                                  lr=LR)
    total = round(epochs * len(images) / BATCH)
    warmup = round(WARMUP * total)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: t / warmup if t < warmup else 0.5 * (1 + math.cos(math.pi * (t - warmup) / (total - warmup))))
    criterion = NTXentLoss(temperature=TEMPERATURE)
    loader = torch.utils.data.DataLoader(Views(images, view), batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
    begin, step = time.time(), 0
    while step < total:
        for a, b in loader:
            z = model(torch.cat([a, b]))
            loss = criterion(z[:len(a)], z[len(a):])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step == total:
                break
    seconds = time.time() - begin
    trained = score(knn, encoder, images, labels, test)
    return {"knn": trained, "knn_untrained": untrained, "train_seconds": seconds, "images_per_second": total * BATCH / seconds, "compile_seconds": 0.0,
            "wall_seconds": time.time() - start}


class Views:
    def __init__(self, images, view):
        self.images, self.view = images, view

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        from PIL import Image
        return self.view(Image.fromarray(self.images[i]))


def resnet10():
    """The network of `models.make(name="resnet10", width=.25)` in torch, last norms starting at zero."""
    import torch
    from torchvision.models.resnet import BasicBlock

    layers, channels = [torch.nn.Conv2d(3, 16, 7, 2, padding=3, bias=False), torch.nn.BatchNorm2d(16), torch.nn.ReLU(inplace=True),
                        torch.nn.MaxPool2d(3, 2, 1)], 16
    for width, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        shortcut = torch.nn.Sequential(torch.nn.Conv2d(channels, width, 1, stride, bias=False), torch.nn.BatchNorm2d(width)) if stride > 1 or channels != width else None
        block = BasicBlock(channels, width, stride, shortcut)
        torch.nn.init.zeros_(block.bn2.weight)
        layers.append(block)
        channels = width
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def initial(path, overrides):
    """The weights that `ours` starts at, by their paths."""
    import jax
    from jaxssl import config as configs, tree
    from jaxssl.training import job as jobs
    from jaxssl.parallel import mesh as sharding

    config = configs.load(path, overrides)
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices()), jobs.Facts(REFERENCE, 10, 32, True))
    state = job.init(np.asarray(jax.random.key_data(jax.random.key(config.seed))))
    return {name: np.asarray(value) for name, value in tree.names(state.params).items()}


def start_at(weights, encoder, head):
    """Copies all kernels; norms start alike on both sides."""
    import torch

    kernels = {encoder[0]: "encoder/stem/conv", head[0]: "projector/linear1", head[3]: "projector/linear2"}
    for stage in range(1, 5):
        block, path = encoder[3 + stage], f"encoder/stage{stage}/block0"
        kernels |= {block.conv1: f"{path}/conv1", block.conv2: f"{path}/conv2"}
        if block.downsample is not None:
            kernels[block.downsample[0]] = f"{path}/shortcut/conv"
    names = {f"{path}/kernel" for path in kernels.values()}
    assert names == {name for name in weights if name.endswith("kernel") and not name.startswith("probe")}
    with torch.no_grad():
        for layer, path in kernels.items():
            kernel = weights[f"{path}/kernel"]
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1))))


def score(knn, encoder, images, labels, test):
    queries, wanted = decoded(test)
    return knn.evaluate(embed(encoder, queries), wanted, embed(encoder, images), labels)[0].accuracy


def embed(encoder, images):
    import torch

    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.2435, 0.2616])
    encoder.eval()
    with torch.no_grad():
        parts = [encoder(((torch.from_numpy(images[i:i + 500]).float() / 255 - mean) / std).permute(0, 3, 1, 2)).numpy() for i in range(0, len(images), 500)]
    encoder.train()
    return np.concatenate(parts)


def decoded(path):
    """uint8 [N, 32, 32, 3] and labels of a zip of class/*.jpg, in the order of the names."""
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if not n.endswith("/"))
        classes = sorted({Path(n).parts[-2] for n in names})
        images = np.stack([np.asarray(Image.open(BytesIO(archive.read(n))).convert("RGB")) for n in names])
    return images, np.array([classes.index(Path(n).parts[-2]) for n in names])


if __name__ == "__main__":
    main()
