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

from jaxssl import encoder as encoders, models, tree
from jaxssl.encoder import formats as interop
from jaxssl.encoder import load as loading
from jaxssl.errors import UserError
from jaxssl.encoder.formats import files, names, records, resnets, safetensors as native, simclr, timm, torchvision, transformers
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
    return tree.names(encoders.shapes(encoders.Encoder("", {"augment": {"size": 32, "mean": (.5, .5, .5)}}, "", None, models.make(name=name), {}, {})))


@pytest.mark.parametrize("library", [*LIBRARIES, "simclr"])
@pytest.mark.parametrize("name", models.resnet.LAYERS)
def test_tables_are_complete_and_one_to_one(library, name):
    table = (simclr if library == "simclr" else LIBRARIES[library]).table(models.make(name=name))
    assert sorted(t.ours for t in table.values()) == sorted(shapes_of(name))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", make_names.MODELS)
def test_names_and_shapes_are_the_librarys_own(library, name):
    """Against digests taken from the libraries; `python tests/goldens/make_names.py` made them."""
    ours = shapes_of(name)
    turned = lambda shape, axes: shape if axes is None else tuple(shape[a] for a in axes)
    theirs = {n: turned(ours[t.ours].shape, names.AXES[t.layout][0]) for n, t in LIBRARIES[library].table(models.make(name=name)).items()}
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
    assert set(simclr.table(models.make(name=name))) == expected


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
    records.write_torch(encoder, tmp_path, library, side.table(encoder.module))
    found = interop.read(tmp_path)
    expected = records.parts(encoder.variables, ("encoder",))
    assert tree.digest(found.variables) == tree.digest(expected) and not found.missing and not found.unused
    # the same tensors without our record: another program's file
    tensors, metadata = files.read(tmp_path / files.WEIGHTS)
    assert metadata["format"] == "pt" and sum(n.endswith("num_batches_tracked") for n in tensors) == len(resnets.places(encoder.module))
    safetensors.numpy.save_file({**tensors, "fc.weight" if library != "transformers" else "classifier.1.weight": np.zeros((2, 4), np.float32)}, tmp_path / "lone.safetensors")
    lone = interop.read(tmp_path / "lone.safetensors")
    interop.demand(lone)
    assert tree.digest(lone.variables) == tree.digest(expected) and lone.config["model"] == {"name": name, "width": 0.0625, "stem": "cifar"}
    assert lone.layout == ("torchvision" if library == "timm" else library) and "assumed" in lone.notes[0] and any("weight" in n for n in lone.unused)


def test_simclr_file_gives_encoder_and_head(tmp_path):
    encoder = made(config_of("resnet50", stem="imagenet"))
    named = tree.names(encoder.variables)
    table = simclr.table(encoder.module)
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
    basic = {f"model/{n}": np.zeros((3, 3, 3, 4) if n.endswith("kernel") else 4, np.float32) for n in simclr.table(models.make(name="resnet18"))}
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
        loading.load(exported[1])


