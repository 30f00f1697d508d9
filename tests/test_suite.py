"""The suite itself: a test that crashes or stands still ends the run, by name and with its stacks. Faults are planted in another folder, under the same options."""
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import compiled
import pytest

ROOT = Path(__file__).parents[1]
OPTIONS = re.search(r"pytest (-n .*?) \"\$@\"", (ROOT / "launch/test.sh").read_text())[1].split()
CRASH, LOCKED, CHILD = "os.abort()", "lock = threading.Lock(); lock.acquire(); lock.acquire()", "subprocess.run([sys.executable, '-c', 'import time; time.sleep(300)  # {mark}'])"
IN_C = "import ctypes; ctypes.PyDLL(None).sleep(300)"       # with Python's lock held, as a library may


def session(folder, planted, *options):
    """(exit code, output, seconds) of the suite's options with a limit of 3 seconds, on files that hold one test each, and one file of good tests."""
    (folder / "conftest.py").write_text("from limits import pytest_collection_finish, pytest_configure, pytest_sessionfinish\n")
    (folder / "test_good.py").write_text("def test_good(): pass\n")
    for name, body in planted.items():
        (folder / f"test_{name}.py").write_text(f"import os, subprocess, sys, threading, time\n{body}\n")
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "no:cacheprovider", *options, "-o",
                           "faulthandler_timeout=3", str(folder)],
                          cwd=folder, env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONPATH": str(ROOT / "tests")}, capture_output=True, text=True,
                          timeout=120)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - start


def test_lost_workers_end_the_run_by_name(tmp_path):
    """Both workers are lost, one by a crash and one by a call that never returns; tests that nobody can run any more are not waited for."""
    code, said, seconds = session(tmp_path, {"a": f"def test_first(): pass\ndef test_crash(): {CRASH}\ndef test_behind(): pass", "b": f"def test_in_c(): {IN_C}",
                                             "c": "def test_c(): pass"}, *OPTIONS)
    assert code == 1 and seconds < 60, said
    assert "crashed while running 'test_a.py::test_crash'" in said and "crashed while running 'test_b.py::test_in_c'" in said, said
    assert "Fatal Python error: Aborted" in said and "Timeout (0:00:03)!" in said and re.search(r"test_b.py\", line \d+ in test_in_c", said), said


def test_what_a_lost_worker_started_does_not_outlive_the_run(tmp_path):
    mark = f"planted {os.getpid()} {time.time()}"
    code, said, seconds = session(tmp_path, {"a": f"def test_child(): {CHILD.format(mark=mark)}"}, *OPTIONS)
    assert code == 1 and seconds < 60 and "crashed while running 'test_a.py::test_child'" in said, said
    if sys.platform == "linux":
        assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in read(p)]


def read(file):
    try:
        return file.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(("body", "where"), [(f"def test_locked(): {LOCKED}", "test_locked"), (LOCKED, "<module>"),
                                             (f"import atexit; atexit.register(lambda: time.sleep(300))\ndef test_good(): pass", "<lambda>")],
                         ids=["in a test", "in collection", "on the way out"])
def test_one_process_ends_too(tmp_path, body, where):
    code, said, seconds = session(tmp_path, {"a": body})
    assert code == 1 and seconds < 60 and "Timeout (0:00:03)!" in said and re.search(rf"test_a.py\", line \d+ in {where}", said), said


def test_collection_that_stands_still_ends_the_workers(tmp_path):
    code, said, seconds = session(tmp_path, {"a": LOCKED}, *OPTIONS)
    assert code != 0 and seconds < 60 and re.search(r"test_a.py\", line \d+ in <module>", said), said


def test_the_cache_keeps_what_was_used_last(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}-cache").write_bytes(bytes(100))
        os.utime(tmp_path / f"{i}-cache", (i, i))
    compiled.prune(tmp_path, 250)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["2-cache", "3-cache"]


PROGRAM = "import jax, jax.numpy as jnp; print(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((9, 9))))"


@pytest.mark.parametrize("torn", [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b[:-200] + bytes(200)], ids=["half", "empty", "zeros"])
def test_an_entry_torn_by_a_kill_is_compiled_again(tmp_path, torn):
    """JAX does not write in one step. What cannot be read is a warning."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def value():
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout
    first, files = value(), [f for f in tmp_path.iterdir() if f.name.endswith("-cache")]
    for file in files:
        file.write_bytes(torn(file.read_bytes()))
    assert files and value() == first
