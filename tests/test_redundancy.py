"""The redundancy and distribution family beside its loops (test_losses.py): goldens of lightly and solo-learn, values at the normal and at collapse, whitening, matches."""
import functools
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.errors import UserError
from jaxssl.losses import matching, redundancy, spectral
from jaxssl.methods import base, vibcreg, wmse
from jaxssl.models import Net
from jaxssl.models.whitening import IterNorm
from jaxssl.parallel import mesh
from jaxssl.training import job as jobs
from tests.test_methods import Average
from tests.tiny import config_of


@functools.cache
def goldens():
    """tests/goldens/make_redundancy.py made them; float32 but for the flips."""
    with np.load(Path(__file__).parent / "goldens" / "redundancy.npz", allow_pickle=False) as file:
        return {name: jnp.asarray(file[name], None if file[name].dtype == bool else jnp.float32) for name in file.files}


def vicregl(g, maps):
    boxes = [dict(zip(("top", "left", "height", "width"), g["boxes"][:, v].T)) for v in range(3)]
    return matching.vicregl([maps[:, 0], maps[:, 1], g["crop"][:, 0]], boxes, list(g["flips"].T), 2, matches=(3, 3, 3), sim=25., std=25., cov=1.)


def iternorm(x):
    norm = IterNorm(2)
    return norm.apply(norm.init(jax.random.key(0), x, train=True), x, train=True, mutable=["batch_stats"])[0]


# name → ours, from the file's arrays and the one that is differentiated; that array
GRADED = {
    "tico": (lambda g, p: redundancy.tico(p, g["z"], g["covariance"], contrast=8., decay=.9)[0], "p"),
    "mmcr": (lambda g, p: spectral.mmcr(p, g["z"])[0], "p"),
    "mmcr_weighed": (lambda g, p: spectral.mmcr(p, weight=.3)[0], "p"),
    "wmse": (lambda g, p: spectral.wmse(p, jnp.zeros(24, int), size=24), "p"),
    "visreg_center": (lambda g, p: redundancy.visreg(p, g["directions"])["center"], "p"),
    "visreg_scale": (lambda g, p: redundancy.visreg(p, g["directions"])["scale"], "p"),
    "visreg_shape": (lambda g, p: redundancy.visreg(p, g["directions"])["shape"], "p"),
    # solo-learn adds the variances of both views.
    "vibcreg": (lambda g, p: 25 * redundancy.invariance(p) + 50 * redundancy.variance(p) + 200 * redundancy.correlation(p), "p"),
    "iternorm_square": (lambda g, w: (iternorm(w) * jnp.sin(jnp.arange(24 * 8.)).reshape(24, 8)).sum(), "wide"),
    "vicregl": (vicregl, "maps"),
}


@pytest.mark.parametrize("name", GRADED)
def test_golden(name):
    g = goldens()
    ours, predicted = GRADED[name]
    value, grad = jax.jit(jax.value_and_grad(lambda x: ours(g, x)))(g[predicted])
    np.testing.assert_allclose(value, g[name], rtol=1e-5)
    np.testing.assert_allclose(grad, g[f"grad_{name}"], rtol=0, atol=1e-5 * np.abs(g[f"grad_{name}"]).max())


