"""Omniglot, whole alphabets apart: eight losses here and in pytorch-metric-learning on the same network, from the same initial weights, on the same batches in the same steps.

    python benchmarks/omniglot_pml.py --data images_background_small1.zip         # writes benchmarks/results/omniglot_pml.json

It needs torch and pytorch-metric-learning beside jaxssl, or in another Python (--theirs PYTHON). The four-block convolutional network with 32 channels, drawings of 28 × 28 pixels
without augmentation, 8 characters × 4 drawings a batch (`data.per_class.m_per_class`), Adam at 2e-3, weights of classes at 2e-2; losses with their defaults, which are PML's, but
for NT-Xent's temperature of .07 on both sides and PML's SoftTriple with the ten centres and numbers of ours. Two of the five alphabets are trained on, the others tested: MAP@R and
precision@1 of their drawings among one another. A seed draws initial weights and batches. Theirs run in a process of their own for each seed, and processor time is of the
steps after the first two.

Expected before this ran: losses and gradients are equal to 1e-5, so the first steps agree, and later ones drift apart as runs of a large rate do: MAP@R equal within the
interval of five seeds, no loss more than half a point below. Time: PML's losses are 2 to 10 times
ours at 1,024 images, at 32 both are small beside the network, where torch is about as fast.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parent.parent
LOSSES = ("contrastive", "triplet", "nt_xent_labelled", "multi_similarity", "proxy_nca", "cosface", "arcface", "soft_triple")
WIDTH, SIDE, GROUPS, EACH, RATE, CENTRES = 32, 28, 8, 4, 2e-3, 10
LEARNED = ("proxy_nca", "cosface", "arcface", "soft_triple")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data", required=True, help="a zip of alphabet/character/*.png")
    flags.add_argument("--steps", type=int, default=150)
    flags.add_argument("--seeds", type=int, default=5)
    flags.add_argument("--losses", default=",".join(LOSSES))
    flags.add_argument("--theirs", default=sys.executable, help="a Python with torch and pytorch-metric-learning")
    flags.add_argument("--given", help=argparse.SUPPRESS)                       # of a worker: a file of arrays
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/omniglot_pml.json"))
    args = flags.parse_args()
    if args.given:
        print(json.dumps(theirs(args.given, args.losses.split(","), args.steps)))
        return
    from scipy import stats
    images = drawings(args.data)
    found = {loss: {"jaxssl": [], "pytorch-metric-learning": []} for loss in args.losses.split(",")}
    kept = Path(args.out).with_suffix(".npz")
    for seed in range(args.seeds):
        mine = ours(*images, args.losses.split(","), args.steps, seed, kept)
        command = [args.theirs, __file__, "--data", args.data, "--given", str(kept), "--losses", args.losses, "--steps", str(args.steps)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])})
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        for loss, runs in json.loads(done.stdout).items():
            test = scores(np.float32(runs.pop("features")), images[3])
            found[loss]["pytorch-metric-learning"].append({**runs, **test})
            found[loss]["jaxssl"].append(mine[loss])
            print(seed, loss, {who: rows[-1] for who, rows in found[loss].items()}, file=sys.stderr, flush=True)
    kept.unlink()
    table = {}
    for loss, sides in found.items():
        difference = [100 * (a["MAP@R"] - b["MAP@R"]) for a, b in zip(*sides.values())]
        half = float(stats.t.ppf(.975, len(difference) - 1) * np.std(difference, ddof=1) / len(difference) ** .5) if len(difference) > 1 else None
        means = {who: {key: round(float(np.mean([row[key] for row in rows])), 4) for key in ("MAP@R", "precision@1", "cpu_seconds", "loss")} for who, rows in sides.items()}
        table[loss] = {**means, "MAP@R by seed": {who: [round(row["MAP@R"], 4) for row in rows] for who, rows in sides.items()},
                       "difference in points": round(float(np.mean(difference)), 2), "half of its 95 % interval": half and round(half, 2),
                       "largest difference of the first loss": max(abs(a["first"] - b["first"]) for a, b in zip(*sides.values()))}
    result = {"command": f"python benchmarks/omniglot_pml.py --data {Path(args.data).name} --steps {args.steps} --seeds {args.seeds}", "steps": args.steps, "seeds": args.seeds,
              "images": {"train": len(images[0]), "test": len(images[2])}, "untrained MAP@R, precision@1": [mine["untrained"][key] for key in ("MAP@R", "precision@1")],
              "machine": machine("jax", "torch", "pytorch-metric-learning"), "rows": table}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def drawings(path):
    """(training images f32 [N, 28, 28, 3], labels, test images, labels): of sorted alphabets the first two, and the others."""
    import io
    import zipfile

    from PIL import Image
    archive = zipfile.ZipFile(path)
    names = sorted(name for name in archive.namelist() if name.endswith(".png"))
    where = [name.split("/")[-3:-1] for name in names]
    alphabets = sorted({alphabet for alphabet, _ in where})
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L").resize((SIDE, SIDE), Image.BOX), np.float32) for name in names])
    images = np.repeat((.9 - pixels[..., None] / 255) / .25, 3, -1)
    train = np.array([alphabet in alphabets[:2] for alphabet, _ in where])
    label = np.unique(["/".join(each) for each in where], return_inverse=True)[1]
    return (images[train], np.unique(label[train], return_inverse=True)[1].astype(np.int32), images[~train], np.unique(label[~train], return_inverse=True)[1].astype(np.int32))


def scores(features, label):
    from jaxssl.evaluation.measures import retrieval
    places = np.arange(len(label))
    means = retrieval.evaluate(features, label, features, label, query_ids=places, reference_ids=places, recall=()).means
    return {name: means[name] for name in ("MAP@R", "precision@1")}


def ours(images, label, test, test_label, losses, steps, seed, kept):
    """What each loss reaches here; initial weights, batches and images go to the file `kept`."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxssl import models
    from jaxssl.data import per_class
    from jaxssl.losses import metric
    order = per_class.m_per_class(seed, GROUPS * EACH, label, EACH)
    ids, classes = np.stack([order(step) for step in range(steps)]), int(label.max()) + 1
    encoder = models.make(name="conv4", width=WIDTH, precision="f32")
    start = jax.jit(lambda key: encoder.init(key, jnp.zeros((2, SIDE, SIDE, 3)), True))(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    weights = {"proxies": rng.standard_normal((classes, WIDTH), np.float32), "centres": rng.standard_normal((classes, CENTRES, WIDTH), np.float32)}
    np.savez(kept, images=images, label=label, test=test, ids=ids, **weights, **{f"kernel{i}": start["params"][f"block{i}"]["conv"]["kernel"] for i in range(4)})

    def rest(name):
        return {} if name not in LEARNED else {"weights": weights["centres" if name == "soft_triple" else "proxies"]}

    embed = jax.jit(lambda params, stats, x: encoder.apply({"params": params, "batch_stats": stats}, x, False).pooled)
    found = {"untrained": scores(np.asarray(embed(start["params"], start["batch_stats"], test)), test_label)}
    for name in losses:
        options = {"temperature": .07} if name == "nt_xent_labelled" else {}
        tx = optax.partition({"net": optax.adam(RATE), "classes": optax.adam(10 * RATE)}, {"net": "net", "weights": "classes"} if name in LEARNED else {"net": "net"})

        @jax.jit
        def step(params, slots, stats, x, y):
            def value(params):
                features, new = encoder.apply({"params": params["net"], "batch_stats": stats}, x, True, mutable=["batch_stats"])
                return getattr(metric, name)(features.pooled, y, *([params["weights"]] if "weights" in params else []), **options), new["batch_stats"]
            (loss, stats_), grads = jax.value_and_grad(value, has_aux=True)(params)
            updates, slots = tx.update(grads, slots, params)
            return optax.apply_updates(params, updates), slots, stats_, loss
        params, stats, values = {"net": start["params"], **rest(name)}, start["batch_stats"], []
        slots = tx.init(params)
        for number, rows in enumerate(ids):
            began = time.process_time() if number == 2 else began if number else 0
            params, slots, stats, loss = step(params, slots, stats, images[rows], label[rows])
            values.append(float(loss))
        spent = time.process_time() - began
        found[name] = {"first": values[0], "loss": float(np.mean(values[-10:])), "cpu_seconds": spent,
                       **scores(np.asarray(embed(params["net"], stats, test)), test_label)}
    return found


def theirs(file, losses, steps):
    """{loss: what it reaches with PML, and features of the test images}."""
    import torch
    from pytorch_metric_learning import losses as pml
    with np.load(file) as given:
        given = {name: given[name] for name in given.files}
    images, test = (torch.from_numpy(given[name].transpose(0, 3, 1, 2).copy()) for name in ("images", "test"))
    label, sizes, found = torch.from_numpy(given["label"].astype(np.int64)), (len(given["proxies"]), WIDTH), {}
    made = {"contrastive": pml.ContrastiveLoss, "triplet": pml.TripletMarginLoss, "nt_xent_labelled": lambda: pml.NTXentLoss(temperature=.07),
            "multi_similarity": pml.MultiSimilarityLoss,
            "proxy_nca": lambda: pml.ProxyNCALoss(*sizes), "cosface": lambda: pml.CosFaceLoss(*sizes), "arcface": lambda: pml.ArcFaceLoss(*sizes),
            "soft_triple": lambda: pml.SoftTripleLoss(*sizes, centers_per_class=CENTRES)}
    for name in losses:
        net = torch.nn.Sequential(*(layer for i in range(4) for layer in (torch.nn.Conv2d(3 if i == 0 else WIDTH, WIDTH, 3, padding=1, bias=False), torch.nn.BatchNorm2d(WIDTH),
                                                                          torch.nn.ReLU(), torch.nn.MaxPool2d(2))), torch.nn.Flatten())
        for i in range(4):
            net[4 * i].weight.data = torch.from_numpy(given[f"kernel{i}"].transpose(3, 2, 0, 1).copy())
        loss = made[name]()
        if name in LEARNED:
            held = given["centres"].reshape(-1, WIDTH).T if name == "soft_triple" else given["proxies"] if name == "proxy_nca" else given["proxies"].T
            getattr(loss, {"soft_triple": "fc", "proxy_nca": "proxies"}.get(name, "W")).data = torch.from_numpy(held.copy())
        groups = [{"params": net.parameters(), "lr": RATE}, *([{"params": loss.parameters(), "lr": 10 * RATE}] if name in LEARNED else [])]
        optimizer, values = torch.optim.Adam(groups), []
        for number, rows in enumerate(given["ids"]):
            began = time.process_time() if number == 2 else began if number else 0
            optimizer.zero_grad()
            value = loss(net(images[rows]), label[rows])
            value.backward()
            optimizer.step()
            values.append(float(value.detach()))
        spent = time.process_time() - began
        with torch.no_grad():
            features = torch.nn.functional.normalize(net.eval()(test)).numpy()
        found[name] = {"first": values[0], "loss": float(np.mean(values[-10:])), "cpu_seconds": spent, "features": np.round(features, 6).tolist()}
    return found


if __name__ == "__main__":
    main()
