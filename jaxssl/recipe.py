"""`python -m jaxssl.recipe PATH [--out config.py] [--devices N --memory GB] [--weights W]`: looks at a set of images and writes a config for it, with its reasons.

Each value says where it is from: a paper, a measurement of this project, or a rule of thumb. The same images and the same machine give the same file; nothing is trained,
unless --time asks for a few steps on this machine, whose speed is printed and is not in the file.
"""
import argparse
import contextlib
import json
import os
import re
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from jaxssl import durations
from jaxssl.command import guarded, jax_can_start, local, number, place, process, whole
from jaxssl.errors import UserError, shown

FREE = .2                   # share of a device's memory that is left free
CORE = 40e9                 # operations a second of a core: two quiet ones reach 55 to 180 GFLOP/s in gradients of convolutions
TIMED = 8                   # steps of --time, of which the second half counts


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.recipe", allow_abbrev=False, description="Write a config for a set of images, with its reasons. Exit code 2: wrong input.",
                                epilog="The file is a start, not a verdict: where evidence is thin it says so.")
    p.add_argument("path", type=place, metavar="PATH", help="a folder of images, a zip, a prepared TFDS directory or a packed set")
    p.add_argument("--out", type=local, default="", metavar="FILE", help="a new config file, ending in .py (default: print it)")
    p.add_argument("--devices", type=whole, default=0, help="accelerators to train on, with --memory (default: what this machine has)")
    p.add_argument("--memory", type=number, default=0., metavar="GB", help="of each of them")
    p.add_argument("--weights", type=place, default="", metavar="W",
                   help="an encoder to continue from: a workdir, an export or a file that jaxssl.load opens (default: from scratch)")
    p.add_argument("--time", action="store_true", help=f"train {TIMED} steps on this machine and print how long the run will take")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def machine(devices: int, memory: float) -> Any:
    """What the recipe is for: as asked, or what JAX finds here. Raises: UserError."""
    from jaxssl.advice.rules import Machine
    if bool(devices) != bool(memory):
        raise UserError("--devices and --memory go together: so many accelerators with so many GB each; leave both out for what this machine has")
    if devices < 0 or devices > 4096 or memory < 0 or memory > 10_000:
        raise UserError(f"--devices {devices} and --memory {memory:g} make no sense; write from 1 to 4,096 devices with up to 10,000 GB each")
    if devices:
        return Machine(devices, memory * 1e9, False, f"{devices} accelerator{'s' if devices > 1 else ''} with {memory:g} GB each")
    import jax
    from jaxssl.parallel import runtime
    found, (_, held) = jax.devices(), runtime.memory()
    cpu, count = jax.default_backend() == "cpu", len(found)
    return Machine(count, (held or 8e9) / count, cpu, f"{count} × {found[0].device_kind}, {held / count / 1e9:.3g} GB each" if not cpu else
                   f"the processor of this machine, {_cores()} cores, {held / 1e9:.3g} GB")


def given(weights: str) -> dict | None:
    """What a recipe asks of weights to continue from; None for "". Raises: UserError."""
    if not weights:
        return None
    from jaxssl.encoder import load as loading
    own = loading.load(weights)
    view = own.preprocessing
    model = {key: tuple(value) if isinstance(value, list) else value for key, value in dict(own.config["model"]).items()}
    return {"path": os.path.abspath(weights), "model": model, "size": int(view["size"]), "mean": tuple(map(float, view["mean"])), "std": tuple(map(float, view["std"])),
            "interpolation": view["interpolation"]}


def loaded(text: str, facts: Any) -> tuple[Any, Any]:
    """(config, job on one device) of the file `text`, which is so shown to load. Raises: UserError."""
    import jax
    from jaxssl import config as configs
    from jaxssl.parallel import mesh as sharding
    from jaxssl.training import job as jobs
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.py"
        file.write_text(text, encoding="utf-8")
        config = configs.load(str(file))
    return config, jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(facts.images, facts.classes, config.data.canvas, False))


def fitting(memory: dict, devices: int, each: float) -> int:
    """Images of a batch that fit into `devices` of `each` bytes, by plan's count (`plan.estimate`), with `FREE` left."""
    return int(max((1 - FREE) * each - memory["state_and_gradients"], 0) / max(memory["activations_at_most_per_image"], 1)) * devices


