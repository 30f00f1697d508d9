"""ConvNeXt against torchvision, its published sizes, and what is asked of every family of encoders."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm as scipy_norm

from jaxssl import config as configs, models
from jaxssl.errors import UserError
from jaxssl.models.convnext import ResponseNorm
from tests.test_models import images, paths, shapes, torchvision_models

# torchvision's counts less those of its classifiers.
SIZES = {"convnext_tiny": (768, 28_589_128 - 769_000), "convnext_small": (768, 50_223_688 - 769_000), "convnext_base": (1024, 88_591_464 - 1_025_000),
         "convnext_large": (1536, 197_767_336 - 1_537_000)}
WORDS = {"stem/conv": "features.0.0", "stem/norm": "features.0.1", "norm": "classifier.0"}


def tiny(**changes):
    return models.make(**{"name": "convnext_tiny", "width": 8, "depths": (1, 2), "precision": "f32", **changes})


def drawn(encoder):
    """Variables at random, without compiling what draws them."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.float32(rng.normal(size=a.shape) * .3), shapes(encoder))


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts_are_torchvisions(name):
    encoder = models.make(name=name)
    assert (encoder.features, sum(leaf.size for leaf in jax.tree.leaves(shapes(encoder)["params"]))) == SIZES[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(encoder))} == {jnp.dtype("float32")}


def name_there(path):
    *above, leaf = path.split("/")
    ends = "bias" if leaf == "bias" else "weight"
    if (folder := "/".join(above)) in WORDS:
        return f"{WORDS[folder]}.{ends}"
    stage = int(above[0].removeprefix("stage"))
    if above[1] in ("conv", "norm"):
        return f"features.{2 * stage - 2}.{['norm', 'conv'].index(above[1])}.{ends}"
    block = f"features.{2 * stage - 1}.{above[1].removeprefix('block')}"
    return f"{block}.layer_scale" if len(above) == 2 else f"{block}.block.{dict(conv=0, norm=2, fc1=3, fc2=5)[above[2]]}.{ends}"


def test_equals_torchvision():
    """Random weights, every tensor used; values and, for one of them, its gradient."""
    torch = pytest.importorskip("torch", reason="compares with torchvision")
    peers = torchvision_models().convnext
    torch.manual_seed(0)
    block = [peers.CNBlockConfig(8, 16, 1), peers.CNBlockConfig(16, None, 2)]
    peer = peers.ConvNeXt(block, layer_scale=.5).eval()
    state = {key: tensor.normal_(0, .3) if tensor.ndim != 1 else tensor.uniform_(.5, 1.5) for key, tensor in peer.state_dict().items()}
    peer.classifier[2] = torch.nn.Identity()
    encoder, unused = tiny(), {key for key in state if not key.startswith("classifier.2")}
    variables = jax.tree.map(lambda a: a, shapes(encoder))

    def pick(path, leaf):
        key = name_there(jax.tree_util.keystr(path[1:], simple=True, separator="/"))
        unused.discard(key)
        value = state[key].numpy()
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.reshape(-1) if value.ndim == 3 else value.T
        assert value.shape == leaf.shape, key
        return jnp.asarray(value)
    variables = jax.tree_util.tree_map_with_path(pick, variables)
    assert not unused
    x = images(3, 20)
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    want = peer(theirs)
    want.square().sum().backward()
    (_, got), grad = jax.jit(jax.value_and_grad(lambda x: (lambda y: (jnp.square(y).sum(), y))(encoder.apply(variables, x, False).pooled), has_aux=True))(x)
    np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-4 * np.abs(got).max())
    slope = theirs.grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(grad, slope, atol=1e-4 * np.abs(slope).max())


def test_stochastic_depth_by_place_and_remat_changes_nothing():
    x = jnp.asarray(images(8, 16))
    plain, dropped, again = tiny(layer_scale=1.), tiny(layer_scale=1., drop_path=.5), tiny(layer_scale=1., drop_path=.5, remat=True)
    variables = drawn(plain)
    assert paths(shapes(plain)).keys() == paths(variables).keys() == paths(shapes(again)).keys()

    def run(module, x, train=True, **how):
        return jax.jit(functools.partial(module.apply, train=train, rngs={"drop": jax.random.key(1)}, **how))(variables, x).pooled
    whole = run(dropped, x)
    np.testing.assert_allclose(run(again, x), whole, atol=1e-5)
    np.testing.assert_allclose(run(dropped, x[3:6], rows=jnp.arange(3, 6)), whole[3:6], atol=1e-5)
    np.testing.assert_array_equal(run(dropped, x, train=False), run(plain, x))
    differs = np.abs(whole - run(plain, x)).max(1) > 1e-4
    assert differs.any() and not jnp.array_equal(whole, run(plain, x))


