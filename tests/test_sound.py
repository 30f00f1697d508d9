"""A checkpoint that is not what was saved is never read silently; what is refused leaves a workdir as it was; its JSON files are read by one function."""
import ast
import dataclasses
import functools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxssl import tree
from jaxssl.errors import UserError
from jaxssl.parallel import mesh as sharding
from jaxssl.training import evaluator as evaluation, train
from jaxssl.training.step import TrainState
from jaxssl.workdir import checkpoint, digests
from jaxssl.workdir import folder as folders
from tests.test_session import Slow
from tests.tiny import ROOT, SMALL

SPEC = str(ROOT / "configs/digits/simclr.py")
FLAGS = {**SMALL, "total": "4", "warmup": "0", "eval_every": "0", "checkpoint_every": "2", "checkpoint.keep_last": "5", "log.tensorboard": "false", "report": "false"}


# -- digests of arrays -------------------------------------------------------------------------------------------------


def state_on(devices, rows=16):
    """A small train state with sliced and whole arrays on so many devices, and its shapes and shardings."""
    params = {"encoder": {"kernel": jnp.arange(4.0 * rows).reshape(rows, 4), "half": jnp.ones(8, jnp.bfloat16)}}
    state = TrainState(jnp.int32(3), params, optax.adamw(1e-3).init(params), {"batch_stats": {"mean": jnp.arange(5.0)}}, jnp.array([1, 2], jnp.uint32))
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    placed = jax.tree.map(lambda x: NamedSharding(mesh, PartitionSpec("data") if x.ndim and x.shape[0] % 8 == 0 else PartitionSpec()), state)
    return jax.device_put(state, placed), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state), placed


def test_digests_are_of_the_global_arrays_however_they_are_cut():
    one, eight = state_on(1)[0], state_on(8)[0]
    of_one, of_eight = digests.record(one), digests.record(eight)
    assert len(of_one["params/encoder/kernel"]["parts"]) == 1 and len(of_eight["params/encoder/kernel"]["parts"]) == 8
    for state in (one, eight, jax.tree.map(np.asarray, one)):
        assert digests.changed(state, of_one) == digests.changed(state, of_eight) == []


def test_saving_compiles_nothing(tmp_path, caplog):
    """What lies on several devices alike is not cut by a program for every shape."""
    manager, state = checkpoint.open_manager(workdir=tmp_path, asynchronous=False), state_on(8)[0]
    with jax.log_compiles():
        manager.save(3, state, {})
    manager.close()
    assert "ompil" not in caplog.text, caplog.text


@pytest.mark.parametrize("devices", [1, 8])
def test_one_bit_of_one_array_is_noticed(devices):
    state, recorded = state_on(devices)[0], digests.record(state_on(8)[0])
    for name, leaf in tree.names(state).items():
        bits = np.asarray(leaf).copy()
        bits.reshape(-1).view(np.uint8)[-1] ^= 1
        other = {**tree.names(state), name: jax.device_put(bits, leaf.sharding)}
        assert digests.changed(jax.tree.unflatten(jax.tree.structure(state), list(other.values())), recorded) == [name]


def test_arrays_that_are_missing_or_of_another_type_are_noticed():
    state, recorded = state_on(1)[0], digests.record(state_on(1)[0])
    assert digests.changed({"params": state.params}, recorded) == sorted(recorded.keys() - {f"params/{name}" for name in tree.names(state.params)})
    half = dataclasses.replace(state, key=state.key.astype(jnp.int32))
    assert digests.changed(half, recorded) == ["key"]


@pytest.fixture
def saved(tmp_path):
    """(manager, shapes, shardings) of a workdir with checkpoints of steps 3 and 5."""
    state, shape, placed = state_on(8)
    manager = checkpoint.open_manager(workdir=tmp_path, keep_last=9, asynchronous=False)
    for step in (3, 5):
        manager.save(step, state, {"skipped": [step]})
    yield manager, shape, placed
    manager.close()


def newest(saved, **how):
    manager, shape, placed = saved
    manager._manager.reload()                       # something else wrote there
    return manager.newest(shape, placed, **{"total": 9, **how})


