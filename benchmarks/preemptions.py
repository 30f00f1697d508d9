"""SIGKILL and SIGTERM at random moments of everything that a run goes through: data, compile, train, save, evaluate, report, export; same bits, nothing half left.

    python benchmarks/preemptions.py --kills 200 --terms 100              # writes benchmarks/results/preemptions.json
    python benchmarks/preemptions.py --places "1 process, bucket"         # adds that row; the bucket needs pip install gcsfs gcp-storage-emulator

A life is training, then `evaluate`, then `export`. Every command of it is interrupted at a moment drawn evenly over the time that it takes when it is left alone, and
started again, until the signals of this place are spent; then it is left alone. Predicted: state, sample ids, scores and exported file of an uninterrupted life.
"""
import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PLACES = ("1 process, local disk", "2 processes, local disk", "1 process, bucket")
STEPS = 60
CONFIG = ["--config", "configs/digits/simclr.py", f"--config.total={STEPS}", "--config.batch_size=32", "--config.warmup=5", "--config.log_every=5", "--config.eval_every=30",
          "--config.checkpoint_every=10", "--config.model.name=resnet10", "--config.model.width=0.0625", "--config.augment.size=16", "--config.data.canvas=16",
          "--config.data.variant=clean", "--config.eval.reference=300", "--config.eval.queries=100", "--config.eval.raw=false"]
