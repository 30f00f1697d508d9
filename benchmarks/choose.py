"""Whether a measure that reads no label orders the checkpoints of a run as kNN does: three runs of ten checkpoints on cluttered digits.

    python benchmarks/choose.py [--runs simclr vicreg dino] [--steps 200] [--seed 0]        # writes benchmarks/results/choose.json

Each run is configs/digits/METHOD.py with ten checkpoints that all stay; `python -m jaxssl.evaluate --choose` then measures them. The reference of mutual_knn, which ought to
be a public encoder, is the last checkpoint of the next run here. Spearman's rank correlation with kNN (k = 20, T = .07) over ten checkpoints of one run, which are no
independent trials: what counts is whether it is alike in all runs, and what kNN each measure's choice has beside the best. A run that is finished in --work is not trained again.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

from machine import machine  # noqa: E402


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--runs", nargs="+", default=["simclr", "vicreg", "dino"], help="names of configs/digits")
    flags.add_argument("--steps", type=int, default=200, help="of each run, a multiple of ten")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--changes", nargs="*", default=[], metavar="KEY=VALUE", help="of all configs, for a try")
    flags.add_argument("--flags", nargs="*", default=[], help="of the evaluation, for a try")
    flags.add_argument("--work", default="", help="folder for the runs (default: a temporary one)")
    flags.add_argument("--out", default=ROOT / "benchmarks/results/choose.json", type=Path)
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, start = Path(args.work or temporary), time.monotonic()
        for name in args.runs:
            if not (folder / name / "run.json").exists():
                train(args, name, folder / name)
        rows = []
        for name, other in zip(args.runs, [*args.runs[1:], args.runs[0]]):
            found = json.loads(call("jaxssl.evaluate", "--workdir", str(folder / name), "--choose", "rankme", "--reference", str(folder / other), "--json", *args.flags))
            rows.append({"method": name, "seed": args.seed, "reference": other, "rank_correlation": found["rank_correlation"], "picks": found["picks"],
                         "checkpoints": [{"step": row["step"], **row["values"]} for row in found["checkpoints"]], "evaluation_seconds": found["seconds"]})
            print(f"{name:10} " + ", ".join(f"{measure} {said(each['rho'])}" for measure, each in found["rank_correlation"].items()), flush=True)
        measures = list(rows[0]["rank_correlation"])
        summary = {measure: {"rho": [row["rank_correlation"][measure]["rho"] for row in rows], "lost_knn": [lost(row, measure) for row in rows]} for measure in measures}
        for each in summary.values():
            known = [value for value in each["rho"] if value is not None]
            each["mean_rho"] = round(statistics.mean(known), 3) if known else None
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"command": "python benchmarks/choose.py", "machine": machine("jax", "jaxlib", "flax", "scipy"), "steps": args.steps,
                                        "changes": args.changes, "wall_seconds": round(time.monotonic() - start, 1), "summary": summary, "runs": rows}, indent=1) + "\n")


def train(args, name: str, workdir: Path) -> None:
    every = max(args.steps // 10, 1)
    keys = {"seed": args.seed, "total": f"{10 * every}_steps", "eval_every": "0", "checkpoint_every": f"{every}_steps", "checkpoint.keep_every": every,
            "log_every": max(every // 4, 1), "eval.raw": "false", "report": "false", "log.tensorboard": "false", **dict(change.split("=", 1) for change in args.changes)}
    call("jaxssl.main", "--config", f"configs/digits/{name}.py", "--workdir", str(workdir), *(f"--config.{key}={value}" for key, value in keys.items()))


def call(*command: str) -> str:
    """What a command printed. Raises: SystemExit with the end of what it said."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {(done.stderr or done.stdout)[-1200:]}")
    return done.stdout


def lost(row: dict, measure: str) -> float | None:
    """kNN of the best checkpoint less that of the measure's own choice."""
    own, best = row["picks"].get(measure), row["picks"].get("knn")
    return round(best["knn"] - own["knn"], 4) if own and best else None


def said(rho: float | None) -> str:
    return "–" if rho is None else f"{rho:+.2f}"


if __name__ == "__main__":
    main()