def test_goldens_of_states_and_all_are_compared():
    g = goldens()
    np.testing.assert_allclose(redundancy.tico(g["p"], g["z"], g["covariance"], contrast=8., decay=.9)[1], g["tico_covariance"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(iternorm(g["wide"]), g["iternorm"], rtol=0, atol=1e-5 * np.abs(g["iternorm"]).max())
    made = {"p", "z", "covariance", "directions", "maps", "crop", "boxes", "flips", "wide", "tico_covariance", "iternorm"}
    assert set(g) == made | set(GRADED) | {f"grad_{name}" for name in GRADED}


# -- at the normal, and where everything is equal -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("images, width", [(512, 64), (1024, 16)])
def test_values_of_a_normal_and_of_collapse(images, width):
    """SIGReg: 1.05 whatever batch and width, .402 and .152 of the batch for points and for half the deviation. VISReg: about 0, and 1 each in scale and shape."""
    z = jax.random.normal(jax.random.key(0), (images, 8, width))        # 8 draws, as views
    directions = jax.random.normal(jax.random.key(1), (width, 32))
    floor, collapsed, half = (float(redundancy.sigreg(x, directions)) for x in (z, 0 * z, z / 2))
    assert floor == pytest.approx(redundancy.FLOOR, rel=.1) and redundancy.FLOOR == pytest.approx(1.052, abs=1e-3)
    assert collapsed == pytest.approx(.402 * images, rel=2e-3) and half == pytest.approx(.152 * images, rel=.03)
    ours, points = redundancy.visreg(z, directions), redundancy.visreg(0 * z + 3., directions)
    assert all(float(value) < 4 / images**.5 / 10 for value in ours.values())
    assert points["scale"] == pytest.approx(1, rel=1e-5) and points["center"] == pytest.approx(9, rel=1e-5) and .97 < points["shape"] <= 1


def test_visreg_has_a_gradient_where_sigreg_has_none():
    """Points a thousandth apart: VISReg pulls each dimension's deviation up as hard as at half of it, SIGReg two thousandths of that."""
    z = jax.random.normal(jax.random.key(0), (256, 2, 16))
    directions = jax.random.normal(jax.random.key(1), (16, 64))
    slope = {name: [float(jnp.linalg.norm(jax.grad(loss)(scale * z))) for scale in (.5, 1e-3)] for name, loss in
             {"sigreg": lambda z: redundancy.sigreg(z, directions), "scale": lambda z: redundancy.visreg(z, directions)["scale"]}.items()}
    assert slope["scale"][1] > slope["scale"][0] and slope["sigreg"][1] < 1e-2 * slope["sigreg"][0]
    grads = jax.grad(lambda z: sum(redundancy.visreg(z, directions).values()))(0 * z)
    assert jnp.isfinite(grads).all()


def test_capacity_of_extremes():
    """Orthogonal centroids fill everything, equal ones one direction; views that disagree shorten the means."""
    eye = jnp.eye(8)[:, None].repeat(2, 1)
    assert spectral.mmcr(eye)[1] == pytest.approx(1) and spectral.mmcr(eye)[0] == pytest.approx(-8)
    assert spectral.mmcr(jnp.ones((8, 2, 8)))[1] == pytest.approx(8 ** -.5)
    assert spectral.mmcr(jnp.concatenate([eye, -eye], 1))[1] == pytest.approx(0, abs=1e-6)


# -- the nuclear norm -----------------------------------------------------------------------------------------------------------------------------------------

def test_nuclear_norm_keeps_small_singular_values():
    """Singular values over five orders of magnitude: exact to rounding of the largest, where roots of the Gram matrix's eigenvalues miss the small ones."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=shape))[0] for shape in ((64, 8), (8, 8)))
    s = np.array([1., .5, .1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5])
    x = np.float32(u * s @ v)
    value, grad = jax.jit(jax.value_and_grad(spectral.nuclear_norm))(x)
    assert value == pytest.approx(s.sum(), rel=1e-6)
    big = s > 1e-3
    np.testing.assert_allclose(u[:, big].T @ grad @ v.T[:, big], np.eye(big.sum()), atol=2e-3)


def test_nuclear_norm_of_low_rank_has_the_smallest_subgradient():
    """Of rank 1, and 0: finite, along what is there alone, and the same when rows change places."""
    row = np.random.default_rng(0).normal(size=(1, 6)).astype(np.float32)
    x = np.repeat(row, 12, 0) * np.arange(1, 13, dtype=np.float32)[:, None]
    grad = jax.jit(jax.grad(spectral.nuclear_norm))(x)
    np.testing.assert_allclose(grad, x / np.linalg.norm(x), atol=1e-6)
    assert not jax.grad(spectral.nuclear_norm)(jnp.zeros((5, 3))).any()


# -- whitening ------------------------------------------------------------------------------------------------------------------------------------------------

def test_whitened_groups_have_the_identity_and_are_by_image():
    """Each group of each view by itself, whatever order the images come in; and what happens in one group leaves the others alone."""
    rng = np.random.default_rng(0)
    z, group = np.float32(rng.normal(size=(32, 2, 5)) @ rng.normal(size=(5, 5))), rng.permutation(32) // 16
    y = jax.jit(functools.partial(spectral.whiten, groups=2))(z, group)
    for g in range(2):
        for v in range(2):
            np.testing.assert_allclose(np.cov(y[group == g, v].T), np.eye(5), atol=1e-4)
            assert np.abs(y[group == g, v].mean(0)).max() < 1e-5
    other = np.where((group == 0)[:, None, None], z**2, z)
    np.testing.assert_allclose(spectral.whiten(other, group, groups=2)[group == 1], y[group == 1], atol=1e-4)
    both = jax.grad(lambda z: spectral.wmse(z, group, size=16))(z)
    assert (np.abs(both).max((0, 2)) > 1e-4).all()                                  # neither view is a target


@pytest.mark.parametrize("keys, words", [(dict(subbatch=96), "does not divide the batch"), (dict(subbatch=64), "more than method.dim=64"),
                                         (dict(shrink=1.), "method.shrink is 1.0")])
def test_sub_batches_that_cannot_be_are_refused(keys, words):
    with pytest.raises(UserError, match=words):
        wmse.make(**{"encoder": None, "net": Net, "batch_size": 256, **keys})


def test_groups_of_channels_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="method.groups is 7; it must be 0 or a divisor of method.dim=128"):
        vibcreg.make(encoder=None, net=Net, groups=7, dim=128)


def test_iternorm_whitens_and_its_ghost_groups_are_their_own():
    """Many steps reach the whole inverse root; ghost groups are what each would give alone; running values are used outside of training."""
    x = jax.random.normal(jax.random.key(0), (64, 8)) @ jax.random.normal(jax.random.key(1), (8, 8)) + 5
    norm, ghost = IterNorm(2, iterations=30, momentum=0.), IterNorm(2, bn_groups=2)
    state = norm.init(jax.random.key(0), x, train=True)
    y, new = norm.apply(state, x, train=True, mutable=["batch_stats"])
    for part in (slice(0, 4), slice(4, 8)):
        np.testing.assert_allclose(np.cov(y[:, part].T, bias=True), np.eye(4), atol=1e-3)
    np.testing.assert_allclose(norm.apply({**state, **new}, x, train=False), y, atol=1e-4)
    parts = [IterNorm(2).apply(state, x[i::2], train=True, mutable=["batch_stats"])[0] for i in range(2)]
    np.testing.assert_allclose(ghost.apply(state, x, train=True, mutable=["batch_stats"])[0], np.stack(parts, 1).reshape(64, 8), atol=1e-5)


# -- methods --------------------------------------------------------------------------------------------------------------------------------------------------

def test_what_was_drawn_is_handed_to_those_that_ask():
    """Boxes and flips of whole and local views, one a view, under the names of `augment.make`; nothing for a method that does not ask."""
    for name, asks in (("vicregl", True), ("lejepa", False)):
        config = config_of(name, **{"local.views": "2", "local.size": "8", "local.mean": "(.5, .5, .5)", "local.std": "(.25, .25, .25)"})
        job = jobs.prepare(config, mesh.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True))
        assert job.method.needs.drawn == asks and {"view_params", "local_params"} & set(job.seen) == ({"view_params", "local_params"} if asks else set())
        assert job.embedding() == config.method.dim                             # the loss is traced, with local views too
        if asks:
            assert {side: x.shape for side, x in job.seen["local_params"]["crop"].items()} == dict.fromkeys(("top", "left", "height", "width"), (16, 2))


def test_a_map_of_one_place_is_refused():
    config = config_of("vicregl", **{"model.stem": "imagenet", "model.depths": "(1, 1, 1, 1)"})
    with pytest.raises(UserError, match="one place, and vicregl compares places: choose a larger augment.size, or model.stem=cifar"):
        jobs.prepare(config, mesh.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True)).embedding()


def seen_by(name, key=1, **keys):
    """The loss, and the embeddings that are seen, of a method on random views through the encoder of test_methods.py, with a key."""
    batch = {"views": jax.random.normal(jax.random.key(0), (16, 2, 4, 4, 3)), "id": jnp.arange(16), "label": jnp.zeros(16, int)}
    context = dict(encoder=Net(Average()), net=Net, mesh=None, batch_size=16, views=2, local=0, classes=0, examples=160, total=10, duration=None)
    method = base.build(importlib.import_module(f"jaxssl.methods.{name}").make, keys, context)
    value, (_, _, seen) = jax.jit(lambda key: method.loss(*method.init(jax.random.key(0), batch), batch, key, jnp.int32(0)))(jax.random.key(key))
    return float(value), seen["embeddings"]


def test_methods_put_their_terms_together():
    """Each loss from the embeddings that it compared; what W-MSE draws comes from the step's key alone, and its draws are averaged."""
    value, z = seen_by("vibcreg", sim=2., std=3., cov=5., groups=2, hidden=8, dim=4)
    assert value == pytest.approx(float(2 * redundancy.invariance(z) + 3 * redundancy.variance(z) + 5 * redundancy.correlation(z)), rel=1e-5)
    value, z = seen_by("visreg", weight=.6, slices=16, hidden=8, dim=4)
    terms = redundancy.visreg(z, jax.random.normal(jax.random.split(jax.random.key(1))[1], (4, 16)))
    assert value == pytest.approx(float(.4 * redundancy.distance(z, 2) + .6 * sum(terms.values())), rel=1e-5)
    value, z = seen_by("mmcr", weight=.5, teacher=False, hidden=8, dim=4)
    assert value == pytest.approx(float(spectral.mmcr(z, weight=.5)[0]), rel=1e-5)
    value, z = seen_by("mmcr", hidden=8, dim=4)                         # a copy that is still the network itself
    assert value == pytest.approx(float(spectral.mmcr(z, z)[0]), rel=1e-5)
    drawn = dict(subbatch=8, draws=2, hidden=8, dim=3)
    value, z = seen_by("wmse", **drawn)
    groups = [jax.random.permutation(key, 16) // 8 for key in jax.random.split(jax.random.split(jax.random.key(1))[1], 2)]
    assert value == pytest.approx(float(np.mean([spectral.wmse(z, group, size=8) for group in groups])), rel=1e-4)
    assert seen_by("wmse", **drawn)[0] == value != seen_by("wmse", key=2, **drawn)[0]


# -- matches --------------------------------------------------------------------------------------------------------------------------------------------------

def test_places_of_a_view_that_covers_another():
    """A view of the left half, mirrored, beside one of the whole: its places lie on the whole's left columns, the other way round."""
    def box(*sides):
        return dict(zip(("top", "left", "height", "width"), (jnp.array([x]) for x in sides)))
    whole = matching.places(box(0, 0, 16, 16), jnp.array([False]), 4) / 8
    half = matching.places(box(0, 0, 16, 8), jnp.array([True]), 2) / 4
    np.testing.assert_array_equal(whole[0, :5], [[2, 2], [2, 6], [2, 10], [2, 14], [6, 2]])
    np.testing.assert_array_equal(half[0], [[4, 6], [4, 2], [12, 6], [12, 2]])
    names = jnp.arange(4.)[None, :, None], jnp.arange(16.)[None, :, None]
    a, b = matching.matched(*names, matching.apart(half, whole), 2)
    assert a.tolist() == [[[0.], [1.]]] and b.tolist() == [[[1.], [0.]]]            # equally near below: the first counts
