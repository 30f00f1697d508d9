"""Whatever the user gets wrong is one sentence on stderr and exit code 2, before anything is compiled."""
import os
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxssl import config as configs, main

ROOT = Path(__file__).parent.parent
DIGITS, FOLDER = "configs/digits/simclr.py", "configs/folder/simclr.py:laptop"


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
    """attempt(*flags) -> the message of a run that must fail with code 2 and never reach a compile."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_a, **_k: pytest.fail("compiled before the input was checked"))

    def go(*flags, workdir=None):
        code = main.main(["--workdir", str(workdir or tmp_path / "run"), "--compilation_cache=off", *flags])
        message = capsys.readouterr().err
        assert code == 2, message
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
