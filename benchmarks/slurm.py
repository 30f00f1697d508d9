"""launch/slurm.sbatch under a real Slurm: two tasks train, and requeue, cancel, a signal and a lost task are resumed to the same bits.

    tests/slurm.sh python benchmarks/slurm.py       # as root, with slurm-wlm and munge; writes benchmarks/results/slurm.json

Predicted: scontrol requeue and scancel send SIGTERM, so the tasks save the step they are at; the requeued job goes on by itself, a cancelled one by the same
command; a killed task ends the other one, and the same command goes on from the last periodic checkpoint. Every final state has the digest of an uninterrupted job's.
"""
import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
STEPS = 100
CONFIG = ["--config", "configs/digits/simclr.py", f"--config.total={STEPS}", "--config.batch_size=32", "--config.warmup=20", "--config.log_every=5", "--config.eval_every=0",
          "--config.checkpoint_every=50", "--config.model.name=resnet10", "--config.model.width=0.0625", "--config.augment.size=16", "--config.data.canvas=16",
          "--config.data.variant=clean", "--config.eval.reference=300", "--config.eval.queries=100", "--config.eval.raw=false", "--config.log.tensorboard=false",
          "--config.report=false"]
ONE_NODE = ["--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", "--time=30", "--signal=TERM@60"]


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/slurm.json"))
    flags.add_argument("--rows", nargs="+", default=[], help="only these; the others stay as they are in --out")
    args = flags.parse_args()
    rows = json.loads(Path(args.out).read_text())["rows"] if args.rows and Path(args.out).exists() else {}
    expected = rows.get("uninterrupted", {}).get("state_sha256")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in ("launch", "jaxssl", "configs"):                            # a checkout with its .venv, as the script wants it
            (place / name).symlink_to(ROOT / name)
        (place / ".venv/bin").mkdir(parents=True)
        # not a link: an interpreter finds its packages by the place of its name
        (place / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (place / ".venv/bin/python").chmod(0o755)
        os.chdir(place)
        for name, act in (("uninterrupted", None), ("scontrol requeue", requeue), ("scancel", cancel), ("SIGTERM", term), ("a lost task", lose)):
            if args.rows and name not in args.rows:
                continue
            rows[name] = row(name.replace(" ", "-"), act)
            expected = expected or rows[name]["state_sha256"]
            rows[name]["equal"] = rows[name]["state_sha256"] == expected
            write(args.out, rows)
    assert all(each["equal"] for each in rows.values()), "not the same bits"


def write(out, rows):
    version = subprocess.run(["sbatch", "--version"], capture_output=True, text=True).stdout.strip()
    result = {"command": "tests/slurm.sh python benchmarks/slurm.py", "machine": machine("jax", "jaxlib", "orbax-checkpoint"), "slurm": version, "steps": STEPS, "rows": rows}
    Path(out).write_text(json.dumps(result, indent=1) + "\n")


def row(name, act):
    """One run, interrupted by `act(job)` at about a quarter of it, and sent again until it is finished."""
    workdir, jobs, states, said, begin = Path(name), [], [], [], time.time()
    while not (workdir / "run.json").exists():
        assert len(jobs) < 4, "".join(said)
        jobs.append(submit(workdir))
        if act and len(jobs) == 1:
            wait(lambda: newest(workdir) >= STEPS // 4 or not active(jobs[-1]))
            at = newest(workdir)
            act(jobs[-1])
        wait(lambda: not active(jobs[-1]))
        states.append(state(jobs[-1]))
        said.append(Path(f"slurm-{jobs[-1]}.out").read_text(errors="replace"))
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "node", "".join(said).replace(str(workdir.resolve()), "WORKDIR"))
    found = {"state_sha256": json.loads((workdir / "run.json").read_text())["state_sha256"], "jobs": states, "seconds": round(time.time() - begin, 1)}
    if act:
        found |= {"at_step": at, "resumed_at": [int(step) for step in dict.fromkeys(re.findall(r"resuming \S+ at step (\d+)", text))]}
    lines = [re.sub(r"^\d+: ", "", line) for line in text.splitlines() if re.search(r"SIGTERM|saved step|resuming|error:|Traceback|gone|CANCELLED|REQUEUE", line)]
    return found | {"said": list(dict.fromkeys(lines))}


def submit(workdir):
    command = ["sbatch", "--parsable", *ONE_NODE, "launch/slurm.sbatch", *CONFIG, "--workdir", str(workdir.resolve()), f"--compilation_cache={Path('cache').resolve()}"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def requeue(job):
    subprocess.run(["scontrol", "requeue", job], check=True)
    time.sleep(2)


def cancel(job):
    subprocess.run(["scancel", job], check=True)


def term(job):
    subprocess.run(["scancel", "--signal=TERM", job], check=True)


def lose(job):
    """SIGKILL of the second task, as the system's out-of-memory killer would."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = dict(pair.split("=", 1) for pair in (folder / "environ").read_text().split("\0") if "=" in pair)
            if words.get("SLURM_JOB_ID") == job and words.get("SLURM_PROCID") == "1" and "jaxssl.main" in (folder / "cmdline").read_text():
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            continue


def active(job):
    return state(job) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")


def state(job):
    shown = subprocess.run(["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True).stdout
    return (re.findall(r"JobState=(\w+)", shown) or ["GONE"])[0]


def newest(workdir):
    """The last logged step."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (OSError, ValueError):
        return 0


def wait(met, seconds=400):
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
