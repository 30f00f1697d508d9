"""Two processes of four emulated devices through launch/local.sh: the same losses as one process of eight, and a stop of all at the same step."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.compiled import QUICK
from tests.test_distributed import free_port
from tests.test_end_to_end import FLAGS, STATES, config_flags, records

ROOT = Path(__file__).parent.parent
TWO = [*FLAGS, "--config.total=12", "--config.checkpoint_every=4"]


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "XLA_FLAGS": QUICK, **more}


def local(workdir, *flags):
    return subprocess.Popen(["bash", "launch/local.sh", "2", *TWO, "--workdir", str(workdir), *flags], cwd=ROOT, env=environment(DEVICES="4"),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return f"--compilation_cache={tmp_path_factory.mktemp('cache')}"


@pytest.fixture(scope="module", params=STATES)
def both(request, tmp_path_factory, cache):
    """(workdir, output, flags) of an uninterrupted run of each method in two processes."""
    workdir, flags = tmp_path_factory.mktemp("two") / "run", config_flags(request.param)
    process = local(workdir, cache, *flags)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    return workdir, output, flags


def test_two_processes_equal_one(both, tmp_path):
    workdir, output, flags = both
    assert "[0] process 0/2" in output and "[1] process 1/2" in output and "8 in all" in output
    one = subprocess.run([sys.executable, "-m", "jaxssl.main", *TWO, *flags, "--workdir", str(tmp_path / "one")], cwd=ROOT, capture_output=True, text=True,
                         env=environment(JAX_PLATFORMS="cpu", XLA_FLAGS=QUICK + " --xla_force_host_platform_device_count=8"))
    assert one.returncode == 0, one.stderr
    ours, theirs = records(workdir), records(tmp_path / "one")
    assert ours.keys() == theirs.keys() == set(range(1, 13))
    assert all(ours[step][1] == theirs[step][1] for step in ours)
    # AdamW's first steps divide a gradient by its own size: from step 6 on they turn a difference of 1e-7 in the order of sums into one of 1e-3, on any devices.
    assert [ours[step][0] for step in range(1, 6)] == pytest.approx([theirs[step][0] for step in range(1, 6)], rel=1e-5)
    a, b = (json.loads((d / "run.json").read_text()) for d in (workdir, tmp_path / "one"))
    assert a["knn_untrained"] == pytest.approx(b["knn_untrained"], abs=0.03)


def test_sigterm_stops_both_at_the_same_step_and_resume_is_bitwise(both, tmp_path, cache):
    process = local(tmp_path / "run", cache, *both[2])
    file, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline and not (file.exists() and '"step": 2,' in file.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert "saved step" in output, output
    again = local(tmp_path / "run", cache, *both[2])
    output = again.communicate(timeout=400)[0]
    assert again.returncode == 0 and "resuming" in output, output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state_sha256"] == json.loads((both[0] / "run.json").read_text())["state_sha256"]


def test_evaluation_by_two_processes_is_that_of_one(both, tmp_path, cache):
    """Each embeds its half of the images on its devices; process 0 writes and prints, and nothing but the document goes to its standard output."""
    found = []
    for count in (1, 2):
        port, devices = free_port(), 4 // count
        command = [sys.executable, "-m", "jaxssl.evaluate", "--workdir", str(both[0]), "--protocols", "knn", "--json", "--out", str(tmp_path), cache]
        join = [[f"--coordinator=127.0.0.1:{port}", f"--processes={count}", f"--process_id={i}", "--cache", str(tmp_path / f"{i} of {count}")] for i in range(count)]
        running = [subprocess.Popen([*command, *own], cwd=ROOT, env=environment(XLA_FLAGS=f"{QUICK} --xla_force_host_platform_device_count={devices}"), stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True) for own in join]
        ends = [process.communicate(timeout=300) for process in running]
        assert not any(process.returncode for process in running), ends
        assert all(not out for out, _ in ends[1:]) and (count == 1 or "2 local devices, 4 in all" in ends[0][1])
        found.append([{key: value for key, value in row.items() if key != "seconds"} for row in json.loads(ends[0][0])["rows"]])
        assert [(tmp_path / f"{i} of {count}").exists() for i in range(count)] == [True, False][:count]
    assert found[0] == found[1]
