"""Every test runs on eight emulated CPU devices: nothing about several devices is opt-in."""
import os

from compiled import folder
from limits import pytest_collection_finish, pytest_configure, pytest_sessionfinish  # noqa: F401: hooks

# Little optimisation: tests run small programs a few times, and compiling them is what costs (a third of the time without it).
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0",
                                    "--xla_llvm_disable_expensive_passes=true"])
# One compilation cache for all sessions, xdist's workers included: a program that several tests build is compiled once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder())
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from jaxssl.parallel import runtime  # noqa: E402: after the flags above

runtime.settle()    # as the commands do; what a test starts inherits it

pytest_plugins = ["tests.scale"]    # --every, groups of tests that share a worker, and what forty methods would cost
