"""Each operation against torchvision on fixed parameters, to 0.6/255: committed results always, the library itself where installed."""
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.augment import blur, color, crop

GOLDENS = Path(__file__).parent / "goldens"
spec = importlib.util.spec_from_file_location("make_augment", GOLDENS / "make_augment.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)
TOLERANCE = 0.6 / 255  # half a level of it is the rounding of the stored results
FORMS = ("dense", "taps")


def ours():
    """name -> [N, 3, H, W] in [0, 1], as `reference` of make_augment.py."""
    images = jnp.asarray(golden.images())
    x = jnp.moveaxis(images, -1, 1) / 255.0
    box = {k: jnp.array(golden.CROPS)[:, None, i] for i, k in enumerate(("top", "left", "height", "width"))}
    no_flip = jnp.zeros((5, 1), bool)
    first = jnp.broadcast_to(images[:1], (4, *images.shape[1:]))
    out = {}
    for form in FORMS:
        for mode in crop.SUPPORT:
            for size in (16, 40):
                out[f"crop_{mode}_{size}", form] = crop.crop(images, box, no_flip, size=size, interpolation=mode, form=form)[:, 0]
            out[f"center_{mode}", form] = crop.resize_center(
                first, jnp.array(golden.RESIZES), resize=28, size=24, interpolation=mode, form=form
            )
    for i, (name, factors) in enumerate(golden.FACTORS.items()):
        out[name, ""] = color.jitter(x, {"order": jnp.full((5, 1), i), name: jnp.array(factors)})
    six = x[jnp.arange(6) % 5]
    out["hue", ""] = color.jitter(six, {"order": jnp.full((6, 1), color.HUE), "hue": jnp.array(golden.HUES)})
    order, *factors = (jnp.array(v) for v in zip(*golden.JITTERS))
    out["jitter", ""] = color.jitter(x[:3], {"order": order, **dict(zip(color.NAMES, factors))})
    out["gray", ""] = color.gray(x, jnp.ones(5, bool))
    for form in FORMS:
        out["blur", form] = blur.blur(x[:4], jnp.array(golden.SIGMAS), radius=blur.radius(golden.KERNEL, 2.0), form=form)
    out["solarize", ""] = color.solarize(x, jnp.ones(5, bool))
    out["invert", ""] = color.invert(x, jnp.ones(5, bool))
    return out


@pytest.fixture(scope="module")
def results():
    return {k: np.asarray(v) for k, v in jax.jit(ours)().items()}


def compare(results, expected):
    assert {name for name, _ in results} == set(expected)
    worst = {k: float(np.abs(v - expected[k[0]].astype(np.float32) / 255).max()) for k, v in results.items()}
    assert all(w <= TOLERANCE for w in worst.values()), {k: w * 255 for k, w in worst.items() if w > TOLERANCE}


def test_matches_stored_torchvision(results):
    with np.load(GOLDENS / "augment.npz") as stored:
        compare(results, dict(stored))


def test_matches_installed_torchvision(results):
    pytest.importorskip("torchvision", reason="torchvision is not installed; the stored results were compared", exc_type=(ImportError, RuntimeError))
    compare(results, golden.reference())


@pytest.mark.parametrize("form", FORMS)
def test_blur_leaves_sharp_images_exactly_as_they_are(form):
    x = jnp.moveaxis(jnp.asarray(golden.images()), -1, 1) / 255.0
    sigma = jnp.array([0.0, 1.0, 0.0, 2.0, 0.0])
    out = blur.blur(x, sigma, radius=3, form=form)
    assert [bool((a == b).all()) for a, b in zip(out, x)] == [True, False, True, False, True]


def test_a_kernel_wider_than_four_sigma_is_cut_unnoticed():
    x = jnp.moveaxis(jnp.asarray(golden.images()), -1, 1) / 255.0
    sigma = jnp.full(5, 2.0)
    assert blur.radius(41, 2.0) == 8
    np.testing.assert_allclose(blur.blur(x, sigma, radius=8, form="dense"), blur.blur(x, sigma, radius=20, form="taps"), atol=2e-4)
