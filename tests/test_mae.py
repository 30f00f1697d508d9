"""MAE: its loss against a loop, what the encoder sees, and that micro-batches do not change it."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import config as configs, models
from jaxssl.errors import UserError
from jaxssl.methods import mae
from jaxssl.models.net import Net
from tests.tiny import ROOT, Tiny

KEY, STEP = jax.random.key(7), jnp.zeros((), jnp.int32)
SMALL = {"width": 16, "depth": 1, "heads": 2}       # the decoder


class Watched:
    """A `Net` that keeps the arrays that it was called with and gave."""

    def __init__(self, net, calls):
        self.net, self.calls, self.module, self.init = net, calls, net.module, net.init

    @property
    def features(self):
        return self.net.features

    def __call__(self, params, stats, x, *, key=None, **how):
        found = self.net(params, stats, x, key=key, **how)
        self.calls.append({"x": x, "y": found[0], **how})
        return found


def encoder(parts=1, **own):
    return Net(models.make(**{"name": "vit_tiny", "precision": "f32", "width": 16, "depth": 1, "heads": 2, "patch": 4, "image": 16, "positions": "sincos", **own}), parts)


def batch(images=8, views=1):
    return {"views": jax.random.normal(jax.random.key(1), (images, views, 16, 16, 3)) * 2 + 1}


@functools.cache
def started(pool="cls"):
    method = mae.make(encoder=encoder(pool=pool), net=Net, **SMALL)
    params, aux = jax.jit(method.init)(jax.random.key(0), batch(2))
    drawn = jax.tree.map(lambda a: a + 0.05 * jax.random.normal(jax.random.key(a.size), a.shape), params)      # nothing may hide behind a zero
    return drawn, aux


def watched(data, pool="cls", **own):
    """(loss, seen, the encoder's call, the decoder's call) for `data`."""
    def run(params, aux, data):
        calls = []
        method = mae.make(encoder=Watched(encoder(pool=pool), calls), net=lambda module: Watched(Net(module), calls), **{**SMALL, **own})
        value, (_, metrics, seen) = method.loss(params, aux, data, KEY, STEP)
        assert metrics == {}
        return value, seen, *calls
    return jax.jit(run)(*started(pool), data)


def square(image, n):
    """Patch n of an image, counted row by row."""
    row, column = divmod(n, 4)
    return image[4 * row:4 * row + 4, 4 * column:4 * column + 4].reshape(-1)


@pytest.mark.parametrize("views, normalise", [(1, True), (2, True), (1, False)])
def test_loss_is_the_error_of_hidden_patches(views, normalise):
    data = batch(views=views)
    value, seen, coded, decoded = watched(data, normalise=normalise)
    images, errors = np.asarray(data["views"], np.float64).reshape(-1, 16, 16, 3), []
    for image, mask, prediction in zip(images, np.asarray(decoded["mask"]), np.asarray(decoded["y"])):
        for n in np.flatnonzero(mask):
            target = square(image, n)
            if normalise:
                target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
            errors.append(np.mean((prediction[n] - target) ** 2))
    assert float(value) == pytest.approx(np.mean(errors), rel=1e-5)
    assert set(seen) == {"features", "predicted"} and seen["features"].shape == (8, views, 16)      # nothing is compared: the collapse monitor rests
    np.testing.assert_array_equal(seen["features"].reshape(-1, 16), coded["y"].pooled)


@pytest.mark.parametrize("ratio, hidden", [(0.75, 12), (0.6, 10), (0.0, 0)])
def test_of_every_view_so_many_patches_are_hidden(ratio, hidden):
    _, _, coded, decoded = watched(batch(views=2), mask_ratio=ratio)
    keep, mask = np.asarray(coded["keep"]), np.asarray(decoded["mask"])
    assert keep.shape == (16, 16 - hidden) and (mask.sum(1) == hidden).all()
    assert all(set(k) == set(np.flatnonzero(~m)) for k, m in zip(keep, mask))
    assert len({m.tobytes() for m in mask}) == (1 if not hidden else 16)               # each view draws for itself


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_encoder_does_not_see_hidden_pixels(pool):
    """Invariant 8: with other pixels in all hidden patches, what the encoder and the decoder give is the same, bit for bit; the loss is not."""
    data = batch()
    value, _, coded, decoded = watched(data, pool, normalise=False)
    hidden = np.asarray(decoded["mask"]).reshape(8, 1, 4, 4).repeat(4, 2).repeat(4, 3)[..., None]
    other = {"views": jnp.where(hidden, data["views"] ** 2 - 3, data["views"])}
    again, _, recoded, redecoded = watched(other, pool, normalise=False)
    for a, b in zip(jax.tree.leaves((coded["y"], decoded["x"], decoded["y"])), jax.tree.leaves((recoded["y"], redecoded["x"], redecoded["y"]))):
        np.testing.assert_array_equal(a, b)
    assert abs(float(again) - float(value)) > 0.1 * float(value)
    shown = {"views": jnp.where(hidden, data["views"], data["views"] + 1)}
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(watched(shown, pool, normalise=False)[2]["y"], coded["y"]))
    assert decoded["x"].shape == (8, (pool == "cls") + 4, 16)


def test_micro_batches_change_neither_masks_nor_gradient():
    """Without batch norm the parts are exact: with stochastic depth too, which draws by the place in the batch."""
    params, aux = started()

    def gradient(parts):
        method = mae.make(encoder=encoder(parts, drop_path=0.3, drop_path_shape="uniform"), net=lambda module: Net(module, parts), **SMALL)
        return jax.jit(jax.value_and_grad(lambda p: method.loss(p, aux, batch(), KEY, STEP)[0]))(params)

    (whole, expected), (parted, found) = gradient(1), gradient(4)
    assert float(parted) == pytest.approx(float(whole), rel=1e-6)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_decoder_keeps_places():
    """A token that is moved to another place is another prediction, and that of a hidden patch depends on where it is."""
    _, _, _, decoded = watched(batch())
    mask, y = np.asarray(decoded["mask"])[0], np.asarray(decoded["y"])[0]
    first, second = np.flatnonzero(mask)[:2]
    assert np.abs(y[first] - y[second]).max() > 1e-4


def config(**changes):
    small = {"batch_size": "16", "total": "30", "warmup": "3", "augment.size": "16", "data.canvas": "16", "data.variant": "clean",
             "model.width": "32", "model.depth": "1", "model.heads": "2", "method.width": "16", "method.depth": "1", "method.heads": "2"}
    return configs.load(str(ROOT / "configs/digits/mae.py"), {**small, **changes})


@pytest.mark.parametrize("changes, words", [
    ({"method.mask_ratio": "1.5"}, "method.mask_ratio is 1.5"), ({"method.mask_ratio": "0.99"}, "hides all of 16 patches"),
    ({"method.heads": "3"}, "multiple of 4 and of the 3 heads")])
def test_wrong_values_are_named(changes, words):
    with pytest.raises(UserError, match=words):
        Tiny(config(**changes), 1)


def test_an_encoder_without_patches_is_refused():
    spec = configs.load(str(ROOT / "configs/digits/simclr.py"), {"method.name": "mae", "augment.views": "1", "augment.size": "16", "data.canvas": "16", "data.variant": "clean"})
    with pytest.raises(UserError, match="model.name is resnet10 and mae needs an encoder of patches"):
        Tiny(spec, 1)
