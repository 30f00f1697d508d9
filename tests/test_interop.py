"""Names and layouts of other libraries, containers of tensors, and what is refused: oracles are the libraries' own name lists and naive loops."""
import functools
import json
import re
import struct
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxssl import encoder as encoders, interop, models, tree
from jaxssl.errors import UserError
from jaxssl.interop import files, names, records, safetensors as native, simclr, timm, torchvision, transformers
from tests.goldens import make_names

LIBRARIES = {"torchvision": torchvision, "timm": timm, "transformers": transformers}


def config_of(name="resnet10", width=0.0625, stem="cifar", **augment):
    return {"model": {"name": name, "width": width, "stem": stem}, "method": {"name": "simclr", "hidden": 8, "dim": 4}, "seed": 1, "data": {"source": "digits", "path": "/home/me/secret/pets"},
            "augment": {"size": 16, "interpolation": "bilinear", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "views": 2, **augment}}


def made(config, heads=("projector",)):
    """An encoder of `config` whose every tensor is random, statistics included; nothing is compiled."""
    blank = encoders.Encoder("made", config, "student", 5, module := models.make(**config["model"], precision="f32"), {n: h for n, h in encoders._heads(config, module).items() if n in heads}, {})
    rng = np.random.default_rng(0)
    draw = lambda a: rng.normal(size=a.shape) * (2 / np.prod(a.shape[:-1])) ** 0.5 if len(a.shape) > 1 else rng.uniform(0.5, 1.5, a.shape)
    variables = jax.tree.map(lambda a: draw(a).astype(np.float32), encoders.shapes(blank))
    return encoders.build(config, variables, name="made", step=5)


@functools.cache
def shapes_of(name):
    """Our tensors' shapes, encoder only."""
    return tree.names(encoders.shapes(encoders.Encoder("", {"augment": {"size": 32}}, "", None, models.make(name=name), {}, {})))


@pytest.mark.parametrize("library", [*LIBRARIES, "simclr"])
@pytest.mark.parametrize("name", models.resnet.LAYERS)
def test_tables_are_complete_and_one_to_one(library, name):
    table = (simclr if library == "simclr" else LIBRARIES[library]).table(*models.resnet.LAYERS[name])
    assert sorted(t.ours for t in table.values()) == sorted(shapes_of(name))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", make_names.MODELS)
def test_names_and_shapes_are_the_librarys_own(library, name):
    """Against digests taken from the libraries; `python tests/goldens/make_names.py` made them."""
    ours = shapes_of(name)
    turned = lambda shape, axes: shape if axes is None else tuple(shape[a] for a in axes)
    theirs = {n: turned(ours[t.ours].shape, names.AXES[t.layout][0]) for n, t in LIBRARIES[library].table(*models.resnet.LAYERS[name]).items()}
    golden = json.loads((Path(make_names.__file__).parent / "names.json").read_text())
    assert make_names.digest(theirs) == golden[library][name]


@pytest.mark.parametrize("name", ["resnet50", "resnet18"])
def test_simclr_names_follow_its_object_tree(name):
    """tf2/resnet.py, list by list: a place in a list counts whether or not its layer has variables."""
    kind, depths = models.resnet.LAYERS[name]
    block = ["conv", "bn", "drop"] * 3 if kind == "bottleneck" else ["conv", "bn"] * 2
    lists = {"initial_conv_relu_max_pool": ["conv", "identity", "bn", "pool", "identity"]}
    for group, depth in enumerate(depths):
        for b in range(depth):
            place = f"block_groups/{group}/layers/{b}"
            lists[f"{place}/{'conv_relu_dropblock_layers' if kind == 'bottleneck' else 'conv2d_bn_layers'}"] = block
            if b == 0:
                lists[f"{place}/{'projection_layers' if kind == 'bottleneck' else 'shortcut_layers'}"] = ["conv", "bn"]
    variables = {"conv": ["conv2d/kernel"], "bn": [f"bn/{n}" for n in ("gamma", "beta", "moving_mean", "moving_variance")]}
    expected = {f"resnet_model/{place}/{i}/{v}" for place, layers in lists.items() for i, layer in enumerate(layers) for v in variables.get(layer, ())}
    if kind == "basic":        # their first block projects although nothing changes; ours does not, and such a file is refused
        expected = {n for n in expected if not n.startswith("resnet_model/block_groups/0/layers/0/shortcut_layers")}
    assert set(simclr.table(kind, depths)) == expected


