"""A workdir belongs to one config and one set of images; a finished run stays as it is, one that goes on is not finished."""
import functools
import json
import os
import signal
import types

import pytest

from jaxssl.workdir import folder as workdir
from jaxssl.training import evaluator as evaluation, train
from jaxssl import config as configs, data
from jaxssl.data import files, open as opening
from jaxssl.errors import UserError
from tests.test_data_sources import tree
from tests.test_session import Slow
from tests.tiny import ROOT, SMALL

IMAGES = {"training_images": 1437, "held_out_images": 360, "classes": 10, "names_sha256": "ab"}
SPEC = str(ROOT / "configs/digits/simclr.py")
FLAGS = {**SMALL, "total": "2", "warmup": "0", "eval_every": "0", "checkpoint_every": "0", "log.tensorboard": "false", "report": "false"}


@pytest.fixture
def claim(tmp_path):
    def go(config=None, images=IMAGES, *, total=2, allow=False):
        place = str(tmp_path / "run")
        found = workdir.look(place, json.dumps({"seed": 0} | (config or {})), images, total=total, allow_change=allow)
        workdir.make(place)
        workdir.claim(place, found)
        return found.former
    return go


@pytest.fixture
def quick(monkeypatch):
    """Runs whose evaluations cost nothing."""
    monkeypatch.setattr(evaluation, "make", functools.wraps(evaluation.make)(lambda **_: Slow(0)))


def content(folder):
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


def test_a_resume_on_other_images_is_refused_unless_allowed(claim, tmp_path):
    file = tmp_path / "run" / "data.json"
    assert claim() is None and json.loads(file.read_text()) == IMAGES
    assert claim() is None
    fewer = IMAGES | {"training_images": 1400, "names_sha256": "cd"}
    with pytest.raises(UserError, match="on other images .*training_images: 1437 → 1400.*--allow_config_change"):
        claim(images=fewer)
    assert json.loads(file.read_text()) == IMAGES
    claim(images=fewer, allow=True)
    assert json.loads(file.read_text()) == fewer
    file.write_text("{")
    with pytest.raises(UserError, match="data.json cannot be read"):
        claim(images=fewer)


def test_a_workdir_without_data_json_resumes_and_gets_one(claim, tmp_path):
    claim()
    (tmp_path / "run" / "data.json").unlink()
    before = content(tmp_path / "run")
    assert claim() is None and content(tmp_path / "run") == before | {"data.json": json.dumps(IMAGES, indent=1)}


def test_a_finished_run_keeps_the_config_it_was_trained_with(claim, tmp_path):
    claim()
    (tmp_path / "run" / "run.json").write_text('{"steps": 2}')
    before = content(tmp_path / "run")
    assert claim({"width": 2}, IMAGES | {"classes": 9}, allow=True) == {"steps": 2} and content(tmp_path / "run") == before
    with pytest.raises(UserError, match="another config"):
        claim({"width": 2})
    assert claim({"total": 4}, total=4, allow=True) == {"steps": 2} and (tmp_path / "run" / "run-2.json").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["total"] == 4


def test_a_foreign_run_json_is_no_finished_run(claim, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"steps": 2}')
    with pytest.raises(UserError, match="not a run of this program"):
        claim()


def test_an_extended_run_is_not_finished_until_its_end(quick, monkeypatch, capsys, tmp_path):
    """100 epochs, then 200: stopped in between, the table of the first run is not taken for the second's."""
    from jaxssl import table
    run = tmp_path / "run"
    first = train.run(SPEC, FLAGS, str(run))
    assert first["steps"] == 2 and table.main(["--workdir", str(run)]) == 0
    one_step = train.Session.one_step

    def stopped(session):
        one_step(session)
        os.kill(os.getpid(), signal.SIGTERM)
    longer = {**FLAGS, "total": "6"}
    monkeypatch.setattr(train.Session, "one_step", stopped)
    assert train.run(SPEC, longer, str(run), allow_config_change=True) == {"stopped": 3}
    assert json.loads((run / "run-2.json").read_text()) == json.loads(json.dumps(first)) and not (run / "run.json").exists()
    assert table.main(["--workdir", str(run)]) == UserError.code and "has not finished" in capsys.readouterr().err
    monkeypatch.setattr(train.Session, "one_step", one_step)
    assert train.run(SPEC, longer, str(run))["steps"] == 6 and table.main(["--workdir", str(run)]) == 0


def test_a_signal_before_the_first_step_is_kept(quick, monkeypatch, tmp_path):
    """It came while the data were listed, which takes minutes for millions of files: the run is claimed, saved at step 0, and goes on with the same command."""
    seen, found = [], opening.open_source

    def listing(*arguments, **config):
        os.kill(os.getpid(), signal.SIGTERM)
        return found(*arguments, **config)
    former = signal.signal(signal.SIGTERM, lambda *_: seen.append("nobody kept it"))
    try:
        monkeypatch.setattr(opening, "open_source", listing)
        assert train.run(SPEC, FLAGS, str(tmp_path / "run")) == {"stopped": 0} and not seen
        monkeypatch.setattr(opening, "open_source", found)
        assert train.run(SPEC, FLAGS, str(tmp_path / "run"))["steps"] == 2
    finally:
        signal.signal(signal.SIGTERM, former)


def test_a_resume_names_files_of_a_large_set_that_were_written_since(tmp_path, monkeypatch):
    """Their contents were not read, so that it is a note and no refusal; and it is no part of what is compared."""
    monkeypatch.setattr(files, "SMALL", (1, 1))
    images = tree(tmp_path / "set", [f"{c}/{i}.png" for c in "ab" for i in range(4)])
    config, place = configs.load(SPEC, {"data.source": "folder", "data.variant": "cluttered", "data.path": str(images)}), str(tmp_path / "run")

    def look():
        return train.look(config, data.make(**config.data), types.SimpleNamespace(total=4), place, False).claim
    workdir.make(place)
    workdir.claim(place, look(), "name")
    assert json.loads((tmp_path / "run/data.json").read_text())["written"]["files"] == 8 and look().said == []
    os.utime(images / "b/2.png", (4e9, 4e9))
    assert look().said == ["note: 1 file of 8 was written since this run began with them (b/2.png); a set of so many is told by names, sizes and samples, which are the same, "
                           "and whether every image is the same was not seen"]
    (images / "b/2.png").write_bytes(b"")
    with pytest.raises(UserError, match="belongs to a run on other images .contents_sha256.*; sampled_sha256: "):
        look()