def test_truncated_and_corrupted_files_are_refused(exported):
    data = exported[1].read_bytes()
    for cut in (4, 200, len(data) // 2, len(data) - 1):
        exported[1].write_bytes(data[:cut])
        with pytest.raises(UserError, match="no whole safetensors file.*truncated or corrupted"):
            loading.load(exported[1])
    flipped = bytearray(data)
    flipped[-100] ^= 1
    exported[1].write_bytes(flipped)
    with pytest.raises(UserError, match="do not have the digest"):
        loading.load(exported[1])
    header, = struct.unpack("<Q", data[:8])
    for bad, words in ((rb'"version\": 1', rb'"version\": 7'), "version 7"), ((rb'\"digest\"', rb'\"digesT\"'), "lacks digest"):
        old, new = (b.replace(b'"version', b'\\"version') if not b.startswith(b"\\") else b for b in bad)
        assert old in data[:8 + header] and len(old) == len(new)
        exported[1].write_bytes(data.replace(old, new, 1))
        with pytest.raises(UserError, match=words):
            loading.load(exported[1])


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
    tensors = names.theirs(torchvision.table(encoder.module), tree.names(records.parts(encoder.variables, ("encoder",))))
    torch.save({"state_dict": {f"module.encoder_q.{n}": torch.from_numpy(a) for n, a in tensors.items()} | {"module.queue": torch.zeros(3)}, "epoch": 3}, tmp_path / "moco.pth")
    with pytest.raises(UserError, match="begin with 'module.encoder_q.'.*--prefix module.encoder_q."):
        interop.read(tmp_path / "moco.pth")
    found = interop.read(tmp_path / "moco.pth", prefix="module.encoder_q.")
    interop.demand(found)
    assert tree.digest(found.variables) == tree.digest(records.parts(encoder.variables, ("encoder",))) and found.unused == ("module.queue",)
    torch.save(Path("x"), tmp_path / "evil.pth")
    with pytest.raises(UserError, match="weights_only"):
        interop.read(tmp_path / "evil.pth")


def lone(tmp_path, name="resnet10", stem="cifar", **changes):
    """A torchvision file without our record; a change to None takes a tensor out."""
    encoder = made(config_of(name, stem=stem))
    tensors = names.theirs(torchvision.table(encoder.module), tree.names(records.parts(encoder.variables, ("encoder",))))
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
        loading.load(lone(tmp_path, **changes))


def test_preprocessing_beside_the_weights_is_read(tmp_path):
    lone(tmp_path).rename(tmp_path / files.WEIGHTS)
    timm_config = {"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1]}, "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "config.json").write_text(json.dumps(timm_config))
    assert loading.load(tmp_path).preprocessing == {"size": 224, "resize": 235, "interpolation": "bicubic", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    processor = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert loading.load(tmp_path).preprocessing == {"size": 224, "resize": 256, "interpolation": "bicubic", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 224}))
    with pytest.raises(UserError, match="not in the form"):
        loading.load(tmp_path)


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
    lone(tmp_path, "resnet50", stem="imagenet").rename(tmp_path / files.WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps(stated))
    found = interop.read(tmp_path / files.WEIGHTS)
    assert found.config["model"]["name"] == "resnet50" and not any("architecture" in note for note in found.notes)


@pytest.mark.parametrize("name", models.resnet.INNER)
def test_a_wide_resnet_is_told_by_its_shapes(tmp_path, name):
    encoder = made({**config_of(), "model": {"name": name, "width": 0.0625, "stem": "imagenet"}}, heads=())
    safetensors.numpy.save_file(names.theirs(torchvision.table(encoder.module), tree.names(encoder.variables)), tmp_path / "wide.safetensors")
    found = interop.read(tmp_path / "wide.safetensors")
    interop.demand(found)
    assert found.config["model"]["name"] == name and tree.digest(found.variables) == encoder.digest


def test_what_our_exports_state_is_ours():
    """The configs that exports write pass the check that imports make, the ten-layer one by its arguments."""
    for name in models.resnet.LAYERS:
        encoder = made({**config_of(), "model": {"name": name, "width": 1.0 if name == "resnet10" else 0.0625, "stem": "imagenet"}}, heads=())
        if name in models.resnet.INNER:
            with pytest.raises(UserError, match="transformers' ResNet cannot have bottlenecks of twice the width"):
                transformers.config(encoder)
            continue
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
            loading.load(path)


def test_errors_have_every_name(tmp_path):
    """Twelve tensors are gone: the sentence shows five, the list under it all, sorted."""
    gone = [f"layer4_0_{layer}" for layer in ("conv1_weight", "conv2_weight", *(f"bn{i}_{n}" for i in (1, 2) for n in ("weight", "bias")))]
    gone += ["layer3_0_conv1_weight", "layer3_0_conv2_weight", *(f"layer3_0_bn{i}_{n}" for i in (1, 2) for n in ("weight", "bias"))]
    with pytest.raises(UserError) as error:
        interop.demand(interop.read(lone(tmp_path, **dict.fromkeys(gone)), model="resnet10"))
    sentence, _, listed = str(error.value).partition("\nmissing (12):\n")
    assert "12 tensors are missing" in sentence and "and 7 more" in sentence
    assert [line.split(" (")[0].strip() for line in listed.splitlines()] == sorted(n.replace("_", ".") for n in gone)


def torchvisions(name="resnet10", stem="cifar"):
    """torchvision's tensors of a random encoder, and the digest of ours."""
    encoder = made(config_of(name, stem=stem), heads=())
    return names.theirs(torchvision.table(encoder.module), tree.names(encoder.variables)), encoder.digest


