"""Exports: what is written opens elsewhere with the same features, or is not left behind; the card says what is known and nothing else."""
import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxssl import export, table, tree
from jaxssl.encoder import formats as interop
from jaxssl.encoder import load as loading
from jaxssl.encoder import preprocessing
from jaxssl.errors import UserError
from jaxssl.evaluation.tables import reading as results
from jaxssl.encoder.formats import files, names, records, safetensors as native, stablehlo, timm, torchvision, transformers
from jaxssl.report import card
from tests.test_encoder import tiny, workdir_of
from tests.test_interop import config_of, made
from tests.tiny import ROOT

NEEDS = {"torchvision": ("torch", "torchvision"), "timm": ("torch", "timm"), "transformers": ("torch", "torchvision", "transformers"), "onnx": ("onnx", "onnxruntime"), "safetensors": (), "stablehlo": ("flatbuffers",)}


def saved(tmp_path, config, **more):
    encoder = dataclasses.replace(made(config), **more)
    native.save(encoder, tmp_path / "w.safetensors")
    return encoder, str(tmp_path / "w.safetensors")


@pytest.fixture
def fails(capsys, tmp_path):
    """fails(*flags) -> the sentence; nothing is left behind."""
    def go(*flags):
        before = sorted(p.name for p in tmp_path.iterdir())
        assert export.main([*flags, "--out", str(tmp_path / "out")]) == 2
        assert sorted(p.name for p in tmp_path.iterdir()) == before
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]
    return go


@pytest.mark.parametrize("format", interop.WRITTEN)
def test_features_are_the_target_librarys(tmp_path, capsys, format):
    """The command's own check, on real images; that it can fail is the next test."""
    for package in NEEDS[format]:
        pytest.importorskip(package, reason=f"{package} is an optional extra")
    plain = format in ("timm", "transformers")          # they have no stem for small images; timm no other width
    config = config_of(width={"timm": 1.0}.get(format, 0.125), stem="imagenet" if plain else "cifar", size=32, mean=(0.5, 0.4, 0.3))
    encoder, file = saved(tmp_path, config)
    assert export.main(["--weights", file, "--format", format, "--out", str(tmp_path / "out"), "--images", "8", "--licence", "apache-2.0"]) == 0
    said = capsys.readouterr().out
    assert "largest feature difference on 8 images of digits" in said and said.splitlines()[-1] == f"done: {tmp_path / 'out'}"
    assert ("compatibility window: releases of jax up to 6 months" in said) == (format == "stablehlo") and ("preprocessing by the target library" in said) == plain
    found = loading.load(tmp_path / "out")
    parts = ("encoder", "projector") if format in ("safetensors", "onnx", "stablehlo") else ("encoder",)
    assert found.digest == tree.digest(records.parts(encoder.variables, parts)) and found.preprocessing == encoder.preprocessing and found.step == 5
    here = [str(place).encode() for place in (tmp_path, ROOT, Path(jax.__file__).parent)]
    assert not [(file.name, place) for file in (tmp_path / "out").iterdir() for place in here if place in file.read_bytes()]
    text = (tmp_path / "out" / "README.md").read_text()
    assert 'license: "apache-2.0"' in text and "secret" not in text and "pets" in text and "mean (0.5, 0.4, 0.3)" in text and "compared on 8 images (digits" in text


@pytest.mark.parametrize("width, stem, eps, name", [(0.125, "imagenet", 1e-5, "resnet10"), (0.125, "tensorflow", 1e-5, "resnet10"), (1.0, "cifar", 1e-5, "resnet18"), (0.125, "cifar", 1e-3, "resnet50")])
def test_torchvision_variants_by_the_code_in_the_card(tmp_path, width, stem, eps, name):
    for package in NEEDS["torchvision"]:
        pytest.importorskip(package, reason=f"{package} is an optional extra")
    config = config_of(name, width, stem, size=32)
    config["model"]["bn_eps"] = eps
    encoder, file = saved(tmp_path, config)
    assert export.run(weights=file, format="torchvision", out=str(tmp_path / "out"), images=4)["difference"] < 1e-5
    # an encoder with another epsilon or a moved channel must not pass as this one
    off = dataclasses.replace(encoder, variables=jax.tree.map(lambda a: a[..., ::-1], encoder.variables))
    with pytest.raises(UserError, match="differ from ours by"):
        export.compare(torchvision, off, tmp_path / "out", *export.real_images(off, 4, ""))


