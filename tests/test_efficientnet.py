"""EfficientNet-Lites: timm's numbers on the same weights, their names in two layouts, and what is refused."""
import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxssl import encoder as encoders, models, optim, tree
from jaxssl.encoder import formats as interop, load as loading
from jaxssl.encoder.formats import efficientnets, names
from jaxssl.errors import UserError
from jaxssl.models import efficientnet

SIDES = (16, 19)
GOLDEN = Path(__file__).parent / "goldens" / "efficientnet.npz"
TINY = {"name": "efficientnet_lite0", "width": .25, "depths": (1, 2, 1)}


def drawn(shapes):
    """{name: shape} → {name: array} by a rule: a draw by the name itself, norms near one, the variance above zero."""
    def one(name, shape):
        x = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)
        if len(shape) == 4:
            return x * np.float32(2 / np.prod(shape[1:])) ** .5
        return np.abs(x) * .3 + .7 if name.endswith(("weight", "var")) else .2 * x
    return {name: one(name, shape) for name, shape in shapes.items()}


def pictures(side):
    return np.random.default_rng(side).normal(size=(2, side, side, 3)).astype(np.float32)


def made(**changes):
    config = {"model": {**TINY, **changes}, "augment": {"size": 16, "interpolation": "bicubic", "mean": (.5,) * 3, "std": (.5,) * 3}}
    module = models.make(**config["model"], precision="f32")
    table = efficientnets.table(module)
    shapes = tree.names(encoders.shapes(encoders.Encoder("made", config, "student", 5, module, {}, {})))
    theirs = drawn({name: tensor.theirs(np.zeros(shapes[tensor.ours].shape, np.float32)).shape for name, tensor in table.items()})
    return encoders.build(config, interop.collections(names.ours(table, theirs)), name="made", step=5), theirs


def test_features_are_timms():
    """tests/goldens/make_efficientnet.py: even and odd sides, whose padding is another."""
    encoder, theirs = made()
    with np.load(GOLDEN) as golden:
        assert sorted(theirs) == golden["names"].tolist()
        for side in SIDES:
            found = jax.jit(lambda v, x: encoder.module.apply(v, x, False))({kind: v["encoder"] for kind, v in encoder.variables.items()}, pictures(side))
            grid = -(-side // 8)
            for got, want in ((found.pooled[:, ::5], golden[f"pooled_{side}"]), (np.reshape(found.tokens, (2, grid, grid, -1))[..., ::40], golden[f"map_{side}"])):
                np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_published_sizes():
    """Parameters as the official README has them, 4.7 and 6.1 million, the classifier's 1,281,000 among them; blocks of all sizes."""
    assert [sum(efficientnet.blocks(name)) for name in efficientnet.NAMES] == [16, 21, 21, 24, 30]
    for name, millions in (("efficientnet_lite0", 4.7), ("efficientnet_lite2", 6.1)):
        module = models.make(name=name)
        shapes = jax.eval_shape(lambda x, module=module: module.init(jax.random.key(0), x, True), jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32))
        assert module.features == 1280 and sum(x.size for x in jax.tree.leaves(shapes["params"])) + 1_281_000 == pytest.approx(1e6 * millions, abs=6e4)


def lukemelas(theirs):
    """timm's names as EfficientNet-PyTorch has them, blocks numbered through."""
    order = sorted({tuple(map(int, n.split(".")[1:3])) for n in theirs if n.startswith("blocks.")})
    words = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    for number, (stage, block) in enumerate(order):
        inner = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"} if not stage else {
            "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
        words |= {f"blocks.{stage}.{block}.{here}": f"_blocks.{number}.{there}" for here, there in inner.items()}
    return {f"{words[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": array for name, array in theirs.items()}


@pytest.mark.parametrize("spelled", [dict, lukemelas], ids=["timm", "lukemelas"])
def test_files_of_other_programs_open(tmp_path, spelled):
    encoder, theirs = made(depths=(), width=.125)
    safetensors.numpy.save_file({**spelled(theirs), "classifier.weight" if spelled is dict else "_fc.weight": np.ones((2, 160), np.float32)}, tmp_path / "w.safetensors")
    found = loading.load(tmp_path / "w.safetensors")
    assert found.digest == encoder.digest and found.config["model"] == {"name": "efficientnet_lite0", "width": .125} and len(found.origin.unused) == 1
    assert found.preprocessing == {"size": 224, "resize": 256, "interpolation": "bicubic", "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    assert "architecture assumed" in " ".join(found.origin.notes)


def test_own_format_there_and_back(tmp_path):
    encoder, _ = made()
    from jaxssl.encoder.formats import safetensors as native
    native.write(encoder, tmp_path)
    assert loading.load(tmp_path).digest == encoder.digest
    with pytest.raises(UserError, match="--format timm cannot hold a EfficientNet-Lite; use --format safetensors or stablehlo"):
        interop.target("timm", encoder.module)


@pytest.mark.parametrize("stated, words", [({"architecture": "efficientnet_lite0"}, "architecture 'efficientnet_lite0'"),
                                           ({"model_type": "efficientnet"}, "model_type 'efficientnet'"),
                                           ({"architecture": "tf_efficientnet_lite0", "model_args": {"act_layer": "silu"}}, "act_layer 'silu'")])
def test_what_a_config_states_and_ours_is_not_is_refused(tmp_path, stated, words):
    safetensors.numpy.save_file(made(depths=(1,))[1], tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(UserError, match=words):
        interop.read(tmp_path)


def test_squeeze_and_excitation_has_no_place(tmp_path):
    """A plain EfficientNet has the same names and more."""
    theirs = {**made(depths=(1,))[1], "blocks.0.0.se.conv_reduce.weight": np.zeros((2, 8, 1, 1), np.float32)}
    safetensors.numpy.save_file(theirs, tmp_path / "b0.safetensors")
    with pytest.raises(UserError, match="1 tensors have no place in efficientnet_lite0 .blocks.0.0.se.conv_reduce.weight"):
        loading.load(tmp_path / "b0.safetensors")


@pytest.mark.parametrize("keys, words", [({"width": 0.0}, "model.width is 0.0"), ({"depths": (1,) * 8}, "model.depths"), ({"drop_path": 1.0}, "model.drop_path is 1.0")])
def test_a_wrong_key_is_named(keys, words):
    with pytest.raises(UserError, match=words):
        models.make(name="efficientnet_lite0", **keys)


def test_it_trains_and_its_layers_are_counted():
    """Every tensor gets a gradient, stochastic depth draws by place, and layer decay knows the blocks."""
    module = models.make(**TINY, precision="f32", drop_path=.9)
    net, x = models.Net(module), pictures(16)
    params, stats = jax.jit(net.init)(jax.random.key(0), x)
    slopes, (features, new) = jax.jit(jax.grad(lambda p: (lambda y, s: ((y.pooled**2).sum(), (y.pooled, s)))(*net(p, stats, x, key=jax.random.key(3))), has_aux=True))(params)
    assert all(np.abs(leaf).max() > 0 for name, leaf in tree.names(slopes).items() if "block1" not in name)
    assert all(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(new))) and features.shape == (2, 320)
    factors = optim.layer_factors({f"encoder/{name}": leaf.shape for name, leaf in tree.names(params).items()}, .5)
    assert factors["encoder/stem/conv/kernel"] == .5**5 and factors["encoder/stage2/block1/conv1/kernel"] == .5**2 and factors["encoder/head/conv/kernel"] == 1
