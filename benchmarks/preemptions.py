"""Preempts whole journeys (train, evaluate, report, export) at random moments, and compares all that they leave with an undisturbed journey's.

    python benchmarks/preemptions.py                                   # 200 SIGKILLs and 100 SIGTERMs; adds to benchmarks/results/preemptions.json
    python benchmarks/preemptions.py --rows bucket --preemptions 20    # a part of them

A row is a number of processes and where the workdir lies: one process and two on a local disk, and one and two in a bucket that an emulator serves (tests/bucket.py;
needs gcsfs and gcp-storage-emulator). Each command of a journey is preempted up to three times, at a moment drawn evenly from its length, and given again; of two processes
one, drawn, gets the signal. Two of three signals are SIGKILL.

A preemption is answered when no traceback was shown, every process ended (0 or 143 after SIGTERM, 75 for who lost its neighbour), and the same command goes on.
A journey is answered when the digests of the train state and of the sample ids, the rows of the evaluation, and every byte of the exported weights
(but for the workdir's name) are an undisturbed journey's, and nothing half is left: no lease, no hidden or temporary file, no third checkpoint.

Predicted: all of them. A run's state is a function of config and step, a checkpoint counts only once committed, and what is not a checkpoint is written whole.
"""
import argparse
import collections
import contextlib
import fcntl
import hashlib
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
from urllib.request import urlopen

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks/results/preemptions.json"
sys.path.insert(0, str(ROOT))
from tests import bucket  # noqa: E402: beside the package, for tests and benchmarks

ROWS = {"one process": 1, "two processes": 2, "bucket": 1, "bucket, two processes": 2}
TRAIN = ["--config", "configs/digits/simclr.py", "--config.batch_size=32", "--config.total=60", "--config.warmup=5", "--config.log_every=5", "--config.eval_every=30",
         "--config.checkpoint_every=10", "--config.model.name=resnet10", "--config.model.width=0.0625", "--config.augment.size=16", "--config.data.canvas=16",
         "--config.data.variant=clean", "--join_timeout=60", "--config.eval.reference=300", "--config.eval.queries=100", "--config.eval.raw=false", "--config.ema=0.9"]
# What the last line that tells of it says of where training was when it was stopped.
PHASES = (("report", "report"), ("close", "re-opened"), ("evaluation in training", "kNN"), ("train", "step "), ("compile", "compil"))
ENDS = {signal.SIGKILL: {0, 75}, signal.SIGTERM: {0, 75, 143, -signal.SIGTERM}}


class Place:
    """Where a row's workdirs lie, and how its commands are started."""

    def __init__(self, row, folder, environment):
        self.row, self.folder, self.processes, self.served = row, folder, ROWS[row], row.startswith("bucket")
        self.environment = {**os.environ, **environment, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
                            "XLA_FLAGS": f"--xla_force_host_platform_device_count={2 // self.processes}"}

    def workdir(self, name):
        return f"gs://bucket/{name}" if self.served else str(self.folder / name)

    def commands(self, name):
        """A journey's commands: name -> how its processes are started."""
        workdir, cache = self.workdir(name), f"--compilation_cache={self.folder / 'cache'}"
        return {"train": lambda: self._start("main", self.processes, *TRAIN, "--workdir", workdir, cache),
                "evaluate": lambda: self._start("evaluate", 1, "--workdir", workdir, "--protocols", "knn,linear", "--cache", str(self.folder / f"{name} features"), cache,
                                                "--out", str(self.folder / f"{name} results")),
                "export": lambda: self._start("export", 1, "--workdir", workdir, "--format", "safetensors", "--out", str(self.folder / f"{name} export"))}

    def _start(self, command, processes, *flags):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        join = [["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes), "--process_id", str(i)] if processes > 1 else [] for i in range(processes)]
        return [subprocess.Popen([sys.executable, "-m", f"jaxssl.{command}", *flags, *own], cwd=ROOT, env=self.environment, start_new_session=True, text=True,
                                 stdout=open(self.folder / f"output {i}", "w"), stderr=subprocess.STDOUT) for i, own in enumerate(join)]

    def said(self, i):
        return (self.folder / f"output {i}").read_text(errors="replace")

    def read(self, name, file):
        if self.served:
            with urlopen(f"{self.environment['STORAGE_EMULATOR_HOST']}/bucket/{name}/{file}") as answer:
                return answer.read().decode()
        return Path(self.workdir(name), file).read_text()

    def names(self, name):
        """Every file of a workdir."""
        if self.served:
            with urlopen(f"{self.environment['STORAGE_EMULATOR_HOST']}/storage/v1/b/bucket/o") as answer:
                return [each["name"].removeprefix(f"{name}/") for each in json.load(answer)["items"] if each["name"].startswith(f"{name}/")]
        return [str(p.relative_to(self.workdir(name))) for p in Path(self.workdir(name)).rglob("*")]

    def left(self, name):
        """What a finished journey must leave equal."""
        # An evaluation that was preempted leaves what it had, which says that it is unfinished; the newest is the whole one.
        result = json.loads(max((self.folder / f"{name} results").rglob("*.json")).read_text())
        checkpoints = sorted({int(n.split("/")[1]) for n in self.names(name) if n.startswith("checkpoints/") and n.split("/")[1].isdigit()})
        lines = [json.loads(line) for line in self.read(name, "metrics.jsonl").splitlines()]
        return {"state": json.loads(self.read(name, "run.json"))["state_sha256"], "ids": {r["step"]: r["ids_sha256"] for r in lines if "ids_sha256" in r},
                "rows": [{k: v for k, v in row.items() if k != "seconds"} for row in result["rows"]], "unfinished": result["unfinished"],
                "weights": exported(self.folder / f"{name} export" / "model.safetensors", name),
                "checkpoints": (len(checkpoints), checkpoints[-1]),              # SIGTERM saves where it finds the run, so that the one before the last may be any
                "half": sorted({n.split("/")[-1] for n in [*self.names(name), *(p.name for p in self.folder.iterdir())]
                                if n.split("/")[-1].startswith(".") and not n.endswith(".run.json") or "tmp" in n or "partial" in n or "unchecked" in n})}


def exported(file, name):
    """A digest of every byte of an export but for the name of its workdir, which its record holds, and the digest of that record."""
    data = file.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:length])
    [key] = [key for key, text in header["__metadata__"].items() if text.startswith("{")]
    record = json.loads(header["__metadata__"].pop(key))
    assert record.pop("name") == name and record.pop("record_digest"), record
    return hashlib.sha256(json.dumps([header, record], sort_keys=True).encode() + data[length:]).hexdigest()