def test_the_newest_sound_checkpoint_and_why_not_a_newer_one(saved, tmp_path):
    found = newest(saved)
    assert (found.step, found.meta, found.bad) == (5, {"skipped": [5]}, {}) and tree.digest(found.state) == tree.digest(state_on(1)[0])
    place = tmp_path / "checkpoints"
    shutil.copytree(place / "5", place / "7")                            # renamed
    (place / "8").mkdir()                                                # emptied
    (place / "9").write_text("no folder")
    found = newest(saved)
    assert found.step == 5 and "step 5 under another name" in found.bad[7] and "metadata is not there" in found.bad[8]
    meta = place / "5" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace('"skipped": [5]', '"skipped": [6]'))
    found = newest(saved)
    assert found.step == 3 and found.meta == {"skipped": [3]} and "differs from its digest" in found.bad[5]
    said = saved[0].set_aside(found.bad)
    assert saved[0].steps() == [3] and sorted(p.name for p in (tmp_path / "unsound").iterdir()) == ["5", "7", "8"] and all("is kept in" in each for each in said)
    saved[0].set_aside({3: "another"})
    with pytest.raises(UserError, match="has no checkpoint of step 3; it has none"):
        saved[0].weights(3)
    assert newest(saved) is None


def test_a_flipped_bit_is_refused_by_every_reader(saved, tmp_path):
    manager, shape, placed = saved
    files = [f for f in (tmp_path / "checkpoints" / "5" / "state").rglob("*") if f.is_file() and f.parent.name == "d"]
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(bytes(byte ^ 1 for byte in whole))
    for read in (lambda: manager.restore(5, shape, placed), lambda: manager.weights(5), lambda: manager.verify(5, shape, placed, "")):
        with pytest.raises(checkpoint.Unsound, match="checkpoint 5 in .*; choose another step .there is 3."):
            read()
    assert newest(saved).step == 3


def test_what_is_refused_is_not_called_damaged(saved):
    """Another config, a smaller total, and storage that does not answer: nothing is wrong with the checkpoints."""
    manager, shape, placed = saved
    wide, other = state_on(8, rows=32)[1:]
    with pytest.raises(checkpoint.Misfit, match=r"does not fit .*kernel is float32 \[16, 4\] there and float32 \[32, 4\] here"):
        manager.newest(wide, other, total=9)
    with pytest.raises(UserError, match="checkpoint 5 in .* is beyond the 4 steps"):
        newest(saved, total=4)

    def silent():
        raise ValueError("UNAVAILABLE: no route to the bucket")
    with pytest.raises(UserError, match="could not be read now") as raised:
        manager._sound(5, silent)
    assert raised.value.code == 75


def test_a_step_of_another_run_is_left_out(saved, tmp_path):
    manager, *_ = saved
    manager.save(6, state_on(8)[0], {"run": "theirs"})
    assert newest(saved, run="ours").step == 5 and newest(saved).step == 6
    with pytest.raises(UserError, match="no checkpoint in .* is sound: .* belongs to another run"):
        manager.set_aside({3: "", 5: ""})
        newest(saved, run="ours")


def test_a_checkpoint_without_digests_loads_with_a_line(saved, tmp_path, capsys):
    """As versions before digests wrote them."""
    (tmp_path / "checkpoints" / "5" / "meta" / "metadata").write_text('{"skipped": [], "clock": null}')
    found = newest(saved)
    assert found.step == 5 and found.meta == {"skipped": [], "clock": None} and "of an earlier version and has no digests" in capsys.readouterr().out
    with pytest.raises(checkpoint.Misfit):
        saved[0].restore(5, *state_on(8, rows=32)[1:])


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of four steps with checkpoints of steps 2 and 4."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation, "make", functools.wraps(evaluation.make)(lambda **_: Slow(0)))
        workdir = tmp_path_factory.mktemp("sound") / "run"
        train.run(SPEC, FLAGS, str(workdir))
    return workdir


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """run(**changes) -> what the same command returns in a copy of the run that was killed before its end; `run.folder` is the copy."""
    monkeypatch.setattr(evaluation, "make", functools.wraps(evaluation.make)(lambda **_: Slow(0)))
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "run.json").unlink()

    def go(allow=False, **changes):
        return train.run(SPEC, {**FLAGS, **changes}, str(folder), allow_config_change=allow)
    go.folder = folder
    return go


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_goes_on_from_the_newest_sound_checkpoint_to_the_same_bits(run, trained, capsys):
    for file in (run.folder / "checkpoints" / "4" / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:-7])
    result, said = run(), capsys.readouterr().out
    assert "warning: checkpoint 4 in" in said and "it is kept in" in said and "at step 2" in said
    assert result["state_sha256"] == json.loads((trained / "run.json").read_text())["state_sha256"]
    assert [p.name for p in (run.folder / "unsound").iterdir()] == ["4"]


@pytest.mark.parametrize("allow, changes, words", [
    (True, {"model.width": "0.125"}, "does not fit this config's train state"), (True, {"total": "3"}, "checkpoint 4 in .* is beyond the 3 steps"),
    (False, {"total": "8"}, r"total: 4 → 8; at step 4, where it goes on, the learning rate jumps from 0 to 0.002"), (True, {"eval_every": "1e30_steps"}, "a run counts at most"),
    (True, {"init_from": "nowhere"}, "init_from")])
