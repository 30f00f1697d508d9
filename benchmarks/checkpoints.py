"""Whether a checkpoint that was damaged on disk is ever read as if nothing had happened, and what the digests that see to it cost.

    python benchmarks/checkpoints.py [--flips 600] [--rounds 7]      # writes benchmarks/results/checkpoints.json

Damage: every file of a small checkpoint of SimCLR's train state (ResNet-10 of a sixteenth of the width, on two emulated devices) is cut into as many regions as
make up the number of flips, and one bit of each is flipped, once; then each file is truncated, emptied and removed, and each folder is removed. After every one the
checkpoint is read as a resume, and as an evaluation or export reads it. Either it is refused in one sentence, or what was read is what was saved, to the bit.
Cost: a save until it is committed and a restore of SimCLR's train state with a ResNet-50, with digests and without, in turns; and the digests by themselves, beside a save
and a restore without. Goal: at most 10 % more.
"""
import argparse
import contextlib
import hashlib
import json
import logging
import math
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from machine import machine, spread  # noqa: E402

OUT = ROOT / "benchmarks" / "results" / "checkpoints.json"
SMALL = {"model.name": "resnet10", "model.width": "0.0625", "model.stem": "cifar", "batch_size": "16", "augment.size": "16", "data.canvas": "16"}


def made(spec: str, overrides: dict, devices: int):
    """(job, its train state with random values in every array) of a config."""
    import jax
    import numpy as np
    from jaxssl import config as configs
    from jaxssl.parallel import mesh as sharding
    from jaxssl.training import job as jobs
    config = configs.load(str(ROOT / spec), overrides)
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    job = jobs.prepare(config, mesh, jobs.Facts(config.data.examples or 1000, 10, config.data.canvas, False))
    numbers = np.random.default_rng(0)

    def drawn(shape, where):
        values = numbers.standard_normal(shape.shape, np.float32) if np.issubdtype(shape.dtype, np.floating) else numbers.integers(0, 100, shape.shape)
        return jax.device_put(np.asarray(values).astype(shape.dtype), where)
    return job, jax.tree.map(drawn, job.state, job.state_sharding)


