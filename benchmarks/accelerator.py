"""Every method on an accelerator against the CPU: loss, gradient and state of one step of its tiny model, float32; and whether a run there is the same to the bit.

    python benchmarks/accelerator.py --jobs 8           # all methods; to benchmarks/results/accelerator.json
    python benchmarks/accelerator.py --method byol      # one

Each method is computed by processes of its own: on the CPU, on the accelerator with exact products (`highest`), and there with its default ones (TF32 on Ampere and newer
GPUs, bfloat16 on TPUs). `gradient`: norm of the difference over the norm, all arrays together. `same_bits`: two processes of one command end in the same state:
60 steps of the quick start, as the environment has it, and with XLA_FLAGS=--xla_gpu_deterministic_ops=true.
"""
import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parent.parent


def worker(method: str, precision: str, out: str) -> None:
    """Writes loss, gradient and state after a step of the tiny `method` to `out`."""
    sys.path.insert(0, str(ROOT))
    import jax
    from jaxssl.parallel import runtime
    runtime.configure("off")
    jax.config.update("jax_default_matmul_precision", None if precision == "default" else "highest")
    from tests.tiny import Tiny, config_of
    tiny = Tiny(config_of(method), devices=1)
    loss = tiny.run(1)[0]["loss"]
    gradient = {f"gradient/{k}": v for k, v in tiny.named("opt_state").items() if "/mu/" in k or "/trace/" in k}
    state = {f"state/{k}": v for k, v in tiny.named("aux").items() if v.dtype == np.float32}
    np.savez(out, loss=np.float64(loss), device=jax.devices()[0].device_kind, **gradient, **state)


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--method", nargs="+")
    flags.add_argument("--jobs", type=int, default=1)
    flags.add_argument("--platform", default="cuda", help="JAX's name of the accelerator")
    flags.add_argument("--precision", nargs="+", default=["highest", "default"])
    flags.add_argument("--bits", type=int, default=60, help="steps of the runs compared to the bit; 0: none")
    flags.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/accelerator.json"))
    args = flags.parse_args()
    if args.worker:
        return worker(*args.worker)
    methods = args.method or sorted(p.stem for p in (ROOT / "jaxssl/methods").glob("*.py") if p.stem not in ("__init__", "base"))
    start, result = time.monotonic(), {"command": "python benchmarks/accelerator.py", "device": None, "machine": machine("jax", "jaxlib", "flax", "optax"), "rows": []}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        digests = {(flag, n): pool.submit(bits, args, folder, flag, n) for flag in FLAGS for n in (0, 1)} if args.bits else {}
        for row in (future.result() for future in concurrent.futures.as_completed([pool.submit(compared, args, folder, method) for method in methods])):
            result["device"] = row.pop("device", result["device"])
            result["rows"] = sorted([*result["rows"], row], key=lambda r: r["method"])
            Path(args.out).write_text(json.dumps(result, indent=1) + "\n")         # as they come: a run that is cut keeps what it has
            print(f"{time.monotonic() - start:5.0f} s  {row['method']:16}", *(f"{p}: {said(row[p])}" for p in args.precision), flush=True)
        found = {pair: future.result() for pair, future in digests.items()}
    result["same_bits"] = {flag or "as the environment has it": found[flag, 0] == found[flag, 1] and found[flag, 0] for flag in FLAGS} if found else None
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print("the same bits twice:", result["same_bits"])


def compared(args, folder: str, method: str) -> dict:
    """The row of a method: the processes one after the other, the differences of each precision from the CPU's exact products, or what went wrong."""
    files = {job: f"{folder}/{method}-{'-'.join(job)}.npz" for job in [("highest", "cpu"), *((p, args.platform) for p in args.precision)]}
    errors = {job: run([__file__, "--worker", method, job[0], file], job[1]) for job, file in files.items()}
    row = {"method": method}
    for precision in args.precision:
        pair = [("highest", "cpu"), (precision, args.platform)]
        wrong = [errors[job] for job in pair if errors[job]]
        row[precision] = {"error": wrong[0]} if wrong else differences(*(files[job] for job in pair))
        row["device"] = row[precision].pop("device", "")
    return row


def said(found: dict) -> str:
    return found["error"][-300:] if "error" in found else " ".join(f"{kind} {found[kind]:.1e}" for kind in ("loss", "gradient", "state"))


FLAGS = ("", "--xla_gpu_deterministic_ops=true")


def run(command: list[str], platform: str, flags: str = "") -> str:
    """"" or the end of what went wrong."""
    environment = {**os.environ, "JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr or done.stdout or f"ended with {done.returncode}")[-600:]


def bits(args, folder: str, flag: str, n: int) -> str:
    """The digest of the state at the end of the quick start's first steps."""
    workdir = f"{folder}/{len(flag)}-{n}"
    command = ["-m", "jaxssl.main", "--config", "configs/digits/simclr.py", "--workdir", workdir, f"--config.total={args.bits}", "--compilation_cache", "off"]
    error = run(command, args.platform, flag)
    return error or json.loads(Path(workdir, "run.json").read_text())["state_sha256"]


def differences(cpu: str, other: str) -> dict:
    """Of loss (relative), gradient and state (of their norms) between two files."""
    a, b = (np.load(file, allow_pickle=False) for file in (cpu, other))

    def norm(part):
        names = [k for k in a.files if k.startswith(part)]
        return float(np.sqrt(sum(np.sum((np.float64(a[k]) - b[k]) ** 2) for k in names) / max(sum(np.sum(np.float64(a[k]) ** 2) for k in names), 1e-30)))
    return {"loss": float(abs(a["loss"] - b["loss"]) / max(abs(a["loss"]), 1e-30)), "gradient": norm("gradient/"), "state": norm("state/"), "device": str(b["device"])}


if __name__ == "__main__":
    main()
