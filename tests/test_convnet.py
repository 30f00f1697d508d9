"""The plain convolutional network against torch's layers, and what it refuses."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.models import convnet
from tests.test_models import shapes


def test_equals_torchs_layers():
    """Features, tokens and running statistics, at a size whose rows are left out by the second pool."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    encoder = models.make(name="conv4", width=8, depth=2, precision="f32")
    variables = jax.tree.map(lambda a: np.float32(rng.normal(size=a.shape) ** 2 + .2), shapes(encoder, 14))
    x = np.float32(rng.normal(size=(3, 14, 14, 3)))
    features, new = encoder.apply(variables, x, train=True, mutable=["batch_stats"])
    y = torch.from_numpy(x.transpose(0, 3, 1, 2))
    for i in range(2):
        own = {name: torch.from_numpy(np.array(value)) for name, value in variables["params"][f"block{i}"]["norm"].items()}
        norm = torch.nn.BatchNorm2d(8).requires_grad_(False)
        norm.load_state_dict({"weight": own["scale"], "bias": own["bias"], "running_mean": torch.from_numpy(variables["batch_stats"][f"block{i}"]["norm"]["mean"]),
                              "running_var": torch.from_numpy(variables["batch_stats"][f"block{i}"]["norm"]["var"]), "num_batches_tracked": torch.tensor(0)})
        kernel = torch.from_numpy(variables["params"][f"block{i}"]["conv"]["kernel"].transpose(3, 2, 0, 1).copy())
        y = torch.nn.functional.max_pool2d(torch.relu(norm(torch.nn.functional.conv2d(y, kernel, padding=1))), 2)
        np.testing.assert_allclose(new["batch_stats"][f"block{i}"]["norm"]["mean"], norm.running_mean, rtol=1e-4)
        np.testing.assert_allclose(new["batch_stats"][f"block{i}"]["norm"]["var"], norm.running_var, rtol=1e-4)
    assert features.tokens.shape == (3, 9, 8) and encoder.features == 8
    np.testing.assert_allclose(features.tokens, y.numpy().transpose(0, 2, 3, 1).reshape(3, 9, 8), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.pooled, y.numpy().mean((2, 3)), rtol=1e-4, atol=1e-4)


def test_its_parameters_are_prototypical_networks():
    """Four blocks of 64: 1·9·64 would be of grey images, here 3·9·64; then 3 times 64·9·64, and scale and bias."""
    params = shapes(models.make(name="conv4"), 28)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 3 * 9 * 64 + 3 * 64 * 9 * 64 + 4 * 2 * 64


def test_the_gradient_goes_to_the_largest_and_equal_ones_share_it():
    x = jnp.float32([[1, 5], [2, 0]])[None, :, :, None]
    np.testing.assert_array_equal(jax.grad(lambda x: convnet.halved(x).sum())(x)[0, :, :, 0], [[0, 1], [0, 0]])
    np.testing.assert_array_equal(jax.grad(lambda x: convnet.halved(x).sum())(jnp.ones((1, 3, 2, 1)))[0, :, :, 0], [[.25, .25], [.25, .25], [0, 0]])


@pytest.mark.parametrize("given, said", [({"width": 0}, "at least one channel"), ({"depth": 9}, "one to eight blocks"), ({"bn_groups": 0}, "bn_groups is 0")])
def test_no_network_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        models.make(name="conv4", **given)


def test_too_small_images_are_refused():
    with pytest.raises(UserError, match="images are 8×8 pixels; 4 blocks that halve them need sides of at least 16"):
        shapes(models.make(name="conv4"), 8)
