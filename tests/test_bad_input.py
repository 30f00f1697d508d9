"""Whatever the user gets wrong is one sentence on stderr and exit code 2, before anything is compiled."""
import logging
import os
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxssl import config as configs, data as datas, main
from jaxssl.training import checks, job as jobs
from jaxssl.parallel import mesh as sharding
from jaxssl.errors import UserError

ROOT = Path(__file__).parent.parent
DIGITS, FOLDER = "configs/digits/simclr.py", "configs/folder/simclr.py:laptop"
COMPILED: list[str] = []  # names of the functions that XLA compiled, jitted or single operations
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _seconds, **names: COMPILED.append(names.get("fun_name", event)) if event.endswith("/backend_compile_duration") else None)


@pytest.fixture
def images(tmp_path):
    """A folder of two classes with eight 40×40 images each."""
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(np.random.RandomState(i).randint(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def attempt(monkeypatch, capsys, tmp_path):
    """attempt(*flags) -> the message of a run that must fail with code 2, compile nothing at all and leave no config.json that was not there."""
    monkeypatch.chdir(ROOT)

    def go(*flags, workdir=None):
        file = Path(workdir or tmp_path / "run") / "config.json"
        before = file.exists() and file.read_text()
        COMPILED.clear()
        code = main.main(["--workdir", str(workdir or tmp_path / "run"), "--compilation_cache=off", *flags])
        message = capsys.readouterr().err
        assert code == 2, message
        assert set(COMPILED) <= {"jit(convert_element_type)"}  # two numbers of the views to an array; no more
        assert (file.exists() and file.read_text()) == before
        lines = [line for line in message.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in message
        return lines[0]
    return go


@pytest.mark.parametrize("flags, words", [
    (["--config", "configs/digits/simcrl.py"], ["no config file", "did you mean"]),
    (["--config", DIGITS + ":lap"], ["no variant", "laptop"]),
    (["--config", DIGITS, "--config.optim.lrr=3"], ["optim.lrr", "did you mean 'optim.lr'"]),
    (["--config", DIGITS, "--config.optim.lr=fast"], ["optim.lr", "float"]),
    (["--config", DIGITS, "--config.optim.lr"], ["has no value"]),
    (["--config", DIGITS, "--batch=3"], ["unknown argument '--batch=3'"]),
    (["--config", DIGITS, "--config.method.name=simclear"], ["unknown method 'simclear'", "simclr"]),
    (["--config", DIGITS, "--config.optim.name=lasr"], ["lasr", "did you mean 'lars'"]),
    (["--config", DIGITS, "--config.data.source=digit"], ["digit", "did you mean 'digits'"]),
    (["--config", DIGITS, "--config.model.name=resnet19"], ["resnet19", "resnet18"]),
    (["--config", DIGITS, "--config.batch_size=100"], ["batch_size is 100", "8 devices", "96", "104"]),
    (["--config", DIGITS, "--config.batch_size=80000"], ["only", "training images"]),
    (["--config", DIGITS, "--config.augment.size=64"], ["augment.size is 64", "canvas of 32"]),
    (["--config", DIGITS, "--config.augment.views=1"], ["augment.views is 1", "at least 2"]),
    (["--config", DIGITS, "--config.augment.crop_scale=(1.,.5)"], ["augment.crop_scale"]),
    (["--config", DIGITS, "--config.method.temperature=0"], ["temperature", "above 0"]),
    (["--config", DIGITS, "--config.mesh.fsdp=3"], ["mesh.fsdp is 3", "8 devices"]),
    (["--config", DIGITS, "--config.warmup=900"], ["warmup"]),
    (["--config", DIGITS, "--config.checkpoint.keep_last=0"], ["keep_last"]),
    (["--config", DIGITS, "--config.eval.batch=0"], ["eval.batch"]),
    (["--config", DIGITS, "--profile_steps=9"], ["--profile_steps", "10:20"]),
    (["--config", FOLDER], ["data.path is empty"]),
    (["--config", FOLDER, "--config.data.path=/nowhere/at/all"], ["/nowhere/at/all", "does not exist"]),
    (["--config", DIGITS, "--processes=2", "--process_id=0"], ["--coordinator"]),
    (["--config", DIGITS, "--config.model.bn_groups=0"], ["model.bn_groups is 0", "at least 1"]),
    (["--config", DIGITS, "--config.total=1.2.3_epochs"], ["total is '1.2.3_epochs'", "200_epochs"]),
    (["--config", DIGITS, "--config.total=1e999_epochs"], ["total is '1e999_epochs'", "200_epochs"]),
    (["--config", DIGITS, "--config.total=1e300_epochs"], ["total is '1e300_epochs'", "at most 2,147,483,647"]),
    (["--config", DIGITS, "--config.total=1e999"], ["total is 'inf'", "200_epochs"]),
    (["--config", DIGITS, "--config.optim.rules=foo"], ["optim.rules", "(('bias$', {'decay': 0.0}),)"]),
    (["--config", DIGITS, "--config.optim.rules=('bias',{})"], ["optim.rules", "(('bias$', {'decay': 0.0}),)"]),
    (["--config", DIGITS, "--config.optim.rules=(('gamma',{'decay':0.}),)"], ["optim.rules: decay of 'gamma' decides nothing"]),
    (["--config", DIGITS, "--config.optim.weight_decay_end=abc"], ["optim.weight_decay_end is 'abc'", "float", "none"]),
    (["--config", DIGITS, "--config.optim.lr=(.1,.2)"], ["optim.lr is (0.1, 0.2)", "float"]),
    (["--config", DIGITS, "--config.optim.lr=1e999"], ["optim.lr is inf", "float"]),
    (["--config", DIGITS, "--config.augment.mean=grey"], ["augment.mean is ('grey',)", "a tuple such as (0.1,)"]),
    (["--config", DIGITS, "--config.augment.crop_scale=.5"], ["augment.crop_scale is (0.5,)", "2 numbers"]),
    (["--config", DIGITS, "--config.augment.blur=(.1,'x')"], ["augment.blur", "one a view"]),
    (["--config", DIGITS, "--config.augment.hue=(.1,.2)"], ["augment.hue", "float"]),
    (["--config", FOLDER, "--config.data.holdout=(.1,.2)"], ["data.holdout is (0.1, 0.2)", "float"]),
    (["--config", DIGITS, "--config.eval.rank_samples=1"], ["rank_samples"]),
])
def test_table(attempt, flags, words):
    message = attempt(*flags)
    for word in words:
        assert word in message, message


def test_empty_folder(attempt, tmp_path):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in attempt("--config", FOLDER, f"--config.data.path={tmp_path / 'empty'}")


def test_unreadable_zip(attempt, tmp_path):
    file = tmp_path / "broken.zip"
    file.write_bytes(b"this is no archive")
    message = attempt("--config", FOLDER, "--config.data.source=zip", f"--config.data.path={file}")
    assert "broken.zip" in message and "zip" in message


def test_zip_with_a_way_out(attempt, tmp_path):
    file = tmp_path / "evil.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../outside.png", b"x")
    assert ".." in attempt("--config", FOLDER, "--config.data.source=zip", f"--config.data.path={file}")


def test_fewer_images_than_a_batch(attempt, images):
    message = attempt("--config", FOLDER, f"--config.data.path={images}")
    assert "training images" in message and "batch_size is 64" in message


def test_workdir_without_permission(attempt, tmp_path, monkeypatch):
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write everywhere; what access() would tell another user is put in its place
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    assert "no permission to write" in attempt("--config", DIGITS, workdir=folder)


def test_workdir_that_cannot_be_made(attempt, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot make workdir" in attempt("--config", DIGITS, workdir=tmp_path / "file" / "run")


def test_foreign_workdir(attempt, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("")
    assert "not a run of this program" in attempt("--config", DIGITS, workdir=tmp_path / "photos")


def test_workdir_of_another_config(attempt, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(configs.describe(configs.load(DIGITS, {"seed": "9"})))
    message = attempt("--config", DIGITS, workdir=tmp_path / "other")
    assert "another config" in message and "seed: 9 → 0" in message


def test_debug_shows_the_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    assert main.main(["--config", "no.py", "--workdir", str(tmp_path), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_workdir_with_a_torn_config(attempt, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model": {')
    assert "config.json cannot be read" in attempt("--config", DIGITS)


def test_config_of_a_workdir(attempt, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text(configs.describe(configs.load(DIGITS)))
    message = attempt("--config", str(tmp_path / "x" / "config.json"))
    assert "is no config file" in message and "to resume a run" in message


@pytest.mark.parametrize("text, words", [("def get_config(", "SyntaxError"), ("import nothing_of_this_name", "ModuleNotFoundError"), ("x = 1", "get_config")])
def test_config_that_is_no_config(attempt, tmp_path, text, words):
    (tmp_path / "c.py").write_text(text)
    message = attempt("--config", str(tmp_path / "c.py"))
    assert "fails as Python" in message and words in message


def test_bucket_without_its_package(attempt, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    message = attempt("--config", DIGITS, workdir="gs://some-bucket/run")
    assert "gs://some-bucket/run cannot be reached" in message and "pip install gcsfs" in message


def test_address_of_an_unknown_kind(attempt):
    assert "ftp://host/run is no place for a run" in attempt("--config", DIGITS, workdir="ftp://host/run")


def test_links_in_a_circle(attempt, images):
    (images / "cat" / "a.png").symlink_to("b.png")
    (images / "cat" / "b.png").symlink_to("a.png")
    message = attempt("--config", FOLDER, f"--config.data.path={images}")
    assert ".png leads in a circle" in message and "delete it" in message


def test_pack_without_its_index(attempt, images):
    pytest.importorskip("array_record", reason="array_record is not installed")
    from jaxssl.data import __main__ as command
    packed = images.parent / "packed"
    assert command.main(["pack", str(images), str(packed)]) == 0
    (packed / "train.index.jsonl").unlink()
    message = attempt("--config", FOLDER, "--config.data.source=array_record", f"--config.data.path={packed}")
    assert "train.index.jsonl" in message and "copy the whole directory again" in message


def against(sides, size):
    """What `checks.config` says of images with these shorter sides and views of `size`."""
    config = configs.load(FOLDER, {"augment.size": str(size), "data.canvas": str(size), "batch_size": "8"})
    checks.config(config, sharding.make_mesh(devices=jax.devices()), jobs.Facts(1000, 2, size, False, tuple(sides)))


def test_images_far_smaller_than_a_crop(images):
    sides = datas.make(source="folder", path=str(images)).sides
    assert set(sides) == {40}
    with pytest.raises(UserError, match="augment.size is 224 pixels.*40 pixels at most.*--config.augment.size=40 or less"):
        against(sides, 224)


def test_images_somewhat_smaller_than_a_crop_are_a_warning(caplog):
    for sides, size, said in (((32,), 32, 0), ((8,), 8, 0), ((200, 375, 400), 224, 0), ((20, 40, 120), 224, 1), ((40,), 64, 1), ((), 224, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="jaxssl.training.job"):
            against(sides, size)
        assert sum("views are enlarged" in r.message for r in caplog.records) == said, (sides, size)
