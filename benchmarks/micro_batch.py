"""What micro-batches cost and save: memory of the train step at batch 4,096 in parts of 256 against batch 256 at once, and the time an image.

    python benchmarks/micro_batch.py        # writes benchmarks/results/micro_batch.json

SimCLR with its blockwise loss, views of 32 px, float32, one CPU device; each figure comes from a process of its own. Memory: the temporaries that the compiler
plans for a step with ResNet-18 and the CIFAR stem (`memory_analysis`; it is not run), and the most that a process held that ran steps of a small vision
transformer (batch 512 in parts of 64 against batch 64). Time: of that transformer, in parts and at once; and of a small ResNet at batch 128 in parts of 64.

Bars: memory at most 15 % above the small batch's; at most 1.5 times the time an image. Expected: a part is computed forward twice and backward once, so 4 thirds
of the operations; what all parts leave behind, canvases, views and embeddings, are 101 MB of views against 5 MB of activations a view. For convolutions XLA
misses the time on CPUs, and only there: it brings those of a weight's gradient into the order of axes that its fast code knows in the main program, not in the
body of a loop (jax issue 12868), where plain loops compute them.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from machine import machine, spread  # noqa: E402

LARGE = {"model.name": "resnet18", "model.stem": "cifar"}
VIT = {"model.name": "vit_tiny", "model.width": "96", "model.depth": "4", "model.heads": "4", "model.patch": "4", "model.image": "32"}
RESNET = {"model.name": "resnet10", "model.stem": "cifar", "model.width": "0.25"}
FIXED = {"method.block": "256", "method.hidden": "512", "precision": "f32", "data.examples": "50000", "augment.blur": "0.0", "total": "100", "warmup": "10"}
# (network, batch, micro_batch)
CASES = {"memory, batch 256": (LARGE, 256, 0), "memory, batch 4096 in parts of 256": (LARGE, 4096, 256),
         "run, transformer, batch 64": (VIT, 64, 0), "run, transformer, batch 512 in parts of 64": (VIT, 512, 64), "run, transformer, batch 512 at once": (VIT, 512, 0),
         "run, ResNet, batch 128 in parts of 64": (RESNET, 128, 64), "run, ResNet, batch 128 at once": (RESNET, 128, 0)}


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/micro_batch.json"))
    flags.add_argument("--steps", type=int, default=2, help="timed, after one that is not")
    flags.add_argument("--cases", default=",".join(map(str, range(len(CASES)))), help="numbers of some; other rows of an earlier result stay")
    flags.add_argument("--case", help="measure this one in this process (internal)")
    args = flags.parse_args()
    if args.case:
        return print(json.dumps(measure(args.case, args.steps)))
    file = Path(args.out)
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    for name in [list(CASES)[int(i)] for i in args.cases.split(",")]:
        found = subprocess.run([sys.executable, __file__, "--case", name, "--steps", str(args.steps)], stdout=subprocess.PIPE, text=True, check=True,
                               env={**os.environ, "JAX_PLATFORMS": "cpu"})
        rows[name] = json.loads(found.stdout.splitlines()[-1])
        print(name, rows[name], flush=True)
        file.write_text(json.dumps({"command": "python benchmarks/micro_batch.py", "machine": machine("jax", "jaxlib", "flax"), "rows": rows,
                                    "against_bars": judge(rows)}, indent=1) + "\n")
    print(json.dumps(judge(rows), indent=1))


def measure(name, steps):
    import jax
    import numpy as np
    from jaxssl import config as configs
    from jaxssl.parallel import mesh as sharding
    from jaxssl.planning import hlo
    from jaxssl.training import job as jobs
    network, batch, micro = CASES[name]
    config = configs.load(str(ROOT / "configs/cifar10/simclr.py"), {**FIXED, **network, "batch_size": str(batch), "micro_batch": str(micro)})
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(50_000, 10, 32, False))
    start = time.perf_counter()
    compiled = job.step.lower(job.state, job.batch).compile()
    memory = compiled.memory_analysis()
    row = {"compile_seconds": round(time.perf_counter() - start, 1), "temporaries_mb": round(memory.temp_size_in_bytes / 1e6, 1),
           "arguments_mb": round(memory.argument_size_in_bytes / 1e6, 1)}
    if name.startswith("memory"):
        buffers = hlo.largest(hlo.parse(compiled.as_text()), 6)
        return row | {"largest": [f"{b['bytes'] / 1e6:.1f} MB {b['shape']} {b['op_name'][-90:]}" for b in buffers]}
    state = job.init(np.asarray(jax.random.key_data(jax.random.key(0))))
    rng = np.random.default_rng(0)
    data = {"image": rng.integers(0, 255, (batch, 32, 32, 3), np.uint8), "size": np.full((batch, 2), 32, np.int32), "label": np.zeros(batch, np.int32),
            "id": np.arange(batch, dtype=np.int32), "stop": np.zeros(1, np.int32)}
    walls, processor = [], []
    for _ in range(steps + 1):
        wall, used = time.perf_counter(), time.process_time()
        state, metrics = compiled(state, data)
        jax.block_until_ready((state, metrics))
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - used)
    assert float(metrics["finite"]) == 1
    return row | {"milliseconds_an_image": spread([1e3 * s / batch for s in walls[1:]]), "processor_milliseconds_an_image": spread([1e3 * s / batch for s in processor[1:]]),
                  "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1), "load": round(os.getloadavg()[0], 1)}


def judge(rows):
    """Each bar with what was measured, as far as its rows are there."""
    def ratio(above, below, value):
        return round(value(rows[above]) / value(rows[below]), 3) if above in rows and below in rows else None

    def temporaries(row):
        return row["temporaries_mb"]

    def held(row):
        return row["peak_rss_mb"]

    def processor(row):
        return row["processor_milliseconds_an_image"]["median"]

    vit, resnet = "run, transformer, batch 512 in parts of 64", "run, ResNet, batch 128 in parts of 64"
    found = {"temporaries of 4096 in parts of 256 over those of 256": (ratio("memory, batch 4096 in parts of 256", "memory, batch 256", temporaries), 1.15),
             "temporaries, transformer, 512 in parts of 64 over 64": (ratio(vit, "run, transformer, batch 64", temporaries), 1.15),
             "peak memory of the process, transformer, 512 in parts of 64 over 64": (ratio(vit, "run, transformer, batch 64", held), 1.15),
             "processor time an image, transformer, in parts over at once": (ratio(vit, "run, transformer, batch 512 at once", processor), 1.5),
             "processor time an image, ResNet, in parts over at once": (ratio(resnet, "run, ResNet, batch 128 at once", processor), 1.5)}
    return {name: {"measured": value, "bar": bar, "met": None if value is None else value <= bar} for name, (value, bar) in found.items()}


if __name__ == "__main__":
    main()
