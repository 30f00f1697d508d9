"""Settings of the process that JAX and XLA read once: the compilation cache, and what keeps programs on several CPU devices and on NVIDIA GPUs from ending it."""
import contextlib
import importlib.util
import logging
import os
import pkgutil
import re
from typing import Any

import jax
import jaxlib.version

from jaxssl.errors import shown, system

# Flags of XLA, and the versions of jaxlib, from and below, that are known to have them: an unknown flag ends the process.
# How long a device may wait in a collective for the others. XLA ends the process after 20 + 40 s, and on few cores the first of several emulated devices
# waits for all that the others compute.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=300", (0, 10), (0, 13)
# No product is fused into a kernel of Triton: as XLA looks what it could fuse, a strided slice before a product ends the process (openxla/xla issue 47381).
_UNFUSED = "--xla_gpu_enable_triton_gemm=false", (0, 10), (0, 12)

# What draws the random numbers and how products round: fixed here, whatever the environment says, since the same command must give the same run.
FIXED = {"jax_default_prng_impl": "threefry2x32", "jax_threefry_partitionable": True, "jax_enable_x64": False, "jax_default_matmul_precision": None,
         "jax_numpy_dtype_promotion": "standard", "jax_random_seed_offset": 0}


def configure(compilation_cache: str, *, processes: int = 0) -> None:
    """Process-wide JAX settings: the persistent compilation cache, `settle` on several CPU devices, and products of the vendor's library alone on NVIDIA GPUs.

    Must run before anything asks for a device: what is set here is read once, when the CPU's client is made.
    processes: how many there are, as far as flags say; 0: not said.
    """
    for name, value in FIXED.items():
        jax.config.update(name, value)
    if compilation_cache != "off":
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if several_cpu_devices(processes):
        settle()
    if nvidia():
        _flag(*_UNFUSED)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for handler in logging.root.handlers:
        handler.setFormatter(Harmless())


class Harmless(logging.Formatter):
    """Log lines, with whatever in a name would act on the terminal written as an escape, and what the system refused a library's thread as a sentence, without its stack."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return "\n".join(map(shown, super().formatMessage(record).split("\n")))

    def formatException(self, caught: Any) -> str:
        return f"  ({refusal})" if isinstance(caught[1], Exception) and (refusal := system(caught[1])) else super().formatException(caught)


def settle() -> None:
    """What several CPU devices in one process need. Where a GPU or TPU computes, this changes nothing.

    Every device takes at most 32 programs at a time (a constant of XLA). To launch one more, a thread of the pool waits until that device has finished one;
    the pool has one thread a device, and the devices that are behind need those threads to finish. So a loop that runs 32 programs with collectives ahead
    of its results stands still, for ever. With two threads a device a launch can wait and every device compute. The pool takes its size from NPROC.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)   # concerns programs on one device: those with collectives are dispatched ahead all the same
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given, needed = os.environ.get("NPROC", ""), 2 * _devices_here()
    if needed > (int(given) if re.fullmatch("[0-9]{1,9}", given) else cores):
        os.environ["NPROC"] = str(needed)
    _flag(*_PATIENCE)


def nvidia() -> bool:
    """Whether JAX may compute on NVIDIA GPUs, told without starting it: a plugin of CUDA is installed, and JAX_PLATFORMS leaves it in."""
    found = importlib.util.find_spec("jax_plugins")
    names = [module.name for module in pkgutil.iter_modules(found.submodule_search_locations or ())] if found else []
    asked = (jax.config.jax_platforms or "cuda").split(",")
    return any(name.startswith("xla_cuda") for name in names) and any(name.strip() in ("cuda", "gpu") for name in asked)


def _flag(flag, first, below):
    """Adds a flag to XLA_FLAGS where this jaxlib knows it, unless it is set already, or XLA_FLAGS names a file of flags."""
    given = os.environ.get("XLA_FLAGS", "").strip()
    if first <= jaxlib.version.__version_info__[:2] < below and given[:1] in ("", "-") and not re.search(rf"{flag.partition('=')[0]}\b", given):
        os.environ["XLA_FLAGS"] = f"{given} {flag}".strip()


def several_cpu_devices(processes: int) -> bool:
    """Whether programs on the CPU would span several devices, told from flags and environment alone."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    return processes > 1 or _devices_here() > 1 or bool(re.fullmatch("[0-9]+", tasks)) and int(tasks[:9]) > 1


def devices() -> list:
    """All devices: the first to ask starts JAX's backends. Raises what they do when there is none of the kind that JAX_PLATFORMS names."""
    return jax.devices()


def _devices_here() -> int:
    """The CPU devices of this process, emulated ones included."""
    emulated = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))     # the last one counts
    return max(int(count) for count in (1, jax.config.jax_num_cpu_devices, *emulated[-1:]))


def memory() -> tuple[int, int]:
    """Bytes that this process may use at most: of the machine, and of all its devices together (the machine's where it computes); 0 where it is not known."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if "SC_PHYS_PAGES" in os.sysconf_names else []
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):       # of a container
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(open(file).read()))
    host = min((limit for limit in limits if limit > 0), default=0)
    if jax.default_backend() == "cpu":
        return host, host
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return host, sum(each.get("bytes_limit", 0) for each in stats)