def test_the_pool_of_tensorflows_stem_in_onnx(tmp_path):
    for package in NEEDS["onnx"]:
        pytest.importorskip(package, reason=f"{package} is an optional extra")
    _, file = saved(tmp_path, config_of(width=0.125, stem="tensorflow", size=32))
    assert export.run(weights=file, format="onnx", out=str(tmp_path / "out"), images=4)["difference"] < 1e-5


@pytest.mark.parametrize("damage", ["features", "shape", "tensor"])
def test_an_export_that_differs_is_removed(tmp_path, monkeypatch, fails, damage):
    encoder, file = saved(tmp_path, config_of())
    if damage == "features":        # the largest difference that must not pass: 2e-4 of one tensor
        monkeypatch.setattr(native, "write", lambda e, folder: native.save(dataclasses.replace(e, variables=jax.tree.map(lambda a: a * np.float32(1.0002), e.variables)), folder / files.WEIGHTS))
        words = "features differ from ours by"
    elif damage == "shape":
        monkeypatch.setattr(native, "usage", lambda e, folder: ("", "features = [[0.0]] * len(images)"))
        words = "gives features of shape"
    else:
        monkeypatch.setattr(torchvision, "place", lambda p: ("conv1", "bn1"))
        words = "not every tensor has a place in this format"
    assert words in fails("--weights", file, "--format", "torchvision" if damage == "tensor" else "safetensors", "--images", "4")


def test_every_tensor_has_a_place_or_is_listed():
    encoder = made(config_of())
    table = torchvision.table(encoder.module)
    named = tree.names(records.parts(encoder.variables, ("encoder",)))
    assert set(names.theirs(table, named)) == set(table)
    with pytest.raises(UserError, match=r"1 without one \(params/encoder/new\), 1 missing \(batch_stats/encoder/stem/norm/mean\)"):
        names.theirs(table, {**{k: v for k, v in named.items() if k != "batch_stats/encoder/stem/norm/mean"}, "params/encoder/new": np.zeros(3)})


def test_relative_difference_is_per_image():
    ours = np.array([[1.0, -2.0], [100.0, 50.0]])
    assert export.relative(ours, ours + [[0.0, 0.1], [0.0, 0.2]]) == pytest.approx(0.05)
    assert not export.relative(ours, ours * np.nan) <= export.LIMIT


@pytest.mark.parametrize("format, model, words", [
    ("timm", dict(stem="cifar", width=1.0), "the stem 'cifar' (3×3 of stride 1, no pool); use --format torchvision, onnx, stablehlo or safetensors"),
    ("timm", dict(stem="imagenet", width=0.5), "a first stage of 32 channels; use --format transformers, torchvision"),
    ("timm", dict(stem="imagenet", width=1.0, depths=(1, 1)), "2 stages; use --format transformers, onnx"),
    ("timm", dict(stem="imagenet", width=1.0, bn_eps=1e-3), "an epsilon of 0.001".replace("an", "a batch norm")),
    ("transformers", dict(stem="cifar"), "the stem 'cifar' (3×3 of stride 1, no pool)"),
    ("timm", dict(stem="tensorflow", width=1.0), "the stem 'tensorflow' (7×7 of stride 2, max pool padded behind only)"),
    ("transformers", dict(stem="imagenet", bn_eps=1e-3), "a batch norm epsilon of 0.001")])
