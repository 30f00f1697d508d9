"""NT-Xent, value and gradient on the CPU: time and extra peak memory against lightly and pytorch-metric-learning.

    python benchmarks/ntxent.py         # writes benchmarks/results/ntxent.json

It needs the peers beside jaxssl: torch, lightly, pytorch-metric-learning.

Rows: 8,192 pairs × 128 f32 by tiles, dense, and with lightly's NTXentLoss; 65,536 pairs by tiles; 1,024 pairs with
pytorch-metric-learning's NTXentLoss under a memory limit. Every measurement is a process of its own, the contenders
take turns for `--rounds` rounds, and each reports the loss so that the JSON shows that they computed the same thing.
Extra memory is the peak of resident memory during the first call above the resident memory just before it (Linux,
/proc/self). JAX compiles before that; what compiling adds to the peak is its own column, and both include outputs.

Expected before this benchmark ran, but after timing bare tile loops (.16 s forward, .40 s backward at best) and one
early run of the loss (.9 s): a unit is n²D multiply-adds, n = 16,384, D = 128: 69 GFLOP, .25 s at the 270 GFLOP/s of
two such cores; tiles take 2 units and one exponential per visited pair forward and one backward (about .1 s): .6 s and
about 45 MB (normalised embeddings, their gradient and the result, 8.4 MB each; three tiles of 4.2 MB); 65,536 pairs
take 64 times as long, 40 s, and less than .5 GB; against lightly's 6.9 to 7.9 s and 4.4 GB, 11 times faster with 1/100
of the memory. Measured on shared cores: 9 times faster (7 in processor time) with 1/59 of the memory; see the JSON.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parent.parent
TEMPERATURE, WIDTH, BLOCK = .1, 128, 1024
LIMIT_GB = 16                                                  # of address space, for the contender that asks for 34


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/ntxent.json"))
    flags.add_argument("--worker", nargs=3, metavar=("NAME", "PAIRS", "CALLS"), help="one measurement, as JSON")
    args = flags.parse_args()
    if args.worker:
        name, pairs, calls = args.worker
        print(json.dumps(measure(name, int(pairs), int(calls))))
        return
    rows = {"tiles 8192": ("tiles", 8192, 3), "lightly 8192": ("lightly", 8192, 2), "dense 8192": ("dense", 8192, 2)}
    runs = {name: [] for name in [*rows, "tiles 65536", "pytorch-metric-learning 1024"]}
    for _ in range(args.rounds):                               # in turns, so that a busy minute hits all of them
        for name, row in rows.items():
            runs[name].append(worker(*row))
    runs["tiles 65536"].append(worker("tiles", 65536, 1))
    runs["pytorch-metric-learning 1024"].append(worker("pytorch-metric-learning", 1024, 1))
    result = {"command": "python benchmarks/ntxent.py", "temperature": TEMPERATURE, "width": WIDTH, "block": BLOCK,
              "machine": machine("jax", "jaxlib", "torch", "lightly", "pytorch-metric-learning", "numpy"), "rows": {name: summary(run) for name, run in runs.items()}}
    result["against_bars"] = bars(result["rows"])
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def worker(name, pairs, calls):
    command = [sys.executable, __file__, "--worker", name, str(pairs), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    run = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr.strip().splitlines()[-1][:300]}
    print(name, pairs, run, file=sys.stderr, flush=True)
    return run


def measure(name, pairs, calls):
    """One process: extra memory of the first call, seconds of `calls` more."""
    if name == "pytorch-metric-learning":
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GB * 2**30,) * 2)
    z = np.random.default_rng(0).normal(size=(pairs, 2, WIDTH)).astype(np.float32)
    make = {"tiles": ours, "dense": ours}.get(name, peer)
    before_compile = reset_peak()
    call = make(z, name)                                       # JAX compiles here
    compiling = peak() - before_compile
    before = reset_peak()
    loss = call()
    extra = peak() - before
    seconds, cpu = [], []
    for _ in range(calls):
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return {"loss": loss, "extra_mb": extra / 1e6, "before_call_mb": before / 1e6,
            "setup_and_compile_mb": compiling / 1e6, "seconds": seconds, "cpu_seconds": cpu}


def ours(z, name):
    import jax
    from jaxssl.losses.contrastive import nt_xent

    block = BLOCK if name == "tiles" else 0
    z = jax.device_put(z)
    step = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, temperature=TEMPERATURE, block=block))).lower(z).compile()
    return lambda: float(jax.block_until_ready(step(z))[0])


def peer(z, name):
    import torch

    z = torch.from_numpy(z)
    if name == "lightly":
        from lightly.loss import NTXentLoss
        criterion = NTXentLoss(temperature=TEMPERATURE)
        loss = lambda z: criterion(z[:, 0], z[:, 1])
    else:
        from pytorch_metric_learning.losses import NTXentLoss
        criterion = NTXentLoss(temperature=TEMPERATURE)
        loss = lambda z: criterion(z.flatten(0, 1), torch.arange(len(z)).repeat_interleave(2))

    def call():
        leaf = z.detach().requires_grad_()
        value = loss(leaf)
        value.backward()
        return value.item()
    return call


def reset_peak():
    """Bytes resident now; the kernel's high-water mark starts again from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak():
    return status("VmHWM")


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def summary(runs):
    """Medians with the least and the most, over all calls of all rounds."""
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return {"failed": failed[0], "address_space_limit_gb": LIMIT_GB}
    def spread(values):
        return {name: round(f(values), 4) for name, f in (("median", statistics.median), ("min", min), ("max", max))}
    return {"processes": len(runs), "loss": runs[0]["loss"],
            **{key: spread([x for run in runs for x in run[key]]) for key in ("seconds", "cpu_seconds")},
            **{key: spread([run[key] for run in runs])
               for key in ("extra_mb", "before_call_mb", "setup_and_compile_mb")}}


def bars(rows):
    """The figures that were asked for, from medians, beside what was asked."""
    tiles, lightly, large = (rows[name] for name in ("tiles 8192", "lightly 8192", "tiles 65536"))
    return {"times_faster_than_lightly (bar 5)": round(lightly["seconds"]["median"] / tiles["seconds"]["median"], 2),
            "times_less_processor_time_than_lightly":       # the steadier ratio where other work shares the machine
                round(lightly["cpu_seconds"]["median"] / tiles["cpu_seconds"]["median"], 2),
            "times_less_extra_memory_than_lightly (bar 30)":
                round(lightly["extra_mb"]["median"] / tiles["extra_mb"]["median"], 1),
            "65536_pairs_peak_gb, of the whole process (bar 4)":
                round((large["before_call_mb"]["median"] + large["extra_mb"]["median"]) / 1e3, 3),
            "relative_difference_of_losses": abs(tiles["loss"] / lightly["loss"] - 1)}


if __name__ == "__main__":
    main()
