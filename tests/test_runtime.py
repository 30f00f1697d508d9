"""Settings of the process for programs on several CPU devices and on NVIDIA GPUs."""
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from jaxssl.parallel import runtime

ROOT = Path(__file__).parents[1]
EIGHT = "--xla_force_host_platform_device_count=8"
# XLA ends the process when a device waits in a collective for 1 + 5 seconds.
IMPATIENT = "--xla_cpu_collective_call_warn_stuck_timeout_seconds=1 --xla_cpu_collective_call_terminate_timeout_seconds=5"
AHEAD = """
import jax, numpy as np
from jaxssl.parallel import mesh as sharding, runtime
runtime.configure("off")
mesh = sharding.make_mesh(devices=jax.devices())
whole, split = sharding.replicated(mesh), sharding.batch(mesh)
step = jax.jit(lambda w, x: w + 1e-3 * x.T @ (x @ w), in_shardings=(whole, split), out_shardings=whole)
w, x = (jax.device_put(np.eye(64, dtype=np.float32), place) for place in (whole, split))
for _ in range(1000):
    w = step(w, x)
np.testing.assert_allclose(w, 1.001 ** 1000 * np.eye(64), rtol=1e-3)
print(jax.device_count(), "devices")
"""


def test_a_loop_may_run_ahead_of_its_programs_on_several_cpu_devices():
    """A thousand programs with a collective, none waited for: 33 stood still for ever, and `Aborted` after a minute was all that was said."""
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"}
    done = subprocess.run([sys.executable, "-c", AHEAD], cwd=ROOT, env=environment | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{EIGHT} {IMPATIENT}"}, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and done.stdout == "8 devices\n", done.stdout + done.stderr


@pytest.mark.parametrize(("flags", "given", "threads"), [(EIGHT, None, "16"), (EIGHT, "4", "16"), (EIGHT, "64", "64"), ("", "1", "2")])
def test_the_pool_has_two_threads_a_device(monkeypatch, flags, given, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.delenv("NPROC", raising=False)
    if given:
        monkeypatch.setenv("NPROC", given)
    runtime.settle()
    assert os.environ["NPROC"] == threads


def test_what_the_user_sets_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{EIGHT} {IMPATIENT}")
    runtime.settle()
    assert os.environ["XLA_FLAGS"] == f"{EIGHT} {IMPATIENT}"
    monkeypatch.setenv("XLA_FLAGS", EIGHT)
    runtime.settle()
    runtime.settle()
    assert os.environ["XLA_FLAGS"] == f"{EIGHT} {runtime._PATIENCE[0]}"


@pytest.mark.parametrize(("plugin", "platforms", "given", "version", "expected"), [
    ("xla_cuda13", None, "", (0, 11, 2), "{ours}"), ("xla_cuda12", "cuda,cpu", "--a=1", (0, 10, 2), "--a=1 {ours}"), ("xla_cuda13", "gpu", "", (0, 11, 2), "{ours}"),
    ("xla_cuda13", "cpu", "", (0, 11, 2), ""), ("my_tpu", None, "", (0, 11, 2), ""), ("", None, "", (0, 11, 2), ""), ("xla_cuda13", None, "--a=1", (0, 12, 0), "--a=1"),
    ("xla_cuda13", None, "--xla_gpu_enable_triton_gemm=true", (0, 11, 2), "--xla_gpu_enable_triton_gemm=true"),
    ("xla_cuda13", None, "--xla_gpu_enable_triton_gemm", (0, 11, 2), "--xla_gpu_enable_triton_gemm"), ("xla_cuda13", None, "/my/flags", (0, 11, 2), "/my/flags")])
def test_products_on_nvidia_gpus_are_not_fused(monkeypatch, tmp_path, plugin, platforms, given, version, expected):
    """Only where a plugin of CUDA could be used, in versions known to have the flag; what the user has set stays, a file of flags too."""
    (tmp_path / "jax_plugins" / plugin).mkdir(parents=True)
    if plugin:
        (tmp_path / "jax_plugins" / plugin / "__init__.py").touch()
    found = types.SimpleNamespace(submodule_search_locations=[str(tmp_path / "jax_plugins")])
    monkeypatch.setattr(runtime.importlib.util, "find_spec", {"jax_plugins": found}.get)
    monkeypatch.setattr(runtime, "jax", types.SimpleNamespace(config=types.SimpleNamespace(jax_platforms=platforms, jax_num_cpu_devices=1, update=lambda *_: None)))
    monkeypatch.setattr(runtime.jaxlib.version, "__version_info__", version)
    monkeypatch.setattr(runtime.logging.root, "handlers", [])
    monkeypatch.setenv("XLA_FLAGS", given)
    for _ in range(2):
        runtime.configure("off")
    assert os.environ["XLA_FLAGS"] == expected.format(ours="--xla_gpu_enable_triton_gemm=false")


def test_a_jaxlib_without_plugins(monkeypatch):
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda _: None)
    assert not runtime.nvidia()