def test_layouts_are_those_of_a_convolution_and_a_matrix():
    ours = np.random.default_rng(0).normal(size=(3, 2, 5, 7)).astype(np.float32)          # [H, W, I, O]
    theirs = names.turned(ours, names.AXES["conv"][0])
    assert theirs.shape == (7, 5, 3, 2) and theirs.flags.c_contiguous
    assert all(theirs[o, i, h, w] == ours[h, w, i, o] for o in range(7) for i in range(5) for h in range(3) for w in range(2))
    np.testing.assert_array_equal(names.turned(theirs, names.AXES["conv"][1]), ours)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_round_trip_is_bitwise(tmp_path, library, name):
    encoder = made(config_of(name))
    side = LIBRARIES[library]
    records.write_torch(encoder, tmp_path, library, side.table(*names.resnet(encoder.module)))
    found = interop.read(tmp_path)
    expected = records.parts(encoder.variables, ("encoder",))
    assert tree.digest(found.variables) == tree.digest(expected) and not found.missing and not found.unused
    # the same tensors without our record: another program's file
    tensors, metadata = files.read(tmp_path / files.WEIGHTS)
    assert metadata["format"] == "pt" and sum(n.endswith("num_batches_tracked") for n in tensors) == len(names.places(*names.resnet(encoder.module)))
    safetensors.numpy.save_file({**tensors, "fc.weight" if library != "transformers" else "classifier.1.weight": np.zeros((2, 4), np.float32)}, tmp_path / "lone.safetensors")
    lone = interop.read(tmp_path / "lone.safetensors")
    interop.demand(lone)
    assert tree.digest(lone.variables) == tree.digest(expected) and lone.config["model"] == {"name": name, "width": 0.0625, "stem": "cifar"}
    assert lone.layout == ("torchvision" if library == "timm" else library) and "assumed" in lone.notes[0] and any("weight" in n for n in lone.unused)


