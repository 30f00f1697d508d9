"""Faults from outside, by kind: what a user, a file, a system or an environment does wrong, and what the program makes of it.

    python benchmarks/faults.py                     # every kind; writes benchmarks/results/faults.json
    python benchmarks/faults.py words sizes         # some of them; only prints
    python benchmarks/faults.py --list

A kind is a function in a file of benchmarks/faults_by_kind, found by its decorator: `yield Fault(what, attempt)`. An attempt does something and gives (exit code,
everything printed); the two ways to make one are `begins` (the command line of a run in this process, up to the moment before the workdir is claimed) and `process`
(a command of its own).
A fault is answered by one sentence and an exit code of the program's, or by work that goes on (`works=True`: it has to). A traceback, silence, a hang, or a run that
goes on with what makes no sense falls short.
"""
import argparse
import importlib
import json
import os
import re
import resource
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from faults_by_kind.tools import KINDS, attempted  # noqa: E402

for file in sorted((ROOT / "benchmarks" / "faults_by_kind").glob("*.py")):
    importlib.import_module(f"faults_by_kind.{file.stem}")

MOST_MEMORY = 24 * 2**30        # that this process may address


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join(KINDS)} (default: all, and the results are written)")
    parser.add_argument("--list", action="store_true", help="print the faults and attempt none")
    parser.add_argument("--only", default="", help="a regular expression of what is attempted")
    asked = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    os.chdir(ROOT)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))      # what would fill the machine ends as an error, and not this machine
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.kinds or KINDS:
            (place := Path(folder) / name).mkdir()
            for fault in KINDS[name](place):
                if not re.search(asked.only, fault.what):
                    continue
                if asked.list:
                    print(f"{name}: {fault.what}")
                    continue
                rows.append(attempted(name, fault))
                print(f"{rows[-1]['outcome']:>10}  {name}: {fault.what}  [{rows[-1]['code']}] {rows[-1]['said'][:160]}", flush=True)
    short = [row for row in rows if not row["outcome"].islower()]
    print(f"{len(rows)} faults, {len(short)} fell short", flush=True)
    for row in short if len(short) < len(rows) else []:
        print(f"  {row['outcome']}: {row['kind']}: {row['what']}")
    if rows and not asked.kinds and not asked.only:
        from machine import machine
        counts = {name: {outcome: sum(row["kind"] == name and row["outcome"] == outcome for row in rows) for outcome in sorted({row["outcome"] for row in rows})} for name in KINDS}
        result = {"machine": machine("jax", "orbax-checkpoint"), "faults": len(rows), "fell_short": len(short), "kinds": counts, "rows": rows}
        (ROOT / "benchmarks" / "results" / "faults.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
