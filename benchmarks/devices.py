"""The same 30 steps on 1 device, on 8, and on 2 processes of 4: losses within 1e-4 relative, the first gradient within 1e-5.

    python benchmarks/devices.py            # writes benchmarks/results/devices.json

The steps are the first of the ImageNet recipe's schedule (LARS, .3·B/256, warm-up over 3,128 steps of 31,278). A control repeats the run on one device with the
parameters nudged by 1e-7 relative: what grows there is the dynamics, not the devices. Predicted: about 1e-6 in the gradient, since only the order of sums
differs, and losses within 1e-4. Seen on the way: with warm-up over 10 epochs of this small set (225 steps) losses of 8 devices drift by 4e-4 and the control by
3e-4; without warm-up, or with AdamW, any two orders of summation drift apart by 1e-2, the control included. In a batch of 256 an activation within rounding of
ReLU's kink may fall on either side, which changes single entries of the gradient by up to 5e-4 of its largest.
"""
import argparse
import dataclasses
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
LATE = {"warmup": "0"}  # the full rate from the first step


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/devices.json"))
    flags.add_argument("--worker", nargs=4, metavar=("FILE", "PROCESSES", "ID", "PORT"))
    flags.add_argument("--nudged", action="store_true")
    flags.add_argument("--late", action="store_true")
    args = flags.parse_args()
    if args.worker:
        file, processes, index, port = args.worker
        return work(file, int(processes), int(index), port, args.nudged, args.late)
    with tempfile.TemporaryDirectory() as folder:
        cases = (("1", 1, 1, []), ("8", 8, 1, []), ("2 x 4", 4, 2, []), ("control: 1, nudged by 1e-7", 1, 1, ["--nudged"]),
                 ("no warm-up: 1", 1, 1, ["--late"]), ("no warm-up: 8", 8, 1, ["--late"]), ("no warm-up: control", 1, 1, ["--late", "--nudged"]))
        runs = {case[0]: launch(Path(folder) / f"{i}.json", *case[1:]) for i, case in enumerate(cases)}
    reference = {name: runs["no warm-up: 1" if name.startswith("no") else "1"] for name in runs}
    scale = max(abs(v) for v in runs["1"]["gradient"])
    rows = {name: {"first_loss": run["losses"][0], "last_loss": run["losses"][-1],
                   "largest_relative_loss_difference": max(abs(a / b - 1) for a, b in zip(run["losses"], reference[name]["losses"])),
                   "relative_loss_differences": [float(f"{abs(a / b - 1):.2g}") for a, b in zip(run["losses"], reference[name]["losses"])],
                   "largest_gradient_difference": max(abs(a - b) for a, b in zip(run["gradient"], reference[name]["gradient"])) / scale} for name, run in runs.items()}
    result = {"command": "python benchmarks/devices.py", "steps": STEPS, "bars": {"loss": 1e-4, "gradient": 1e-5}, "machine": machine("jax", "jaxlib", "flax", "optax"),
              "rows": rows}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def launch(file, devices, processes, options):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    alive = [subprocess.Popen([sys.executable, __file__, "--worker", str(file), str(processes), str(i), port, *options], env=environment, cwd=ROOT) for i in range(processes)]
    if any([p.wait() for p in alive]):
        sys.exit("a worker failed")
    return json.loads(file.read_text())


def work(file, processes, index, port, nudged, late):
    from jaxssl.parallel import processes as distributed
    if processes > 1:
        distributed.join(coordinator=f"127.0.0.1:{port}", processes=processes, process_id=index)
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jaxssl import config, tree
    from jaxssl.parallel import runtime
    from jaxssl import data as datas
    from jaxssl.training import job
    from jaxssl.parallel import mesh as sharding
    from tests.tiny import Tiny

    runtime.configure("off")
    spec = config.load("configs/digits/simclr.py", {"batch_size": "64", "total": "31278", "warmup": "3128", "model.name": "resnet10", "model.width": "0.125",
                                                    "model.stem": "cifar", "augment.size": "16", "data.canvas": "16", "data.variant": "clean",
                                                    "optim.name": "lars", "optim.lr": "0.3", "optim.scaling": "linear", "optim.weight_decay": "1e-6", **(LATE if late else {})})
    tiny = Tiny(spec, devices=jax.device_count())
    if nudged:
        tiny.state = dataclasses.replace(tiny.state, params=jax.tree.map(lambda p: p * (1 + 1e-7), tiny.state.params))
    make_views, _ = job.views(spec)

    def first_gradient(state, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 0)
        views = make_views(key, datas.lookup(batch))
        return jax.grad(lambda p: tiny.job.method.loss(p, state.aux, views, key, jnp.zeros((), jnp.int32))[0])(state.params)

    gradient = jax.jit(first_gradient, out_shardings=sharding.replicated(tiny.mesh))(tiny.state, tiny.batch(0))
    gradient = np.concatenate([np.asarray(g).ravel() for g in tree.names({k: v for k, v in gradient.items() if k != "probe"}).values()])
    losses = [m["loss"] for m in tiny.run(STEPS)]
    if index == 0:
        Path(file).write_text(json.dumps({"losses": losses, "gradient": gradient.tolist()}))


if __name__ == "__main__":
    main()
