"""Kills one run 20 times at random moments, in one process and in two, and compares its final state with an uninterrupted run's, bit for bit.

    python benchmarks/resume.py            # writes benchmarks/results/resume.json

Predicted: every digest equal, since the order of the samples, the views and the schedule are pure functions of the step and a checkpoint counts only once
committed. A kill may fall anywhere: into start, compilation, a step, a save, the final evaluation.
"""
import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
STEPS = {1: 2000, 2: 400}  # two processes on two cores wait for one another, and take six times as long for a step
CONFIG = ["--config", "configs/digits/simclr.py", "--config.batch_size=32", "--config.warmup=20", "--config.log_every=10", "--config.eval_every=0",
          "--config.checkpoint_every=10", "--config.model.name=resnet10", "--config.model.width=0.0625", "--config.augment.size=16", "--config.data.canvas=16",
          "--config.data.variant=clean", "--config.eval.reference=300", "--config.eval.queries=100", "--config.eval.raw=false", "--config.log.tensorboard=false",
          "--config.report=false"]


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--kills", type=int, default=20)
    flags.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/resume.json"))
    args = flags.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in args.processes:
            rows[f"{processes} process(es)"] = row(Path(folder), processes, args.kills, random.Random(args.seed + processes))
            print(json.dumps(rows, indent=1), flush=True)
    if Path(args.out).exists():
        rows = {**json.loads(Path(args.out).read_text())["rows"], **rows}      # of an earlier call with other --processes
    result = {"command": "python benchmarks/resume.py", "machine": machine("jax", "jaxlib", "orbax-checkpoint", "grain", "numpy"), "rows": rows}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


def row(folder, processes, kills, random_):
    """One uninterrupted run and one that is killed `kills` times. A first run fills the compilation cache, so that every later start takes equally long."""
    filled, straight, broken = (folder / f"{name}{processes}" for name in ("filled", "straight", "broken"))
    cache = folder / "cache"
    assert end(start(filled, processes, cache)) == 0
    begin = time.time()
    alive = start(straight, processes, cache)
    while not (straight / "metrics.jsonl").exists() or not (straight / "metrics.jsonl").read_text():
        time.sleep(0.05)
    before = time.time() - begin                               # a start, up to the first steps
    assert end(alive) == 0
    whole = time.time() - begin
    expected = json.loads((straight / "run.json").read_text())
    training = expected["train_seconds"]
    reached, done = [], 0
    # A start of random length, which may end in the middle of it, then a random share of the training that is left, no later than an even share of the steps.
    while done < kills and not (broken / "run.json").exists():
        alive = start(broken, processes, cache)
        left = training * (1 - newest(broken) / expected["steps"]) / (kills - done)
        until = time.time() + random_.uniform(0.6, 1.1) * before + random_.uniform(0, 1.6) * left
        last = expected["steps"] * (done + 1) / (kills + 1)    # so that the run does not end before the last kill, however slow a start was thought to be
        while time.time() < until and newest(broken) < last:
            time.sleep(0.02)
        if any(p.poll() is None for p in alive):
            for p in alive:
                if p.poll() is None:
                    os.killpg(p.pid, signal.SIGKILL)           # the data workers with it
            done += 1
            reached.append(newest(broken))
            print(f"{processes} process(es), kill {done}: checkpoint {reached[-1]}", file=sys.stderr, flush=True)
        end(alive)
    assert end(start(broken, processes, cache)) == 0
    found = json.loads((broken / "run.json").read_text())
    return {"kills": done, "checkpoint_after_each_kill": reached, "equal": found["state_sha256"] == expected["state_sha256"], "state_sha256": found["state_sha256"],
            "same_sample_ids": ids(straight) == ids(broken), "steps": found["steps"], "start_seconds": round(before, 1), "training_seconds": round(training, 1),
            "uninterrupted_seconds": round(whole, 1)}


def start(workdir, processes, cache):
    """The processes of one run, each a group of its own, of four emulated devices together."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    join = lambda i: [] if processes == 1 else ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes), "--process_id", str(i)]
    command = [sys.executable, "-m", "jaxssl.main", *CONFIG, f"--config.total={STEPS[processes]}", "--workdir", str(workdir), f"--compilation_cache={cache}"]
    return [subprocess.Popen([*command, *join(i)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) for i in range(processes)]


def end(alive):
    """Waits for all; the worst exit code."""
    return max(abs(p.wait()) for p in alive)


def newest(workdir):
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()] if (workdir / "checkpoints").exists() else []
    return max(steps, default=0)


def ids(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["ids_sha256"] for r in lines if "ids_sha256" in r}


if __name__ == "__main__":
    main()
