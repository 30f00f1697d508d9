"""An encoder as an object: from a workdir, an export, a file; features against the training program's own and naive loops."""
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxssl
from jaxssl import config as configs, encoder as encoders, evaluate, models, tree
from jaxssl.workdir import checkpoint
from jaxssl.encoder import load as loading
from jaxssl.encoder import preprocessing
from jaxssl.errors import UserError
from jaxssl.encoder.formats import safetensors as native
from tests.tiny import ROOT, Tiny, config_of


def spread(values):
    """Every array nudged by its own draw, so that nothing is at its initial value and no two tensors are alike."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: (np.asarray(a) + 0.1 * rng.random(a.shape)).astype(np.float32), values)


@functools.cache
def tiny(ema):
    """A tiny job with a state of random weights, statistics and averages."""
    t = Tiny(config_of("simclr", ema=str(ema), **{"method.hidden": "8", "method.dim": "4", "model.depths": "(1, 1, 1, 1)", "model.stem": "cifar"}), devices=1)
    t.state = dataclasses.replace(t.state, params=spread(t.state.params), aux=spread(t.state.aux))
    return t


def workdir_of(folder, ema=0.0, step=3):
    """A workdir as a run leaves it: config and checkpoint."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(configs.describe(tiny(ema).config))
    manager = checkpoint.open_manager(workdir=folder, keep_last=9, asynchronous=False)
    manager.save(step, tiny(ema).state, {})
    manager.wait()
    manager.close()
    return str(folder)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return workdir_of(tmp_path_factory.mktemp("workdir"))


@pytest.fixture(scope="module")
def encoder(workdir):
    return loading.from_workdir(workdir)


@pytest.fixture(scope="module")
def exported(encoder, tmp_path_factory):
    """An export folder of our own format."""
    folder = tmp_path_factory.mktemp("export")
    native.write(encoder, folder)
    return folder


