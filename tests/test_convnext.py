"""ConvNeXt against torchvision, its published sizes, and what is asked of every family of encoders."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import config as configs, models
from jaxssl.errors import UserError
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


def test_too_small_images_are_refused_and_a_config_takes_one():
    with pytest.raises(UserError, match="images are 16×16 pixels; a ConvNeXt of 4 stages needs sides of at least 32"):
        shapes(models.make(name="convnext_tiny"), 16)
    model = configs.load("configs/digits/simclr.py", {"model.name": "convnext_tiny", "model.depths": "(1, 1)", "model.width": "16"}).model
    assert (model.depths, model.width) == ((1, 1), 16) and "stem" not in model
