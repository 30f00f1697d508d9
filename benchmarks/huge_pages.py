"""Processor time of a short SimCLR run with and without huge pages for what malloc takes (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, as the scripts of launch/ set it).

    python benchmarks/huge_pages.py             # writes benchmarks/results/huge_pages.json

It runs `jaxssl.main --config configs/digits/simclr.py` in turn with and without, `--rounds` pairs after one that fills the compilation cache, and
takes user and system time of the whole process, imports and evaluation included.

Expected before it ran: XLA allocates the temporaries of a step anew, and a fifth of a step is page faults, so .8 of the processor time.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine, spread

ROOT = Path(__file__).resolve().parent.parent
TUNABLE = "glibc.malloc.hugetlb=1"


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--steps", type=int, default=40)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/huge_pages.json"))
    args = flags.parse_args()
    rows = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as folder:
        run("", args.steps, folder, "first")
        for i in range(args.rounds):
            for name, tunable in (("without", ""), ("with", TUNABLE)):
                rows[name].append(run(tunable, args.steps, folder, f"{name}{i}"))
                print(name, rows[name][-1], flush=True)
    share = [w["user"] + w["system"] for w in rows["with"]], [w["user"] + w["system"] for w in rows["without"]]
    result = {"command": "python benchmarks/huge_pages.py", "steps": args.steps, "machine": machine("jax", "jaxlib"), "transparent_huge_pages": setting(),
              "rows": {name: {key: spread([row[key] for row in found], 2) for key in found[0]} for name, found in rows.items()},
              "processor_time_with_over_without": spread([a / b for a, b in zip(*share)], 3)}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["processor_time_with_over_without"]))


def run(tunable, steps, folder, name):
    """User, system and wall seconds, and millions of page faults."""
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | {"JAX_PLATFORMS": "cpu",
                                                                                    "PYTHONPATH": str(ROOT)} | ({"GLIBC_TUNABLES": tunable} if tunable else {})
    command = [sys.executable, "-m", "jaxssl.main", "--config", "configs/digits/simclr.py", f"--config.total={steps}", "--config.warmup=10", "--workdir", f"{folder}/{name}",
               f"--compilation_cache={folder}/cache"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"user": after.ru_utime - before.ru_utime, "system": after.ru_stime - before.ru_stime, "wall": time.perf_counter() - start,
            "faults_millions": (after.ru_minflt - before.ru_minflt) / 1e6}


def setting():
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return file.read_text().strip() if file.exists() else "absent"


if __name__ == "__main__":
    main()
