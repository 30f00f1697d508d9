"""Every test runs on eight emulated CPU devices: nothing about several devices is opt-in."""
import gc
import os
import sys

from compiled import QUICK, folder
from limits import pytest_collection_finish, pytest_configure, pytest_sessionfinish  # noqa: F401: hooks

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"
# One compilation cache for all sessions, xdist's workers included: a program that several tests build is compiled once. So is a module that several processes import, also where
# Python is told to write no bytecode beside sources: the two thousand of a run took each of the tests' hundred processes four seconds.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder())
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(folder() / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from jaxssl.parallel import runtime  # noqa: E402: after the flags above

gc.set_threshold(50_000, 20, 50)     # tracing makes many objects and few cycles
runtime.settle()    # as the commands do; what a test starts inherits it

pytest_plugins = ["tests.scale"]    # --every, what shares a worker, and what forty methods would cost
