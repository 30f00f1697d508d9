"""The compilation cache of the tests: it lasts between runs, for as long as everything that shaped its programs is the same, and stays below a size."""
import contextlib
import hashlib
import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path

HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxssl"
LARGEST, DAYS = 2 * 2**30, 14
# Tests run small programs a few times, and compiling them is what costs: no optimisation, the older generator of code for fusions (the new one takes three times as long for
# a step of eight devices, 4.4 against 1.3 CPU-seconds, and gives the same numbers) and one part for LLVM. A name that XLA does not know is refused among its own flags, and
# passed over among the extra options.
QUICK = ("--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1 "
         "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters")


def folder(home: Path = HOME) -> Path:
    """The folder for this Python, JAX, processor and these flags; made, and others that nobody used for two weeks removed. What JAX itself tells apart is not repeated."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else platform.processor()
    features = next((line for line in info.splitlines() if line.startswith(("flags", "Features"))), info)
    key = "\n".join([platform.python_version(), platform.machine(), version("jax"), version("jaxlib"), os.environ.get("XLA_FLAGS", ""), features])
    own = home / f"tests-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    own.mkdir(parents=True, exist_ok=True)
    os.utime(own)
    for other in home.glob("tests-*"):
        if time.time() - other.stat().st_mtime > DAYS * 86400:
            shutil.rmtree(other, ignore_errors=True)
    prune(own, LARGEST)
    return own


def prune(own: Path, largest: int) -> None:
    """Removes what was used longest ago until the rest is below `largest` bytes. Another run that is about to read it compiles instead."""
    files = []
    for file in own.iterdir():
        with contextlib.suppress(OSError):
            stat = file.stat()
            files.append((max(stat.st_atime, stat.st_mtime), stat.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= largest:
            return
        with contextlib.suppress(OSError):
            file.unlink()
        total -= size
