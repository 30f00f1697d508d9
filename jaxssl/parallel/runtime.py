"""Settings of the process that JAX and XLA read once: the compilation cache, and what keeps programs on several CPU devices from ending it."""
import contextlib
import functools
import logging
import os
import re
import sys
from typing import Any

import jax
from jax._src import compilation_cache

from jaxssl import startup
from jaxssl.errors import shown, system

# How long a device may wait in a collective for the others. XLA ends the process after 20 + 40 s, and on few cores the first of several emulated devices
# waits for all that the others compute.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=300", (0, 10), (0, 13)


def configure(compilation_cache: str, *, processes: int = 0) -> None:
    """Process-wide JAX settings: the persistent compilation cache, `settle` on several CPU devices, and flags against faults of XLA.

    Must run before anything asks for a device: what is set here is read once, when the CPU's client is made.
    processes: how many there are, as far as flags say; 0: not said.
    """
    for name, value in startup.FIXED.items():
        jax.config.update(name, value)
    if compilation_cache != "off":
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        _mend_the_cache()
    if several_cpu_devices(processes):
        settle()
    startup.against_faults()     # whoever calls this need not be a command that is a process, where `of_commands` did it
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for handler in logging.root.handlers:
        handler.setFormatter(Harmless())


def _mend_the_cache() -> None:
    """An entry that cannot be read, since a full disk or a kill cut it as it was written, is taken away and said: JAX would leave it there and warn of it at every start."""
    read = getattr(compilation_cache, "get_executable_and_time", None)
    if read is None or hasattr(read, "__wrapped__"):
        return

    @functools.wraps(read)
    def mended(key, *rest):
        try:
            return read(key, *rest)
        except Exception as error:
            file = os.path.join(jax.config.jax_compilation_cache_dir or "", f"{key}-cache")
            try:
                os.unlink(file)
            except OSError:
                raise error from None                # JAX warns of it
            print(f"note: {shown(file)} of the compilation cache was damaged ({shown(str(error))[:200]}) and is taken away; its program is compiled again",
                  file=sys.stderr, flush=True)
            return None, None
    compilation_cache.get_executable_and_time = mended


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
    startup.add(*_PATIENCE)


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
