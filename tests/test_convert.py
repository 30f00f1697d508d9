"""Weights from elsewhere: every name accounted for, a run that begins with them, and what is refused."""
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxssl import convert, encoder as encoders, export, main, tree
from jaxssl.training import train
from jaxssl.encoder import initial, load as loading
from jaxssl.errors import UserError
from jaxssl.encoder.formats import files, names, records, safetensors as native, torchvision
from tests.test_encoder import workdir_of
from tests.test_interop import config_of, lone, made
from tests.tiny import ROOT, SMALL, Tiny, config_of as run_config

HEADS = {"method.hidden": "8", "method.dim": "4", "model.depths": "(1, 1, 1, 1)", "model.stem": "cifar"}


@pytest.fixture
def converted(tmp_path, capsys):
    """converted(*flags) -> (exit code, output, error line) of a conversion to tmp_path/out."""
    def go(source, *flags):
        code = convert.main([str(source), str(tmp_path / "out"), *flags])
        said = capsys.readouterr()
        return code, said.out, next((line for line in said.err.splitlines() if line.startswith("error: ")), "")
    return go


def test_a_torchvision_file_becomes_ours(tmp_path, converted):
    code, said, _ = converted(lone(tmp_path, fc_weight=np.zeros((2, 32), np.float32), layer1_0_bn1_num_batches_tracked=None), "--mean", ".1,.2,.3", "--size", "24")
    assert code == 0 and "used: 60 tensors" in said and "unused: 1 (fc.weight)" in said and "missing, drawn from seed 0: 0 (none)" in said and "note: preprocessing assumed" in said
    accounts = json.loads((tmp_path / "out" / convert.NAMES).read_text())
    assert str(tmp_path / "out" / convert.NAMES) in said and accounts["unused"] == ["fc.weight"] and accounts["missing"] == []
    assert accounts["used"] == sorted(torchvision.table(made(config_of()).module))
    encoder, original = loading.load(tmp_path / "out"), made(config_of())
    assert encoder.digest == tree.digest(records.parts(original.variables, ("encoder",))) and encoder.layers == ("backbone",)
    assert encoder.preprocessing == {"size": 24, "resize": 24, "interpolation": "bilinear", "mean": (0.1, 0.2, 0.3), "std": (0.229, 0.224, 0.225)}
    assert encoder.origin.assumed == ("interpolation", "std", "architecture") and "'std'" in encoder.origin.notes[0] and "'mean'" not in encoder.origin.notes[0]
    x = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    assert not np.allclose(encoders.untrained(encoder)(x), encoder(x))                       # weights from elsewhere have no seed of their own


def test_missing_tensors_are_refused_unless_named(tmp_path, converted):
    file = lone(tmp_path, layer4_0_bn1_weight=None, layer4_0_bn1_bias=None)
    code, _, error = converted(file)
    assert code == 2 and "2 tensors are missing (layer4.0.bn1.weight (encoder/stage4/block0/norm1/scale), layer4.0.bn1.bias" in error and "--allow_missing" in error
    assert not (tmp_path / "out").exists()
    assert "1 tensors are missing" in converted(file, "--allow_missing", "layer4.0.bn1.weight")[2]
    assert "'encoder/stage3' is allowed to be missing, but nothing of that name is" in converted(file, "--allow_missing", "encoder/stage4,encoder/stage3")[2]
    code, said, _ = converted(file, "--allow_missing", "encoder/stage4/block0")
    assert code == 0 and "used: 58 tensors" in said and "seed 0: 2 (layer4.0.bn1.weight, layer4.0.bn1.bias)" in said
    named = tree.names(loading.load(tmp_path / "out").variables)
    np.testing.assert_array_equal(named["params/encoder/stage4/block0/norm1/bias"], 0.0)


