"""How long it takes to open a folder of many small files: listing, labels, the held-out part, and what data.json says.

    python benchmarks/listing.py [--files 1000000] [--against DIR]      # writes benchmarks/results/listing.json
    python benchmarks/listing.py --only start                           # of which this measures and replaces one part

The files are empty, a thousand a class. --against: a checkout of another version, which opens the same folder in turns with this one, each round in a process
of its own. Goal: at most 10 % slower than before the folders' meaning was looked at.
Start: a command of training on these files, from its first line until its workdir is claimed, and until its step is compiled (configs/digits/simclr.py: a small network,
without a cache), where its first batch would come; with all that tells which images these are (`jaxssl.data.identity`: names, sizes, samples, times of writing) and
without, in turns. Goal: at most 10 % slower.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from machine import machine, spread  # noqa: E402

OUT = ROOT / "benchmarks" / "results" / "listing.json"
ROUND = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from jaxssl import data
wall, cpu = time.perf_counter(), time.process_time()
made = data.make(source="folder", path=sys.argv[2])
images = made.images
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, images]))
"""

START = """
import contextlib, json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
sys.path.insert(0, sys.argv[1])
from unittest import mock
from jaxssl import main
from jaxssl.data import identity
from jaxssl.training import train

class Reached(BaseException):
    pass

marks = []
def mark():
    marks.append([time.perf_counter() - wall, time.process_time() - cpu])

class Timed(train.Session):
    def __init__(self, *arguments):
        mark()
        super().__init__(*arguments)

    def loop(self):
        mark()
        raise Reached

known = 0
def told(name):
    whole = getattr(identity, name)
    def timed(*arguments):
        global known
        start = time.process_time()
        found = whole(*arguments) if sys.argv[4] == "with" else {}
        known += time.process_time() - start
        return found
    return mock.patch.object(identity, name, timed)

with told("describe"), told("written"), mock.patch.object(train, "Session", Timed), contextlib.suppress(Reached):
    code = main.main(["--config", sys.argv[1] + "/configs/digits/simclr.py", "--workdir", sys.argv[3], "--compilation_cache=off", "--config.data.source=folder",
                      "--config.data.variant=cluttered", "--config.data.resident=no", f"--config.data.path={sys.argv[2]}"])
    raise SystemExit(f"ended with {code}")
print(json.dumps([*marks[0], *marks[1], known]))
"""


def files(root: str, count: int) -> None:
    for first in range(0, count, 1000):
        folder = f"{root}/n{first // 1000:08d}"
        os.mkdir(folder)
        for i in range(first, min(first + 1000, count)):
            os.close(os.open(f"{folder}/n{i:08d}.JPEG", os.O_CREAT | os.O_WRONLY))


def once(checkout: str, folder: str) -> tuple[float, float, dict]:
    done = subprocess.run([sys.executable, "-c", ROUND, checkout, folder], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def starts(folder: str, rounds: int) -> dict:
    seen = {"with": [], "without": []}
    for number in range(rounds):
        for name in ("with", "without") if number % 2 else ("without", "with"):
            with tempfile.TemporaryDirectory() as place:
                command = [sys.executable, "-c", START, str(ROOT), folder, f"{place}/run", name]
                done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
            if done.returncode:
                raise RuntimeError(done.stdout[-1000:] + done.stderr[-3000:])
            seen[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"start {name}: " + ", ".join(f"{value:.2f}" for value in seen[name][-1]), flush=True)
    result = {"checks_cpu_s": spread((r[4] for r in seen["with"]), 2)}
    for at, key in enumerate(("claimed_wall", "claimed_cpu", "compiled_wall", "compiled_cpu")):
        result[f"{key}_s"] = {name: spread((r[at] for r in rows), 2) for name, rows in seen.items()}
        result[f"{key}_ratio"] = round(result[f"{key}_s"]["with"]["median"] / result[f"{key}_s"]["without"]["median"], 3)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", default="", metavar="DIR")
    parser.add_argument("--only", choices=("listing", "start"), default=None, help="measure one part and keep the other as it is in the JSON")
    flags = parser.parse_args()
    kept = json.loads(OUT.read_text()) if OUT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        files(folder, flags.files)
        print(f"{flags.files:,} files made in {time.perf_counter() - start:.0f} s", flush=True)
        if flags.only != "start":
            kept = listing(folder, flags) | ({"start": kept["start"]} if "start" in kept else {})
        if flags.only != "listing":
            kept["start"] = {"files": flags.files, **starts(folder, flags.rounds), "machine": machine("jax", "numpy")}
    OUT.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps({key: value for part in (kept, kept.get("start", {})) for key, value in part.items() if not isinstance(value, dict)}))
    return 0


def listing(folder: str, flags: argparse.Namespace) -> dict:
    versions = {"this": str(ROOT)} | ({"against": os.path.abspath(flags.against)} if flags.against else {})
    seen = {name: [] for name in versions}
    for _ in range(flags.rounds):
        for name, checkout in versions.items():
            seen[name].append(once(checkout, folder))
            print(f"{name}: {seen[name][-1][0]:.2f} s, {seen[name][-1][1]:.2f} s of processor time", flush=True)
    result = {"files": flags.files, **{name: {"wall_s": spread((r[0] for r in rounds), 2), "cpu_s": spread((r[1] for r in rounds), 2)} for name, rounds in seen.items()}}
    if flags.against:
        result["same_images"] = all(r[2] == seen["this"][0][2] for r in seen["against"])
        result["cpu_ratio"] = round(result["this"]["cpu_s"]["median"] / result["against"]["cpu_s"]["median"], 3)
        result["wall_ratio"] = round(result["this"]["wall_s"]["median"] / result["against"]["wall_s"]["median"], 3)
    return result | {"machine": machine("numpy", "pillow")}


if __name__ == "__main__":
    sys.exit(main())
