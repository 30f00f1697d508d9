"""What compiling the draw of the first weights costs beside compiling the step, and whether cheaper code draws the same values.

    python benchmarks/compile_init.py           # writes benchmarks/results/compile_init.json

Each row is one config, lowered as a run does it, without compilation cache: processor seconds of compiling the step and `job.init`, the latter as JAX
does it by default and with `programs.INIT_OPTIONS`; and whether machines with other instruction sets draw the same state, bit by bit (`xla_cpu_max_isa`: AVX2
against all that this one has). ResNet-50 has the ImageNet recipe's shapes, of a batch of 16.

Expected before it ran: the program draws some dozens of arrays, one after another, and most of the time goes into optimizing code that runs once;
1.6 of 5.9 s at the lowest level. The bar: a quarter of the step's time, values unchanged between machines.

The lowest level draws other last bits than the others on machines with fused multiply-add, and the same on all of these; without (SSE 4.2) every level
draws a third.
"""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402: after the platform
import numpy as np  # noqa: E402
from machine import machine  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from jaxssl import config as configs, tree  # noqa: E402
from jaxssl.parallel import mesh as sharding  # noqa: E402
from jaxssl.training import job as jobs  # noqa: E402

CASES = {"resnet10, digits": ("configs/digits/simclr.py", {}, (1797, 10, 32)), "resnet50, imagenet": ("configs/imagenet/simclr.py", {"batch_size": "16"}, (1_281_167, 1000, 256))}


ISAS = ("AVX2", "")


def main():
    if len(sys.argv) > 1:
        return print(digest(sys.argv[1]))
    rows = {}
    for name in CASES:
        job = prepared(name)
        key = np.asarray(jax.random.key_data(jax.random.key(0)))
        plain = jax.jit(job.init.__wrapped__, out_shardings=job.state_sharding)
        seconds, compiled = {}, {}
        for what, call, arguments in (("step", job.step, (job.state, job.batch)), ("init_by_default", plain, (key,)), ("init", job.init, (key,))):
            lowered, start = call.lower(*arguments), time.process_time()
            compiled[what] = lowered.compile()
            seconds[what] = round(time.process_time() - start, 2)
        start = time.process_time()
        ours = compiled["init"](key)
        jax.block_until_ready(ours)
        seconds["running_init"] = round(time.process_time() - start, 2)
        drawn = {isa: subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True, env={
            **os.environ, "XLA_FLAGS": isa and f"--xla_cpu_max_isa={isa}"}).stdout.strip() for isa in ISAS}
        rows[name] = {"cpu_seconds": seconds, "init_over_step": round(seconds["init"] / seconds["step"], 3), "state_sha256": drawn}
        print(name, rows[name], flush=True)
    result = {"command": "python benchmarks/compile_init.py", "machine": machine("jax", "jaxlib"), "options": programs.INIT_OPTIONS, "rows": rows,
              "against_bars": {"init_over_step (bar .25)": max(row["init_over_step"] for row in rows.values()),
                               "states that differ between instruction sets (bar 0)": sum(len(set(row["state_sha256"].values())) > 1 for row in rows.values())}}
    (ROOT / "benchmarks/results/compile_init.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["against_bars"]))


def prepared(name):
    spec, changes, (examples, classes, canvas) = CASES[name]
    config = configs.load(str(ROOT / spec), changes)
    return jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(examples, classes, max(canvas, config.augment.size), False))


def digest(name):
    return tree.digest(prepared(name).init(np.asarray(jax.random.key_data(jax.random.key(0)))))


if __name__ == "__main__":
    main()
