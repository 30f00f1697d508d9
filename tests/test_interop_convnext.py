"""ConvNeXts in the names of timm and torchvision: tables one to one, bit for bit there and back, and what timm's own program computes from an export."""
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxssl import encoder as encoders, models, tree
from jaxssl.encoder import formats as interop
from jaxssl.encoder.formats import convnexts, files, names, records, timm, torchvision
from jaxssl.errors import UserError
from jaxssl.models import convnext

SIDES = {"timm": timm.SIDES[convnexts], "torchvision": torchvision.SIDES[convnexts]}
VIEW = {"interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
CASES = {"plain": {}, "no factors": {"layer_scale": 0.0}, "two stages": {"depths": (1, 2)}, "second": {"name": "convnextv2_tiny"}}
both = pytest.mark.parametrize("library", SIDES)
each = pytest.mark.parametrize("case", CASES)


def made(**model):
    """A tiny ConvNeXt whose every tensor is random; nothing is compiled."""
    config = {"model": {"name": "convnext_tiny", "width": 8, "depths": (1, 1, 2, 1), **model}, "augment": {"size": 32, **VIEW}}
    blank = encoders.Encoder("made", config, "student", 5, models.make(**config["model"], precision="f32"), {}, {})
    rng = np.random.default_rng(0)
    return encoders.build(config, jax.tree.map(lambda a: (0.3 * rng.normal(size=a.shape)).astype(np.float32), encoders.shapes(blank)), name="made", step=5)


def theirs(encoder, library):
    return names.theirs(SIDES[library].table(encoder.module), tree.names(encoder.variables))


@both
@each
def test_there_and_back_bit_for_bit(tmp_path, library, case):
    """Under our record, and without it as another program's file, from names and shapes alone."""
    if (library, case) == ("torchvision", "second"):
        pytest.skip("torchvision has no ConvNeXt V2")
    encoder = made(**CASES[case])
    table = SIDES[library].table(encoder.module)
    assert {t.ours for t in table.values()} == set(tree.names(encoder.variables)) and len({t.piece for t in table.values()}) == len(table)
    if library == "timm":
        records.write_torch(encoder, tmp_path, library, table)
        assert tree.digest(interop.read(tmp_path).variables) == encoder.digest
    head = {"timm": "head.fc.weight", "torchvision": "classifier.2.weight"}[library]
    safetensors.numpy.save_file({**theirs(encoder, library), head: np.ones((2, 8), np.float32)}, tmp_path / "lone.safetensors")
    found = interop.read(tmp_path / "lone.safetensors")
    interop.demand(found)
    assert found.layout == library and found.unused == (head,) and tree.digest(found.variables) == encoder.digest
    module = models.make(**found.config["model"], precision="f32")
    assert (module.width, module.depths, bool(module.layer_scale), module.grn) == (8, encoder.module.depths, case not in ("no factors", "second"), case == "second")
    assert f"a plain {'convnextv2_atto' if case == 'second' else 'convnext_tiny'} with layer norms of epsilon 1e-06" in found.notes[1]


def test_published_sizes_are_named(tmp_path):
    for name, (width, depths) in convnext.SIZES.items():
        stem = {"features.0.0.weight": np.zeros((width, 3, 4, 4), np.float32)}
        blocks = {f"features.{2 * i + 1}.{j}.block.0.weight": np.zeros(1) for i, depth in enumerate(depths) for j in range(depth)}
        assert convnexts.network(SIDES["torchvision"], tmp_path, "", {**stem, **blocks}, {}, {})[0] == {"name": name, "layer_scale": 0.0}


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_tiny"])
def test_what_timm_computes_is_ours(tmp_path, name):
    torch = pytest.importorskip("torch", reason="compares with timm")
    peer = pytest.importorskip("timm", reason="compares with timm")
    encoder = made(name=name)
    timm.write(encoder, tmp_path)
    model = peer.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = np.random.default_rng(1).normal(size=(2, 64, 32, 3)).astype(np.float32)
    with torch.inference_mode():
        want = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(jax.jit(lambda v, x: encoder.forward(v, x)[0])(encoder.variables, x), want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("stated, words", [({"architecture": "convnext_xxlarge"}, "architecture 'convnext_xxlarge'"), ({"model_type": "convnext"}, "model_type"),
                                           ({"architecture": "convnext_tiny", "model_args": {"use_grn": True}}, "use_grn True")])
def test_what_a_config_states_and_ours_is_not_is_refused(tmp_path, stated, words):
    files.write(tmp_path / files.WEIGHTS, theirs(made(), "timm"), {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(UserError, match=words):
        interop.read(tmp_path)


@pytest.mark.parametrize("model, words", [({"depths": (1, 2)}, "2 stages"), ({"eps": 1e-5}, "epsilon of 1e-05")])
def test_what_timm_cannot_have_is_refused(tmp_path, model, words):
    with pytest.raises(UserError, match=words):
        timm.write(made(**model), tmp_path)
    with pytest.raises(UserError, match="--format onnx cannot hold a ConvNeXt; use --format timm, safetensors or stablehlo"):
        interop.target("onnx", made().module)
