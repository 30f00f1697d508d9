"""Vision transformers in the names of timm, transformers, DINOv2, MAE and MoCo v3: tables, forms of positions, what shapes tell, and what is refused.

Oracles are timm's and transformers' own programs where they are installed, and files made by hand from the published names where not.
"""
import dataclasses
import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxssl import config as configs, convert, data as datas, encoder as encoders, export, models, tree
from jaxssl.encoder import formats as interop, initial, load as loading
from jaxssl.encoder.formats import families, files, names, records, resnets, safetensors as native, timm, transformers, vits
from jaxssl.errors import UserError
from jaxssl.models import positions
from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs
from tests.goldens import make_names
from tests.tiny import SMALL

SIDES = {"timm": timm.SIDES[vits], "transformers": transformers.SIDES[vits]}
CASES = {"plain": {}, "mean": {"pool": "mean"}, "registers": {"registers": 3, "layer_scale": 0.1}, "bare registers": {"registers": 3}, "scale": {"layer_scale": 0.1, "mask_token": True},
         "swiglu": {"ffn": "swiglu", "registers": 2, "layer_scale": 0.1, "mask_token": True}, "bare swiglu": {"ffn": "swiglu"}, "qk_norm": {"qk_norm": True},
         "no cls": {"cls": False, "pool": "mean", "registers": 2}, "sincos": {"positions": "sincos"}, "sincos registers": {"positions": "sincos", "registers": 2},
         "unscanned": {"scan": False}, "mask": {"mask_token": True}}