def test_what_is_refused_leaves_everything_as_it_was(run, allow, changes, words):
    if "init_from" in changes:
        shutil.rmtree(run.folder)
    before = content(run.folder)
    with pytest.raises(UserError, match=words if "init_from" not in changes else "nowhere"):
        run(allow, **changes)
    assert content(run.folder) == before and run.folder.exists() == bool(before)


def test_another_schedule_of_the_same_config_asks_for_the_flag(run, monkeypatch, capsys):
    """As another version of the program might have it."""
    prepare = train.jobs.prepare

    def other(*arguments):
        job = prepare(*arguments)
        return job._replace(optim=job.optim._replace(schedule=lambda step: 0.5))
    monkeypatch.setattr(train.jobs, "prepare", other)
    before = content(run.folder)
    with pytest.raises(UserError, match="another schedule; at step 4, where it goes on, the learning rate jumps from 0 to 0.5; .*--allow_config_change"):
        run()
    assert content(run.folder) == before


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(run):
    (run.folder / "run.json").write_text('{"steps": 4}')
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(UserError, match="holds a run of 4 steps, but none of its checkpoints"):
        run(True, total="8")


# -- JSON files --------------------------------------------------------------------------------------------------------


def test_one_function_reads_every_json_of_a_run(tmp_path):
    """Torn, empty, of another type, not text, endless, a folder, a pipe, unreadable: one sentence with the file and what to do."""
    file = tmp_path / "x.json"
    for data in (b"", b'{"a": [1', b"[1]", b"7", b"null", b"\xff\xfe{", b"[" * 100_000, b"1" * 5000, bytes(100)):
        file.write_bytes(data)
        with pytest.raises(folders.Torn, match="x.json .*; .*restore it from a copy"):
            folders.read_object(file)
        assert folders.readable(file) is None
    file.unlink()
    assert folders.read_json(file) is None
    with pytest.raises(UserError, match="x.json is not there"):
        folders.read_object(file)
    file.mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for odd, words in ((file, "a folder"), (tmp_path / "pipe.json", "a device or pipe")):
        with pytest.raises(UserError, match=words):
            folders.read_json(odd)


def test_no_other_place_parses_a_file_as_json():
    """`json.loads` of what was read from a file, and `json.load`, are in workdir/folder.py alone; readers of images have formats of their own."""
    for file in sorted((ROOT / "jaxssl").rglob("*.py")):
        name = str(file.relative_to(ROOT / "jaxssl"))
        if name == "workdir/folder.py" or name.startswith("data/"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.loads", "json.load"):
                assert not any(word in ast.unparse(node) for word in ("json.load(", "read_text", "read_bytes", "open(")), f"{name}:{node.lineno}"


@pytest.mark.parametrize("name, kind, words", [("rollbacks.json", "torn", "rollbacks.json cannot be read"), ("rollbacks.json", "odd", "does not say how often"),
                                               ("config.json", "odd", "is no section of settings"), ("run.json", "folder", "is no file but a folder"),
                                               ("evaluations/untrained.json", "folder", "is no file but a folder"), (".run.json", "folder", "is no file but a folder")])
def test_what_cannot_be_rebuilt_is_a_sentence_and_nothing_is_written(run, name, kind, words):
    file = run.folder / name
    file.unlink(missing_ok=True)
    file.mkdir() if kind == "folder" else file.write_text({"torn": '{"count": ', "odd": '{"count": "x", "model": 3}'}[kind])
    before = content(run.folder)
    with pytest.raises(UserError, match=words):
        run()
    assert content(run.folder) == before


def test_what_can_be_rebuilt_is_and_a_prolonged_run_says_how_far_the_rate_jumps(run, capsys):
    whole = json.loads((run.folder / "evaluations" / "untrained.json").read_text())
    for name in ("run.json", "evaluations/untrained.json", ".run.json", ".lease.json", "published.json"):
        (run.folder / name).write_text('{"a": ')
    assert run(True, total="6")["steps"] == 6
    assert "at step 4, where it goes on, the learning rate jumps from 0 to 0.001" in capsys.readouterr().out
    assert json.loads((run.folder / "run.json").read_text())["steps"] == 6
    assert json.loads((run.folder / "evaluations" / "untrained.json").read_text()) == whole
    assert json.loads((run.folder / ".run.json").read_text())["run"] == checkpoint.open_reader(str(run.folder)).record(6).meta["run"]


def test_a_write_that_fails_leaves_no_part_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(OSError):
        folders.write(tmp_path / "a.json", '{"b": 1}')
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": "{}"}
