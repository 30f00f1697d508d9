"""Settings of the process that JAX and XLA read once: the compilation cache, and what programs on several CPU devices need in order not to wait for ever."""
import logging
import os
import re

import jax
import jaxlib.version

# How long a device may wait in a collective for the others. XLA ends the process after 20 + 40 s, and on few cores the first of several emulated devices
# waits for all that the others compute. Unknown flags end the process as well, so they are passed to versions that are known to have them.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=300"
_PATIENT = (0, 10), (0, 13)     # jaxlib, from and below


def configure(compilation_cache: str, *, processes: int = 0) -> None:
    """Process-wide JAX settings: the persistent compilation cache, and `settle` on several CPU devices.

    Must run before anything asks for a device: what is set here is read once, when the CPU's client is made.
    processes: how many there are, as far as flags say; 0: not said.
    """
    if compilation_cache != "off":
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if several_cpu_devices(processes):
        settle()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def settle() -> None:
    """What several CPU devices in one process need. Where a GPU or TPU computes, this changes nothing.

    Every device takes at most 32 programs at a time (a constant of XLA). To launch one more, a thread of the pool waits until that device has finished one;
    the pool has one thread a device, and the devices that are behind need those threads to finish. So a loop that runs 32 programs with collectives ahead
    of its results stands still, for ever. With two threads a device a launch can wait and every device compute. The pool takes its size from NPROC.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)   # concerns programs on one device: those with collectives are dispatched ahead all the same
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given, needed = os.environ.get("NPROC", ""), 2 * _devices_here()
    if needed > (int(given) if given.isdecimal() else cores):
        os.environ["NPROC"] = str(needed)
    flags = os.environ.get("XLA_FLAGS", "")
    if _PATIENT[0] <= jaxlib.version.__version_info__[:2] < _PATIENT[1] and _PATIENCE.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_PATIENCE}".strip()


def several_cpu_devices(processes: int) -> bool:
    """Whether programs on the CPU would span several devices, told from flags and environment alone."""
    return any(int(count) > 1 for count in (processes, os.environ.get("SLURM_NTASKS", 1), _devices_here()))


def _devices_here() -> int:
    """The CPU devices of this process, emulated ones included."""
    emulated = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))     # the last one counts
    return max(int(count) for count in (1, jax.config.jax_num_cpu_devices, *emulated[-1:]))
