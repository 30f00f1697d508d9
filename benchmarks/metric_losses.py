"""Metric-learning losses, value and gradient on the CPU: processor time and extra peak memory against pytorch-metric-learning.

    python benchmarks/metric_losses.py         # writes benchmarks/results/metric_losses.json

It needs torch and pytorch-metric-learning, beside jaxssl or in another Python (--theirs PYTHON). 1,024 × 128 f32 with four images of a class: contrastive, triplet over all
3.1 million triplets, multi-similarity with its miner, NT-Xent; ArcFace with 100,000 classes, the gradient of their weights included. And triplet over all 50 million triplets of
4,096 rows, ours alone. Losses of pairs go through the anchors in blocks, as the method has them on one device.
Each measurement is a process of its own, contenders in turns for `--rounds` rounds; each reports its loss.
Processor time is of the fastest of `--calls` calls after a first one, which compiles. Extra memory is the peak of resident memory during later calls above the resident memory just
before (Linux), measured in processes of their own in which the C library maps each array of 64 KB or more by itself and gives it back when it is freed
(MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_), so that nothing that the first call kept hides in it, on either side. Beside ours stand the temporaries that the compiler counts.

Expected before this ran: [1,024, 1,024] is 4 MB, so ours take a few ms and under 50 MB; PML lists pairs (8 MB of int64 indices a list) and 3.1 million triplets: 2 to 10 times
as long, triplet .5 s and 300 MB. ArcFace is a product of 26 GFLOP thrice, alike on both sides, and [1,024, 100,000] f32 of .4 GB, which PML copies some five
times. 4,096 rows: under .5 GB. A first round ended at PML's NT-Xent, which was killed on 23 GB; since then it has 12 GB and its row says so.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import machine, spread

ROOT = Path(__file__).resolve().parent.parent
LOSSES = ("contrastive", "triplet", "multi_similarity", "nt_xent_labelled", "arcface")
WIDTH, CLASSES = 128, 100_000
LIMIT_GB = 12                                                  # of address space, for contenders that ask for more than there is
APART = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=2)
    flags.add_argument("--calls", type=int, default=3)
    flags.add_argument("--theirs", default=sys.executable, help="a Python with torch and pytorch-metric-learning")
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/metric_losses.json"))
    flags.add_argument("--worker", nargs=4, metavar=("WHO", "LOSS", "ROWS", "WHAT"), help="one measurement of time or memory, as JSON")
    args = flags.parse_args()
    if args.worker:
        print(json.dumps(measure(*args.worker[:2], int(args.worker[2]), args.calls, args.worker[3])))
        return
    contenders = [(loss, 1024, who) for loss in LOSSES for who in ("jaxssl", "pytorch-metric-learning")] + [("triplet", 4096, "jaxssl")]
    runs = {each: [] for each in contenders}
    for _ in range(args.rounds):
        for loss, rows, who in contenders:
            path, found = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), {}
            for what, more in (("time", {}), ("memory", APART)):
                command = [sys.executable if who == "jaxssl" else args.theirs, __file__, "--calls", str(args.calls), "--worker", who, loss, str(rows), what]
                done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more, "PYTHONPATH": path})
                found |= json.loads(done.stdout) if not done.returncode else {"failed": done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]}
            runs[loss, rows, who].append(found)
            print(loss, rows, who, runs[loss, rows, who][-1], file=sys.stderr, flush=True)
    table = {}
    for (loss, rows, who), found in runs.items():
        row = table.setdefault(f"{loss} {rows}", {})
        row[who] = found[0] if "failed" in found[0] else {"loss": found[0]["loss"], **{key: spread([run[key] for run in found]) for key in ("cpu_seconds", "extra_mb")},
                                                                  **({"compiled_mb": found[0]["compiled_mb"]} if "compiled_mb" in found[0] else {})}
    for row in table.values():
        if len(row) == 2 and not any("failed" in each for each in row.values()):
            ours, theirs = row["jaxssl"], row["pytorch-metric-learning"]
            row["times_as_fast_in_processor_time"] = round(theirs["cpu_seconds"]["median"] / ours["cpu_seconds"]["median"], 2)
            row["times_less_extra_memory"] = round(theirs["extra_mb"]["median"] / max(ours["extra_mb"]["median"], 1e-3), 1)
    versions = {run["versions"] for found in runs.values() for run in found if "versions" in run}
    result = {"command": "python benchmarks/metric_losses.py", "rounds": args.rounds, "calls": args.calls, "machine": machine("numpy"), "versions": sorted(versions), "rows": table}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(who, loss, rows, calls, what):
    if who != "jaxssl":
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GB << 30,) * 2)
    rng = np.random.default_rng(0)
    label = np.arange(rows) // 4
    z = rng.standard_normal((rows // 4, WIDTH), np.float32)[label] + 1.5 * rng.standard_normal((rows, WIDTH), np.float32)
    weights = rng.standard_normal((CLASSES, WIDTH), np.float32) if loss == "arcface" else np.zeros((1, 1), np.float32)
    call, compiled, versions = {"jaxssl": ours, "pytorch-metric-learning": theirs}[who](loss, z, label, weights)
    value, found = call(), []
    Path("/proc/self/clear_refs").write_text("5")       # the kernel's high-water mark starts again from here
    before = status("VmRSS")
    for _ in range(calls if what == "time" else 2):
        start = time.process_time()
        value = call()
        found.append(time.process_time() - start)
    if what == "memory":
        return {"extra_mb": (status("VmHWM") - before) / 1e6, **compiled}
    return {"loss": value, "cpu_seconds": min(found), "versions": versions}


def ours(loss, z, label, weights):
    import jax
    import jax.numpy as jnp

    from jaxssl.losses import metric, miners
    from jaxssl.methods.metric import anchors_at_once

    def function(z, weights):
        if loss == "arcface":
            return metric.arcface(z, label32, weights)
        mined = {"weight": miners.multi_similarity(z, label32)} if loss == "multi_similarity" else {}
        return getattr(metric, loss)(z, label32, **mined, block=anchors_at_once(None, len(z)))
    label32 = jnp.asarray(label, jnp.int32)
    given = jnp.asarray(z), jnp.asarray(weights)
    step = jax.jit(jax.value_and_grad(function, (0, 1))).lower(*given).compile()
    counted = step.memory_analysis()
    compiled = {"compiled_mb": {"temporaries": counted.temp_size_in_bytes / 1e6, "results": counted.output_size_in_bytes / 1e6}}
    return lambda: float(jax.block_until_ready(step(*given))[0]), compiled, f"jax {jax.__version__}"


def theirs(loss, z, label, weights):
    import pytorch_metric_learning
    import torch
    from pytorch_metric_learning import losses, miners
    made = {"contrastive": losses.ContrastiveLoss, "triplet": losses.TripletMarginLoss, "multi_similarity": losses.MultiSimilarityLoss, "nt_xent_labelled": losses.NTXentLoss,
            "arcface": lambda: losses.ArcFaceLoss(CLASSES, WIDTH)}[loss]()
    if loss == "arcface":
        made.W.data = torch.from_numpy(weights.T.copy())
    miner, z, label = miners.MultiSimilarityMiner() if loss == "multi_similarity" else None, torch.from_numpy(z), torch.from_numpy(label)

    def call():
        rows = z.clone().requires_grad_()
        made.zero_grad()
        value = made(rows, label, *([miner(rows, label)] if miner else []))
        value.backward()
        return float(value.detach())
    return call, {}, f"torch {torch.__version__}, pytorch-metric-learning {pytorch_metric_learning.__version__}"


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    main()
