"""A run's session: a stop in the middle of any evaluation, the trace's window, what is known of devices before there are any."""
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest

from jaxssl import table
from jaxssl.workdir import checkpoint
from jaxssl.training import evaluator as evaluation, progress, session, train
from jaxssl.errors import NonFiniteError
from jaxssl.report import read
from jaxssl.parallel import runtime
from jaxssl.workdir.writers import Writers
from tests.tiny import ROOT, SMALL


class Slow:
    """An evaluator of three batches that asks this very process to stop before the second one of the evaluation number `stop_in`."""

    def __init__(self, stop_in):
        self.stop_in, self.evaluations, self.batches = stop_in, 0, 0

    def quick(self, embed):
        self.evaluations += 1
        for i in range(3):
            if i == 1 and self.evaluations == self.stop_in:
                os.kill(os.getpid(), signal.SIGTERM)
            embed({"image": np.zeros((8, 16, 16, 3), np.uint8), "size": np.full((8, 2), 16, np.int32)})
            self.batches += 1
        return {"rankme": 3.0}

    def final(self, embed, poll):
        return self.quick(embed)

    def raw(self, poll):
        return {}


def test_a_stop_in_the_middle_of_each_evaluation(monkeypatch, tmp_path):
    """First look, in between, at the end: left after the batch at hand, with the step saved; the evaluation is done by the run that follows."""
    def life(stop_in, workdir="run"):
        evaluator = Slow(stop_in)
        monkeypatch.setattr(evaluation, "make", functools.wraps(evaluation.make)(lambda **_: evaluator))
        flags = {**SMALL, "total": "4", "warmup": "0", "eval_every": "2", "checkpoint_every": "0", "log.tensorboard": "false", "report": "false"}
        return train.run(str(ROOT / "configs/digits/simclr.py"), flags, str(tmp_path / workdir)), evaluator

    def saved():
        return sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())

    def scored():
        file = tmp_path / "run" / "metrics.jsonl"
        return [r["step"] for r in map(json.loads, file.read_text().splitlines()) if "rankme" in r] if file.exists() else []

    result, evaluator = life(1)
    assert result == {"stopped": 0} and evaluator.batches == 1 and saved() == [0] and not (tmp_path / "run" / "evaluations").exists()
    result, evaluator = life(2)
    assert result == {"stopped": 2} and evaluator.batches == 3 + 1 and 2 in saved() and scored() == []
    result, evaluator = life(2)
    assert result == {"stopped": 4} and evaluator.batches == 3 + 1 and 4 in saved() and scored() == [2]
    result, evaluator = life(0)
    assert result["steps"] == 4 and result["rankme_untrained"] == 3.0 and evaluator.evaluations == 1 and scored() == [2, 4]
    assert result["state_sha256"] == life(0, "whole")[0]["state_sha256"]        # the second half saw the batches that it would have seen


def test_a_stop_between_two_linear_fits(monkeypatch, tmp_path):
    class Fits(Slow):
        def final(self, embed, poll):
            if (tmp_path / "run" / "evaluations").exists():
                os.kill(os.getpid(), signal.SIGTERM)
                poll()
                pytest.fail("the fits went on")
            return self.quick(embed)
    monkeypatch.setattr(evaluation, "make", functools.wraps(evaluation.make)(lambda **_: Fits(0)))
    flags = {**SMALL, "total": "2", "warmup": "0", "eval_every": "0", "log.tensorboard": "false", "report": "false"}
    assert train.run(str(ROOT / "configs/digits/simclr.py"), flags, str(tmp_path / "run")) == {"stopped": 2}


def test_a_save_comes_before_the_evaluation_of_the_same_step(monkeypatch, tmp_path):
    class Looks(Slow):
        def quick(self, embed):
            folder = tmp_path / "run" / "checkpoints"
            found.append([p.name for p in folder.iterdir()] if folder.exists() else [])
            return super().quick(embed)
    found = []
    monkeypatch.setattr(evaluation, "make", functools.wraps(evaluation.make)(lambda **_: Looks(0)))
    flags = {**SMALL, "total": "4", "warmup": "0", "eval_every": "2", "checkpoint_every": "2", "checkpoint.asynchronous": "false", "log.tensorboard": "false", "report": "false"}
    train.run(str(ROOT / "configs/digits/simclr.py"), flags, str(tmp_path / "run"))
    assert [max(names, default="") for names in found] == ["", "2", "4"]


