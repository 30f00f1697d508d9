"""Every protocol on one run: how long `evaluate --protocols all` takes from an empty cache, and whether the report with all of its results opens without a complaint.

    python benchmarks/evaluate_all.py --workdir runs/cifar10        # writes benchmarks/results/evaluate_all.json

The two commands are run as a user runs them, each in a process of its own: `python -m jaxssl.evaluate --workdir DIR --protocols all`, on the short budget, with
neither features nor compiled programs of an earlier run, and `python -m jaxssl.report DIR`. The results stay in DIR. The page is opened in a headless Chromium
where there is one (tests/browser.py); console errors and warnings, violations of its policy and requests other than for itself are complaints. Seconds of a
protocol are those that its rows state; reading, embedding and compiling are in the whole only. The measured time is to be read with the load in the result.
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

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests import browser  # noqa: E402

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scikit-learn", "pillow")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", required=True, help="a run whose data are here")
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/evaluate_all.json"))
    args = flags.parse_args()
    folder = Path(args.workdir)
    before = documents(folder)
    with tempfile.TemporaryDirectory() as fresh:
        evaluated = timed("jaxssl.evaluate", "--workdir", args.workdir, "--protocols", "all", f"--cache={fresh}/features", f"--compilation_cache={fresh}/xla")
    made = [json.loads(file.read_text()) for file in documents(folder) if file not in before]
    if len(made) != 1:
        raise SystemExit(f"evaluate wrote {len(made)} files instead of one; its message is above")
    reported = timed("jaxssl.report", args.workdir)
    page, config = folder / "report.html", json.loads((folder / "config.json").read_text())
    result = {"command": "python benchmarks/evaluate_all.py --workdir runs/cifar10",
              "run": {"model": config["model"], "size": config["augment"]["size"], "step": made[0]["subject"]["step"]},
              "evaluate": {**evaluated, **told(made[0])}, "report": {**reported, "megabytes": round(page.stat().st_size / 1e6, 2), "browser": opened(page)},
              "machine": machine(*PACKAGES)}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("evaluate", "report")}, indent=1))


def documents(folder):
    """Files of evaluations/ that the command wrote; training leaves another there."""
    return [file for file in sorted((folder / "evaluations").glob("*.json")) if "version" in json.loads(file.read_text())]


def timed(*command):
    """Seconds by the clock and of the processors, and the exit code, of one of our commands."""
    begin, used = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    code = subprocess.run([sys.executable, "-m", *command], env=environment, stdout=subprocess.DEVNULL).returncode
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"exit_code": code, "seconds": round(time.time() - begin, 1), "cpu_seconds": round(now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, 1)}


def told(found):
    """What a document says of its protocols."""
    seconds = {}
    for row in found["rows"]:
        seconds[row["protocol"]] = round(seconds.get(row["protocol"], 0) + row["seconds"], 1)
    images = {which: int(found["data"][which].rpartition(", ")[2].split()[0].replace(",", "")) for which in ("train", "test")}
    return {"budget": found["budget"], "images": images, "rows": len(found["rows"]), "protocols": seconds, "failed": [each["protocol"] for each in found["failed"]],
            "unfinished": found["unfinished"]}


def opened(page):
    """Complaints of a headless Chromium about the page, and its requests other than for itself; "not run" without one."""
    program = browser.find()
    if not program:
        return "not run"
    with browser.start(program) as tab:
        tab.open(page)
        own = page.resolve().as_uri()
        return {"complaints": [text.replace(own, page.name) for text in tab.complaints], "requests": [r for r in tab.requests if r != own and not r.startswith("data:")]}


if __name__ == "__main__":
    main()