def images(n=3, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def test_features_are_the_training_programs(encoder):
    batch = {"image": images(), "size": np.full((3, 2), 16, np.int32)}
    np.testing.assert_allclose(encoder(batch["image"]), tiny(0.0).job.embed(tiny(0.0).state, batch), rtol=1e-5, atol=1e-6)
    assert encoder.step == 3 and encoder.weights == "student" and encoder(batch["image"]).shape == (3, encoder.width)


def test_teacher_is_the_average_and_the_default_where_there_is_one(tmp_path):
    folder, state = workdir_of(tmp_path / "run", ema=0.5), tiny(0.5).state
    teacher, student = loading.load(folder), loading.load(folder, weights="student")
    assert (teacher.weights, student.weights) == ("teacher", "student")
    assert tree.digest(teacher.variables["params"]["encoder"]) == tree.digest(state.aux["teacher"]["params"]["encoder"]) != tree.digest(state.params["encoder"])
    assert tree.digest(teacher.variables["batch_stats"]["encoder"]) == tree.digest(state.aux["teacher"]["batch_stats"]["encoder"])
    assert tree.digest(student.variables["params"]) == tree.digest({n: state.params[n] for n in ("encoder", "projector")})
    assert teacher.layers == ("backbone",) and set(teacher.variables["params"]) == {"encoder"}       # no loss saw the student's projector on the average
    assert student.layers == ("backbone", "projector.1", "projector.2")
    with pytest.raises(UserError, match="'projector.1' is one of the student: the moving average holds encoder alone; use --use student"):
        teacher.check_layer("projector.1")
    with pytest.raises(UserError, match="'bakbone' is not one of backbone; did you mean"):
        teacher.check_layer("bakbone")
    fresh = encoders.untrained(teacher)
    assert fresh.layers == ("backbone",) and fresh(images()).shape == (3, teacher.width)
    (tmp_path / "export").mkdir()
    native.write(teacher, tmp_path / "export")
    assert loading.load(tmp_path / "export").digest == teacher.digest
    with pytest.raises(UserError, match="'teecher'.*did you mean 'teacher'"):
        loading.load(folder, weights="teecher")


def test_a_run_without_average_has_no_teacher(workdir):
    with pytest.raises(UserError, match="kept no moving average"):
        loading.load(workdir, weights="teacher")
    with pytest.raises(UserError, match="no checkpoint of step 7; it has 3"):
        loading.from_workdir(workdir, step=7)


def test_every_head_layer_against_a_loop(encoder):
    h = encoder(images()).astype(np.float64)
    params, stats = (encoder.variables[c]["projector"] for c in ("params", "batch_stats"))
    assert encoder.layers == ("backbone", "projector.1", "projector.2")
    x = h
    for i in (1, 2):
        x = x @ np.asarray(params[f"linear{i}"]["kernel"], np.float64)
        norm, moments = params[f"norm{i}"], stats[f"norm{i}"]
        x = (x - moments["mean"]) / np.sqrt(moments["var"] + 1e-5) * norm["scale"] + norm.get("bias", 0)
        x = np.maximum(x, 0) if i == 1 else x
        np.testing.assert_allclose(encoder(images(), f"projector.{i}"), x, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="'projecter.1'.*did you mean 'projector.1'"):
        encoder(images(), "projecter.1")


def test_images_of_different_sizes_are_each_their_own(encoder):
    mixed = [images(1, side)[0][:, :width] for side, width in ((16, 16), (40, 23), (90, 200), (12, 5))]
    together = encoder(mixed)
    for image, features in zip(mixed, together):
        np.testing.assert_allclose(encoder([image])[0], features, rtol=1e-3, atol=1e-3)      # another canvas, another order of sums
    np.testing.assert_array_equal(encoder(mixed[:1]), encoder(np.stack(mixed[:1])))


@pytest.mark.parametrize("bad, words", [([], "no images"), (np.zeros((2, 8, 8, 3), np.float32), "float32 .*expected uint8"), (np.zeros((2, 8, 8), np.uint8), r"\(8, 8\)"), (["a.png"], "str"),
                                        (None, "a NoneType; expected"), (Path("a.png"), "PosixPath; expected"), (Image.new("RGB", (8, 8)), "images are a Image; expected .*numpy.asarray"), ("a.png", "a str")])
def test_what_is_no_image_is_refused(encoder, bad, words):
    with pytest.raises(UserError, match=words):
        encoder(bad)


def test_training_mode_changes_only_the_statistics_it_uses(encoder):
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    (_, same), (_, new) = jax.jit(lambda v: (encoder.forward(v, x), encoder.forward(v, x, train=True)))(encoder.variables)
    assert tree.digest(same) == tree.digest(encoder.variables["batch_stats"])
    assert tree.digest(new["encoder"]) != tree.digest(same["encoder"]) and tree.digest(new["projector"]) == tree.digest(same["projector"])


def test_untrained_is_the_state_the_run_began_with(encoder):
    fresh = tiny(0.0).job.init(np.asarray(jax.random.key_data(jax.random.key(tiny(0.0).config.seed))))
    begun = encoders.untrained(encoder)
    for name, value in tree.names(begun.variables["params"]).items():
        np.testing.assert_allclose(value, tree.names(fresh.params)[name], rtol=1e-6, atol=1e-7)


def test_export_and_single_file_equal_the_workdir(encoder, workdir, exported):
    for path in (exported, exported / "model.safetensors", str(exported)):
        found = jaxssl.load(path)
        assert found.digest == encoder.digest and found.layers == encoder.layers and found.preprocessing == encoder.preprocessing and found.step == 3
    np.testing.assert_array_equal(found(images()), encoder(images()))
    assert jaxssl.load(workdir).digest == encoder.digest
    assert jaxssl.load(exported, precision="bf16").module.dtype == models.DTYPES["bf16"]


def test_what_cannot_be_loaded_is_a_sentence(tmp_path, exported):
    with pytest.raises(UserError, match="holds the student, not the teacher"):
        loading.load(exported, weights="teacher")
    with pytest.raises(UserError, match="there is no file"):
        loading.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="no export, and no config.json"):
        loading.load(tmp_path)
    (tmp_path / "config.json").write_text(configs.describe(tiny(0.0).config))
    with pytest.raises(UserError, match="no committed checkpoint yet"):
        loading.load(tmp_path)


def test_weights_of_another_architecture_are_listed(encoder):
    config = {**encoder.config, "model": {**encoder.config["model"], "name": "resnet18", "depths": ()}}
    with pytest.raises(UserError, match="do not fit resnet18.*missing.*block1"):
        encoders.build(config, encoder.variables, name="w")
    wide = {**encoder.config, "model": {**encoder.config["model"], "width": 0.125}}
    with pytest.raises(UserError, match=r"of another shape.*\(4,\) instead of \(8,\)"):
        encoders.build(wide, encoder.variables, name="w")