def test_metrics_are_in_the_bucket_before_a_checkpoint_is(tmp_path):
    """A run that is killed between the two goes on after the checkpoint, and its rows would be lost."""
    (tmp_path / "config.json").write_text("{}")
    own = mock.MagicMock(workdir=str(tmp_path))
    session.Session.save(own)
    calls = [name for name, *_ in own.mock_calls]
    assert calls.index("writers.flush") < calls.index("manager.save")


def overflowing(monkeypatch, update, **flags):
    """A run of six updates whose running variances are infinite after one of them, once; no loss and no gradient is. flags: of the run."""
    own, met = session.Session.one_step, []

    def one_step(self):
        own(self)
        if self.step == update and not met:
            met.append(update)
            aux = jax.tree_util.tree_map_with_path(lambda path, x: jax.device_put(x + np.inf, x.sharding) if path[-1].key == "var" else x, self.state.aux)
            self.state = dataclasses.replace(self.state, aux=aux)
    monkeypatch.setattr(session.Session, "one_step", one_step)
    return {**SMALL, "total": "6", "warmup": "0", "eval_every": "0", "checkpoint_every": "0", "log.tensorboard": "false", "report": "false", **flags}


def kept(workdir):
    """Steps of the checkpoints, each of finite weights and statistics."""
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    reader = checkpoint.open_reader(str(workdir))
    for step in steps:
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(reader.weights(step))), step
    reader.close()
    return steps


@pytest.mark.parametrize("flags, stop_in, saved", [(dict(checkpoint_every="2"), 0, [2]), (dict(eval_every="4"), 2, []), ({}, 0, [])], ids=["save", "stop in an evaluation", "end"])
def test_a_state_that_is_not_finite_is_never_saved(monkeypatch, tmp_path, flags, stop_in, saved):
    monkeypatch.setattr(evaluation, "make", functools.wraps(evaluation.make)(lambda **_: Slow(stop_in)))
    flags = overflowing(monkeypatch, 3, **flags)
    with pytest.raises(NonFiniteError, match=r"of the train state \d+ arrays are not finite \(aux/batch_stats/.*, …\) after step [35] .*is listed in .*finite and untouched"):
        train.run(str(ROOT / "configs/digits/simclr.py"), flags, str(tmp_path / "run"))
    dump = json.loads(next((tmp_path / "run").glob("nonfinite_step_*.json")).read_text())
    assert dump["metrics"]["finite"] == "1.0" and all(name.startswith("aux/batch_stats/") for name in dump["overflown"]) and dump["overflown"]
    assert kept(tmp_path / "run") == saved and not (tmp_path / "run" / "run.json").exists()


def test_a_roll_back_from_a_state_that_is_not_finite(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "make", functools.wraps(evaluation.make)(lambda **_: Slow(0)))
    flags = overflowing(monkeypatch, 3, checkpoint_every="2", on_nonfinite="rollback:1")
    result = train.run(str(ROOT / "configs/digits/simclr.py"), flags, str(tmp_path / "run"))
    assert result["steps"] == 6 and result["skipped_batches"] == [3] and kept(tmp_path / "run") == [4, 6]


def test_features_that_are_not_finite_do_not_end_a_run(monkeypatch, tmp_path, capsys):
    """Their scores are "nan" in metrics.jsonl, so that a resume finds the evaluation done, and null in run.json."""
    own, workdir = evaluation.features.extract, tmp_path / "run"

    def overflown(*given):
        x, y = own(*given)
        return np.where(np.arange(len(x))[:, None] == 1, np.float32(np.inf), x), y
    monkeypatch.setattr(evaluation.features, "extract", overflown)
    flags = {**SMALL, "total": "4", "warmup": "0", "eval_every": "2", "checkpoint_every": "2", "eval.reference": "200", "eval.queries": "100", "eval.raw": "false",
             "log.tensorboard": "false", "report": "false"}
    result = train.run(str(ROOT / "configs/digits/simclr.py"), flags, str(workdir))
    run, before = (json.loads((workdir / name).read_text(), parse_constant=pytest.fail) for name in ("run.json", "evaluations/untrained.json"))
    assert run == result and run["steps"] == 4
    for name in ("rankme", "knn", "knn_k20", "linear"):
        assert run[name] is None and run[f"{name}_untrained"] is None and before[f"{name}_untrained"] is None
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    assert [(r["step"], r["rankme"], r["knn"]) for r in rows if "rankme" in r] == [(2, "nan", "nan"), (4, "nan", "nan")]
    capsys.readouterr()
    table.show(str(workdir))
    shown = capsys.readouterr().out
    assert shown.count("not finite") == 4 and shown.count("not run") == 2
    assert read.run(str(workdir), "run").last("rankme") is None