def test_what_a_library_cannot_hold_names_those_that_can(format, model, words):
    encoder = made({**config_of(), "model": {"name": "resnet10", "width": 0.0625, **model}})
    with pytest.raises(UserError) as error:
        {"timm": timm, "transformers": transformers}[format].config(encoder)
    assert words in str(error.value) and "safetensors" in str(error.value)


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_configs_of_timm_and_transformers(name):
    """Field by field, as their documentation names them."""
    encoder = made({**config_of(), "model": {"name": name, "width": 1.0, "stem": "imagenet"}, "augment": {**config_of()["augment"], "size": 224}}, heads=())
    found = timm.config(encoder)
    assert found["architecture"] == {"resnet10": "resnet18"}.get(name, name) and found["model_args"] == ({"layers": [1, 1, 1, 1]} if name == "resnet10" else {}) and found["num_features"] == encoder.width
    p = found["pretrained_cfg"]
    assert p["input_size"] == [3, 224, 224] and int(224 / p["crop_pct"]) == 256 and p["mean"] == [0.5, 0.4, 0.3] and p["std"] == [0.2, 0.25, 0.3] and p["interpolation"] == "bilinear"
    found = transformers.config(encoder)
    basic = name == "resnet10"
    assert found["hidden_sizes"] == ([64, 128, 256, 512] if basic else [256, 512, 1024, 2048]) and found["depths"] == ([1, 1, 1, 1] if basic else [3, 4, 6, 3])
    assert found["layer_type"] == ("basic" if basic else "bottleneck") and found["downsample_in_bottleneck"] is False and found["embedding_size"] == 64
    processor = transformers.processor(encoder.preprocessing)
    assert processor["size"] == {"shortest_edge": 256} and processor["crop_size"] == {"height": 224, "width": 224} and processor["resample"] == 2


def test_own_blocks_travel_where_a_library_has_four_stages(tmp_path):
    encoder = made({**config_of(), "model": {"name": "resnet18", "width": 1.0, "stem": "imagenet", "depths": (1, 2, 1, 1)}}, heads=())
    assert timm.config(encoder)["model_args"] == {"layers": [1, 2, 1, 1]} and transformers.config(encoder)["depths"] == [1, 2, 1, 1]
    assert "ResNet(torchvision.models.resnet.BasicBlock, [1, 2, 1, 1])" in torchvision.usage(encoder, tmp_path)[0]
    two = made({**config_of(), "model": {"name": "resnet18", "width": 0.0625, "stem": "imagenet", "depths": (1, 1)}}, heads=())
    assert transformers.config(two)["hidden_sizes"] == [4, 8]
    with pytest.raises(UserError, match="torchvision's ResNets cannot have 2 stages; use --format transformers"):
        torchvision.write(two, tmp_path)