def test_simclr_file_gives_encoder_and_head(tmp_path):
    encoder = made(config_of("resnet50", stem="imagenet"))
    named = tree.names(encoder.variables)
    table = simclr.table(*names.resnet(encoder.module))
    head = {"0/dense/kernel": "params/projector/linear1/kernel", "0/bn_relu/bn/gamma": "params/projector/norm1/scale", "0/bn_relu/bn/beta": "params/projector/norm1/bias",
            "0/bn_relu/bn/moving_mean": "batch_stats/projector/norm1/mean", "0/bn_relu/bn/moving_variance": "batch_stats/projector/norm1/var",
            "1/dense/kernel": "params/projector/linear2/kernel", "1/bn_relu/bn/gamma": "params/projector/norm2/scale",
            "1/bn_relu/bn/moving_mean": "batch_stats/projector/norm2/mean", "1/bn_relu/bn/moving_variance": "batch_stats/projector/norm2/var"}
    theirs = {n: t.ours for n, t in table.items()} | {f"_projection_head/linear_layers/{n}": mine for n, mine in head.items()}
    arrays = {f"model/{n}/.ATTRIBUTES/VARIABLE_VALUE": named[mine] for n, mine in theirs.items()}
    np.savez(tmp_path / "simclr.npz", **arrays, **{"optimizer/iter": np.int64(3), "save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.int64(1)})
    found = interop.read(tmp_path / "simclr.npz")
    interop.demand(found)
    assert tree.digest(found.variables) == encoder.digest and len(found.unused) == 2
    assert found.config["model"]["stem"] == "tensorflow" and found.notes == ()
    assert found.config["method"] == {"name": "simclr", "layers": 2, "hidden": 8, "dim": 4} and found.config["augment"]["std"] == (1.0, 1.0, 1.0)
    # their ResNet-18 has one projection more than ours, which would change every feature
    basic = {f"model/{n}": np.zeros((3, 3, 3, 4) if n.endswith("kernel") else 4, np.float32) for n in simclr.table(*models.resnet.LAYERS["resnet18"])}
    np.savez(tmp_path / "basic.npz", **basic, **{"model/resnet_model/block_groups/0/layers/0/shortcut_layers/0/conv2d/kernel": np.zeros((1, 1, 4, 4), np.float32)})
    with pytest.raises(UserError, match="1 tensors have no place in resnet18.*shortcut_layers"):
        interop.demand(interop.read(tmp_path / "basic.npz"))


@pytest.fixture
def exported(tmp_path):
    """(encoder, file) of our own format."""
    encoder = made(config_of())
    native.save(encoder, tmp_path / "e.safetensors")
    return encoder, tmp_path / "e.safetensors"


def rewrite(file, change):
    """The file with `change(tensors)` applied and its record kept."""
    tensors, metadata = files.read(file)
    change(tensors)
    files.write(file, tensors, metadata)


def rename(tensors):
    tensors["params/encoder/stem/conv/kernal"] = tensors.pop("params/encoder/stem/conv/kernel")


@pytest.mark.parametrize("change", [rename, lambda t: t.update(extra=np.zeros(3, np.float32)), lambda t: t.pop("batch_stats/encoder/stem/norm/mean"),
                                    lambda t: t.update({"params/encoder/stem/norm/scale": t["params/encoder/stem/norm/scale"] + 1e-6})], ids=["renamed", "extra", "missing", "edited"])
def test_our_own_file_is_whole_or_refused(exported, change):
    rewrite(exported[1], change)
    with pytest.raises(UserError, match="was changed since it was exported"):
        encoders.load(exported[1])


def test_truncated_and_corrupted_files_are_refused(exported):
    data = exported[1].read_bytes()
    for cut in (4, 200, len(data) // 2, len(data) - 1):
        exported[1].write_bytes(data[:cut])
        with pytest.raises(UserError, match="no whole safetensors file.*truncated or corrupted"):
            encoders.load(exported[1])
    flipped = bytearray(data)
    flipped[-100] ^= 1
    exported[1].write_bytes(flipped)
    with pytest.raises(UserError, match="do not have the digest"):
        encoders.load(exported[1])
    header, = struct.unpack("<Q", data[:8])
    for bad, words in ((rb'"version\": 1', rb'"version\": 7'), "version 7"), ((rb'\"digest\"', rb'\"digesT\"'), "lacks digest"):
        old, new = (b.replace(b'"version', b'\\"version') if not b.startswith(b"\\") else b for b in bad)
        assert old in data[:8 + header] and len(old) == len(new)
        exported[1].write_bytes(data.replace(old, new, 1))
        with pytest.raises(UserError, match=words):
            encoders.load(exported[1])


@pytest.mark.parametrize("name", ["e.safetensors", "e.pkl", "e.npz"])
def test_pickles_are_refused_under_any_name(tmp_path, name):
    """The pickle runs code when read: the test fails by finding the file that it would make."""
    text = f"cos\nmkdir\n(S'{tmp_path / 'ran'}'\ntR.".encode()
    (tmp_path / name).write_bytes(b"\x80\x02" + text)
    with pytest.raises(UserError):
        interop.read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_other_containers_that_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(UserError, match="arrays of objects are pickles"):
        interop.read(tmp_path / "objects.npz")
    with zipfile.ZipFile(tmp_path / "torch.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(UserError, match="torch or zip archive under a .safetensors name"):
        interop.read(tmp_path / "torch.safetensors")
    with pytest.raises(UserError, match="there is no file"):
        interop.read(tmp_path / "nothing.safetensors")
    with pytest.raises(UserError, match="holds neither model.safetensors nor pytorch_model.bin"):
        interop.read(tmp_path)


def test_torch_files_only_with_a_current_torch(tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=re.escape("pip install 'jaxssl[export]'")):
        interop.read(tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "torch", type("torch", (), {"__version__": "2.9.1+cpu", "load": lambda *_a, **_k: pytest.fail("an old torch was trusted")}))
    with pytest.raises(UserError, match="needs torch 2.10 or newer, here is 2.9.1"):
        interop.read(tmp_path / "w.pth")


def test_torch_files_are_read_with_weights_only(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    encoder = made(config_of())
    tensors = names.theirs(torchvision.table(*names.resnet(encoder.module)), tree.names(records.parts(encoder.variables, ("encoder",))))
    torch.save({"state_dict": {f"module.encoder_q.{n}": torch.from_numpy(a) for n, a in tensors.items()} | {"module.queue": torch.zeros(3)}, "epoch": 3}, tmp_path / "moco.pth")
    with pytest.raises(UserError, match="begin with 'module.encoder_q.'.*--prefix module.encoder_q."):
        interop.read(tmp_path / "moco.pth")
    found = interop.read(tmp_path / "moco.pth", prefix="module.encoder_q.")
    interop.demand(found)
    assert tree.digest(found.variables) == tree.digest(records.parts(encoder.variables, ("encoder",))) and found.unused == ("module.queue",)
    torch.save(Path("x"), tmp_path / "evil.pth")
    with pytest.raises(UserError, match="weights_only"):
        interop.read(tmp_path / "evil.pth")


def lone(tmp_path, name="resnet10", **changes):
    """A torchvision file without our record; a change to None takes a tensor out."""
    encoder = made(config_of(name))
    tensors = names.theirs(torchvision.table(*names.resnet(encoder.module)), tree.names(records.parts(encoder.variables, ("encoder",))))
    tensors = {n: a for n, a in {**tensors, **{k.replace("_", "."): v for k, v in changes.items()}}.items() if a is not None}
    safetensors.numpy.save_file(tensors, tmp_path / "lone.safetensors")
    return tmp_path / "lone.safetensors"


@pytest.mark.parametrize("changes, words", [
    ({"bn1_weight": None}, "1 tensors are missing (bn1.weight (encoder/stem/norm/scale))"),
    ({"bn1_weight": None, "bn1_wait": np.ones(4, np.float32)}, "1 tensors have no place in resnet10 (bn1.wait); 1 tensors are missing"),
    ({"layer1_0_se_conv_weight": np.ones((4, 4, 1, 1), np.float32)}, "1 tensors have no place in resnet10 (layer1.0.se.conv.weight)"),
    ({"layer5_0_conv1_weight": np.ones((4, 4, 3, 3), np.float32)}, "1 tensors have no place"),
    ({"layer4_0_bn1_weight": np.ones(5, np.float32)}, "1 of another shape"),
    ({"conv1_weight": np.ones((4, 3, 5, 5), np.float32)}, "5×5 convolution"),
    ({"conv1_weight": np.ones(4, np.float32)}, "has shape (4,)"),
    ({"conv1_weight": None}, "holds no ResNet under the names of"),
])
def test_what_does_not_fit_a_resnet_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        encoders.load(lone(tmp_path, **changes))


def test_preprocessing_beside_the_weights_is_read(tmp_path):
    lone(tmp_path).rename(tmp_path / files.WEIGHTS)
    timm_config = {"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1]}, "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "config.json").write_text(json.dumps(timm_config))
    assert encoders.load(tmp_path).preprocessing == {"size": 224, "resize": 235, "interpolation": "bicubic", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    processor = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert encoders.load(tmp_path).preprocessing == {"size": 224, "resize": 256, "interpolation": "bicubic", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 224}))
    with pytest.raises(UserError, match="not in the form"):
        encoders.load(tmp_path)


@pytest.mark.parametrize("stated, words", [
    ({"architecture": "resnetblur50"}, "architecture 'resnetblur50'"),
    ({"architecture": "resnet50", "model_args": {"act_layer": "silu", "num_classes": 0}}, "act_layer 'silu'"),
    ({"architecture": "resnet50", "model_args": {"output_stride": 8}}, "output_stride 8"),
    ({"architecture": "resnet50", "global_pool": "max"}, "global_pool 'max'"),
    ({"architecture": "resnet18"}, "architecture 'resnet18' of layers [2, 2, 2, 2]"),
    ({"model_type": "resnet", "downsample_in_bottleneck": True}, "downsample_in_bottleneck True"),
    ({"model_type": "resnet", "downsample_in_first_stage": True}, "downsample_in_first_stage True"),
    ({"model_type": "resnet", "hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"model_type": "resnet", "layer_type": "basic"}, "layer_type 'basic'"),
    ({"model_type": "regnet"}, "model_type 'regnet'")])
def test_an_architecture_stated_beside_the_weights_is_not_ignored(tmp_path, stated, words):
    """Names and shapes are those of a plain ResNet-50 in every case; the folder and the file in it are the same weights."""
    lone(tmp_path, "resnet50").rename(tmp_path / files.WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps(stated))
    for path in (tmp_path, tmp_path / files.WEIGHTS):
        with pytest.raises(UserError, match=re.escape(f"states {words}")):
            interop.read(path)
    (tmp_path / files.WEIGHTS).rename(tmp_path / "other.safetensors")           # a file of another name has no config beside it
    assert "architecture assumed" in interop.read(tmp_path / "other.safetensors").notes[1]


@pytest.mark.parametrize("stated", [{"architecture": "resnet50", "num_classes": 0, "model_args": {"num_classes": 0, "aa_layer": None, "drop_rate": 0.1}},
                                    {"model_type": "resnet", "hidden_act": "relu", "layer_type": "bottleneck", "depths": [3, 4, 6, 3]}])
def test_a_stated_architecture_that_is_ours_is_read(tmp_path, stated):
    lone(tmp_path, "resnet50").rename(tmp_path / files.WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps(stated))
    found = interop.read(tmp_path / files.WEIGHTS)
    assert found.config["model"]["name"] == "resnet50" and not any("architecture" in note for note in found.notes)


def test_what_our_exports_state_is_ours():
    """The configs that exports write pass the check that imports make, the ten-layer one by its arguments."""
    for name in models.resnet.LAYERS:
        encoder = made({**config_of(), "model": {"name": name, "width": 1.0 if name == "resnet10" else 0.0625, "stem": "imagenet"}}, heads=())
        interop.foreign.reproduced(Path("x"), transformers.config(encoder), name)
        if name == "resnet10":
            interop.foreign.reproduced(Path("x"), timm.config(encoder), name)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text, words", [(b'{"architecture": "res', "torn or damaged"), (b"\xff\xfe", "torn or damaged"), (b"[1]", "holds a JSON list")])
def test_a_damaged_config_beside_the_weights_is_a_sentence(tmp_path, name, text, words):
    lone(tmp_path).rename(tmp_path / files.WEIGHTS)
    (tmp_path / name).write_bytes(text)
    for path in (tmp_path, tmp_path / files.WEIGHTS):
        with pytest.raises(UserError, match=f"{name} .*{words}|{words}"):
            encoders.load(path)


def test_errors_have_every_name(tmp_path):
    """Twelve tensors are gone: the sentence shows five, the list under it all, sorted."""
    gone = [f"layer4_0_{layer}" for layer in ("conv1_weight", "conv2_weight", *(f"bn{i}_{n}" for i in (1, 2) for n in ("weight", "bias")))]
    gone += ["layer3_0_conv1_weight", "layer3_0_conv2_weight", *(f"layer3_0_bn{i}_{n}" for i in (1, 2) for n in ("weight", "bias"))]
    with pytest.raises(UserError) as error:
        interop.demand(interop.read(lone(tmp_path, **dict.fromkeys(gone)), model="resnet10"))
    sentence, _, listed = str(error.value).partition("\nmissing (12):\n")
    assert "12 tensors are missing" in sentence and "and 7 more" in sentence
    assert [line.split(" (")[0].strip() for line in listed.splitlines()] == sorted(n.replace("_", ".") for n in gone)


def test_an_export_does_not_tell_where_it_was_made(exported):
    assert b"secret" not in exported[1].read_bytes() and encoders.load(exported[1]).config["data"]["path"] == "pets"


@pytest.mark.parametrize("size, resize", [(224, 256), (160, 182), (32, 32), (288, 329), (197, 225)])
def test_crop_share_gives_the_same_resize_in_every_library(size, resize):
    share = timm.crop_pct(size, resize)
    assert int(np.floor(size / share)) == resize and abs(share - size / resize) < 1e-12