def costs(found: dict, steps: int, where: Any) -> list[str]:
    """What a run takes, in sentences, by plan's count of its operations."""
    operations = found["flops"] * steps
    first = f"{found['flops'] / 1e9:,.3g} GFLOP a step by `plan`, {operations:.2e} in all, evaluation not counted"
    if where.cpu:
        return [first, f"Time: about {durations.spoken(operations / (_cores() * CORE))} by formula, not measured: operations / ({_cores()} cores × "
                       f"{CORE / 1e9:g} GFLOP/s); --time measures"]
    at = ", ".join(f"{durations.spoken(operations / where.devices / rate)} at {rate / 1e12:g}" for rate in (10e12, 100e12))
    return [first, f"Time: by formula, not measured, operations / ({where.devices} × the rate that a device sustains): {at} TFLOP/s; --time there measures"]


def advise(path: str, *, out: str = "", devices: int = 0, memory: float = 0., weights: str = "", command: str = "") -> tuple[str, Any, Any]:
    """(text of the config file, facts, machine). Raises: UserError."""
    from jaxssl import plan
    from jaxssl.advice import look, rules, written
    where, begin = machine(devices, memory), given(weights)
    facts = look.look(path)

    def made(most, sentences=()):
        recipe = rules.decide(facts, where, weights=begin, most=most)
        return recipe, written.text(facts, where, recipe, costs=sentences, command=command, out=out)
    recipe, text = made(0)
    config, job = loaded(text, facts)
    found = plan.estimate(config, job)
    most = fitting(found["memory"], where.devices, where.memory)
    if most < 2 * where.devices:
        raise UserError(f"not even two images a device fit into {where.memory / 1e9:.3g} GB by plan's count ({found['memory']['state_and_gradients'] / 1e9:.3g} GB of state, and "
                        f"{found['memory']['activations_at_most_per_image'] / 1e9:.3g} GB an image); give devices with more --memory")
    if most < config.batch_size:
        recipe, text = made(most)
        config, job = loaded(text, facts)
        found = plan.estimate(config, job)
    return made(min(most, config.batch_size) if most < config.batch_size else most, costs(found, job.total, where))[1], facts, where


def timed(text: str) -> float:
    """Seconds of a step of the file on this machine, in the middle of the second half of `TIMED` steps. Raises: UserError."""
    from jaxssl.training import train
    with tempfile.TemporaryDirectory() as folder:
        file, workdir = Path(folder) / "recipe.py", Path(folder) / "run"
        file.write_text(text, encoding="utf-8")
        brief = {"total": str(TIMED), "warmup": "1", "log_every": "1", "eval_every": "0", "checkpoint_every": "0", "checkpoint.keep_every": "0", "report": "false",
                 "log.tensorboard": "false", "eval.raw": "false", "eval.reference": "64", "eval.queries": "32"}
        with contextlib.redirect_stdout(sys.stderr):
            train.run(str(file), brief, str(workdir), allow_config_change=False, profile_steps=None)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([line["step_seconds"] for line in lines if "step_seconds" in line][TIMED // 2:])


def _cores() -> int:
    from jaxssl.data.pipeline import cores
    return cores()


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    flags = parser().parse_args(argv)

    def body():
        if flags.out and not flags.out.endswith(".py"):
            raise UserError(f"--out {shown(flags.out)} is no config file: one is Python and ends in .py")
        if flags.time and flags.devices:
            raise UserError("--time measures this machine, and --devices asks for another; leave one of them out")
        with jax_can_start():
            text, facts, _ = advise(flags.path, out=flags.out, devices=flags.devices, memory=flags.memory, weights=flags.weights,
                                    command=shlex.join(["python", "-m", "jaxssl.recipe", *argv]))
        told = timing(text) if flags.time else ""
        if not flags.out:
            print("\n".join(filter(None, (text, told))), flush=True)
            return
        keep(Path(flags.out), text)
        print("\n".join(filter(None, (f"{facts.images:,} images looked at; written: {shown(flags.out)}", told,
                                      f"train with it: python -m jaxssl.main --config {shlex.quote(flags.out)} --workdir runs/mine"))), flush=True)
    return guarded(body, flags.debug)


def timing(text: str) -> str:
    """How long the run of a file takes on this machine, in a sentence."""
    seconds, steps = timed(text), int(re.search(r"total='(\d+)_steps'", text)[1])
    return (f"# measured on this machine: {seconds:.3g} s a step (the median of {TIMED // 2}), so {durations.spoken(seconds * steps)} of training; evaluation and compiling "
            "are not counted")


def keep(file: Path, text: str) -> None:
    """Writes a config file that is new, or says the same already. Raises: UserError."""
    from jaxssl.workdir import folder as folders
    try:
        if file.exists() and file.read_text(encoding="utf-8", errors="replace") != text:
            raise UserError(f"{shown(str(file))} is there already and says something else; name a new file with --out")
        folders.write(file, text)
    except OSError as error:
        raise UserError(f"cannot write {shown(str(file))} ({error.strerror or error}); give another file with --out") from error


if __name__ == "__main__":
    process(main)
