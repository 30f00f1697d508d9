"""What a result was measured on, and how a spread is written; shared by the benchmarks."""
import os
import platform
import statistics
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine(*packages: str) -> dict:
    """Processor, cores, memory, load (of the last minute), system, Python and the versions of `packages` (those installed); never a host name."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1), "load_average": round(os.getloadavg()[0], 1), "system": platform.system(),
            "python": platform.python_version(),
            "versions": {name: found for name in packages if (found := installed(name))}}


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def spread(values: Iterable[float], digits: int = 4) -> dict:
    """Median, least, most, mean, standard deviation (of the sample) and the values themselves."""
    values = [round(float(v), digits) for v in values]
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "mean": round(statistics.mean(values), digits),
            "std": round(statistics.stdev(values), digits) if len(values) > 1 else 0.0, "values": values}