def ended(alive, limit=900):
    """Exit codes of all; a process that does not end within `limit` seconds, many times what any command takes on crowded cores, is killed and has none."""
    codes, until = [], time.monotonic() + limit
    for process in alive:
        try:
            codes.append(process.wait(max(until - time.monotonic(), 1)))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            codes.append(None)
    return codes


def phase(command, text):
    """Where in a command its output ends, in a word."""
    if command != "train":
        return command
    for line in reversed(text.splitlines()):
        for name, words in PHASES:
            if words in line:
                return name
    return "start"


def journey(place, name, draw, length, left):
    """Preempts each command of a journey up to three times; -> (preemptions, faults)."""
    done, faults = [], []
    for command, start in place.commands(name).items():
        for _ in range(min(3, left - len(done))):
            alive, how = start(), signal.SIGTERM if draw.random() < 1 / 3 else signal.SIGKILL
            until = time.monotonic() + draw.uniform(.02, 1) * length[command]
            while time.monotonic() < until and all(p.poll() is None for p in alive):
                time.sleep(.01)
            if any(p.poll() is not None for p in alive):                 # it ended before
                codes = ended(alive)
                if any(codes):
                    faults.append(f"{command} ended with {codes}: {place.said(0)[-2000:]}")
                break
            hit = draw.randrange(len(alive))
            if how == signal.SIGKILL:
                os.killpg(alive[hit].pid, how)
            else:
                alive[hit].send_signal(how)
            at = phase(command, place.said(hit))
            codes = ended(alive)
            outputs = [place.said(i) for i in range(len(alive))]
            good = all(code in ENDS[how] or (how, i, code) == (signal.SIGKILL, hit, -signal.SIGKILL) for i, code in enumerate(codes))
            if not good or any("Traceback" in text for text in outputs):
                faults.append(f"{how.name} to {command} at {at}: codes {codes}: " + " || ".join(text[-2000:] for text in outputs))
            done.append((how.name, at))
            print(f"{place.row}: {how.name} at {at}, codes {codes}", file=sys.stderr, flush=True)
        codes = ended(start())
        if any(codes) or "Traceback" in place.said(0):
            faults.append(f"{command} given again ended with {codes}: {place.said(0)[-2000:]}")
            break
    return done, faults


def row(name, preemptions, draw, folder, environment):
    """Yields what was found so far after every journey."""
    place, done, faults, different, journeys = Place(name, folder, environment), [], [], [], 0
    for _ in range(2):                                                    # the first fills the compilation cache
        length, straight = {}, f"straight{_}"
        for command, start in place.commands(straight).items():
            begin = time.monotonic()
            codes = ended(start())
            assert not any(codes), place.said(0)
            length[command] = time.monotonic() - begin
    expected = place.left(straight)
    assert not expected["half"], expected["half"]
    while len(done) < preemptions and not faults:
        journeys += 1
        found, wrong = journey(place, f"journey{journeys}", draw, length, preemptions - len(done))
        done += found
        faults += wrong
        if not wrong:
            got = place.left(f"journey{journeys}")
            different += [f"journey {journeys}: {key}: {got[key]} in place of {expected[key]}"[:2000] for key in expected if got[key] != expected[key]]
        yield {"preemptions": dict(collections.Counter(how for how, _ in done)), "phases": dict(collections.Counter(at for _, at in done)), "journeys": journeys,
               "seconds_of_commands": {k: round(v, 1) for k, v in length.items()}, "faults": faults, "different": different}


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    flags.add_argument("--preemptions", type=int, default=100, help="of each row")
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    for name in args.rows:
        with tempfile.TemporaryDirectory() as folder, bucket.served() if name.startswith("bucket") else contextlib.nullcontext({}) as environment:
            for found in row(name, args.preemptions, random.Random(f"{name} {args.seed}"), Path(folder), environment):
                keep(name, {"seed": args.seed, **found})


def keep(name, found):
    """Writes what a row has found so far: a run that is ended early keeps its journeys."""
    with open(Path(tempfile.gettempdir()) / "jaxssl-preemptions.lock", "w") as lock:       # rows may run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = json.loads(OUT.read_text()) if OUT.exists() else {"command": "python benchmarks/preemptions.py", "rows": {}}
        others = [each for each in result["rows"].get(name, []) if each["seed"] != found["seed"]]
        result["machine"], result["rows"][name] = machine("jax", "jaxlib", "orbax-checkpoint", "grain", "numpy"), [*others, found]
        OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
