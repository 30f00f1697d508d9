"""`python -m jaxssl.plan --config … [--topology v5e:16x16 | --devices 8] [--json]`: what a run will take, before it is paid for.

Without a topology: shapes, parameters, operations, a memory estimate and the resolved schedule, in seconds. With one, the train step itself
(`job.prepare`, what `main` runs) is compiled ahead of time by the real TPU compiler, on this machine and without a TPU, for that topology;
with --devices, by this machine's compiler for so many emulated CPU devices. Then: whether it fits, what it moves and computes on each
device, every collective, and how long a step and the run must at least take.
"""
import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import sys
import time
from typing import Any

from jaxssl.planning import roofline
from jaxssl.errors import UserError, nearest
from jaxssl.command import guarded, place, process, split_overrides, whole

# What part of the step an op_name belongs to, the first that matches; the compiler's own copies and gathers often have none.
PARTS = (("views", r"/views/|^batch\["), ("backward", r"transpose\("), ("forward", r"jvp\("), ("unnamed", r"^$"), ("update and metrics", ""))


MOST_CHIPS, MOST_EMULATED = 16_384, 4096     # of a slice, more than any has; and of emulated devices, each with threads of its own


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.plan", allow_abbrev=False, description="What a run will take: memory, operations, bytes, collectives, hours.",
                                epilog="Any key of the config: --config.batch_size=8192. Exit codes: 0 planned (whether it fits or not), 2 wrong input.")
    p.add_argument("--config", type=place, required=True, help="a config file, with :variant where it has some")
    where = p.add_mutually_exclusive_group()
    where.add_argument("--topology", default="", help=f"a TPU slice to compile for, for example v5e:16x16; {', '.join(roofline.CHIPS)}; needs the extra 'tpu'")
    where.add_argument("--devices", type=whole, default=0, help="compile for so many emulated CPU devices instead")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def prepare_environment(topology: str, devices: int) -> None:
    """Sets what JAX reads when it is imported. Raises: UserError, before anything slow."""
    if not 0 <= devices <= MOST_EMULATED:
        raise UserError(f"--devices is {devices}; emulate from 1 to {MOST_EMULATED:,} devices, or name a --topology")
    if topology:
        chip = topology.partition(":")[0]
        sides = re.fullmatch("[a-z0-9]+:([1-9][0-9]{0,2})x([1-9][0-9]{0,2})(?:x([1-9][0-9]{0,2}))?", topology)
        if chip not in roofline.CHIPS or not sides or math.prod(int(side or 1) for side in sides.groups()) > MOST_CHIPS:
            raise UserError(f"--topology is {topology[:60]!r}; write CHIP:AxB or CHIP:AxBxC with a chip of {', '.join(roofline.CHIPS)} and at most {MOST_CHIPS:,} of them, "
                            f"for example v5e:16x16 or v5p:4x4x4{nearest(chip, roofline.CHIPS)}")
        if importlib.util.find_spec("libtpu") is None:
            raise UserError('--topology needs the TPU compiler, which is an ordinary package: pip install "jaxssl[tpu]"')
        # A compiler, not a device: no metadata server is asked, and several processes may use it at once.
        # The last two only keep it from complaining that it is not on a TPU machine; the topology is the one asked for.
        os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5litepod-16")
    os.environ["JAX_PLATFORMS"] = "cpu"
    if devices and "jax" not in sys.modules:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"


def find_devices(topology: str, devices: int) -> list:
    """The devices to plan for. Raises: UserError."""
    import jax
    if not topology:
        if len(jax.devices()) < devices or devices < 0:
            raise UserError(f"--devices is {devices}, but JAX started with {len(jax.devices())}; use a number from 1 on, in a fresh process")
        return jax.devices()[:devices or 1]
    from jax.experimental import topologies
    try:
        # Generations with two cores a chip are used as one device a chip, as JAX does on the machines themselves.
        options = {"chip_config_name": "megacore"} if topology.startswith(("v4", "v5p")) else {}
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices)
    except Exception as error:
        raise UserError(f"the TPU compiler knows no topology {topology!r} ({str(error).splitlines()[0][:200]}); "
                        f"a slice is named by its sides, such as v5e:2x4, v5e:16x16, v6e:8x8, v4:2x2x4, v5p:4x4x4") from error