@pytest.mark.parametrize("change", [lambda c: c["model"].update(widht=1), lambda c: c.pop("augment"), lambda c: c["method"].update(name="of_tomorrow")], ids=["key", "section", "method"])
def test_a_record_of_another_version_is_a_sentence(exported, tmp_path, change):
    from jaxssl.encoder.formats import files
    tensors, metadata = files.read(exported / "model.safetensors")
    record = json.loads(metadata["jaxssl"])
    del record["record_digest"]         # as older files are
    change(record["config"])
    files.write(tmp_path / "m.safetensors", tensors, {"jaxssl": json.dumps(record)})
    with pytest.raises(UserError, match="m.safetensors is not one that this version of jaxssl understands|m.safetensors .*augment|'of_tomorrow'"):
        loading.load(tmp_path / "m.safetensors")


def test_evaluating_an_export_asks_for_the_folder_of_its_images(encoder, tmp_path, monkeypatch, capsys):
    """An export keeps the last part of that path alone."""
    monkeypatch.chdir(tmp_path)
    native.save(dataclasses.replace(encoder, config={**encoder.config, "data": {"source": "folder", "path": "/somewhere/constraints"}}), tmp_path / "e.safetensors")
    (tmp_path / "constraints.txt").write_text("")
    assert evaluate.main(["--weights", "e.safetensors", "--protocols", "knn"]) == 2
    assert "e.safetensors was trained on 'constraints', but a file of weights does not keep the folder of its images; give it with --data" in capsys.readouterr().err


def test_fill_keeps_what_is_known_and_draws_the_rest(encoder):
    known = {"params": {"encoder": {"stem": encoder.variables["params"]["encoder"]["stem"]}}, "batch_stats": {}}
    named = tree.names(encoders.fill(encoder.config, known))
    assert {n.split("/")[1] for n in named} == {"encoder"}
    for name, value in named.items():
        same = name in tree.names(encoder.variables) and np.array_equal(value, tree.names(encoder.variables)[name])
        assert same == name.startswith("params/encoder/stem/"), name


def test_an_export_loads_without_what_trains(exported):
    """Modules that loading and applying an export brings beyond flax's own: none that reads data, writes checkpoints, optimises or logs."""
    code = f"""
import sys
import flax.linen
before = {{name.split(".")[0] for name in sys.modules}}
import jaxssl
assert "jax" in before and not any(name.startswith("jaxssl.") for name in sys.modules)
import numpy
encoder = jaxssl.load({str(exported)!r})
print(encoder(numpy.zeros((1, 16, 16, 3), numpy.uint8)).shape)
after = {{name.split(".")[0] for name in sys.modules}}
print(sorted((after - before) & {{"orbax", "grain", "optax", "torch", "tensorflow", "clu", "tensorboardX", "wandb", "sklearn", "matplotlib", "ml_collections", "etils", "rich", "onnx", "timm", "transformers"}}))
print([name for name in sys.modules if name in ("jaxssl.training.train", "jaxssl.data", "jaxssl.workdir.checkpoint", "jaxssl.config", "jaxssl.optim")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"(1, {tiny(0.0).job.width})", "[]", "[]"]


def test_importing_the_package_imports_nothing():
    code = "import sys, jaxssl; print([n for n in ('jax', 'numpy', 'flax') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


def test_view_is_the_documented_transform(encoder):
    """Centre crop and normalisation by hand, where nothing is resized."""
    p = encoder.preprocessing
    expected = (images().astype(np.float64) / 255 - p["mean"]) / p["std"]
    view = encoder.view({"image": images(), "size": np.full((3, 2), 16, np.int32)})
    np.testing.assert_allclose(view, expected, atol=1e-5)
    assert p == {"size": 16, "resize": 16, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.25,) * 3}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("height, width", [(375, 500), (150, 200), (1000, 1500), (400, 2400), (4000, 300), (1025, 1024), (3, 2000)])
def test_images_of_any_size_see_the_stated_transform(interpolation, height, width):
    """Against Pillow as torchvision's Resize(256) and CenterCrop(224) call it: long side truncated, margin rounded half to even; 8 bits against floats."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    blank = encoders.Encoder("", {"augment": {"size": 224, "interpolation": interpolation, "mean": (0, 0, 0), "std": (1, 1, 1)}}, "", None, None, {}, {})
    p, short = blank.preprocessing, min(height, width)
    tall, wide = 256 * height // short, 256 * width // short
    left, top = round((wide - 224) / 2), round((tall - 224) / 2)
    expected = image.resize((wide, tall), getattr(Image, interpolation.upper())).crop((left, top, left + 224, top + 224))
    pixels = [np.asarray(image)]
    found = np.asarray(jax.jit(blank.view)(preprocessing.placed(pixels, p, preprocessing.side(pixels, p))))[0] * 255
    difference = np.abs(found - np.asarray(expected, np.float64))
    assert difference.mean() < 0.35 and difference.max() < (1.01 if interpolation == "bilinear" else 6)