# The phase that a run is in, by the last of these words that it has said.
SAID = (("mesh:", "data and compile"), ("compiled", "train and save"), ("done:", "report"))


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--kills", type=int, default=200, help="SIGKILLs in all the places together")
    flags.add_argument("--terms", type=int, default=100, help="SIGTERMs in all the places together")
    flags.add_argument("--places", nargs="+", default=PLACES, choices=PLACES)
    flags.add_argument("--seconds", type=float, default=1e9, help="no signal is sent after so many in a place")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/preemptions.json"))
    args = flags.parse_args()
    out = Path(args.out)
    rows = json.loads(out.read_text())["rows"] if out.exists() else {}
    for number, place in enumerate(args.places):
        share = [total // len(args.places) + (number < total % len(args.places)) for total in (args.kills, args.terms)]
        rows[place] = row(place, *share, random.Random(f"{args.seed} {place}"), args.seconds)
        print(json.dumps({place: rows[place]}, indent=1), flush=True)
        result = {"command": "python benchmarks/preemptions.py", "machine": machine("jax", "jaxlib", "orbax-checkpoint", "gcsfs", "gcp-storage-emulator"), "steps": STEPS,
                  "signals": sum((Counter(each["signals"]) for each in rows.values()), Counter()), "rows": rows}
        out.write_text(json.dumps(result, indent=1) + "\n")


def row(place, kills, terms, random_, seconds):
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    random_.shuffle(signals)
    processes = int(place[0])
    with tempfile.TemporaryDirectory() as name, bucket(place) as environment:
        folder = Path(name)
        root = "gs://bucket" if environment else name
        straight, _ = life(folder, f"{root}/filled", processes, environment)             # fills the compilation cache
        straight, times = life(folder, f"{root}/straight", processes, environment)
        found, spent = Counter(), Counter()
        broken, end, number = f"{root}/broken", time.monotonic() + seconds, 0
        while signals and time.monotonic() < end:
            number += 1                             # of the life: evaluation and export are begun anew with it, training goes on in a new workdir
            workdir = f"{broken}{number}"
            quota = max(1, len(signals) // 4) if len(signals) > 8 else len(signals)
            own = [signals.pop() for _ in range(quota)]
            for sent, phase in disturbed(folder, workdir, processes, environment, own, times, random_, end):
                found[sent, phase] += 1
                spent[sent] += 1
            ended, _ = life(folder, workdir, processes, environment)
            assert ended == straight, (workdir, ended, straight)
            left = [each for each in listed(workdir, environment) if any(word in each for word in ("partial", "tmp", ".shared-", ".writable"))]
            assert not left, left
            if not environment:
                shutil.rmtree(workdir)
    return {"signals": dict(spent), "phases": {f"{sent} in {phase}": count for (sent, phase), count in sorted(found.items())}, "lives": number, "equal": True, "nothing_left": True,
            "state_sha256": straight["state"], "seconds_alone": {name: round(value, 1) for name, value in times.items()}}


def disturbed(folder, workdir, processes, environment, signals, times, random_, end):
    """Interrupts training and what follows it with each of `signals`; yields (signal, phase) of those that met a process alive."""
    while signals and time.monotonic() < end:
        for name in ("main", "evaluate", "export"):
            # Most of a run is training; evaluation and export get a share of the signals by chance.
            if name != "main" and random_.random() < 0.5 or not signals:
                continue
            if name != "main" and not finished(workdir, environment):
                continue
            if name == "main" and finished(workdir, environment) and random_.random() < 0.7:
                continue
            alive, logs = start(name, folder, workdir, processes, environment)
            until = time.time() + random_.uniform(0.05, 1.0) * times[name]
            while time.time() < until and any(p.poll() is None for p in alive):
                time.sleep(0.01)
            if all(p.poll() is None for p in alive):
                sent = signals.pop()
                struck = alive if sent == signal.SIGTERM else [random_.choice(alive)]
                for p in struck:
                    os.kill(p.pid, sent)            # one of several is killed alone, and the other ends by itself; a scheduler's SIGTERM reaches all
                yield sent.name, phase(name, logs[0])
            codes = [p.wait(300) for p in alive]
            text = "".join(log.read_text(errors="replace") for log in logs)
            assert "Traceback" not in text, text
            assert all(code in (0, 75, -signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGKILL, 130) for code in codes), (codes, text)
        if finished(workdir, environment) and random_.random() < 0.3:
            return


def phase(name, log):
    if name != "main":
        return name
    text = log.read_text(errors="replace")
    return next((what for word, what in reversed(SAID) if word in text), "start")


def life(folder, workdir, processes, environment):
    """What a whole life comes to (digest of the state, of the sample ids, the scores, digest of the exported file), and the seconds of each command."""
    times = {}
    for name in ("main", "evaluate", "export"):
        begin = time.time()
        alive, logs = start(name, folder, workdir, processes, environment)
        codes = [p.wait(900) for p in alive]
        assert not any(codes), (codes, "".join(log.read_text(errors="replace") for log in logs))
        times[name] = time.time() - begin
    run = json.loads(read(workdir, "run.json", environment))
    lines = [json.loads(line) for line in read(workdir, "metrics.jsonl", environment).splitlines()]
    ids = {line["step"]: line["ids_sha256"] for line in lines if "ids_sha256" in line}
    newest = sorted(each for each in listed(workdir, environment) if each.startswith("evaluations/2"))[-1]
    rows = [(each["protocol"], each["variant"], each["value"]) for each in json.loads(read(workdir, newest, environment))["rows"]]
    exported = hashlib.sha256((folder / "export" / "model.safetensors").read_bytes()).hexdigest()
    assert "report.html" in listed(workdir, environment) or processes > 1 or environment
    return {"state": run["state_sha256"], "ids": ids, "scores": rows, "exported": exported}, times


def start(name, folder, workdir, processes, environment):
    cache = f"--compilation_cache={folder / 'cache'}"
    own = {"main": [*CONFIG, "--workdir", workdir, cache], "evaluate": ["--workdir", workdir, "--protocols", "knn", "--cache", str(folder / "features"), cache],
           "export": ["--workdir", workdir, "--format", "safetensors", "--out", str(folder / "export")]}[name]
    if name == "evaluate":
        shutil.rmtree(folder / "features", ignore_errors=True)
    if name == "export":
        shutil.rmtree(folder / "export", ignore_errors=True)
    count = processes if name == "main" else 1
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    join = lambda i: ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count), "--process_id", str(i)] if count > 1 else []
    system = {**os.environ, **environment, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": f"--xla_force_host_platform_device_count={2 // count}"}
    logs = [folder / f"log{i}" for i in range(count)]
    return [subprocess.Popen([sys.executable, "-u", "-m", f"jaxssl.{name}", *own, *join(i)], cwd=ROOT, env=system, stdout=open(log, "w"), stderr=subprocess.STDOUT,
                             start_new_session=True) for i, log in enumerate(logs)], logs


@contextlib.contextmanager
def bucket(place):
    """The environment in which gs://bucket is found; {} for a place on the disk."""
    if "bucket" not in place:
        yield {}
        return
    from tests import bucket as served
    assert not served.missing(), served.missing()
    with served.served() as environment:
        yield environment


def listed(workdir, environment):
    if not environment:
        return [str(path.relative_to(workdir)) for path in Path(workdir).rglob("*")] if Path(workdir).exists() else []
    with urllib.request.urlopen(environment["STORAGE_EMULATOR_HOST"] + "/storage/v1/b/bucket/o") as answer:
        prefix = workdir.removeprefix("gs://bucket/") + "/"
        return [each["name"].removeprefix(prefix) for each in json.load(answer)["items"] or [] if each["name"].startswith(prefix)]


def read(workdir, name, environment):
    if not environment:
        return (Path(workdir) / name).read_text()
    with urllib.request.urlopen(environment["STORAGE_EMULATOR_HOST"] + "/" + workdir.removeprefix("gs://") + "/" + name) as answer:
        return answer.read().decode()


def finished(workdir, environment):
    return "run.json" in listed(workdir, environment)


if __name__ == "__main__":
    main()