def make(spec: str, overrides: dict[str, str], *, topology: str = "", devices: int = 0) -> dict:
    """The plan as a dict of plain values. Raises: UserError."""
    prepare_environment(topology, devices)
    import jax
    import numpy as np
    from jaxssl import config as configs, data as datas
    from jaxssl.training import job as jobs, pixels
    from jaxssl.parallel import mesh as sharding

    config = configs.load(spec, overrides)
    data = datas.declared(**config.data)
    config, _ = pixels.settled(config, data)
    found = find_devices(topology, devices)
    mesh = sharding.make_mesh(devices=found, **(config.mesh if topology or devices else {}))
    job = jobs.prepare(config, mesh, jobs.Facts(len(data.train), len(data.classes), data.canvas, data.resident, channels=data.pixels.channels, depth=data.pixels.depth))
    state_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(job.state))
    plan = {
        "config": spec, "overrides": overrides, "topology": topology, "devices": mesh.size, "mesh": dict(mesh.shape), "batch_size": config.batch_size,
        "images": job.facts.examples, "views": job.views, "features": job.width,
        "parameters": {name: int(sum(x.size for x in jax.tree.leaves(part))) for name, part in job.state.params.items()},
        "state_bytes": int(state_bytes),
        "schedule": {"total": job.total, "warmup": job.warmup, "epochs": job.total * config.batch_size / job.facts.examples,
                     **{name: job.duration(config[name], name, config.batch_size) for name in ("log_every", "eval_every", "checkpoint_every")},
                     "lr_peak": float(max(job.optim.schedule(np.asarray(s)) for s in {*np.linspace(0, job.total - 1, 101).astype(int), min(job.warmup, job.total - 1)}))},
        "optimizer": job.optim.describe,
        "versions": {name: _version(name) for name in ("jaxssl", "jax", "flax", "libtpu") if name != "libtpu" or topology}}
    if not topology and not devices:
        return plan | estimate(config, job)
    chip = roofline.CHIPS.get(topology.partition(":")[0])
    of = [compiled(step.lower(job.state, job.batch), mesh, plan, chip=chip) for step in job.steps]
    sizes = [size._asdict() | {"memory": each["memory"]["total"], "fits": each.get("fits"), "flops": each.get("flops"), "step": each.get("time", {}).get("step")}
             for size, each in zip(job.sizes, of)]
    return plan | {"sizes": sizes} | max(of, key=lambda each: each["memory"]["total"])


def estimate(config: Any, job: Any) -> dict:
    """Operations of the loss and its gradient (`Job.flops`), and memory from what JAX would keep for the backward pass before the compiler saves any of it."""
    import jax
    import jax.numpy as jnp
    def kept(params, aux, batch):
        step, key = jnp.zeros((), jnp.int32), jax.random.key(0)
        return jax.vjp(lambda p: job.method.loss(p, aux, batch, key, step), params, has_aux=True)[1]

    residuals = jax.tree.leaves(jax.eval_shape(kept, job.state.params, job.state.aux, job.seen))
    activations = sum(x.size * x.dtype.itemsize for x in residuals)
    gradients = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(job.state.params))
    fixed = gradients + sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(job.state))
    return {"flops": float(job.flops()),
            "memory": {"state_and_gradients": int(fixed), "activations_at_most": int(activations),
                       "activations_at_most_per_image": int(activations / config.batch_size)}}