def test_logged_tells_an_evaluation_from_a_step(tmp_path):
    writers = Writers(str(tmp_path), tensorboard=False)
    assert not writers.logged(2, "rankme")
    writers.scalars(2, {"loss": 1.0})
    assert not writers.logged(2, "rankme")
    writers.scalars(2, {"rankme": 5.0})
    assert writers.logged(2, "rankme") and not writers.logged(3, "rankme")
    writers.close()


@pytest.fixture
def profiler(monkeypatch):
    """What is asked of JAX's profiler, which refuses to start twice and to stop what has not started."""
    calls = []

    def start(folder):
        assert calls[-1:] != ["start"]
        calls.append("start")

    def stop():
        assert calls[-1:] == ["start"]
        calls.append("stop")
    monkeypatch.setattr(jax.profiler, "start_trace", start)
    monkeypatch.setattr(jax.profiler, "stop_trace", stop)
    return calls


def traced(trace, first, last):
    for step in range(first, last):
        trace.before(step)
        trace.after(step + 1, 0)


@pytest.mark.parametrize(("first", "last", "said"), [
    (0, 30, ["steps 10 to 20"]), (13, 30, ["steps 13 to 20"]), (0, 14, ["steps 10 to 14"]), (20, 30, ["no trace is written"]), (0, 9, [])])
def test_the_trace_begins_in_its_window_and_is_always_written(profiler, first, last, said):
    notes = []
    trace = progress.Trace((10, 20), "folder", notes.append)
    trace.resumed(first)
    traced(trace, first, last)
    trace.stop()
    assert len(notes) == len(said) and all(words in note for words, note in zip(said, notes))
    assert profiler == (["start", "stop"] if said and "steps" in said[0] else [])


def test_the_trace_goes_on_after_a_rollback(profiler):
    notes = []
    trace = progress.Trace((10, 20), "folder", notes.append)
    traced(trace, 0, 15)
    trace.stop()
    traced(trace, 5, 30)
    assert profiler == ["start", "stop"] * 2 and "steps 10 to 15" in notes[0] and "steps 10 to 20" in notes[1]


def test_no_trace_unless_asked(profiler):
    trace = progress.Trace(None, "folder", pytest.fail)
    trace.resumed(5)
    traced(trace, 0, 5)
    trace.stop()
    assert profiler == []


SCRIPT = """
import sys
from jax._src import xla_bridge
make = xla_bridge.xla_client.make_cpu_client
def recorded(**how):
    print("the client's dispatch is", "asynchronous" if how["asynchronous"] else "synchronous", flush=True)
    return make(**how)
xla_bridge.xla_client.make_cpu_client = recorded
from jaxssl import {module}
sys.exit({module}.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("module", "devices", "dispatch"), [("main", 2, "synchronous"), ("main", 1, "asynchronous"), ("evaluate", 2, "synchronous")])
def test_the_cpu_client_is_made_with_the_dispatch_that_its_devices_need(tmp_path, module, devices, dispatch):
    """Both commands are refused, but after they asked for the devices."""
    arguments = {"main": ["--config", "configs/digits/simclr.py", "--config.model.name=resnet19", "--workdir", str(tmp_path / "run")], "evaluate": ["--workdir", str(tmp_path)]}
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(module=module), *arguments[module], "--compilation_cache=off"], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"})
    assert done.returncode == 2 and f"the client's dispatch is {dispatch}\n" in done.stdout, done.stdout + done.stderr


def test_several_cpu_devices_are_told_from_flags_and_environment(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_force_host_platform_device_count=1")
    assert not runtime.several_cpu_devices(0) and not runtime.several_cpu_devices(1)
    assert runtime.several_cpu_devices(2)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4 --xla_other=1")
    assert runtime.several_cpu_devices(0)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert runtime.several_cpu_devices(0)
