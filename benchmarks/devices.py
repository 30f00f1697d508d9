"""The same 30 steps on 1 device, on 8, and on 2 processes of 4: losses within 1e-4 relative, the first gradient within 1e-5.

    python benchmarks/devices.py            # writes benchmarks/results/devices.json

The gradient is read from AdamW's first moment after one step, (1 − b1)·g. Predicted: about 1e-6 at the first step, growing with the steps, since only the
order of sums differs.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
STEPS = 30


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/devices.json"))
    flags.add_argument("--worker", nargs=4, metavar=("FILE", "PROCESSES", "ID", "PORT"))
    args = flags.parse_args()
    if args.worker:
        file, processes, index, port = args.worker
        return work(file, int(processes), int(index), port)
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: launch(Path(folder) / name.replace(" ", ""), devices, processes) for name, devices, processes in (("1", 1, 1), ("8", 8, 1), ("2 x 4", 4, 2))}
    one = runs["1"]
    scale = max(abs(v) for v in one["gradient"])
    rows = {name: {"first_loss": run["losses"][0], "last_loss": run["losses"][-1],
                   "largest_relative_loss_difference": max(abs(a / b - 1) for a, b in zip(run["losses"], one["losses"])),
                   "largest_gradient_difference": max(abs(a - b) for a, b in zip(run["gradient"], one["gradient"])) / scale} for name, run in runs.items()}
    result = {"command": "python benchmarks/devices.py", "steps": STEPS, "bars": {"loss": 1e-4, "gradient": 1e-5}, "machine": machine("jax", "jaxlib", "flax", "optax"), "rows": rows}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def launch(file, devices, processes):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    alive = [subprocess.Popen([sys.executable, __file__, "--worker", str(file), str(processes), str(i), port], env=environment, cwd=ROOT) for i in range(processes)]
    if any([p.wait() for p in alive]):
        sys.exit("a worker failed")
    return json.loads(file.read_text())


def work(file, processes, index, port):
    from jaxssl import distributed
    if processes > 1:
        distributed.join(coordinator=f"127.0.0.1:{port}", processes=processes, process_id=index)
    import jax
    import numpy as np
    from jaxssl import config, train, tree
    from tests.tiny import Tiny

    train.configure("off")
    spec = config.load("configs/digits/simclr.py", {"batch_size": "64", "total": str(STEPS), "warmup": "3", "model.name": "resnet10", "model.width": "0.125",
                                                    "model.stem": "cifar", "augment.size": "16", "data.canvas": "16", "data.variant": "clean"})
    tiny = Tiny(spec, devices=jax.device_count())
    losses = [tiny.run(1)[0]["loss"]]
    gather = jax.jit(lambda x: x, out_shardings=jax.sharding.NamedSharding(tiny.mesh, jax.sharding.PartitionSpec()))
    moments = {k: np.asarray(gather(v)) for k, v in tree.names(tiny.state.opt_state).items() if "/mu/" in k and "probe" not in k}
    losses += [m["loss"] for m in tiny.run(STEPS - 1, start=1)]
    if index == 0:
        gradient = np.concatenate([moments[k].ravel() for k in sorted(moments)])
        Path(file).write_text(json.dumps({"losses": losses, "gradient": gradient.tolist()}))


if __name__ == "__main__":
    main()
