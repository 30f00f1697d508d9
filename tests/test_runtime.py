"""Settings of the process for programs on several CPU devices and on NVIDIA GPUs."""
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

from jaxssl import startup
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
    ("xla_cuda13", None, "", (0, 11, 2), "{cpu} {gpu}"), ("xla_cuda12", "cuda,cpu", "--a=1", (0, 10, 2), "--a=1 {gpu}"), ("xla_cuda13", "gpu", "", (0, 11, 2), "{cpu} {gpu}"),
    ("xla_cuda13", "cpu", "", (0, 11, 2), "{cpu}"), ("my_tpu", None, "", (0, 11, 2), "{cpu}"), ("", None, "", (0, 10, 2), ""), ("xla_cuda13", None, "--a=1", (0, 12, 0), "--a=1"),
    ("xla_cuda13", None, "--xla_gpu_enable_triton_gemm=true", (0, 11, 2), "--xla_gpu_enable_triton_gemm=true {cpu}"),
    ("xla_cuda13", None, "--xla_gpu_enable_triton_gemm", (0, 10, 2), "--xla_gpu_enable_triton_gemm"), ("xla_cuda13", None, "/my/flags", (0, 11, 2), "/my/flags"),
    ("", None, "--xla_cpu_experimental_ynn_fusion_type=dot", (0, 11, 2), "--xla_cpu_experimental_ynn_fusion_type=dot")])
def test_flags_against_faults_of_xla(monkeypatch, tmp_path, plugin, platforms, given, version, expected):
    """In versions known to have the flags, that of GPUs only where a plugin of CUDA could be used; what the user has set stays, a file of flags too."""
    (tmp_path / "jax_plugins" / plugin).mkdir(parents=True)
    if plugin:
        (tmp_path / "jax_plugins" / plugin / "__init__.py").touch()
    found = types.SimpleNamespace(submodule_search_locations=[str(tmp_path / "jax_plugins")])
    monkeypatch.setattr(startup.importlib.util, "find_spec", {"jax_plugins": found}.get)
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(config=types.SimpleNamespace(jax_platforms=platforms)))
    monkeypatch.setattr(startup.jaxlib.version, "__version_info__", version)
    monkeypatch.setenv("XLA_FLAGS", given)
    for _ in range(2):
        startup.against_faults()
    assert os.environ["XLA_FLAGS"] == expected.format(cpu="--xla_cpu_experimental_ynn_fusion_type=", gpu="--xla_gpu_enable_triton_gemm=false")


def test_a_jaxlib_without_plugins(monkeypatch):
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda _: None)
    assert not startup.nvidia()


BEGIN = """if True:
    import os, sys
    import jaxlib.version
    jaxlib.version.__version_info__ = 0, 11, 2
    sys.argv = [{first!r}]
    import jaxssl
    from jaxssl import startup
    mine = [name for name in os.environ if name.lower() in startup.FIXED]
    assert "jax" not in sys.modules and (os.environ.get("XLA_FLAGS"), len(mine)) == {expected}, (os.environ.get("XLA_FLAGS"), mine)
"""


@pytest.mark.parametrize("first, expected", [("-m", ("--a=1 --xla_cpu_experimental_ynn_fusion_type=", 0)), ("mine.py", ("--a=1", 2))])
def test_every_command_and_no_program_of_others_begins_with_the_flags(first, expected):
    """As Python imports the package for `python -m jaxssl.COMMAND`, and before JAX is imported; the variables that would draw other numbers are gone there, too."""
    given = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--a=1", "JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    done = subprocess.run([sys.executable, "-c", BEGIN.format(first=first, expected=expected)], cwd=ROOT, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_commands_fix_is_what_jax_does_unasked():
    """`of_commands` takes variables away, and leaves it to JAX's defaults to be `FIXED`."""
    ask = f"import jax; print({{name: getattr(jax.config, name) for name in {list(startup.FIXED)}}} == {startup.FIXED})"
    given = {name: value for name, value in os.environ.items() if name.lower() not in startup.FIXED}
    assert subprocess.run([sys.executable, "-c", ask], env=given, capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize("platform, precision, given, said", [("cpu", "bf16", "", "fusion_type"), ("cpu", "f32", "", None), ("gpu", "f32", "", "triton"), ("tpu", "bf16", "", None),
                                                              ("cpu", "bf16", "--xla_cpu_experimental_ynn_fusion_type=dot", None)])
def test_the_library_says_once_where_it_comes_too_late(monkeypatch, platform, precision, given, said):
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(config=types.SimpleNamespace(jax_platforms=None), default_backend=lambda: platform))
    monkeypatch.setitem(sys.modules, "jax._src.xla_bridge", types.SimpleNamespace(backends_are_initialized=lambda: started))
    monkeypatch.setattr(startup.jaxlib.version, "__version_info__", (0, 11, 2))
    monkeypatch.setattr(startup, "_SAID", set())
    monkeypatch.setenv("XLA_FLAGS", given)
    started = True
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            startup.of_library(precision)
    assert [said in str(each.message) for each in told] == [True] * bool(said) and os.environ["XLA_FLAGS"] == given
    started = False
    startup.of_library(precision)
    assert "fusion_type" in os.environ["XLA_FLAGS"]


def test_a_torn_entry_of_the_compilation_cache_is_taken_away(tmp_path):
    script = f"""if True:
        from pathlib import Path
        import jax
        from jaxssl.parallel import runtime
        runtime.configure({str(tmp_path)!r})
        runtime.configure({str(tmp_path)!r})
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for cut in (True, False, False):
            jax.jit(lambda x: x + 1)(1.0)
            [file] = Path({str(tmp_path)!r}).glob("*-cache")
            print(file.stat().st_size > 200)
            if cut:
                file.write_bytes(file.read_bytes()[:100])
            jax.clear_caches()
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "True\n" * 3 and done.stderr.count("was damaged") == done.stderr.count("\n") == 1, done.stdout + done.stderr


def test_bfloat16_features_are_finite_and_the_same_at_every_call():
    """In a process of its own, as `jaxssl.load` sets XLA's flags: jaxlib 0.11's default for CPUs gave a block of a ResNet other values, many of them not finite, at every call."""
    script = """if True:
        from jaxssl import startup
        startup.of_library("bf16")
        import jax, numpy as np
        from jaxssl import models
        net = models.make(name="resnet18", depths=(1,), width=.5, stem="cifar", precision="bf16", zero_init=False)
        x = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))
        variables = net.init(jax.random.key(0), x, False)
        features = jax.jit(lambda v, x: net.apply(v, x, False).pooled)
        found = [np.asarray(features(variables, x), np.float32) for _ in range(3)]
        assert all(np.isfinite(f).all() and (f == found[0]).all() for f in found), found
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
