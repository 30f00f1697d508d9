"""How long it takes to open a folder of many small files: listing, labels, the held-out part, and what data.json says.

    python benchmarks/listing.py [--files 1000000] [--against DIR]      # writes benchmarks/results/listing.json

The files are empty, a thousand a class. --against: a checkout of another version, which opens the same folder in turns with this one, each round in a process
of its own. Goal: at most 10 % slower than before the folders' meaning was looked at.
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


def files(root: str, count: int) -> None:
    for first in range(0, count, 1000):
        folder = f"{root}/n{first // 1000:08d}"
        os.mkdir(folder)
        for i in range(first, min(first + 1000, count)):
            os.close(os.open(f"{folder}/n{i:08d}.JPEG", os.O_CREAT | os.O_WRONLY))


def once(checkout: str, folder: str) -> tuple[float, float, dict]:
    done = subprocess.run([sys.executable, "-c", ROUND, checkout, folder], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", default="", metavar="DIR")
    flags = parser.parse_args()
    versions = {"this": str(ROOT)} | ({"against": os.path.abspath(flags.against)} if flags.against else {})
    seen = {name: [] for name in versions}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        files(folder, flags.files)
        print(f"{flags.files:,} files made in {time.perf_counter() - start:.0f} s", flush=True)
        for _ in range(flags.rounds):
            for name, checkout in versions.items():
                seen[name].append(once(checkout, folder))
                print(f"{name}: {seen[name][-1][0]:.2f} s, {seen[name][-1][1]:.2f} s of processor time", flush=True)
    result = {"files": flags.files, **{name: {"wall_s": spread((r[0] for r in rounds), 2), "cpu_s": spread((r[1] for r in rounds), 2)} for name, rounds in seen.items()}}
    if flags.against:
        result["same_images"] = all(r[2] == seen["this"][0][2] for r in seen["against"])
        result["cpu_ratio"] = round(result["this"]["cpu_s"]["median"] / result["against"]["cpu_s"]["median"], 3)
        result["wall_ratio"] = round(result["this"]["wall_s"]["median"] / result["against"]["wall_s"]["median"], 3)
    OUT.write_text(json.dumps(result | {"machine": machine("numpy", "pillow")}, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if not isinstance(value, dict)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
