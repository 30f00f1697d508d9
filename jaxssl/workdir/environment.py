"""What a run runs in: `environment.json`, and what of it changes the bits of a resumed run."""
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "ml_collections")
DRIVERS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cublas-cu12", "nvidia-cublas", "nvidia-cudnn-cu12",
           "nvidia-cudnn-cu13")       # of accelerators, where installed
# What "bit for bit" depends on: the compiler and its flags, how many threads and devices share a sum, what they are, and what decodes the images.
BITS = ("threads", "devices", "processes", "backend", "device_kind", "machine", "xla_flags",
        *(f"packages.{name}" for name in ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", *DRIVERS)))
_OURS = re.compile(r"--xla_(cpu_collective_call_\w+|force_host_platform_device_count)=\S*")     # of XLA's flags: a time limit, and what `devices` says already

_DETERMINISTIC = re.compile(r"--xla_gpu_deterministic_ops(=true|=1)?(?=\s|$)")


def now() -> dict:
    """Versions, devices, cores, processes, flags of the compiler and the source's git revision."""
    devices = jax.devices()
    drivers = {p: version for p in DRIVERS if (version := _version(p))}
    return {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine(), "argv": sys.argv,
            "packages": {p: _version(p) for p in PACKAGES} | drivers, "backend": jax.default_backend(), "device_kind": devices[0].device_kind,
            "devices": len(devices), "processes": jax.process_count(), "threads": threads(), "xla_flags": _flags(os.environ.get("XLA_FLAGS", "")), "git_revision": _revision()}


def changed(before: dict, after: dict) -> str:
    """One line on what a resumed run must expect where its bits may be others than in `before`; "" where they are the same. What `before` does not say is not compared.

    On accelerators the threads of the host compute nothing that is trained, so they do not count there, and on CPUs the drivers of accelerators do not.
    On GPUs the line comes whatever is the same, unless XLA was asked for kernels that do not depend on time (`_DETERMINISTIC`).
    """
    other = [f"packages.{name}" for name in DRIVERS] if after.get("backend") == "cpu" else ["threads"]
    names = [name for name in BITS if name not in other]
    pairs = [(name.removeprefix("packages."), _at(before, name), _at(after, name)) for name in names]
    apart = [f"{name} {old} → {new}" for name, old, new in pairs if old is not None and old != new]
    if apart:
        return f"note: not bit for bit as where this run began ({', '.join(apart)}); the samples come in the same order and the loss agrees to rounding"
    if before and after.get("backend") == "gpu" and not _DETERMINISTIC.search(after.get("xla_flags", "")):
        return ("note: not promised bit for bit: on a GPU XLA takes the kernels that it finds fastest as it compiles, and some of them add in no fixed order; the samples come in "
                "the same order and the loss agrees to rounding. XLA_FLAGS=--xla_gpu_deterministic_ops=true from a run's start asks for the same bits")
    return ""


def threads() -> int:
    """How many XLA for CPUs computes with, by which it divides its sums: the cores that this process may use, unless NPROC says otherwise."""
    given = os.environ.get("NPROC", "")
    return int(given) if re.fullmatch("[0-9]{1,9}", given) else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _at(values, name):
    for part in name.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _flags(text: str) -> str:
    """XLA's flags that change what is computed, sorted."""
    return " ".join(sorted(set(_OURS.sub("", text).split())))


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _revision():
    """The commit of the source, with "-dirty" where files differ from it. Asked so that git writes nothing: `describe --dirty` renews its index, and one that is killed on
    the way, by a limit or a full disk, leaves a lock behind that stops every commit."""
    try:
        commit, changed = (subprocess.run(["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *ask], capture_output=True, text=True, timeout=5)
                           for ask in (("describe", "--always"), ("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("-dirty" if changed.stdout else "") or None
