"""The program as its user runs it: a whole run, stop, kill, resume, not-finite losses, finished and foreign workdirs."""
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxssl.workdir import checkpoint
from tests.compiled import QUICK
from tests.tiny import METHODS, built, covering, kinds_of_state, small, spec

ROOT = Path(__file__).parent.parent
FLAGS = ["--config.batch_size=16", "--config.total=40", "--config.warmup=2", "--config.log_every=1", "--config.eval_every=0", "--config.checkpoint_every=5",
         "--config.eval.reference=200", "--config.eval.queries=100", "--config.eval.raw=false", "--config.log.tensorboard=false", "--config.report=false"]
# Methods whose runs are stopped, killed and shared by processes: all kinds of places, once; every method with --every, but those that want weights of another run.
STATES = [method if method in covering() else pytest.param(method, marks=pytest.mark.every) for method in METHODS if "" not in built(method)[2].loads.values()]


def config_flags(method):
    """The config of a tiny `method`, with a moving average of the encoder where it keeps no teacher: in slices between steps."""
    average = {} if any(top == "teacher" for top, _ in kinds_of_state(method)) else {"ema": "0.9"}
    return ["--config", spec(method)[0], *(f"--config.{key}={value}" for key, value in {**small(method), **average}.items())]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One compilation cache for the module: only the first run compiles."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def start(cache):
    """start(workdir, *flags) -> a running process on two emulated devices, SimCLR's unless the flags name a config."""
    def go(workdir, *flags, environment=None):
        flags = flags if "--config" in flags else (*config_flags("simclr"), *flags)
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {QUICK}", "PYTHONPATH": str(ROOT), **(environment or {})}
        return subprocess.Popen([sys.executable, "-m", "jaxssl.main", *FLAGS, "--workdir", str(workdir), f"--compilation_cache={cache}", *flags], cwd=ROOT, env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return go


@pytest.fixture(scope="module")
def finish(start):
    def go(workdir, *flags, code=0, **more):
        process = start(workdir, *flags, **more)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == code, output
        return output
    return go


@pytest.fixture(scope="module")
def uninterrupted(finish, tmp_path_factory):
    """method -> (workdir, output, run.json) of an uninterrupted run."""
    @functools.cache
    def go(method):
        workdir = tmp_path_factory.mktemp(method) / "run"
        output = finish(workdir, *config_flags(method))
        return workdir, output, json.loads((workdir / "run.json").read_text())
    return go


@pytest.fixture(scope="module")
def whole(uninterrupted):
    return uninterrupted("simclr")


def records(workdir):
    """Per step, what training logged: loss and the digest of the sample ids."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: (r["loss"], r["ids_sha256"]) for r in lines if "loss" in r}


def test_a_run_leaves_what_it_promises(whole):
    workdir, output, run = whole
    for key in ("state_sha256", "knn", "knn_untrained", "linear", "linear_untrained", "images_per_second", "wall_seconds", "data_wait_share"):
        assert key in run, key
    assert len(run["state_sha256"]) == 64 and all(0 <= run[k] <= 1 for k in ("knn", "knn_untrained", "linear", "data_wait_share"))
    assert sorted(records(workdir)) == list(range(1, 41))
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == 16
    assert json.loads((workdir / "environment.json").read_text())["packages"]["jax"]
    assert (workdir / "text" / "parameters.txt").read_text().count("encoder") > 5
    for words in ("global batch 16 images", "lr = ", "GFLOP a step", "step 40/40 100 %", "re-opened and is intact"):
        assert words in output, words


def test_a_finished_workdir_is_left_alone(whole, finish):
    workdir, _, run = whole
    assert "is finished (40 steps)" in finish(workdir)
    assert json.loads((workdir / "run.json").read_text()) == run


def test_killed_after_the_last_checkpoint_it_only_evaluates_and_closes(whole, finish, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    (workdir / "run.json").unlink()
    assert "resuming" in finish(workdir)
    run = json.loads((workdir / "run.json").read_text())
    assert run["state_sha256"] == whole[2]["state_sha256"] and run["knn"] == whole[2]["knn"]


def wait_for_step(workdir, process, step):
    """Until `step` is logged (returns False if the run ended first)."""
    file = workdir / "metrics.jsonl"
    while process.poll() is None:
        if file.exists() and f'"step": {step},' in file.read_text():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("method", STATES)
def test_stopped_and_resumed_equals_uninterrupted(uninterrupted, start, finish, tmp_path, method):
    """After a SIGTERM, and after a SIGKILL. Both come while steps are traced: the first ends a trace and keeps it, the run after it begins in the midst of the steps to trace."""
    workdir, whole = tmp_path / "run", uninterrupted(method)
    for at, how in ((7, signal.SIGTERM), (19, signal.SIGKILL)):
        process = start(workdir, *config_flags(method), "--profile_steps=5:17")
        assert wait_for_step(workdir, process, at)
        process.send_signal(how)
        output = process.communicate(timeout=120)[0]
        assert "profile of steps" in output, output
        if how == signal.SIGTERM:
            assert process.returncode == 0 and "saved step" in output, output
    assert len(list((workdir / "profile").rglob("*.xplane.pb"))) == 2
    finish(workdir, *config_flags(method))
    assert json.loads((workdir / "run.json").read_text())["state_sha256"] == whole[2]["state_sha256"]
    assert records(workdir) == records(whole[0])


def test_a_stop_in_the_first_look_is_not_put_off(start, finish, whole, tmp_path):
    """An evaluation of 150 batches, compiled first, would go on for seconds; nothing of it is kept, and the same command begins it again."""
    workdir, flag = tmp_path / "run", "--config.eval.batch=2"
    process = start(workdir, flag)
    while not process.stdout.readline().startswith("compiled"):
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and "saved step 0" in output, output
    assert "untrained encoder" not in output and not (workdir / "evaluations").exists()
    output = finish(workdir, flag)
    assert "resuming" in output and output.count("untrained encoder") == 1
    assert json.loads((workdir / "run.json").read_text())["state_sha256"] == whole[2]["state_sha256"]


def test_not_finite_stops_with_the_batch_and_keeps_the_checkpoint(finish, tmp_path):
    workdir = tmp_path / "run"
    output = finish(workdir, "--config.optim.name=sgd", "--config.optim.lr=2e9", "--config.method.temperature=1e-12", "--config.warmup=6",
                    "--config.model.zero_init=false", "--config.checkpoint_every=1", code=3)
    assert "not finite at step" in output and "on_nonfinite=rollback" in output
    dump = json.loads(next(workdir.glob("nonfinite_step_*.json")).read_text())
    assert len(dump["sample_indices"]) == len(dump["sample_ids"]) == 16 and dump["metrics"]["finite"] == "0.0"
    steps = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
    assert steps and all(step <= dump["step"] for step in steps)
    reader = checkpoint.open_reader(str(workdir))
    for step in steps:
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(reader.weights(step))), step
    reader.close()
    assert not (workdir / "run.json").exists()


def test_roll_back_leaves_the_batch_out_and_gives_up_after_k(finish, tmp_path):
    """k counts for the run, and so do the batches left out: a process that died before its next save is followed by one that knows of both."""
    workdir = tmp_path / "run"
    flags = ("--config.optim.name=sgd", "--config.optim.lr=2e9", "--config.warmup=6", "--config.model.zero_init=false", "--config.on_nonfinite=rollback:2",
             "--profile_steps=0:6")
    output = finish(workdir, *flags, code=3)
    assert output.count("leaving that batch out") == 2 and "all 2 rollbacks of this run are spent" in output
    past = json.loads((workdir / "rollbacks.json").read_text())
    assert past["count"] == 2 and len(set(past["skipped"])) == 2
    output = finish(workdir, *flags, code=3)
    assert "leaving that batch out" not in output and "all 2 rollbacks of this run are spent" in output
    batches = [json.loads(p.read_text())["batch"] for p in workdir.glob("nonfinite_step_*.json")]
    assert batches and not set(batches) & set(past["skipped"])


def test_a_changed_config_in_the_same_workdir_is_refused_with_the_difference(whole, finish):
    output = finish(whole[0], "--config.optim.lr=0.5", code=2)
    assert "optim.lr: 0.004 → 0.5" in output and "Traceback" not in output