@pytest.mark.parametrize("length", [0x4B50, 0x0280, 0x0480])
def test_a_header_whose_length_looks_like_a_pickle_or_an_archive_is_read(tmp_path, length):
    tensors, digest = torchvisions()
    data = safetensors.numpy.save(tensors)
    size, = struct.unpack("<Q", data[:8])
    length += 0x10000 if length < size else 0
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + data[8:8 + size] + b" " * (length - size) + data[8 + size:])
    assert tree.digest(interop.read(tmp_path / "x.safetensors").variables) == digest


def test_the_stem_that_shapes_do_not_tell_is_named(tmp_path):
    file = lone(tmp_path).rename(tmp_path / files.WEIGHTS)
    assert "3×3 stem of stride 1 and padding 1 without a max pool" in interop.read(file).notes[1]
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1]}}))
    assert "without a max pool" in interop.read(file).notes[1]
    assert "stem" not in interop.read(lone(tmp_path, stem="imagenet")).notes[1]


TIMM = {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
PROCESSOR = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


def stating(tmp_path, change):
    """A folder of weights whose preprocessing is stated with `change`: timm's, or transformers' where the keys are theirs."""
    lone(tmp_path, stem="imagenet").rename(tmp_path / files.WEIGHTS)
    timms = change.keys() & {"crop_mode", "interpolation", "input_size", "crop_pct"}
    stated = {"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1]}, "pretrained_cfg": {**TIMM, **change}} if timms else {"model_type": "resnet", "layer_type": "basic", "depths": [1, 1, 1, 1]}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    if not timms:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **change}))
    return tmp_path


@pytest.mark.parametrize("change, words", [
    ({"crop_mode": "squash"}, "crop_mode 'squash', which is not done here: the centre"), ({"interpolation": "lanczos"}, "interpolation 'lanczos', which is not done here: bicubic"),
    ({"do_resize": False}, "do_resize False, which is not done here: the short side is resized to 40"), ({"do_center_crop": False}, "do_center_crop False, which is not done here: the middle 40 × 40"),
    ({"resample": 1}, "resample 1, which is not done here: bicubic")])
def test_preprocessing_that_is_not_done_here_is_told_and_travels(tmp_path, change, words):
    encoder = loading.load(stating(tmp_path, change))
    assert len(encoder.origin.notes) == 1 and words in encoder.origin.notes[0] and encoder.origin.notes == encoder.origin.replaced
    native.save(encoder, tmp_path / "again.safetensors")
    assert loading.load(tmp_path / "again.safetensors").origin.notes == encoder.origin.notes
    if not change.keys().isdisjoint({"interpolation", "resample"}):
        assert interop.read(tmp_path, preprocessing={"interpolation": "bilinear"}).notes == ()


@pytest.mark.parametrize("change, mean, std", [
    ({"do_normalize": False}, (0.0,) * 3, (1.0,) * 3), ({"do_rescale": False, "image_mean": [25.5, 51, 51], "image_std": [51, 51, 51]}, (0.1, 0.2, 0.2), (0.2,) * 3),
    ({"rescale_factor": 2 / 255}, (0.05, 0.1, 0.15), (0.2, 0.25, 0.3)), ({"rescale_factor": 1 / 255}, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))])
def test_other_numbers_of_a_processor_are_another_mean_and_std(tmp_path, change, mean, std):
    found = interop.read(stating(tmp_path, change))
    np.testing.assert_allclose((found.config["augment"]["mean"], found.config["augment"]["std"]), (mean, std), rtol=1e-6)
    assert found.notes == ()


@pytest.mark.parametrize("change", [{"input_size": [3, 32, 64]}, {"crop_size": {"height": 32, "width": 24}}])
def test_views_that_are_not_square_are_refused(tmp_path, change):
    with pytest.raises(UserError, match="views here are square: give a side with .*--size"):
        interop.read(stating(tmp_path, change))
    assert interop.read(tmp_path, preprocessing={"size": 32}).config["augment"]["size"] == 32


def test_a_share_of_nothing_and_layers_that_are_no_list_are_sentences(tmp_path):
    with pytest.raises(UserError, match="not in the form"):
        interop.read(stating(tmp_path, {"crop_pct": 0}))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "model_args": {"layers": 5}}))
    with pytest.raises(UserError, match="of layers 5"):
        interop.read(tmp_path)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, bool])
