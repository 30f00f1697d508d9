"""Settings of the process that JAX reads once: the compilation cache, and how programs on several CPU devices are dispatched."""
import logging
import os
import re

import jax


def configure(compilation_cache: str, *, processes: int = 0) -> None:
    """Process-wide JAX settings: the persistent compilation cache, and synchronous dispatch on several CPU devices.

    Must run before anything asks for a device: JAX reads how to dispatch once, when it makes the CPU's client.
    processes: how many there are, as far as flags say; 0: not said.
    """
    if compilation_cache != "off":
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if several_cpu_devices(processes):
        # The collectives of steps in flight wait for one another's threads; on few cores that is a deadlock. Where a GPU or TPU computes, this changes nothing.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def several_cpu_devices(processes: int) -> bool:
    """Whether programs on the CPU would span several devices, told from flags and environment alone."""
    emulated = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))     # the last one counts
    counts = processes, os.environ.get("SLURM_NTASKS", 1), jax.config.jax_num_cpu_devices, *emulated[-1:]
    return any(int(count) > 1 for count in counts)