THEIRS = [case for case in CASES if case not in ("qk_norm", "no cls")]          # that transformers has
VIEW = {"interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}


def made(seed=0, size=16, **model):
    """A tiny vision transformer whose every tensor is random; nothing is compiled."""
    config = {"model": {"name": "vit_tiny", "width": 32, "depth": 2, "heads": 4, "patch": 8, "image": 16, **model}, "augment": {"size": size, **VIEW}}
    blank = encoders.Encoder("made", config, "student", 5, models.make(**config["model"], precision="f32"), {}, {})
    rng = np.random.default_rng(seed)
    return encoders.build(config, jax.tree.map(lambda a: (0.3 * rng.normal(size=a.shape)).astype(np.float32), encoders.shapes(blank)), name="made", step=5)


def theirs(encoder, library="timm"):
    """Its tensors under a library's names, as another program would save them."""
    side = SIDES[library]
    return {**names.theirs(side.table(encoder.module), tree.names(encoder.variables)), **side.constants(encoder.module, encoder.preprocessing["size"])}


def saved(path, tensors, prefix=""):
    safetensors.numpy.save_file({prefix + name: np.ascontiguousarray(a) for name, a in tensors.items()}, path)
    return path


def features(encoder, n=3):
    """Of random views, which every program gets alike."""
    x = np.random.default_rng(1).normal(size=(n, encoder.preprocessing["size"], encoder.preprocessing["size"], 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        return x, np.asarray(jax.jit(lambda v, x: encoder.forward(v, x)[0])(encoder.variables, x))


@pytest.mark.parametrize("library, case", [*(("timm", case) for case in CASES), *(("transformers", case) for case in THEIRS)])
def test_tables_are_complete_and_pieces_one_to_one(library, case):
    encoder = made(**CASES[case])
    table = SIDES[library].table(encoder.module)
    assert {t.ours for t in table.values()} == set(tree.names(encoder.variables)) and len({t.piece for t in table.values()}) == len(table)
    assert sum(a.size for a in names.theirs(table, tree.names(encoder.variables)).values()) - sum(a.size for a in tree.names(encoder.variables).values()) in (0, 32 * encoder.module.registers)
    assert not table.keys() & SIDES[library].constants(encoder.module, 16).keys()


@pytest.mark.parametrize("library", SIDES)
@pytest.mark.parametrize("case", make_names.VITS)
def test_names_and_shapes_are_the_librarys_own(library, case):
    """Against digests taken from the libraries; `python tests/goldens/make_names.py` made them."""
    golden = json.loads(Path(make_names.__file__).with_name("names.json").read_text())
    assert make_names.digest({name: a.shape for name, a in theirs(made(**make_names.VITS[case]), library).items()}) == golden[library][f"vit {case}"]


@pytest.mark.parametrize("library, case", [*(("timm", case) for case in CASES), *(("transformers", case) for case in THEIRS)])
def test_round_trip_is_bitwise(tmp_path, library, case):
    encoder, side = made(**CASES[case]), SIDES[library]
    records.write_torch(encoder, tmp_path, library, side.table(encoder.module), side.constants(encoder.module, 16))
    found = interop.read(tmp_path)
    assert tree.digest(found.variables) == encoder.digest and not found.missing and not found.unused
    tensors, metadata = files.read(tmp_path / files.WEIGHTS)
    if constants := side.constants(encoder.module, 16):
        files.write(tmp_path / files.WEIGHTS, {**tensors, **{n: a + 1 for n, a in constants.items()}}, metadata)
        with pytest.raises(UserError, match=f"{len(constants)} tensors have other values than this network"):
            interop.read(tmp_path)


@pytest.mark.parametrize("library, case", [*(("timm", case) for case in CASES if case != "no cls"), *(("transformers", case) for case in THEIRS)])
def test_an_architecture_is_read_from_names_and_shapes(tmp_path, library, case):
    """Without our record: another program's file; fixed positions come back as a table of them, and what their classes always have stays."""
    encoder = made(**CASES[case])
    found = interop.read(saved(tmp_path / "lone.safetensors", {**theirs(encoder, library), "head.weight" if library == "timm" else "classifier.weight": np.ones((2, 32), np.float32)}), told={"heads": 4})
    interop.demand(found)
    module, m = models.make(**found.config["model"], precision="f32"), encoder.module
    same = ("width", "depth", "heads", "patch", "image", "cls", "registers", "ffn", "qk_norm", "eps", *(["mask_token"] if library == "timm" or not m.registers else []))
    assert {key: getattr(module, key) for key in same} == {key: getattr(m, key) for key in same} and found.unused == ("head.weight" if library == "timm" else "classifier.weight",)
    assert found.layout == library and "a plain vit_tiny with layer norms of epsilon 1e-06, its feature the class token" in found.notes[1] and "heads" not in found.notes[1]
    assert found.config["augment"]["size"] == 16 and "preprocessing assumed" in found.notes[0]
    built = encoders.build({**found.config, "model": {**found.config["model"], "pool": m.pool}}, found.variables, name="x")
    back = theirs(built, library)
    original = theirs(encoder, library)
    assert back.keys() == original.keys() and all(np.array_equal(back[n], original[n]) and back[n].dtype == original[n].dtype for n in original)


def test_dinov2_files_and_training_checkpoints(tmp_path):
    """The flat file: class and patch positions in one table, registers without; SwiGLU as w12 and w3. FSDP's chunks stand before the number of a block, the backbone's name before all."""
    encoder = made(**CASES["swiglu"], resize="antialias")
    flat = {}
    for name, a in theirs(encoder).items():
        name = name.replace("reg_token", "register_tokens").replace("fc1", "w12").replace("fc2", "w3")
        flat[name] = tree.names(encoder.variables)["params/encoder/pos"] if name == "pos_embed" else a
    found = interop.read(saved(tmp_path / "dinov2_vits14_reg4_pretrain.safetensors", flat), told={"heads": 4})
    interop.demand(found)
    assert tree.digest(found.variables) == encoder.digest and not found.unused and found.config["model"].get("resize", "antialias") == "antialias"
    chunked = {name.replace("blocks.", f"blocks.{name.split('.')[1]}.") if name.startswith("blocks.") else name: a for name, a in flat.items()}
    assert "blocks.1.1.norm1.weight" in chunked
    file = saved(tmp_path / "teacher.safetensors", {**{f"backbone.{n}": a for n, a in chunked.items()}, "dino_head.mlp.0.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(UserError, match="begin with 'backbone.'.*--prefix backbone."):
        interop.read(file)
    found = interop.read(file, prefix="backbone.", told={"heads": 4})
    interop.demand(found)
    assert tree.digest(found.variables) == encoder.digest and found.unused == ("dino_head.mlp.0.weight",)
    # without registers: the kernel that those weights were trained through
    plain = made(**CASES["scale"])
    assert interop.read(saved(tmp_path / "x.safetensors", theirs(plain))).config["model"]["resize"] == "torch"


def test_the_layout_of_timms_registers(tmp_path):
    """timm's reg4: positions of patches alone, the class token's added to it. Exact both ways, as its place is then zero here."""
    encoder = made(registers=3, layer_scale=0.1)
    tensors = theirs(encoder)
    tensors["cls_token"], tensors["pos_embed"] = tensors["cls_token"] + tensors["pos_embed"][:, :1], tensors["pos_embed"][:, 4:]
    found = interop.read(saved(tmp_path / "reg.safetensors", tensors), told={"heads": 4})
    interop.demand(found)
    built = encoders.build(found.config, found.variables, name="x")
    np.testing.assert_allclose(features(built)[1], features(encoder)[1], rtol=1e-4, atol=1e-5)
    back = theirs(built)
    assert all(np.array_equal(back[n], tensors[n]) for n in tensors) and timm.config(built)["model_args"]["no_embed_class"] and not timm.config(encoder)["model_args"]["no_embed_class"]
    moved = theirs(encoder)
    moved["pos_embed"] = moved["pos_embed"] + 1
    with pytest.raises(UserError, match="these registers have positions"):
        interop.read(saved(tmp_path / "moved.safetensors", moved))


def test_mae_and_moco_files(tmp_path):
    encoder = made()
    tensors = theirs(encoder)
    mae = {**tensors, "mask_token": np.ones((1, 1, 24), np.float32), "decoder_pos_embed": np.ones((1, 5, 24), np.float32), "decoder_blocks.0.norm1.weight": np.ones(24, np.float32)}
    found = interop.read(saved(tmp_path / "mae.safetensors", mae), told={"heads": 4})
    interop.demand(found)
    assert tree.digest(found.variables) == encoder.digest and sorted(found.unused) == ["decoder_blocks.0.norm1.weight", "decoder_pos_embed", "mask_token"]
    both = {f"module.{which}_encoder.{n}": a * scale for which, scale in (("base", 1), ("momentum", 2)) for n, a in {**tensors, "head.0.weight": np.ones((2, 2), np.float32)}.items()}
    file = saved(tmp_path / "moco.safetensors", both)
    with pytest.raises(UserError, match="begin with 'module.base_encoder.' or 'module.momentum_encoder.'.*--prefix module.base_encoder."):
        interop.read(file)
    assert convert.main([str(file), str(tmp_path / "out"), "--prefix", "module.base_encoder.", "--heads", "4", "--eps", "1e-5", "--pool", "mean", "--size", "24"]) == 0
    loaded = loading.load(tmp_path / "out")
    assert loaded.digest == encoder.digest and (loaded.module.heads, loaded.module.eps, loaded.module.pool, loaded.preprocessing["size"]) == (4, 1e-5, "mean", 24)
    accounts = json.loads((tmp_path / "out" / convert.NAMES).read_text())
    assert "module.base_encoder.head.0.weight" in accounts["unused"] and len(accounts["unused"]) == len(tensors) + 2


def test_names_in_memory_of_newer_transformers_are_those_of_its_files():
    table = SIDES["transformers"].table(made().module)
    new = {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj", "attention.attention.value": "attention.v_proj",
           "attention.output.dense": "attention.o_proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}
    for name in table:
        memory = name.replace("encoder.layer.", "layers.")
        for old, word in new.items():
            memory = memory.replace(old, word)
        assert transformers.original(memory) == transformers.original(f"vit.{memory}") == transformers.original(name) == name


@pytest.mark.parametrize("stated, words", [
    ({"architecture": "vit_small_patch16_224", "model_args": {"num_heads": 4, "global_pool": "avg", "fc_norm": False}}, {"heads": 4, "pool": "mean"}),
    ({"architecture": "vit_base_patch14_reg4_dinov2", "model_args": {"init_values": 1e-5}}, {"heads": 12, "pool": "cls"}),
    ({"architecture": "deit_tiny_patch16_224"}, {"heads": 3}), ({"architecture": "vit_tiny_patch16_224", "num_classes": 0, "global_pool": "token", "model_args": {"act_layer": None}}, {"heads": 3})])
def test_what_timm_states_is_read(stated, words):
    assert vits.differs(stated, "vit_tiny") == [] and words.items() <= vits._said(stated, {"cls": True}).items()


@pytest.mark.parametrize("stated, words", [
    ({"architecture": "vit_base_patch16_clip_224"}, "architecture 'vit_base_patch16_clip_224'"), ({"architecture": "vit_tiny_patch16_224", "model_args": {"pre_norm": True}}, "pre_norm True"),
    ({"architecture": "vit_tiny_patch16_224", "global_pool": "map"}, "global_pool 'map'"), ({"architecture": "vit_tiny_patch16_224", "global_pool": "avg"}, "global_pool 'avg'"),
    ({"architecture": "vit_tiny_patch16_224", "model_args": {"act_layer": "quick_gelu"}}, "act_layer 'quick_gelu'"), ({"model_type": "vit", "hidden_act": "gelu_new"}, "hidden_act 'gelu_new'"),
    ({"model_type": "beit"}, "model_type 'beit'"), ({"model_type": "dinov2", "qkv_bias": False}, "qkv_bias False")])
def test_an_architecture_stated_beside_the_weights_is_not_ignored(tmp_path, stated, words):
    saved(tmp_path / files.WEIGHTS, theirs(made(), "timm" if "architecture" in stated else "transformers"))
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(UserError, match=f"states {words}, which is not what a vit_tiny of this program computes.*plain vision transformers alone"):
        interop.read(tmp_path)


@pytest.mark.parametrize("library", SIDES)
def test_what_our_exports_state_is_read_back(tmp_path, library):
    """Config and tensors without our record: heads, eps, pool, size and pixels are those that were exported."""
    encoder = made(layer_scale=0.1, **({"pool": "mean"} if library == "timm" else {"eps": 1e-5}))
    {"timm": timm, "transformers": transformers}[library].write(encoder, tmp_path)
    tensors, _ = files.read(tmp_path / files.WEIGHTS)
    saved(tmp_path / files.WEIGHTS, tensors)
    found = loading.load(tmp_path)
    assert found.digest == encoder.digest and found.preprocessing == encoder.preprocessing and found.origin.notes == ()
    assert dataclasses.asdict(found.module) | {"layer_scale": 0, "resize": ""} == dataclasses.asdict(encoder.module) | {"layer_scale": 0, "resize": ""}


def test_a_processor_that_squashes_is_told(tmp_path):
    saved(tmp_path / files.WEIGHTS, theirs(made(), "transformers"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "num_attention_heads": 4}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 16, "width": 16}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    found = interop.read(tmp_path)
    assert found.config["model"]["eps"] == 1e-12 and found.config["augment"] == {"size": 16, "resize": 16, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert found.notes == ("the preprocessor_config.json beside the weights states size 16 × 16 without a crop, which is not done here: the short side is resized to 16 and the centre cropped",)


@pytest.mark.parametrize("change, words", [
    ({"norm.weight": None}, "1 tensors are missing (norm.weight (encoder/norm/scale))"), ({"blocks.1.attn.qkv.bias": None}, "1 tensors are missing (blocks.1.attn.qkv.bias (encoder/blocks/qkv/bias/1))"),
    ({"blocks.0.norm1.weight": np.ones(31, np.float32)}, "are of several shapes ((31,), (32,))"), ({"dist_token": np.ones((1, 1, 32), np.float32)}, "1 tensors have no place in vit_tiny (dist_token)"),
    ({"blocks.0.attn.q_bias": np.ones(32, np.float32)}, "1 tensors have no place"), ({"pos_embed": None}, "missing (pos_embed"), ({"pos_embed": np.ones((1, 7, 32), np.float32)}, "7 positions, which are no square grid"),
    ({"patch_embed.proj.weight": np.ones((32, 3, 8, 4), np.float32)}, "a square patch's projection"), ({"patch_embed.proj.weight": None}, "holds no ResNet under the names of torchvision, transformers, simclr"),
    ({f"blocks.{i}.mlp.fc{j}.{leaf}": None for i in (0, 1) for j in (1, 2) for leaf in ("weight", "bias")}, "8 tensors are missing"),
    ({"blocks.0.mlp.fc1.weight": np.ones((64, 32), np.float32), "blocks.1.mlp.fc1.weight": np.ones((64, 32), np.float32)}, "of another shape")])
def test_what_does_not_fit_is_a_sentence(tmp_path, change, words):
    tensors = {n: a for n, a in {**theirs(made()), **change}.items() if a is not None}
    with pytest.raises(UserError) as error:
        loading.load(saved(tmp_path / "lone.safetensors", tensors))
    assert words in str(error.value)


def test_a_hole_in_a_stack_leaves_the_stack_out(tmp_path):
    """Blocks are one array here: where a layer's tensor may be missing, all of them are drawn, and those that were there are listed as unused."""
    tensors = theirs(made())
    tensors.pop("blocks.1.attn.proj.bias")
    found = convert.run(str(saved(tmp_path / "lone.safetensors", tensors)), str(tmp_path / "out"), allow_missing=("encoder/blocks/proj/bias",))
    assert found["missing"] == ("blocks.1.attn.proj.bias",) and found["unused"] == ("blocks.0.attn.proj.bias",)
    assert not tree.names(loading.load(tmp_path / "out").variables)["params/encoder/blocks/proj/bias"].any()


@pytest.mark.parametrize("flags, words", [({"model": "vit_small"}, "has 32 channels and 2 blocks, which is no vit_small (of 384 and 12)"), ({"model": "resnet50"}, "holds a vision transformer, and resnet50 is none")])
def test_a_model_that_is_given_and_is_not_there(tmp_path, flags, words):
    with pytest.raises(UserError) as error:
        interop.read(saved(tmp_path / "lone.safetensors", theirs(made())), **flags)
    assert words in str(error.value)


@pytest.mark.parametrize("library, model, size, words", [
    ("timm", {"eps": 1e-5}, 16, "a layer norm epsilon of 1e-05; use --format transformers, stablehlo or safetensors"), ("timm", {"resize": "torch"}, 24, "interpolated by 'torch' to 24"),
    ("transformers", {"qk_norm": True}, 16, "norms of queries and keys; use --format timm"), ("transformers", {"cls": False, "pool": "mean"}, 16, "no class token"),
    ("transformers", {}, 24, "positions of 16 pixels interpolated by 'antialias' to 24")])
def test_what_a_library_cannot_hold_names_those_that_can(library, model, size, words):
    with pytest.raises(UserError) as error:
        {"timm": timm, "transformers": transformers}[library].config(made(size=size, **model))
    assert words in str(error.value)


def test_formats_that_a_family_does_not_have(tmp_path):
    native.save(made(), tmp_path / "w.safetensors")
    for format in ("torchvision", "onnx"):
        with pytest.raises(UserError, match=f"--format {format} cannot hold a vision transformer; use --format timm, transformers, safetensors or stablehlo"):
            export.run(weights=str(tmp_path / "w.safetensors"), format=format, out=str(tmp_path / "out"))
    assert families.of(made().module) is vits and families.named("resnet50") is resnets and sorted(p.name for p in tmp_path.iterdir()) == ["w.safetensors"]


def test_flags_of_a_vision_transformer_are_no_resnets(tmp_path):
    encoder = encoders.build(config := {"model": {"name": "resnet10", "width": 1 / 16, "stem": "cifar"}, "augment": {"size": 16, **VIEW}}, encoders.fill(config, {"params": {}, "batch_stats": {}}), name="r")
    tensors = names.theirs(interop.target("torchvision").table(encoder.module), tree.names(encoder.variables))
    with pytest.raises(UserError, match="holds a ResNet, which has no heads to state; leave out --heads"):
        interop.read(saved(tmp_path / "r.safetensors", tensors), told={"heads": 4})
    native.save(made(), tmp_path / "ours.safetensors")
    with pytest.raises(UserError, match="says itself what it holds; leave out --eps"):
        interop.read(tmp_path / "ours.safetensors", told={"eps": 1e-5})


@pytest.mark.parametrize("model, name", [({}, "vit_tiny_patch16_224"), ({"name": "vit_base", "patch": 32, "image": 384, "width": 32}, "vit_base_patch32_384"), ({"name": "vit_huge", "patch": 14, "image": 224, "width": 32}, "vit_huge_patch14_224"),
                                         ({"ffn": "swiglu"}, "vit_giant_patch14_dinov2"), ({"name": "vit_small", "width": 32, "depth": 1}, "vit_small_patch8_224")])
def test_timms_name_is_one_that_it_has(model, name):
    m = models.make(**{"width": 32, "depth": 2, "patch": 8, "image": 16, "name": "vit_tiny", **model})
    assert timm.architecture({"name": "vit_tiny", **model}["name"], m, m.image) == name
    for width in (32, 192, 384, 768, 1024, 1536):
        hidden = models.transformer.swiglu_width(width)
        assert int(width * timm.gate_ratio(width, hidden)) == 2 * hidden


# a run that begins with a vision transformer

def begin(tmp_path, source, allow="", **model):
    """initial.read of a file of `source` for a run of a model that differs by `model`."""
    native.save(source, tmp_path / "s.safetensors")
    own = made(seed=1, **{**source.config["model"], **model})
    state = types.SimpleNamespace(params={"encoder": own.variables["params"]["encoder"]}, aux={"batch_stats": {"encoder": {}}})
    config = types.SimpleNamespace(model=own.config["model"], augment=own.config["augment"])
    return initial.read(str(tmp_path / "s.safetensors"), state=state, heads=(), config=config, allow_missing=allow)


@pytest.mark.parametrize("kernel", positions.RESIZES)
@pytest.mark.parametrize("image", [32, 24])
def test_positions_of_another_size_are_interpolated_and_told(tmp_path, kernel, image):
    source = made(image=32, resize=kernel)
    start = begin(tmp_path, source, image=image)
    table = tree.names(source.variables)["params/encoder/pos"]
    side = image // 8
    expected = np.concatenate([table[0, :1], positions.resize(table[0, 1:], (side, side), kernel)])[None]
    np.testing.assert_array_equal(start.values["params/encoder/pos"], expected)
    assert (f"note: positions of 4×4 patches are interpolated to 3×3 by the kernel {kernel!r}" in start.note) == (image == 24) and "0 missing" in start.note


def test_a_whole_run_begins_with_a_vision_transformer_of_another_size(tmp_path):
    """The state of a job as the training program makes it, on eight devices in slices; only shapes are looked at."""
    text = "from ml_collections import ConfigDict\n\n\ndef get_config(variant):\n    return ConfigDict({'method': {'name': 'simclr'}, 'data': {'source': 'digits'}, 'optim': {'name': 'adamw'}, 'model': {'name': 'vit_tiny'}})\n"
    (tmp_path / "run.py").write_text(text)
    small = {k: v for k, v in SMALL.items() if not k.startswith("model.")}
    config = configs.load(str(tmp_path / "run.py"), {**small, **{f"model.{k}": v for k, v in dict(width="32", depth="2", heads="4", patch="4", image="16").items()}})
    data = datas.make(source="digits", variant="clean", canvas=16)
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices(), fsdp=2), jobs.Facts(len(data.train), len(data.classes), data.canvas, True))
    native.save(source := made(patch=4, image=32), tmp_path / "s.safetensors")
    start = initial.read(str(tmp_path / "s.safetensors"), state=job.state, heads=tuple(job.method.heads), config=config, allow_missing="projector")
    assert start.values.keys() == tree.names(source.variables).keys() and start.values["params/encoder/pos"].shape == (1, 17, 32)
    assert "interpolated to 4×4 by the kernel 'antialias'" in start.note and "9 missing, from the seed (projector/" in start.note


def test_stacked_blocks_begin_unstacked_ones_and_back(tmp_path):
    for scan in (True, False):
        source = made(scan=scan)
        start = begin(tmp_path, source, scan=not scan)
        encoder = dataclasses.replace(made(scan=not scan), variables=interop.collections(start.values) | {"batch_stats": {"encoder": {}}})
        np.testing.assert_array_equal(features(encoder)[1], features(source)[1])


@pytest.mark.parametrize("model, words", [({"heads": 2}, "with 4 heads, this run has 2; set --config.model.heads=4"), ({"eps": 1e-5}, "a layer norm epsilon of 1e-06, this run has 1e-05; set --config.model.eps=1e-06"),
                                          ({"pool": "mean"}, "with the feature 'cls', this run has 'mean'")])
def test_other_arithmetic_is_a_warning(tmp_path, model, words):
    assert words in begin(tmp_path, made(), **model).note and "warning" not in begin(tmp_path, made()).note


def test_a_mask_token_is_no_reason_to_refuse_weights(tmp_path):
    assert "1 unused (encoder/mask)" in begin(tmp_path, made(mask_token=True), mask_token=False).note
    with pytest.raises(UserError, match="lacks 1 of the .*encoder/mask"):
        begin(tmp_path, made(), mask_token=True)
    with pytest.raises(UserError, match="vit_tiny, patch 8, 16 px, width 32, depth 2.* has 1 encoder tensors that this run .*registers"):
        begin(tmp_path, made(registers=2), registers=0)


# against the libraries

@pytest.mark.parametrize("library, case, size", [*(("timm", case, 16) for case in CASES), ("timm", "registers", 24), *(("transformers", case, 16) for case in THEIRS), ("transformers", "registers", 24)])
def test_features_are_the_target_librarys(tmp_path, library, case, size):
    """The command's own check on real images, and the file that it leaves."""
    for package in ("torch", "torchvision", library):
        pytest.importorskip(package, reason=f"{package} is an optional extra")
    encoder = made(size=size, **CASES[case])
    native.save(encoder, tmp_path / "w.safetensors")
    found = export.run(weights=str(tmp_path / "w.safetensors"), format=library, out=str(tmp_path / "out"), images=3)
    assert found["difference"] < 1e-5 and loading.load(tmp_path / "out").digest == encoder.digest
    assert "patch 8, 16 px" in (tmp_path / "out" / "README.md").read_text()


def test_stablehlo_holds_a_vision_transformer(tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers comes with an optional extra")
    native.save(made(registers=2), tmp_path / "w.safetensors")
    assert export.run(weights=str(tmp_path / "w.safetensors"), format="stablehlo", out=str(tmp_path / "out"), images=3)["difference"] < 1e-5


TIMM = {"plain": dict(), "registers": dict(reg_tokens=3, no_embed_class=True, init_values=0.1), "mean": dict(global_pool="avg", fc_norm=False), "qk_norm": dict(qk_norm=True)}


def drawn(torch, model):
    """Every tensor moved off its start, so that it counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("case", TIMM)
def test_timms_networks_come_in(tmp_path, case):
    torch, library = (pytest.importorskip(package, reason=f"{package} is an optional extra") for package in ("torch", "timm"))
    model = drawn(torch, library.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0, **TIMM[case]))
    saved(tmp_path / files.WEIGHTS, {n: a.numpy() for n, a in model.state_dict().items()})
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 4, **TIMM[case]}}))
    encoder = loading.load(tmp_path)
    x, ours = features(encoder)
    with torch.inference_mode():
        assert export.relative(ours, model(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()) < 1e-5


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2 swiglu", "Dinov2WithRegisters"])
def test_transformers_networks_come_in(tmp_path, kind):
    torch, library = (pytest.importorskip(package, reason=f"{package} is an optional extra") for package in ("torch", "transformers"))
    name, more = kind.split()[0], {"use_swiglu_ffn": True} if "swiglu" in kind else {"intermediate_size": 128} if kind == "ViT" else {}
    config = getattr(library, f"{name}Config")(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8, **more)
    model = drawn(torch, getattr(library, f"{name}Model")(config))
    model.save_pretrained(tmp_path)
    encoder = loading.load(tmp_path)
    x, ours = features(encoder)
    with torch.inference_mode():
        assert export.relative(ours, model(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).last_hidden_state[:, 0].numpy()) < 1e-5
    assert encoder.module.eps == config.layer_norm_eps and (kind != "ViT" or sorted(encoder.origin.unused) == ["pooler.dense.bias", "pooler.dense.weight"])
