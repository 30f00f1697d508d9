"""Faults from outside, by kind: what a user, a file, a system or an environment does wrong, and what the program makes of it.

    python benchmarks/faults.py                     # every kind; writes benchmarks/results/faults.json
    python benchmarks/faults.py words sizes         # some of them, which take the place of what is written there of them
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

RESULTS = ROOT / "benchmarks" / "results" / "faults.json"
MOST_MEMORY = 24 * 2**30        # that this process may address


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--list", action="store_true", help="print the faults and attempt none")
    parser.add_argument("--only", default="", help="a regular expression of what is attempted; the rows of these faults alone are replaced then")
    asked = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    os.chdir(ROOT)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))      # what would fill the machine ends as an error, and not this machine
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.kinds or KINDS:
            (place := Path(folder) / name).mkdir()
            found[name] = []
            for fault in KINDS[name](place):
                if not re.search(asked.only, fault.what):
                    continue
                if asked.list:
                    print(f"{name}: {fault.what}")
                    continue
                row = attempted(name, fault)
                found[name].append(row)
                print(f"{row['outcome']:>10}  {name}: {fault.what}  [{row['code']}] {row['said'][:160]}", flush=True)
    if asked.list:
        return 0
    short = [row for rows in found.values() for row in rows if not row["outcome"].islower()]
    print(f"{sum(map(len, found.values()))} faults, {len(short)} fell short")
    for row in short:
        print(f"  {row['outcome']}: {row['kind']}: {row['what']}")
    write({name: rows for name, rows in found.items() if rows}, whole=not asked.only)
    return 1 if short else 0


def write(found: dict[str, list[dict]], whole: bool) -> None:
    """Puts the rows of these kinds in the place of what the results had of them, or of the same faults unless `whole`; a kind keeps the machine that it was attempted on."""
    from machine import machine
    kinds = json.loads(RESULTS.read_text())["kinds"] if RESULTS.exists() else {}
    for name, rows in found.items():
        if not whole:
            anew = {row["what"]: row for row in rows}
            rows = [anew.pop(row["what"], row) for row in kinds.get(name, {"rows": []})["rows"]] + list(anew.values())
        outcomes = [row["outcome"] for row in rows]
        kinds[name] = {"faults": len(rows), "outcomes": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
                       "machine": machine("jax", "orbax-checkpoint"), "rows": [{key: value for key, value in row.items() if key != "kind"} for row in rows]}
    kinds = {name: kinds[name] for name in KINDS if name in kinds}
    short = sum(count for each in kinds.values() for outcome, count in each["outcomes"].items() if not outcome.islower())
    summary = {"faults": sum(each["faults"] for each in kinds.values()), "fell_short": short}
    texts = [f"{json.dumps(name)}: {json.dumps({**each, 'rows': []})[:-3]}[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in each["rows"]) + "\n]}"
             for name, each in kinds.items()]
    RESULTS.write_text(json.dumps(summary)[:-1] + ', "kinds": {\n' + ",\n".join(texts) + "\n}}\n", encoding="utf-8")      # a row a line


if __name__ == "__main__":
    sys.exit(main())
