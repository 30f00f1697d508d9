"""Losses alone, value and gradient at batch 4,096 on the CPU: processor time and extra peak memory against lightly.

    python benchmarks/losses_lightly.py         # writes benchmarks/results/losses_lightly.json

It needs torch and lightly, beside jaxssl or in another Python (--theirs PYTHON). Two views of 4,096 images, f32: Barlow Twins and VICReg of width 2,048, SwAV with 3,000
prototypes (codes included), SIGReg of width 128 along 256 directions, the same on both sides. Each measurement is a process of its own, contenders in turns for `--rounds`
rounds; each reports its loss, so that the JSON shows that they computed the same.
Processor time is of the fastest of `--calls` calls after a first one. Extra memory is the peak of resident memory during the first call (JAX compiles before) above the
resident memory just before (Linux); beside ours stands what the compiled program says of itself, its temporaries and results.

Expected before this ran: Barlow Twins and VICReg are products of 2 · 4,096 · 2,048² multiply-adds and their backward passes, alike on both sides; their arrays of 34 MB are
what counts, of which lightly keeps about ten. SwAV passes over [4,096, 3,000] a dozen times, and torch makes a copy at each. SIGReg's cosines are 2 × 4,096 × 256 × 17 = 36
million on either side, which torch keeps with their sines (142 MB each).
A first run, with all images at once here: 1.9, 1.4, 1.3 and 1.7 times as fast, and 1.6, 2.2, 2.8 and 1.1 times its memory, since XLA on the CPU holds what it passes from one
fusion to the next. Since then these losses go through the images in parts (`jaxssl.losses.rows`), forward and backward.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import machine, spread

ROOT = Path(__file__).resolve().parent.parent
LOSSES = {"barlow_twins": 2048, "vicreg": 2048, "swav": 3000, "sigreg": 128}          # name -> width
BATCH, DIRECTIONS, LAMBDA = 4096, 256, .0051


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--calls", type=int, default=3)
    flags.add_argument("--only", nargs="*", choices=list(LOSSES), default=list(LOSSES))
    flags.add_argument("--theirs", default=sys.executable, help="a Python with torch and lightly")
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/losses_lightly.json"))
    flags.add_argument("--worker", nargs=2, metavar=("WHO", "LOSS"), help="one measurement, as JSON")
    args = flags.parse_args()
    if args.worker:
        print(json.dumps(measure(*args.worker, args.calls)))
        return
    runs = {(loss, who): [] for loss in args.only for who in ("jaxssl", "lightly")}
    for _ in range(args.rounds):
        for loss, who in runs:
            command = [sys.executable if who == "jaxssl" else args.theirs, __file__, "--calls", str(args.calls), "--worker", who, loss]
            path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
            if done.returncode:
                raise SystemExit(f"{who} {loss}: {done.stderr.strip()[-600:]}")
            runs[loss, who].append(json.loads(done.stdout))
            print(loss, who, runs[loss, who][-1], file=sys.stderr, flush=True)
    write(runs, args)


def write(runs, args):
    """runs: (loss, who) -> what `measure` gave, a round each."""
    table = {loss: {who: summary(runs[loss, who]) for who in ("jaxssl", "lightly")} for loss in args.only}
    for row in table.values():
        ours, theirs = row["jaxssl"], row["lightly"]
        row["times_as_fast_in_processor_time (bar 1)"] = round(theirs["cpu_seconds"]["median"] / ours["cpu_seconds"]["median"], 2)
        row["share_of_its_extra_memory (bar .5)"] = round(ours["extra_mb"]["median"] / theirs["extra_mb"]["median"], 3)
        row["relative_difference_of_losses"] = abs(ours["loss"] / theirs["loss"] - 1)
    result = {"command": "python benchmarks/losses_lightly.py", "batch": BATCH, "widths": LOSSES, "directions": DIRECTIONS, "rounds": args.rounds, "calls": args.calls,
              "machine": machine("numpy"), "versions": sorted({run["versions"] for found in runs.values() for run in found}), "rows": table}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({loss: {key: value for key, value in row.items() if "(" in key or "relative" in key} for loss, row in table.items()}, indent=1))


def summary(runs):
    return {"loss": runs[0]["loss"], **{key: spread([run[key] for run in runs]) for key in ("cpu_seconds", "extra_mb", "compiled_mb") if key in runs[0]}}


def measure(who, loss, calls):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((BATCH, 2, LOSSES[loss]), np.float32)
    if loss == "swav":
        z = np.clip(z / 5, -1, 1)                                   # cosines
    directions = rng.standard_normal((LOSSES[loss], DIRECTIONS), np.float32)
    call, told = {"jaxssl": ours, "lightly": theirs}[who](loss, z, directions / np.linalg.norm(directions, axis=0))
    Path("/proc/self/clear_refs").write_text("5")                   # the kernel's high-water mark starts again from here
    before = status("VmRSS")
    value, extra, found = call(), (status("VmHWM") - before) / 1e6, []
    for _ in range(calls):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return {"loss": value, "cpu_seconds": min(found), "extra_mb": extra, **told}


def ours(loss, z, directions):
    import jax

    from jaxssl.losses import distillation, redundancy
    from jaxssl.methods.base import rows_at_once

    def swav(z):
        shifts = distillation.prototype_shifts([(z, None)], temp=.05, block=block)
        return distillation.swapped(z, shifts, temp=.05, student_temp=.1, block=block)[0]

    def vicreg(z):
        terms = redundancy.vicreg(z, block)
        return 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]
    function = {"barlow_twins": lambda z: redundancy.barlow_twins(z, redundancy=LAMBDA, block=block)[0], "vicreg": vicreg, "swav": swav,
                "sigreg": lambda z: redundancy.sigreg(z, directions, block)}[loss]
    # Images at a time, as methods have them on one device; SIGReg has 17 numbers of each direction.
    block = rows_at_once(None, 2 * (DIRECTIONS * len(redundancy.KNOTS) if loss == "sigreg" else LOSSES[loss]))
    z = jax.device_put(z)
    step = jax.jit(jax.value_and_grad(function)).lower(z).compile()
    used = step.memory_analysis()
    return (lambda: float(jax.block_until_ready(step(z))[0]),
            {"compiled_mb": (used.temp_size_in_bytes + used.output_size_in_bytes) / 1e6, "versions": f"jax {jax.__version__}"})


def theirs(loss, z, directions):
    from importlib.metadata import version

    import torch
    from lightly.loss import BarlowTwinsLoss, SwaVLoss, VICRegLoss
    from lightly.loss.lejepa_loss import SIGReg
    z, sigreg = torch.from_numpy(z), SIGReg(num_vectors=DIRECTIONS)
    sigreg._generate_unit_vectors = lambda *_: torch.from_numpy(directions)
    function = {"barlow_twins": BarlowTwinsLoss(LAMBDA), "vicreg": VICRegLoss(), "swav": lambda a, b: SwaVLoss()([a, b], []),
                "sigreg": lambda a, b: (sigreg(a) + sigreg(b)) / 2}[loss]

    def call():
        leaf = z.detach().requires_grad_()
        value = function(leaf[:, 0], leaf[:, 1])
        value.backward()
        return value.item()
    return call, {"versions": f"torch {torch.__version__}, lightly {version('lightly')}"}


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    main()
