"""Patches and back, and what is special to masked losses; values, slopes, devices and types are in test_losses.py."""
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.losses import masked


def test_patches_and_back():
    x = np.arange(2 * 4 * 6 * 3, dtype=np.int32).reshape(2, 4, 6, 3)
    p = masked.patches(jnp.asarray(x), 2)
    assert p.shape == (2, 6, 12) and p.dtype == x.dtype
    for n, (i, j) in enumerate((i, j) for i in range(2) for j in range(3)):  # rows first
        np.testing.assert_array_equal(p[:, n], x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(2, -1))
    np.testing.assert_array_equal(masked.unpatched(p, 2, shape=(4, 6)), x)
    square = jnp.asarray(x[:, :, :4])
    np.testing.assert_array_equal(masked.unpatched(masked.patches(square, 2), 2), square)


def test_visible_patches_and_targets_move_nothing():
    """The gradient is exactly 0 where the mask is; and with no masked patch at all the loss is 0."""
    rng = np.random.default_rng(0)
    prediction, target = np.float32(rng.normal(size=(2, 3, 4, 12)))
    mask = rng.random((3, 4)) < .5
    both = jax.jit(jax.value_and_grad(masked.pixel_mse))
    grad = both(prediction, target, mask)[1]
    assert not grad[~mask].any() and (grad[mask] != 0).all()
    value, grad = both(prediction, target, np.zeros((3, 4), bool))
    assert value == 0 and not grad.any()


def test_normalised_targets_ignore_contrast_and_brightness():
    rng = np.random.default_rng(1)
    prediction, target, mask = np.float32(rng.normal(size=(3, 4, 12))), rng.normal(size=(3, 4, 12)), np.ones((3, 4), bool)
    loss = jax.jit(functools.partial(masked.pixel_mse))
    np.testing.assert_allclose(loss(prediction, np.float32(7 * target - 3), mask), loss(prediction, np.float32(target), mask), rtol=1e-4)


GRADED = {
    "ijepa": (lambda g, x: masked.latent_smooth_l1(x, g["target"], g["mask"], beta=1.), "prediction"),
    "dbot": (lambda g, x: masked.latent_smooth_l1(x, g["target"], g["mask"], beta=2.), "prediction"),
    "data2vec2": (lambda g, x: masked.latent_mse(x, g["target"], g["mask"]), "prediction"),
    "nepa": (lambda g, x: masked.next_embedding(x[:, :-1], g["prediction"][:, 1:]), "prediction"),
    "beit": (lambda g, x: masked.token_cross_entropy(x, g["labels"], g["mask"]), "logits"),
}
PLAIN = {"target": lambda g: masked.layers_target(g["told"]), "standardised": lambda g: masked.standardised(g["told"])}


@functools.cache
def goldens():
    """tests/goldens/make_masked.py made them."""
    with np.load(Path(__file__).parent / "goldens" / "masked.npz", allow_pickle=False) as file:
        return {name: jnp.asarray(file[name], {"b": None, "i": jnp.int32, "f": jnp.float32}[file[name].dtype.kind]) for name in file.files}


def test_goldens_of_torch():
    g, near = goldens(), functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    for name, ours in PLAIN.items():
        near(ours(g), g[name])
    for name, (ours, predicted) in GRADED.items():
        value, grad = jax.value_and_grad(functools.partial(ours, g))(g[predicted])
        near(value, g[name])
        near(grad, g[f"grad_{name}"])
    assert set(g) == {"prediction", "told", "logits", "labels", "mask"} | set(PLAIN) | set(GRADED) | {f"grad_{name}" for name in GRADED}


def zeros(*shapes):
    return [jnp.zeros(shape) for shape in shapes]


@pytest.mark.parametrize("call, words", [
    (lambda: masked.patches(*zeros((1, 6, 8, 3)), 4), "do not divide images of 6 × 8"),
    (lambda: masked.unpatched(*zeros((1, 6, 12)), 2), "6 patches of 12 values, 2 pixels a side, do not fill a square image"),
    (lambda: masked.unpatched(*zeros((1, 6, 12)), 2, shape=(4, 7)), "an image of 4 × 7"),
    (lambda: masked.pixel_mse(*zeros((2, 4, 12), (2, 4, 12), (2, 3))), r"expected \[B, N, P\] twice and \[B, N\]"),
    (lambda: masked.next_embedding(*zeros((2, 4, 12), (2, 3, 12))), r"expected \[B, N, D\] of both"),
])
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