def compiled(lowered: Any, mesh: Any, plan: dict, chip: roofline.Chip | None) -> dict:
    """What the compiler says of the step on each device; with `chip`, whether it fits and how long it takes."""
    from jaxssl.training import programs
    from jaxssl.planning import costs as costing, hlo
    started = time.perf_counter()
    try:
        executable = programs.compiled(lowered, mesh)
    except Exception as error:                       # the TPU compiler refuses a program that does not fit
        used = re.search(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not used or not chip:
            raise
        need, have = (float(used.group(i)) * {"K": 2 ** 10, "M": 2 ** 20, "G": 2 ** 30}[used.group(i + 1)] for i in (1, 3))
        buffers = [{"bytes": float(size) * {"K": 2 ** 10, "M": 2 ** 20, "G": 2 ** 30}[unit], "shape": shape, "op_name": name} for size, unit, name, shape in
                   re.findall(r"Size: ([\d.]+)([KMG])\s+Operator: op_name=\"([^\"]*)\".*?Shape: (\S+?)\{", str(error), re.DOTALL)]
        return {"compile_seconds": time.perf_counter() - started, "fits": False, "buffers": buffers,
                "memory": {"total": int(need), "hbm": int(have)}, "advice": advice(plan, plan["state_bytes"] / plan["devices"], need, have)}
    seconds = time.perf_counter() - started
    memory, costs = executable.memory_analysis(), executable.cost_analysis()
    program = hlo.parse(executable.as_text())
    operations, counted = costing.repeated(program)
    parts = costing.shares(costing.costs(program), lambda name: next(part for part, pattern in PARTS if re.search(pattern, name)))
    total = (memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
             + memory.generated_code_size_in_bytes)
    result = {
        "compile_seconds": seconds, "flops": float(costs["flops"]) + operations, "bytes": float(costs["bytes accessed"]) + counted, "hbm_bytes": sum(p.hbm for p in parts.values()),
        "memory": {"arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes, "code": memory.generated_code_size_in_bytes, "total": total},
        "parts": {name: {"bytes": p.counted, "hbm_bytes": p.hbm, "flops": p.flops} for name, p in parts.items()},
        "collectives": hlo.collectives(program), "buffers": hlo.largest(program, 8)}
    if chip:
        result["memory"]["hbm"] = int(chip.hbm)
        result |= {"fits": total <= chip.hbm, "advice": advice(plan, memory.argument_size_in_bytes, total, chip.hbm), "time": predict(chip, result, plan)}
    return result


def predict(chip: roofline.Chip, found: dict, plan: dict) -> dict:
    """Seconds of a step and hours of the run, with all bytes that XLA counts, and (`at_best`) with the traffic to HBM alone."""
    network = roofline.network_seconds(chip, found["collectives"])
    step, best = (roofline.step_seconds(chip, flops=found["flops"], nbytes=n, network=network) for n in (found["bytes"], found["hbm_bytes"]))
    hours = step * plan["schedule"]["total"] / 3600
    return {"formula": roofline.FORMULA, "operations": found["flops"] / chip.peak, "memory": found["bytes"] / chip.bandwidth,
            "memory_at_best": found["hbm_bytes"] / chip.bandwidth, "network": network, "step": step, "step_at_best": best,
            "images_per_second": plan["batch_size"] / step, "images_per_second_at_best": plan["batch_size"] / best,
            "hours": hours, "hours_at_best": hours * best / step, "device_hours": hours * plan["devices"]}


def advice(plan: dict, fixed: float, total: float, hbm: float) -> str:
    """The largest global batch that should fit, if all but `fixed` bytes of a device's `total` grow with the batch."""
    batch, devices = plan["batch_size"], plan["devices"]
    room = (hbm * 0.97 - fixed) / max(total - fixed, 1)
    largest = int(batch * room) // devices * devices
    if total <= hbm:
        return f"by proportion a batch of up to {largest} fits"
    if largest >= devices:
        return f"by proportion a batch of {largest} fits; or recompute blocks in the backward pass with --config.model.remat=True, or take more devices"
    return "not even one image a device fits by proportion; use --config.model.remat=True, a smaller model or a smaller augment.size"


def report(plan: dict) -> str:
    """The plan as text."""
    s = plan["schedule"]
    lines = [
        f"config: {plan['config']}, global batch {plan['batch_size']:,} images × {plan['views']} views, {plan['images']:,} training images",
        "parameters: " + ", ".join(f"{name} {n:,}" for name, n in plan["parameters"].items()) + f"; train state {_size(plan['state_bytes'])}",
        f"schedule: {s['total']:,} steps ({s['epochs']:.4g} epochs), warm-up {s['warmup']:,}, highest rate {s['lr_peak']:.4g}; log every {s['log_every']:,}, "
        f"evaluate every {s['eval_every']:,}, save every {s['checkpoint_every']:,}",
        plan["optimizer"]]
    if "compile_seconds" not in plan:
        m = plan["memory"]
        return "\n".join([*lines, f"operations: {plan['flops'] / 1e12:.4g} TFLOP a step on all devices together",
                          f"memory, estimated: state and gradients {_size(m['state_and_gradients'])}; "
                          f"activations at most {_size(m['activations_at_most'])} on all devices together ({_size(m['activations_at_most_per_image'])} an image); --topology or "
                          "--devices asks the compiler"])
    m = plan["memory"]
    lines.append(f"devices: {plan['devices']} ({' × '.join(f'{n} {a}' for a, n in plan['mesh'].items())}){', ' + plan['topology'] if plan['topology'] else ', emulated'}; "
                 f"compiled in {plan['compile_seconds']:.0f} s; figures below are for each device and step")
    if "fits" in plan:
        lines.append(f"{'fits' if plan['fits'] else 'DOES NOT FIT'}: {_size(m['total'])} of {_size(m['hbm'])} HBM; {plan['advice']}")
    if "flops" in plan:
        lines += _measured(plan, m)
    if len(plan["sizes"]) > 1:
        lines.append("sizes of views, a program each; the figures here are of the one that takes most memory:")
        fits = {None: "", True: ", fits", False: ", DOES NOT FIT"}
        lines += [f"  {s['large']} and {s['small']} pixels, {s['share']:.0%} of steps: {_size(s['memory'])}{fits[s['fits']]}"
                  + (f", {s['flops'] / 1e12:.4g} TFLOP" if s["flops"] else "") + (f", {s['step'] * 1e3:.1f} ms a step" if s["step"] else "") for s in plan["sizes"]]
    lines += ["largest buffers:"] + [f"  {_size(b['bytes']):>9}  {b['shape']}  {b['op_name']}" for b in plan["buffers"]]
    return "\n".join(lines)


def _measured(plan, m):
    lines = [f"memory: state and batch {_size(m['arguments'])}, temporaries {_size(m['temporaries'])}, code {_size(m['code'])}",
             f"operations: {plan['flops'] / 1e12:.4g} TFLOP; bytes accessed, as XLA counts them: {_size(plan['bytes'])}, of which to or from HBM {_size(plan['hbm_bytes'])}"]
    whole = {key: max(sum(p[key] for p in plan["parts"].values()), 1) for key in ("bytes", "hbm_bytes", "flops")}
    lines += [f"  {name}: {p['flops'] / whole['flops']:.1%} of operations, {p['bytes'] / whole['bytes']:.1%} of bytes, {p['hbm_bytes'] / whole['hbm_bytes']:.1%} of HBM traffic"
              for name, p in plan["parts"].items()]
    groups: dict[tuple, list[int]] = {}
    for c in plan["collectives"]:
        groups.setdefault((c["op"], c["dtype"], c["group"]), []).extend([c["bytes"]] * c["times"])
    lines += ["collectives:"] + [f"  {len(sizes):4d} {op} of {dtype} over {n}: {_size(sum(sizes))}, the largest {_size(max(sizes))}"
                                 for (op, dtype, n), sizes in sorted(groups.items(), key=lambda g: -sum(g[1]))]
    if "time" in plan:
        t = plan["time"]
        lines += [f"roofline: {t['step'] * 1e3:.1f} ms a step (operations {t['operations'] * 1e3:.1f}, memory {t['memory'] * 1e3:.1f}, network {t['network'] * 1e3:.1f}), "
                  f"{t['images_per_second']:,.0f} images/s; {t['step_at_best'] * 1e3:.1f} ms, {t['images_per_second_at_best']:,.0f} images/s if on-chip copies cost nothing",
                  f"  {t['formula']}",
                  f"run: {t['hours']:.2f} hours, {t['device_hours']:,.0f} device-hours ({t['hours_at_best']:.2f} hours at best), without input, evaluation and saving"]
    return lines


def _size(n):
    unit = next(u for u in (1e12, 1e9, 1e6, 1e3, 1) if n >= u or u == 1)
    return f"{n / unit:.3g} {({1e12: 'TB', 1e9: 'GB', 1e6: 'MB', 1e3: 'kB', 1: 'B'})[unit]}"


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main(argv: list[str] | None = None) -> int:
    flags, rest = parser().parse_known_args(argv)

    def body():
        plan = make(flags.config, split_overrides(rest), topology=flags.topology, devices=flags.devices)
        print(json.dumps(plan, indent=1) if flags.json else report(plan), flush=True)

    return guarded(body, flags.debug)


if __name__ == "__main__":
    process(main)