def regions(folder: Path, count: int, draw: random.Random):
    """(file, bit) of one bit in each of `count` regions, or a few more, of about equal length; every file has one at least."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    length = sum(file.stat().st_size for file in files) / count
    for file in files:
        size, parts = file.stat().st_size, math.ceil(file.stat().st_size / length)
        cuts = [size * i // parts for i in range(parts + 1)] if size else []
        yield from ((file, draw.randrange(8 * low, 8 * high)) for low, high in zip(cuts, cuts[1:]))


@contextlib.contextmanager
def damaged(file: Path, kind: str, bit: int = 0):
    """`file`, or a folder, with that damage; whole again afterwards."""
    kept = Path(tempfile.mkdtemp()) / "kept"
    shutil.copytree(file, kept) if file.is_dir() else shutil.copy2(file, kept)
    try:
        if kind == "missing":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        else:
            data = bytearray(file.read_bytes())
            if kind == "flipped":
                data[bit // 8] ^= 1 << bit % 8
            file.write_bytes({"flipped": data, "truncated": data[:len(data) * 2 // 3], "emptied": b""}[kind])
        yield
    finally:
        if kept.is_dir():
            shutil.copytree(kept, file, dirs_exist_ok=True)
        else:
            shutil.copy2(kept, file)
        shutil.rmtree(kept.parent)


def read(job, workdir: str, step: int, expected: dict) -> dict[str, str]:
    """What becomes of a resume and of a reading of weights: "as saved", "refused", or what must not be."""
    from jaxssl import tree
    from jaxssl.errors import UserError
    from jaxssl.workdir import checkpoint
    found = {}

    def resume(reader):
        state, meta = reader.restore(step, job.state, job.state_sharding)
        return tree.digest(state), meta
    for name, body in (("resume", resume), ("weights", lambda reader: tree.digest(reader.weights(step)))):
        try:
            reader = checkpoint.open_reader(workdir)
            with contextlib.closing(reader):
                found[name] = "as saved" if body(reader) == expected[name] else "CHANGED"
        except UserError as error:
            found[name] = "refused" if f"{step}" in str(error) and "\n" not in str(error) else f"SAYS TOO LITTLE: {error}"
        except Exception as error:
            found[name] = f"TRACEBACK: {type(error).__name__}: {error}"
    return found


def damage(flips: int) -> dict:
    from jaxssl import tree
    from jaxssl.workdir import checkpoint
    job, state = made("configs/digits/simclr.py", SMALL, 2)
    counts, bad, draw = {}, [], random.Random(0)
    with tempfile.TemporaryDirectory() as workdir:
        meta = {"skipped": [3], "clock": {"steps": 7, "seconds": 1.25}, "lr": 0.125, "run": hashlib.sha256(b"").hexdigest()}
        manager = checkpoint.open_manager(workdir=workdir, asynchronous=False)
        manager.save(7, state, meta)
        manager.close()
        folder = Path(workdir) / "checkpoints" / "7"
        expected = {"resume": (tree.digest(state), meta), "weights": tree.digest({"params": state.params, "aux": state.aux})}
        assert set(read(job, workdir, 7, expected).values()) == {"as saved"}
        parts = sorted(folder.rglob("*"))
        todo = [("flipped", file, bit) for file, bit in regions(folder, flips, draw)]
        todo += [(kind, file, 0) for kind in ("truncated", "emptied", "missing") for file in parts if file.is_file()]
        todo += [("missing", part, 0) for part in [*parts, folder] if part.is_dir()]
        for number, (kind, file, bit) in enumerate(todo, 1):
            with damaged(file, kind, bit):
                found = read(job, workdir, 7, expected)
            for reader, outcome in found.items():
                key = outcome if outcome in ("as saved", "refused") else "wrong"
                counts.setdefault(kind, {}).setdefault(reader, {}).setdefault(key, 0)
                counts[kind][reader][key] += 1
                if key == "wrong":
                    bad.append({"file": str(file.relative_to(folder)), "damage": kind, "bit": bit, "reader": reader, "outcome": outcome[:300]})
                    print(bad[-1], flush=True)
            if number % 100 == 0:
                print(f"{number} of {len(todo)}: {counts}", flush=True)
        size, files = sum(part.stat().st_size for part in parts if part.is_file()), sum(part.is_file() for part in parts)
    return {"bytes": size, "files": files, "outcomes": counts, "wrong": bad}


def once(job, state, digested: bool) -> dict:
    """Seconds of a save and a restore, wall and processor."""
    import jax
    from jaxssl.workdir import checkpoint, digests
    plain = contextlib.ExitStack()
    if not digested:
        plain.enter_context(mock.patch.object(digests, "record", lambda state: {name: {"shape": list(x.shape), "dtype": str(x.dtype), "parts": {}}
                                                                               for name, x in checkpoint.tree.names(state).items()}))
        plain.enter_context(mock.patch.object(digests, "changed", lambda state, recorded: []))
    found = {}
    with plain, tempfile.TemporaryDirectory() as workdir:
        manager = checkpoint.open_manager(workdir=workdir)
        wall, cpu = time.perf_counter(), time.process_time()
        manager.save(1, state, {})
        found["blocked"] = time.perf_counter() - wall
        manager.wait()
        found["save"], found["save_cpu"] = time.perf_counter() - wall, time.process_time() - cpu
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(manager.restore(1, job.state, job.state_sharding)[0])
        found["load"], found["load_cpu"] = time.perf_counter() - wall, time.process_time() - cpu
        wall = time.perf_counter()
        manager.weights(1)
        found["weights"] = time.perf_counter() - wall
        manager.close()
    return found


def alone(state, rounds: int) -> dict:
    """Processor time of the digests by themselves, of which crowded cores change less than of a save: as one writes them, and as a restore compares them."""
    from jaxssl.workdir import digests
    recorded, spent = digests.record(state), {"record_cpu": [], "compare_cpu": []}
    for _ in range(rounds):
        for name, body in (("record_cpu", lambda: digests.record(state)), ("compare_cpu", lambda: digests.changed(state, recorded))):
            start = time.process_time()
            body()
            spent[name].append(time.process_time() - start)
    return {name: spread(values, 4) for name, values in spent.items()}


def cost(rounds: int) -> dict:
    import jax
    job, state = made("configs/imagenet/simclr.py", {}, 1)
    once(job, state, True), once(job, state, False)
    seen = {"with": [], "without": []}
    for number in range(rounds):
        for name in ("with", "without") if number % 2 else ("without", "with"):
            seen[name].append(once(job, state, name == "with"))
            print(name, {key: round(value, 3) for key, value in seen[name][-1].items()}, flush=True)
    result = {"bytes": sum(x.nbytes for x in jax.tree.leaves(state)), "arrays": len(jax.tree.leaves(state)), **alone(state, rounds)}
    for key in seen["with"][0]:
        result[key] = {name: spread((each[key] for each in rows), 3) for name, rows in seen.items()}
        result[f"{key}_ratio"] = round(result[key]["with"]["median"] / result[key]["without"]["median"], 3)
    for part, whole in (("record_cpu", "save_cpu"), ("compare_cpu", "load_cpu")):
        result[f"{part}_ratio"] = round(1 + result[part]["median"] / result[whole]["without"]["median"], 3)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flips", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("damage", "cost"), default=None, help="measure one part and keep the other as it is in the JSON")
    flags = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    result = json.loads(OUT.read_text()) if OUT.exists() else {}
    if flags.only != "cost":
        result["damage"] = damage(flags.flips)
    if flags.only != "damage":
        result["cost"] = cost(flags.rounds) | {"machine": machine("jax", "orbax-checkpoint", "tensorstore", "numpy")}
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"damage": result.get("damage", {}).get("outcomes"), **{key: value for key, value in result.get("cost", {}).items() if key.endswith("_ratio")}}))
    return bool(result.get("damage", {}).get("wrong"))


if __name__ == "__main__":
    sys.exit(main())