def test_large_images_are_features_like_others(encoder):
    """A call mixes images that go through the host's resize with those that do not; each has the features it has alone."""
    rng = np.random.default_rng(0)
    mixed = [np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(size)) for size in ((200, 90), (30, 20), (70, 3))]
    for image, features in zip(mixed, encoder(mixed)):
        np.testing.assert_allclose(encoder([image])[0], features, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="expected uint8"):
        encoder([np.zeros((0, 4, 3), np.uint8)])


def contents(folder):
    return sorted((str(p.relative_to(folder)), p.stat().st_mtime_ns) for p in folder.rglob("*"))


@pytest.mark.parametrize("text, words", [
    ('{"architecture": "resnet50", "num_classes": 0, "pretrained_cfg": {}}', "is no workdir of this program: its config.json \\(of resnet50\\) has no model, method, data, augment .*--weights"),
    ('{"model_type": "resnet"}', "\\(of resnet\\)"), ('{"model": {"name": "resn', "config.json cannot be read .*torn"), ("[]", "holds a JSON list")])
def test_a_config_that_is_not_a_runs_is_a_sentence_and_nothing_is_made(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=words):
        loading.from_workdir(str(tmp_path))
    assert contents(tmp_path) == before


def test_reading_a_workdir_writes_nothing(tmp_path, workdir):
    (tmp_path / "config.json").write_text(configs.describe(tiny(0.0).config))
    before = contents(tmp_path)
    with pytest.raises(UserError, match="no committed checkpoint yet"):
        loading.from_workdir(str(tmp_path), step=3)
    assert contents(tmp_path) == before
    before = contents(Path(workdir))
    loading.from_workdir(workdir)
    assert contents(Path(workdir)) == before


def test_an_export_with_a_stray_folder_is_an_export_and_a_workdir_with_weights_a_workdir(tmp_path, exported, encoder):
    """Earlier versions made checkpoints/ in timm's exports when these were taken for workdirs."""
    shutil.copy(exported / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "resnet50"}')
    (tmp_path / "checkpoints").mkdir()
    assert loading.load(tmp_path).digest == encoder.digest
    run = workdir_of(tmp_path / "run")
    shutil.copy(exported / "model.safetensors", run)
    assert loading.load(run).name == "run"


def test_a_torn_checkpoint_is_one_sentence(tmp_path):
    workdir_of(tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "3" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(UserError, match="checkpoint 3 in .* cannot be read, it is torn or damaged .*; there is no other"):
        loading.from_workdir(str(tmp_path / "run"))


def test_reading_leaves_an_unfinished_save_alone(tmp_path):
    """A run may be saving while its encoder is evaluated."""
    workdir_of(tmp_path / "run")
    saving = tmp_path / "run" / "checkpoints" / "4.orbax-checkpoint-tmp"
    (saving / "state").mkdir(parents=True)
    assert loading.from_workdir(str(tmp_path / "run")).step == 3
    time.sleep(2)                   # orbax cleans up in the background
    assert (saving / "state").is_dir()
    checkpoint.open_manager(workdir=tmp_path / "run").close()
    deadline = time.monotonic() + 30
    while saving.exists() and time.monotonic() < deadline:      # while a run that resumes does clean up
        time.sleep(0.1)
    assert not saving.exists()