def test_an_export_of_ours_is_read_and_a_changed_one_refused(tmp_path, converted):
    encoder = made(config_of())
    records.write_torch(encoder, tmp_path, "timm", torchvision.table(encoder.module))
    code, said, _ = converted(tmp_path / files.WEIGHTS)
    assert code == 0 and "layout: timm" in said and "used: 60 tensors" in said
    assert loading.load(tmp_path / "out").config["method"] == config_of()["method"] and loading.load(tmp_path / "out").step == 5
    assert converted(tmp_path / files.WEIGHTS)[0] == 0                      # the same again
    (tmp_path / "out" / convert.NAMES).write_text("{}")
    assert "exists already and holds something else (names.json differs)" in converted(tmp_path / files.WEIGHTS)[2]
    shutil.rmtree(tmp_path / "out")
    tensors, metadata = files.read(tmp_path / files.WEIGHTS)
    files.write(tmp_path / files.WEIGHTS, {**tensors, "extra": np.zeros(2)}, metadata)
    code, _, error = converted(tmp_path / files.WEIGHTS)
    assert code == 2 and "0 tensors are missing (none), 1 are not part of it (extra)" in error


@pytest.mark.parametrize("make, words", [
    (lambda p: p.write_bytes(b"\x80\x04K\x01."), "pickle under a .safetensors name"),
    (lambda p: p.write_bytes(b"\x10" + b"\0" * 7 + b"{}"), "truncated or corrupted"),
    (lambda p: safetensors.numpy.save_file({"blocks.0.attn.qkv.weight": np.zeros((3, 3), np.float32)}, p), "holds no ResNet under the names of torchvision, transformers, simclr"),
    (lambda p: safetensors.numpy.save_file({f"backbone.{n}": a for n, a in files.read(lone(p.parent))[0].items()}, p), "--prefix backbone.")])
def test_other_files_are_one_sentence(tmp_path, converted, make, words):
    make(tmp_path / "x.safetensors")
    code, _, error = converted(tmp_path / "x.safetensors")
    assert code == 2 and words in error and not (tmp_path / "out").exists()


def test_a_prefix_takes_one_network_out_of_a_checkpoint(tmp_path, converted):
    encoder = made(config_of())
    tensors = names.theirs(torchvision.table(encoder.module), tree.names(records.parts(encoder.variables, ("encoder",))))
    both = {f"module.encoder_q.{n}": a for n, a in tensors.items()} | {f"module.encoder_k.{n}": a * 2 for n, a in tensors.items()}
    safetensors.numpy.save_file(both, tmp_path / "moco.safetensors")
    assert "begin with 'module.encoder_k.' or 'module.encoder_q.'" in converted(tmp_path / "moco.safetensors")[2]
    code, said, _ = converted(tmp_path / "moco.safetensors", "--prefix", "module.encoder_q.")
    assert code == 0 and "unused: 60" in said and loading.load(tmp_path / "out").digest == tree.digest(records.parts(encoder.variables, ("encoder",)))