def test_tokens_are_the_last_map():
    encoder, x = tiny(layer_scale=0.), jnp.asarray(images(2, 16))
    variables = drawn(encoder)
    assert not any("scale" in name.split("/")[-1] and "norm" not in name for name in paths(variables))
    features = jax.jit(functools.partial(encoder.apply, train=False))(variables, x)
    assert features.tokens.shape == (2, 4, 16) and features.pooled.shape == (2, 16)
    mean = features.tokens.mean(1)
    norm = variables["params"]["norm"]
    np.testing.assert_allclose(features.pooled, (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"], atol=1e-5)


@pytest.mark.parametrize("keys, words", [({"drop_path": 1.0}, "model.drop_path is 1.0; it must be a chance"), ({"depths": (1, 0)}, "model.depths"),
                                         ({"width": -1}, "model.width is -1"), ({"eps": 0.0}, "model.eps"), ({"layer_scale": -1.0}, "model.layer_scale")])
def test_a_wrong_key_is_named(keys, words):
    with pytest.raises(UserError, match=words):
        tiny(**keys)


def sparse(variables, x, hidden, depths, cell):
    """A submanifold sparse ConvNeXt V2 in numpy, place by place: a dict of the visible places of each stage; no other place exists. Tokens {cell: [D]} before the last norm."""
    p = jax.tree.map(np.float64, variables["params"])

    def norm(v, n):
        return (v - v.mean()) / np.sqrt(v.var() + 1e-6) * n["scale"] + n["bias"]
    rows, columns = hidden.shape
    unit = cell // 4
    places = [(i, j) for i in range(rows * unit) for j in range(columns * unit) if not hidden[i // unit, j // unit]]
    m = {(i, j): norm(np.einsum("hwc,hwcd->d", x[4 * i:4 * i + 4, 4 * j:4 * j + 4], p["stem"]["conv"]["kernel"]) + p["stem"]["conv"]["bias"], p["stem"]["norm"]) for i, j in places}
    for s, depth in enumerate(depths, 1):
        stage = p[f"stage{s}"]
        if s > 1:
            m = {at: norm(v, stage["norm"]) for at, v in m.items()}
            m = {(i, j): sum(m[2 * i + a, 2 * j + b] @ stage["conv"]["kernel"][a, b] for a in (0, 1) for b in (0, 1)) + stage["conv"]["bias"]
                 for i, j in {(i // 2, j // 2) for i, j in m}}
        for b in range(depth):
            q, wide = stage[f"block{b}"], {}
            for (i, j), v in m.items():
                y = q["conv"]["bias"] + sum(m[i + a - 3, j + c - 3] * q["conv"]["kernel"][a, c, 0] for a in range(7) for c in range(7) if (i + a - 3, j + c - 3) in m)
                y = norm(y, q["norm"]) @ q["fc1"]["kernel"] + q["fc1"]["bias"]
                wide[i, j] = y * scipy_norm.cdf(y)
            length = np.sqrt(sum(y**2 for y in wide.values()))
            n = length / (length.mean() + 1e-6)
            m = {at: v + (wide[at] * (1 + q["grn"]["gain"] * n) + q["grn"]["bias"]) @ q["fc2"]["kernel"] + q["fc2"]["bias"] for at, v in m.items()}
    return m, lambda v: norm(v, p["norm"])


def test_masked_convolution_equals_the_sparse_one():
    """Every visible place, the mean and their norm; and hidden pixels, whatever they are, change no bit."""
    encoder = models.make(name="convnextv2_atto", width=4, depths=(1, 2), precision="f32")
    variables, x = drawn(encoder), np.asarray(images(2, 32))
    hidden = np.random.default_rng(1).random((2, 4, 4)) < .6
    run = jax.jit(lambda x: encoder.apply(variables, x, train=True, mask=hidden.reshape(2, -1)))
    found = run(x)
    for b in range(2):
        m, norm = sparse(variables, np.float64(x[b]), hidden[b], (1, 2), encoder.cell)
        got = np.asarray(found.tokens[b]).reshape(4, 4, -1)
        assert m.keys() == set(zip(*np.where(~hidden[b]))) and not got[hidden[b]].any()
        for at, v in m.items():
            np.testing.assert_allclose(got[at], norm(v), rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(found.pooled[b], norm(np.mean(list(m.values()), 0)), rtol=2e-4, atol=2e-4)
    other = run(np.where(hidden.repeat(8, 1).repeat(8, 2)[..., None], 7 - x**2, x))
    for a, b in zip(found, other):
        np.testing.assert_array_equal(a, b)


def test_response_norm_equals_timms():
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm.layers.grn")
    rng = np.random.default_rng(0)
    x, gain, bias = (np.float32(rng.normal(size=shape)) for shape in ((2, 3, 4, 5), (5,), (5,)))
    peer = timm.GlobalResponseNorm(5)
    peer.load_state_dict({"weight": torch.from_numpy(gain), "bias": torch.from_numpy(bias)})
    ours = ResponseNorm().apply({"params": {"gain": gain, "bias": bias}}, x, None)
    np.testing.assert_allclose(ours, peer(torch.from_numpy(x)).detach().numpy(), atol=1e-5)


def test_too_small_images_are_refused_and_a_config_takes_one():
    with pytest.raises(UserError, match="images are 16×16 pixels; a ConvNeXt of 4 stages needs sides of at least 32"):
        shapes(models.make(name="convnext_tiny"), 16)
    model = configs.load("configs/digits/simclr.py", {"model.name": "convnext_tiny", "model.depths": "(1, 1)", "model.width": "16"}).model
    assert (model.depths, model.width) == ((1, 1), 16) and "stem" not in model