def test_weights_that_are_no_floating_point_numbers_are_refused(tmp_path, dtype):
    with pytest.raises(UserError, match=r"1 tensors of lone.safetensors are no floating-point numbers \(layer1.0.conv1.weight"):
        loading.load(lone(tmp_path, layer1_0_conv1_weight=np.ones((4, 4, 3, 3), dtype)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    with pytest.raises(UserError, match="1 tensors of lone hold numbers that are not finite .params/encoder/stem/norm/scale."):
        loading.load(lone(tmp_path, **{"bn1_weight": np.full(4, value, np.float32)}))


def restate(file, change, seal=True):
    """The file with `change(record)` applied, its digest with it or not."""
    tensors, metadata = files.read(file)
    record = json.loads(metadata[records.KEY])
    change(record)
    if seal:
        record["record_digest"] = records.sealed(record)
    files.write(file, tensors, {**metadata, records.KEY: json.dumps(record)})


def test_the_record_has_a_digest_too(exported):
    with pytest.raises(UserError, match="its record does not have the digest"):
        restate(exported[1], lambda r: r["config"]["augment"].update(std=[0.75, 0.25, 0.3]), seal=False)
        loading.load(exported[1])
    restate(exported[1], lambda r: r.pop("record_digest") and r["config"]["augment"].update(std=[0.2, 0.25, 0.3]), seal=False)          # older files have none
    assert loading.load(exported[1]).digest == exported[0].digest


@pytest.mark.parametrize("change", [dict(weights="<b>"), dict(step="<b>"), dict(step=True), dict(assumed=["<b>"]), dict(assumed=3), dict(replaced=[3]), dict(name=3), dict(config=[])], ids=str)
def test_a_record_that_this_program_never_writes_is_refused(exported, change):
    restate(exported[1], lambda r: r.update(change))
    with pytest.raises(UserError, match=f"states {next(iter(change))} .*never writes"):
        loading.load(exported[1])


@pytest.mark.parametrize("change", [
    lambda r: r["config"].pop("model"), lambda r: r["config"]["model"].update(widht=1), lambda r: r["config"]["model"].update(width=float("nan")), lambda r: r["config"]["model"].update(width=float("inf")),
    lambda r: r["config"].update(model=[]), lambda r: r["config"].pop("augment"), lambda r: r["config"]["augment"].update(size="a"), lambda r: r["config"]["method"].update(name="base"),
    lambda r: r["config"]["method"].update(name=3), lambda r: r.update(layout="onnx"), lambda r: r.update(layout=None)])
def test_whatever_a_record_holds_is_a_sentence(exported, change, tmp_path):
    from jaxssl import convert
    restate(exported[1], change)
    for read in (loading.load, lambda path: convert.run(str(path), str(tmp_path / "out"))):
        with pytest.raises(UserError):
            read(exported[1])


def test_names_that_collide_are_a_sentence(exported):
    rewrite(exported[1], lambda t: t.update({"params/encoder": np.zeros(1, np.float32)}))
    with pytest.raises(UserError):
        loading.load(exported[1])


@pytest.mark.parametrize("flag", ["prefix", "model"])
def test_flags_for_other_programs_are_refused_on_our_files(exported, flag):
    with pytest.raises(UserError, match=f"says itself what it holds; leave out --{flag}"):
        interop.read(exported[1], **{flag: "resnet50"})


def test_a_prefix_without_its_dot_and_one_that_no_name_has(tmp_path):
    tensors, digest = torchvisions()
    safetensors.numpy.save_file({f"backbone.{n}": a for n, a in tensors.items()}, tmp_path / "x.safetensors")
    assert tree.digest(interop.read(tmp_path / "x.safetensors", prefix="backbone").variables) == digest
    with pytest.raises(UserError, match="no name in x.safetensors begins with 'bakbone.'; they begin with backbone: .*did you mean 'backbone'"):
        interop.read(tmp_path / "x.safetensors", prefix="bakbone.")


@pytest.mark.parametrize("first", [2, 3, 4])
def test_numbered_layers_are_torchvisions(tmp_path, first):
    """A Sequential of a ResNet's children, with or without ReLU and pool in it."""
    tensors, digest = torchvisions()
    words = {"conv1": "0", "bn1": "1", **{f"layer{i + 1}": str(first + i) for i in range(4)}}
    safetensors.numpy.save_file({f"backbone.{words[n.split('.')[0]]}.{n.partition('.')[2]}": a for n, a in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="begin with 'backbone.'; .*--prefix backbone.`$"):
        interop.read(tmp_path / "x.safetensors")
    found = interop.read(tmp_path / "x.safetensors", prefix="backbone.")
    interop.demand(found)
    assert tree.digest(found.variables) == digest


def test_no_prefix_is_proposed_that_a_block_alone_has(tmp_path):
    tensors, _ = torchvisions()
    safetensors.numpy.save_file({n.replace("layer", "stages.").replace("conv1.weight", "stem.weight") if n.startswith("conv1") else n.replace("layer", "stages."): a for n, a in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="holds no ResNet under the names of") as error:
        interop.read(tmp_path / "x.safetensors")
    assert "--prefix" not in str(error.value)


@pytest.mark.parametrize("place", ["model_state_dict", "model/state_dict", "anything", "student"])
def test_torch_files_keep_tensors_anywhere(tmp_path, place):
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    tensors, digest = torchvisions()
    content = {n: torch.from_numpy(a) for n, a in tensors.items()} | {"unused.bf16": torch.ones(2, dtype=torch.bfloat16), "unused.sparse": torch.ones(2).to_sparse(), 3: torch.ones(2)}
    for key in reversed(place.split("/")):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}}
    torch.save(content, tmp_path / "x.pth")
    found = interop.read(tmp_path / "x.pth")
    assert tree.digest(found.variables) == digest and sorted(found.unused) == ["unused.bf16", "unused.sparse"]


def test_several_networks_in_a_torch_file_are_told_apart(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    tensors, digest = torchvisions()
    one = {n: torch.from_numpy(a) for n, a in tensors.items()}
    torch.save({"student": one, "teacher": {n: a * 2 for n, a in one.items()}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="begin with 'student.' or 'teacher.'.*--prefix student."):
        interop.read(tmp_path / "x.pth")
    assert tree.digest(interop.read(tmp_path / "x.pth", prefix="student.").variables) == digest
    torch.save({n: a.to(torch.bfloat16) for n, a in one.items()}, tmp_path / "b.pth")
    np.testing.assert_allclose(interop.read(tmp_path / "b.pth").variables["params"]["encoder"]["stem"]["conv"]["kernel"], names.turned(tensors["conv1.weight"], (2, 3, 1, 0)), rtol=1e-2)


def damaged_npz(kind, file):
    np.savez_compressed(file, a=np.arange(1000.0))
    data = file.read_bytes()
    if kind == "deflate":
        file.write_bytes(data[:100] + bytes(100) + data[200:])
    elif kind == "npy":
        np.save(file.with_suffix(".npy"), np.ones(3))
        file.with_suffix(".npy").rename(file)
    else:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


@pytest.mark.parametrize("kind", ["deflate", "npy", "huge"])
def test_a_damaged_npz_is_a_sentence(tmp_path, kind):
    damaged_npz(kind, tmp_path / "x.npz")
    with pytest.raises(UserError, match="no readable .npz"):
        interop.read(tmp_path / "x.npz")


def test_a_member_that_is_no_array_is_left_out(tmp_path):
    tensors, digest = torchvisions()
    np.savez(tmp_path / "x.npz", **tensors)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("notes.txt", "none")
    assert tree.digest(interop.read(tmp_path / "x.npz").variables) == digest


@pytest.mark.parametrize("path", ["a\0b", "x" * 300 + ".safetensors"], ids=["nul", "long"])
def test_paths_that_no_file_can_have_are_sentences(path):
    with pytest.raises(UserError):
        loading.load(path)


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_safetensors", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        loading.load(lone(tmp_path))


def test_an_export_does_not_tell_where_it_was_made(exported):
    assert b"secret" not in exported[1].read_bytes() and loading.load(exported[1]).config["data"]["path"] == "pets"


@pytest.mark.parametrize("size, resize", [(224, 256), (160, 182), (32, 32), (288, 329), (197, 225)])
def test_crop_share_gives_the_same_resize_in_every_library(size, resize):
    share = timm.crop_pct(size, resize)
    assert int(np.floor(size / share)) == resize and abs(share - size / resize) < 1e-12