def timm_folder(tmp_path):
    """Weights beside a config that takes 224 pixels out of 235."""
    (tmp_path / "timm").mkdir()
    lone(tmp_path).rename(tmp_path / "timm" / files.WEIGHTS)
    stated = {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "timm" / "config.json").write_text(json.dumps({"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1]}, "pretrained_cfg": stated}))
    return tmp_path / "timm"


@pytest.mark.parametrize("size, resize", [(288, 302), (160, 168)])
def test_another_size_keeps_the_share_of_the_crop(tmp_path, converted, size, resize):
    code, _, error = converted(timm_folder(tmp_path), "--size", str(size))
    assert code == 0, error
    assert loading.load(tmp_path / "out").preprocessing == {"size": size, "resize": resize, "interpolation": "bicubic", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


@pytest.mark.parametrize("flags, words", [
    (["--std", "0,0,0"], "cannot be applied (mean=(0.1, 0.2, 0.3), std=(0.0, 0.0, 0.0): expected a number each for every channel (three for RGB), std above 0)"),
    (["--size", "0"], "a view has at least one pixel"), (["--model", "resnet_50"], "model 'resnet_50' is not one of"), (["--model", "resnet_50"], "did you mean 'resnet50'?")])
def test_flags_that_make_no_encoder_are_one_sentence(tmp_path, converted, flags, words):
    code, _, error = converted(timm_folder(tmp_path), *flags)
    assert code == 2 and words in error and sorted(p.name for p in tmp_path.iterdir()) == ["timm"]


def test_weights_whose_own_config_makes_no_view_are_one_sentence(tmp_path):
    folder = timm_folder(tmp_path)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("0.95", "1.5"))
    with pytest.raises(UserError, match="resize=149: the short side must be at least size=224"):
        loading.load(folder)


@pytest.mark.parametrize("flag", ["--mean", "--std"])
def test_numbers_of_pixels_up_to_255_are_refused(capsys, flag):
    with pytest.raises(SystemExit) as stop:
        convert.main(["a", "b", flag, "123,116,103"])
    assert stop.value.code == 2 and "divide those of pixels up to 255 by 255" in capsys.readouterr().err


def test_weights_that_are_not_finite_become_no_file(tmp_path, converted):
    code, _, error = converted(lone(tmp_path, bn1_bias=np.full(4, np.nan, np.float32)))
    assert code == 2 and "1 tensors of lone hold numbers that are not finite (params/encoder/stem/norm/bias)" in error and not (tmp_path / "out").exists()


def test_what_was_written_is_compared_with_what_was_meant(tmp_path, converted, monkeypatch):
    """The writer gets other values than the converter made; the file itself is whole."""
    write = native.write
    monkeypatch.setattr(native, "write", lambda made, folder: write(dataclasses.replace(made, variables=jax.tree.map(lambda a: a * 2, made.variables)), folder))
    code, _, error = converted(lone(tmp_path))
    assert code == 2 and "was read back with other values" in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["0.5 0.5 0.5", ".5,.5", "a,b,c", "nan,.5,.5", "'"])
def test_a_mean_is_three_numbers(capsys, value):
    with pytest.raises(SystemExit) as stop:
        convert.main(["a", "b", "--mean", value])
    assert stop.value.code == 2 and "write three numbers with commas" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys, monkeypatch):
    """Below a file, and where nothing may be written; for exports too. After another error the folders above it are gone again."""
    file, into = str(lone(tmp_path)), ["--weights", str(lone(tmp_path)), "--format", "safetensors", "--out"]
    below = str(tmp_path / "lone.safetensors" / "out")
    for run in (lambda out: convert.main([file, out]), lambda out: export.main([*into, out])):
        assert run(below) == 2 and f"cannot make the folder {below} (Not a directory); choose another" in capsys.readouterr().err
        with monkeypatch.context() as patch:
            patch.setattr(files.Path, "mkdir", lambda *_a, **_k: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
            assert run(str(tmp_path / "out")) == 2 and "(Permission denied); choose another" in capsys.readouterr().err
    assert convert.main(["/nowhere", str(tmp_path / "a" / "b" / "out")]) == 2 and [p.name for p in tmp_path.iterdir()] == ["lone.safetensors"]


def source_of(tmp_path, heads=("projector",), **model):
    """A file of ours that fits the tiny run of `run_config`, all values random."""
    config = {**config_of(), "model": {"name": "resnet10", "width": 0.0625, "stem": "cifar", **model}, "augment": {**config_of()["augment"], "mean": (0.5,) * 3, "std": (0.25,) * 3}}
    encoder = made(config, heads)
    native.save(encoder, tmp_path / "source.safetensors")
    return encoder, str(tmp_path / "source.safetensors")


def read(path, tiny, allow=""):
    return initial.read(path, state=tiny.job.state, heads=tuple(tiny.job.method.heads), config=tiny.config, allow_missing=allow)


def test_a_run_begins_with_the_weights_wherever_they_lie(tmp_path):
    """On 8 devices with sliced parameters and a moving average: every copy is the source's, all else the seed's."""
    encoder, path = source_of(tmp_path)
    tiny = Tiny(run_config("simclr", ema="0.5", **HEADS), devices=8, fsdp=2)
    start = read(path, tiny)
    state = initial.place(tiny.state, start, tiny.job.state_sharding)
    expected = tree.names(encoder.variables)
    seen, fresh = tree.names(state), tree.names(tiny.state)
    for name, value in seen.items():
        key = name.removeprefix("aux/").removeprefix("teacher/")
        np.testing.assert_array_equal(value, expected.get(key, fresh[name]), err_msg=name)
        assert value.sharding == tree.names(tiny.job.state_sharding)[name] and value.dtype == fresh[name].dtype
    assert sum(n.removeprefix("aux/").removeprefix("teacher/") in expected for n in seen) == len(expected) + len(tree.names(records.parts(encoder.variables, ("encoder",))))
    assert f"{len(expected)} tensors used; 0 unused (none); 0 missing" in start.note
    tiny.state = state
    assert np.isfinite(tiny.run(1)[0]["loss"])


def test_what_is_missing_is_refused_unless_named(tmp_path):
    tiny = Tiny(run_config("simclr", **HEADS), devices=1)
    _, path = source_of(tmp_path, heads=())
    with pytest.raises(UserError, match="lacks 9 of the 69 tensors.*--config.init_allow_missing=projector\nmissing .9.:(\n  projector/.*){9}$"):
        read(path, tiny)
    start = read(path, tiny, "projector")
    assert "60 tensors used; 0 unused (none); 9 missing, from the seed (projector/" in start.note and "text/init_from.txt" in start.note
    heads = sorted(n.partition("/")[2] for n in tree.names(made(config_of()).variables) if "/projector/" in n)
    assert start.names.endswith("unused (0):\nmissing, from the seed (9):\n" + "".join(f"  {n}\n" for n in heads)) and start.names.count("\n  encoder/") == 60 and not any("projector" in name for name in start.values)
    with pytest.raises(UserError, match="init_allow_missing names 'encoder/stem', but nothing of that name is missing"):
        read(path, tiny, "projector,encoder/stem")
    _, path = source_of(tmp_path, width=0.125)
    with pytest.raises(UserError, match=r"resnet10, width 0.125, cifar stem.*lacks 61.*resnet10 of blocks .1, 1, 1, 1., width 0.0625.*norm1/mean is \(8,\) there and \(4,\) here.*Use the model it was trained with"):
        read(path, tiny)
    _, path = source_of(tmp_path, name="resnet18")         # everything is there, and more: half a network is not that network
    with pytest.raises(UserError, match="has 40 encoder tensors that this run .*no place for: encoder/stage1/block1"):
        read(path, tiny)


def test_other_preprocessing_is_a_warning(tmp_path):
    encoder = made({**config_of()})
    native.save(encoder, tmp_path / "s.safetensors")
    note = read(str(tmp_path / "s.safetensors"), Tiny(run_config("simclr", **HEADS), devices=1)).note
    assert "warning: these weights were trained on pixels with mean (0.5, 0.4, 0.3), this run uses (0.5, 0.5, 0.5)" in note


@pytest.mark.parametrize("model, augment, words", [
    (dict(bn_eps=1e-3), {}, "with a batch norm epsilon of 0.001, this run has 1e-05; set --config.model.bn_eps=0.001"),
    ({}, dict(interpolation="bicubic"), "with interpolation bicubic, this run uses bilinear; set --config.augment.interpolation"),
    ({}, {}, None)])
def test_other_arithmetic_is_a_warning(tmp_path, model, augment, words):
    config = config_of(mean=(0.5,) * 3, std=(0.25,) * 3, **augment)
    native.save(made({**config, "model": {**config["model"], **model}}), tmp_path / "s.safetensors")
    note = read(str(tmp_path / "s.safetensors"), Tiny(run_config("simclr", **HEADS), devices=1)).note
    assert words in note if words else "warning" not in note


def test_another_stem_of_the_same_shapes_is_a_warning(tmp_path):
    _, path = source_of(tmp_path, stem="tensorflow")
    note = read(path, Tiny(run_config("simclr", **{**HEADS, "model.stem": "imagenet"}), devices=1)).note
    assert "with the stem 'tensorflow', this run has 'imagenet'; set --config.model.stem=tensorflow" in note


def test_a_run_whose_average_lacks_the_heads_begins_with_the_student(tmp_path):
    path, tiny = workdir_of(tmp_path / "run", ema=0.5), Tiny(run_config("simclr", **HEADS), devices=1)
    student, start = loading.from_workdir(path, weights="student"), read(path, tiny)
    assert start.values.keys() == tree.names(student.variables).keys()
    np.testing.assert_array_equal(start.values["params/projector/linear1/kernel"], student.variables["params"]["projector"]["linear1"]["kernel"])
    for text in (start.note, start.names):
        assert "(student of step 3)" in text and "note: the moving average there lacks projector, so this run begins with the student" in text
    assert "(teacher of step 3)" in read(path, tiny, "projector").note


def test_what_a_foreign_file_does_not_say_is_told(tmp_path):
    """The names that a run has no use for, and what is assumed: of the file itself and of what `convert` made of it."""
    tiny, file = Tiny(run_config("simclr", **HEADS), devices=1), str(lone(tmp_path, fc_weight=np.zeros((2, 32), np.float32), fc_bias=np.zeros(2, np.float32)))
    origin = loading.load(file).origin
    assert origin.layout == "torchvision" and len(origin.used) == 60 and sorted(origin.unused) == ["fc.bias", "fc.weight"]
    assert origin.account()[0].startswith("2 tensors of the file are unused")
    start = read(file, tiny, "projector")
    assert "60 tensors used; 2 unused (fc." in start.note and "\nunused (2):\n  fc.bias\n  fc.weight\n" in start.names
    for text in (start.note, start.names):
        assert "\nnote: preprocessing assumed" in text and "\nnote: architecture assumed" in text
    assert "warning: these weights are assumed to have been trained on pixels with mean (0.485, 0.456, 0.406), this run uses (0.5, 0.5, 0.5)" in start.note
    convert.run(file, str(tmp_path / "out"), preprocessing={"mean": (0.1, 0.2, 0.3)})
    note = read(str(tmp_path / "out"), tiny, "projector").note
    assert "these weights were trained on pixels with mean (0.1, 0.2, 0.3)" in note and "are assumed to have been trained on pixels with std" in note


@pytest.mark.parametrize("flags, words", [
    (["--config.init_from=/nowhere/at/all"], "there is no file /nowhere/at/all"),
    (["--config.init_allow_missing=projector"], "but init_from is empty")])
def test_a_run_that_cannot_begin_leaves_no_workdir(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_a, **_k: pytest.fail("compiled before the input was checked"))
    assert main.main(["--config", "configs/digits/simclr.py", "--workdir", str(tmp_path / "run"), "--compilation_cache=off", *flags]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_whole_run_from_weights_and_its_resume_without_them(tmp_path, monkeypatch):
    """A learning rate near zero leaves what it began with; a resumed run does not need the source again."""
    monkeypatch.chdir(ROOT)
    encoder, path = source_of(tmp_path)
    flags = {**SMALL, **HEADS, "total": "2", "warmup": "0", "optim.lr": "1e-30", "optim.probe_lr": "1e-30", "optim.weight_decay": "0.", "init_from": path, "eval_every": "0", "eval.reference": "64", "eval.queries": "32", "eval.raw": "false",
             "log.tensorboard": "false"}
    result = train.run("configs/digits/simclr.py", flags, str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"] == path
    assert (tmp_path / "run" / "text" / "init_from.txt").read_text().startswith(f"beginning from {path} (student of step 5)\nused (69):\n")
    ended = loading.load(tmp_path / "run")
    assert tree.digest(ended.variables["params"]) == tree.digest(encoder.variables["params"])
    assert {"knn_start", "knn_untrained", "rankme_start"} <= result.keys() and result["rankme_start"] != result["rankme_untrained"]
    (tmp_path / "source.safetensors").unlink()
    (tmp_path / "run" / "run.json").unlink()
    assert train.run("configs/digits/simclr.py", flags, str(tmp_path / "run"))["state_sha256"] == result["state_sha256"]