def test_stablehlo_takes_any_batch(tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers comes with an optional extra")
    encoder = made(config_of())
    stablehlo.write(encoder, tmp_path)
    program = jax.export.deserialize(bytearray((tmp_path / stablehlo.FILE).read_bytes()))
    x = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype(np.float32)
    expected = np.asarray(jax.jit(lambda x: encoder.forward(encoder.variables, x)[0])(x))
    for n in (1, 5):
        np.testing.assert_allclose(program.call(x[:n]), expected[:n], rtol=1e-5)
    assert program.platforms == ("cpu", "cuda", "tpu") and set(program.in_avals[0].shape[1:]) == {16, 3}


def test_stablehlo_computes_in_float32_everywhere(tmp_path):
    """A TPU and a newer GPU compute products coarsely unless the program says otherwise."""
    pytest.importorskip("flatbuffers", reason="flatbuffers comes with an optional extra")
    stablehlo.write(made(config_of()), tmp_path)
    text = jax.export.deserialize(bytearray((tmp_path / stablehlo.FILE).read_bytes())).mlir_module()
    products = [line for line in text.splitlines() if re.search(r"stablehlo\.(convolution|dot_general)", line)]
    assert products and all(line.count("HIGHEST") == 2 for line in products)


def test_onnx_takes_any_batch_and_size(tmp_path):
    onnx, runtime = (pytest.importorskip(package, reason=f"{package} is an optional extra") for package in NEEDS["onnx"])
    encoder = made({**config_of("resnet50"), "model": {"name": "resnet50", "width": 0.0625, "stem": "imagenet"}})
    importlib.import_module("jaxssl.encoder.formats.onnx").write(encoder, tmp_path)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    for shape in ((1, 32, 32, 3), (3, 40, 24, 3)):
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        found, = session.run(None, {"images": x.transpose(0, 3, 1, 2)})
        np.testing.assert_allclose(found, jax.jit(lambda x: encoder.forward(encoder.variables, x)[0])(x), rtol=1e-4)
    assert {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}["mean"] == "(0.5, 0.4, 0.3)"


@pytest.mark.parametrize("flags, words", [
    (["--format", "tim"], "format 'tim' is not one of timm, torchvision, transformers, safetensors, onnx, stablehlo; did you mean 'timm'?"),
    (["--format", "timm"], "give either --workdir DIR (a run) or --weights PATH"),
    (["--format", "timm", "--weights", "a", "--workdir", "b"], "give either"),
    (["--format", "timm", "--weights", "/nowhere"], "there is no file /nowhere"),
    (["--format", "timm", "--workdir", "/nowhere"], "has no config.json"),
    (["--format", "timm", "--weights", "a", "--step", "3"], "--step names a checkpoint"),
    (["--format", "timm", "--weights", "a", "--images", "0"], "at least one image")])
def test_wrong_flags_are_one_sentence(fails, flags, words):
    assert words in fails(*flags)


def test_data_that_are_not_there_and_folders_that_are(tmp_path, fails):
    _, file = saved(tmp_path, config_of())
    assert "does not exist" in fails("--weights", file, "--format", "safetensors", "--data", "/nowhere/at/all")
    (tmp_path / "full").mkdir()
    with pytest.raises(UserError, match="exists already; choose"):
        export.run(weights=file, format="safetensors", out=str(tmp_path / "full"))


def test_the_same_export_again_is_done_already(tmp_path, fails):
    """A command that was killed just after its last step is given again by whoever starts it; what was made stays, and nothing else may pass for it."""
    _, file = saved(tmp_path, config_of())
    flags = {"weights": file, "format": "safetensors", "out": str(tmp_path / "out"), "images": 1}
    export.run(**flags)
    before = {p.name: (p.read_bytes(), p.stat().st_ino) for p in (tmp_path / "out").iterdir()}
    export.run(**flags)
    assert {p.name: (p.read_bytes(), p.stat().st_ino) for p in (tmp_path / "out").iterdir()} == before
    words = "--weights", file, "--format", "safetensors", "--images", "1"
    assert f"out exists already and holds something else ({files.CARD} differs); choose a new folder" in fails(*words, "--licence", "mit")
    with open(tmp_path / "out" / files.WEIGHTS, "r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"!")
    assert f"({files.WEIGHTS} differs)" in fails(*words)
    (tmp_path / "out" / files.WEIGHTS).write_bytes(before[files.WEIGHTS][0])
    (tmp_path / "out" / "notes").write_text("mine")
    assert "(notes differs)" in fails(*words) and (tmp_path / "out" / "notes").exists() and not list(tmp_path.glob(".*"))


def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch, fails):
    _, file = saved(tmp_path, config_of())
    monkeypatch.setattr(native, "usage", lambda e, folder: ("import nowhere_to_be_found", ""))
    assert "pip install 'jaxssl[export]'" in fails("--weights", file, "--format", "safetensors")


def test_card_holds_the_metrics_of_these_weights_only(tmp_path):
    workdir = tmp_path / "run"
    encoder = loading.load(workdir_of(workdir))
    row = {"protocol": "linear", "variant": "grid", "layer": "backbone", "metric": "accuracy", "value": 0.4321, "n": 77, "interval": [0.4, 0.5], "setting": {"lr": 0.1}, "note": "short", "seconds": 1.0, "selected": "validation"}
    (workdir / "evaluations").mkdir()
    for name, digest, value in (("mine", encoder.digest, 0.4321), ("other", "0" * 64, 0.9999)):
        (workdir / "evaluations" / f"{name}.json").write_text(json.dumps({"version": 1, "subject": {"digest": digest}, "data": {"name": "pets|<b>"}, "rows": [{**row, "value": value}]}))
    (workdir / "evaluations" / "untrained.json").write_text("{}")
    (workdir / "evaluations" / "broken.json").write_text("{")
    (workdir / "run.json").write_text(json.dumps({"steps": 3, "knn": 0.6543, "knn_untrained": 0.2109}))
    export.run(workdir=str(workdir), format="safetensors", out=str(tmp_path / "out"), images=4)
    text = (tmp_path / "out" / "README.md").read_text()
    assert r"| linear grid | accuracy | 0.4321 (0.4 to 0.5) |  | layer backbone, n 77, lr 0.1, chosen: validation; short | pets\|&lt;b&gt; |" in text
    assert "0.9999" not in text and "| knn | accuracy | 0.6543 |  | weighted kNN, k 200, T .1; untrained 0.2109 | held-out images of the run |" in text
    assert "simclr (" in text and "global batch 16; 30 in all" in text and f"`{encoder.digest}`" in text and "Not stated." in text
    (workdir / "run.json").write_text(json.dumps({"steps": 4, "knn": 0.6543}))          # of a later step than the one that is exported
    assert "0.6543" not in export.describe(native, encoder, {"format": "safetensors", "notes": [], "images": 4, "source": "d", "difference": 0.0, "limit": 1e-4}, str(workdir))
    assert tiny(0.0).config.data.source == "digits" and "source digits" in text


def test_the_card_stays_readable_after_all_protocols():
    """Rows as `evaluate --protocols all` writes them: a grid of 26 heads, 256 singular values; two files of the same protocols, and a published value in percent."""
    head = {"form": "raw", "lr": 0.1, "weight_decay": 0.0, "block": "backbone"}
    setting = {"preset": "default", "head": head, "heads": [{**head, "log_likelihood": -0.5, "steps": 600}] * 26, "lrs": {f"{i}": 0.5 for i in range(13)}, "steps": 2500, "losses": [0.25] * 100, "none": None}
    linear = {"protocol": "linear", "variant": "26 heads", "layer": "backbone", "metric": "accuracy", "value": 0.8, "n": 10_000, "interval": [0.79, 0.81], "setting": setting, "note": "best",
              "selected": "validation", "seed": 0, "published": {"value": 91.0, "source": "a paper, table 1"}}
    spectrum = {"protocol": "labelfree", "variant": "test-time", "layer": "backbone", "metric": "dimensions", "value": 17, "n": 5000, "interval": None, "setting": {"singular_values": [1.0] * 256},
                "note": "", "selected": "fixed", "published": None}
    old = {"created": "2026-01-01", "data": {"name": "pets"}, "rows": [{**linear, "value": 0.1}, spectrum]}
    new = {"created": "2026-01-02", "data": {"name": "pets"}, "rows": [linear, {**linear, "layer": "projector.1"}, "damaged", {**linear, "variant": "x", "value": None}]}
    lines = card.metrics(None, [old, new]).splitlines()
    assert len(lines) == 5 and max(map(len, lines)) < 300, lines
    assert lines[2] == ("| linear 26 heads | accuracy | 0.8 (0.79 to 0.81) | 0.91 (a paper, table 1) | layer backbone, n 10000, preset default, head form raw, lr 0.1, weight\\_decay 0, block "
                        "backbone, heads \\[26 values\\], lrs \\[13 values\\], steps 2,500, losses \\[100 values\\], chosen: validation; best | pets |")
    assert "singular\\_values \\[256 values\\]" in lines[3] and "projector.1" in lines[4]


def test_preprocessing_is_checked_on_images_as_they_lie_on_disk(tmp_path):
    """Photographs larger than the run's canvas: the check sees their own pixels, not what fits the canvas."""
    for i in range(3):
        Image.fromarray(np.full((375, 500, 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
    encoder = made({**config_of(size=128), "data": {"source": "folder", "path": str(tmp_path), "canvas": 144}})
    for path in ("", str(tmp_path)):
        found, _ = export.real_images(encoder, 3, path)
        assert {image.shape for image in found} == {(375, 500, 3)}


def test_a_folder_that_is_no_run_is_left_as_it_is(tmp_path, fails):
    """timm's and transformers' exports have a config.json too."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    assert "is no workdir of this program" in fails("--workdir", str(tmp_path / "timm"), "--format", "safetensors")
    assert [p.name for p in (tmp_path / "timm").iterdir()] == ["config.json"]


def test_run_numbers_in_the_card_are_those_of_evaluation():
    """The protocols that the card states for run.json follow from the evaluator's settings."""
    from jaxssl.training.evaluator import KNN
    for name, (k, temperature) in KNN.items():
        assert card.RUN[name] == f"weighted kNN, k {k}, T {temperature:g}".replace("0.", ".")
    assert {key for _, key in table.COLUMNS} <= card.RUN.keys()


@pytest.mark.parametrize("name, kept", [
    ("/home/me/secret/pets", "pets"), ("/home/me/secret/pets.zip, 20 images", "pets.zip, 20 images"), ("/secret/pets.zip:train, 20 images", "pets.zip:train, 20 images"),
    ("/secret/pets.zip:a/train, 20 images", "pets.zip:a/train, 20 images"), ("secret/packed (test), 3 images", "packed (test), 3 images"), ("gs://secret/bucket/pets/", "pets"),
    ("cifar10/3.0.2 (train[:90%]), 45,000 images", "cifar10/3.0.2 (train[:90%]), 45,000 images"), ("digits (clean, test), 359 images", "digits (clean, test), 359 images"), ("", "")])
def test_names_of_data_without_the_folders_above(name, kept):
    assert results.last_part(name) == kept


def test_an_export_tells_no_folder_of_this_machine(tmp_path):
    """Images that the check uses, and those of an evaluation, in a folder whose name is nobody's business."""
    folder = tmp_path / "secret" / "pets"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((20, 20, 3), 60 * i, np.uint8)).save(folder / f"{i}.png")
    workdir = tmp_path / "run"
    encoder = loading.load(workdir_of(workdir))
    (workdir / "evaluations").mkdir()
    row = {"protocol": "knn", "variant": "k=1", "layer": "backbone", "metric": "accuracy", "value": .5, "selected": "fixed", "seed": 0}
    for name, data in (("new", {"test": f"{folder}/test.zip:a, 20 images", "digest": "d"}), ("old", {})):
        (workdir / "evaluations" / f"{name}.json").write_text(json.dumps({"version": 1, "subject": {"digest": encoder.digest}, "data": {"name": str(folder), **data}, "rows": [row]}))
    assert export.main(["--workdir", str(workdir), "--format", "safetensors", "--out", str(tmp_path / "out"), "--images", "4", "--data", str(folder)]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "compared on 4 images (pets)" in text and "| test.zip:a, 20 images |" in text and "| pets |" in text
    assert not [file for file in (tmp_path / "out").iterdir() if b"secret" in file.read_bytes()]


def test_card_says_what_was_measured_and_how():
    """The images of a row, mean over seeds, and conditions that are not as usual."""
    row = {"protocol": "mlp", "layer": "backbone", "metric": "accuracy", "value": .5, "selected": "fixed", "seed": 0, "interval": [.4, .6]}
    spectrum = {**row, "protocol": "labelfree", "metric": "rankme", "setting": {"set": "train"}}
    data = {"name": "pets", "digest": "d", "train": "pets/train, 50 images", "test": "pets/test, 20 images"}
    text = card.metrics(None, [{"data": data, "budget": "published", "precision": "bf16", "rows": [row, {**row, "seed": 1, "value": .7, "interval": None}, spectrum]}])
    assert "0.6 |" in text and "published budget, bf16, mean over seeds 0, 1, std 0.1414 | test, 20 images |" in text and "| train, 50 images |" in text


def test_card_text_cannot_be_markup():
    assert card.text("a|b\n<script>`x`") == r"a\|b &lt;script&gt;\`x\`"


def test_third_party_text_cannot_be_markup_anywhere_on_the_card():
    """Whatever a record may say: only what this program wrote has a meaning in Markdown, HTML or YAML."""
    evil = '<img src=x onerror="y">[a](b)\n---\n# c'
    encoder = made(config_of())
    encoder = dataclasses.replace(encoder, name=evil, weights=evil, step=evil, config={**encoder.config, "data": {"source": evil, "path": evil}},
                                  origin=encoder.origin._replace(licence=evil))
    check = {"format": "safetensors", "notes": [evil], "images": 4, "source": evil, "difference": 0.0, "limit": 1e-4}
    text = export.describe(native, encoder, check, "")
    front, body = text.split("\n---\n", 1)
    assert json.loads(re.search("^license: (.*)$", front, re.M)[1]) == evil and len(front.splitlines()) == 5
    shown = body.partition("## Config")[0]
    assert shown.count("&lt;img") == shown.count("img src") == 8 and "[a]" not in shown and "<" not in shown.replace("&lt;", "") and not re.search("^(---|# c)", shown, re.M)


def test_only_a_run_of_ours_is_tagged_self_supervised():
    check = {"format": "safetensors", "notes": [], "images": 4, "source": "d", "difference": 0.0, "limit": 1e-4}
    encoder = made(config_of(), heads=())
    elsewhere = dataclasses.replace(encoder, config={key: encoder.config[key] for key in ("model", "augment")})
    assert "self-supervised" in export.describe(native, encoder, check, "") and "self-supervised" not in export.describe(native, elsewhere, check, "")


def test_odd_files_beside_a_run_are_left_out(tmp_path):
    workdir = tmp_path / "run"
    encoder = loading.load(workdir_of(workdir))
    (workdir / "evaluations").mkdir()
    row = {"protocol": "knn", "layer": "backbone", "metric": "accuracy", "value": 0.4321}
    for i, interval in enumerate(([0.1], 3, ["a", "b"], [None, 0.5])):
        (workdir / "evaluations" / f"{i}.json").write_text(json.dumps({"version": 1, "subject": {"digest": encoder.digest}, "rows": [{**row, "layer": f"l{i}", "interval": interval}]}))
    (workdir / "evaluations" / "list.json").write_text(json.dumps({"version": 1, "subject": [1], "rows": [row]}))
    check = {"format": "safetensors", "notes": [], "images": 4, "source": "d", "difference": 0.0, "limit": 1e-4}
    for content, kept in (([1], False), ({"steps": 3, "knn": "zzz", "rankme": [1], "linear": 0.25, "linear_untrained": "zzz"}, True)):
        (workdir / "run.json").write_text(json.dumps(content))
        text = export.describe(native, encoder, check, str(workdir))
        assert text.count("| 0.4321 |") == 4 and ("| linear | accuracy | 0.25 |" in text) == kept and "zzz" not in text


def test_numbers_of_a_run_belong_to_the_weights_that_it_evaluated(tmp_path):
    """run.json of a run with a moving average is about the teacher."""
    workdir, check = tmp_path / "run", {"format": "safetensors", "notes": [], "images": 4, "source": "d", "difference": 0.0, "limit": 1e-4}
    workdir_of(workdir, ema=0.5)
    (workdir / "run.json").write_text(json.dumps({"steps": 3, "knn": 0.6543}))
    shown = {use: "0.6543" in export.describe(native, loading.from_workdir(str(workdir), weights=use), check, str(workdir)) for use in ("teacher", "student")}
    assert shown == {"teacher": True, "student": False}


def test_no_folder_of_a_config_is_passed_on():
    config = {**config_of(), "data": {"source": "folder", "path": "/secret/a/pets", "test_path": "/secret/b/pets-test"}, "init_from": "/secret/c/weights"}
    found = records.public(config)
    assert found["data"] == {"source": "folder", "path": "pets", "test_path": "pets-test"} and found["init_from"] == "weights"
    assert "secret" not in json.dumps(records.metadata(made(config), "safetensors", {})) and "/secret/" in config["init_from"]


@pytest.mark.parametrize("off, refused", [(0.04, False), (0.06, True)])
def test_the_preprocessing_of_the_target_library_has_a_limit(tmp_path, monkeypatch, fails, off, refused):
    encoder, file = saved(tmp_path, config_of())
    view = jax.jit(encoder.view)
    monkeypatch.setattr(native, "view", lambda scope, image: np.asarray(view(preprocessing.placed([image], encoder.preprocessing, 64)))[0] + off, raising=False)
    flags = ["--weights", file, "--format", "safetensors", "--images", "2"]
    if refused:
        assert "preprocessing differs from ours by 0.060 standard deviations, more than 0.05" in fails(*flags)
    else:
        assert export.main([*flags, "--out", str(tmp_path / "out")]) == 0


def test_a_file_that_takes_one_size_of_batch_is_removed(tmp_path, monkeypatch, fails):
    pytest.importorskip("flatbuffers", reason="flatbuffers comes with an optional extra")
    assert {len(chunk) for chunk in export.chunks(list(range(64)))} == {1, 21} and sum(export.chunks(list(range(50))), []) == list(range(50))
    _, file = saved(tmp_path, config_of())
    monkeypatch.setattr(jax.export, "symbolic_shape", lambda text: (21,))
    assert "the export cannot be used with the target library (ValueError: " in fails("--weights", file, "--format", "stablehlo", "--images", "22")


def test_weights_that_are_not_finite_are_named(tmp_path, fails):
    encoder = made(config_of())
    encoder.variables["params"]["encoder"]["stem"]["conv"]["kernel"][0, 0, 0, 0] = np.nan
    native.save(encoder, tmp_path / "w.safetensors")
    said = fails("--weights", str(tmp_path / "w.safetensors"), "--format", "safetensors")
    assert "1 tensors of made hold numbers that are not finite (params/encoder/stem/conv/kernel)" in said


@pytest.mark.parametrize("change, words", [
    ({"model": {"name": "resnet10", "depth": 3}}, "TypeError"), ({"model": {"width": 1.0}}, "KeyError|TypeError"), ({"model": {"name": "resnet10", "width": float("nan")}}, "ValueError"),
    ({"method": {"name": "of_tomorrow"}}, "ModuleNotFoundError"), ({"method": {"name": "base"}}, "AttributeError"), ({"method": {"name": 3}}, "AttributeError"), ({"augment": {}}, "KeyError: 'size'")])
def test_a_config_of_another_version_is_one_sentence(tmp_path, fails, change, words):
    workdir = workdir_of(tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert re.search(rf"the config in .*run is not one that this version of jaxssl understands \(({words})", fails("--workdir", workdir, "--format", "safetensors"))


def test_a_workdir_is_named_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(workdir_of(tmp_path / "mine"))
    assert loading.from_workdir(".").name == "mine"


def test_folders_that_cannot_be_made_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    for out, words in (("link", "link exists already"), ("new/..", "new/.. exists already"), (".", "exists already"), ("new/" + "n" * 300, "cannot make the folder"), ("new/a\0b", "cannot make the folder")):
        with pytest.raises(UserError, match=words):
            with files.fresh(out):
                raise AssertionError("the block must not begin")
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, fails):
    _, file = saved(tmp_path, config_of())
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(files.os, "replace", full)
    assert "was not written ([Errno 28] No space left on device); make room" in fails("--weights", file, "--format", "safetensors")


def test_two_exports_to_one_folder_leave_the_first_whole(tmp_path):
    with pytest.raises(UserError, match="was not written"):
        with files.fresh(tmp_path / "out") as late:
            (late / "a").write_text("late")
            with files.fresh(tmp_path / "out") as early:
                (early / "a").write_text("early")
            assert (late / "a").read_text() == "late"
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "a").read_text() == "early"


def test_what_a_killed_export_left_goes_with_the_next(tmp_path):
    """And nothing else: neither what a living one is writing, nor another name's."""
    script = "\n".join(["import os, sys", "from jaxssl.encoder.formats import files", "with files.fresh(sys.argv[1]) as partial:", "    os.kill(os.getpid(), 9)"])
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], cwd=ROOT).returncode == -9
    (left,) = tmp_path.iterdir()
    others = [tmp_path / name for name in (".out2.0123abcd.unchecked", ".out.notes.unchecked")]
    for other in others:
        other.mkdir()
    with files.fresh(tmp_path / "out") as partial:
        assert not left.exists()
        with pytest.raises(UserError, match="was not written"):
            with files.fresh(tmp_path / "out"):
                assert partial.exists()
                (tmp_path / "out").mkdir()
                (tmp_path / "out" / "theirs").touch()
        shutil.rmtree(tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "out", *others])


@pytest.mark.parametrize("metric, share", [("accuracy", True), ("knn_k20", True), ("probe_accuracy", True), ("mean per class", True), ("MAP@R", True), ("recall@4", True), ("contrast_top5", True),
                                           ("accumulated_norm", False), ("stopped", False), ("rankme", False), ("mapped", False)])
def test_which_metrics_are_shares(metric, share):
    assert bool(results.SHARE.search(metric)) is share
