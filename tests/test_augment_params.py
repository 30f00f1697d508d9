"""What is drawn: distributions against torchvision's rules, written again in numpy, and against closed forms; fixed seeds throughout."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxssl.augment import blur, color, crop, make

N = 4000
ALPHA = 1e-3  # the seeds are fixed, so a test passes always or never


def uniform(seed, draws, n=N):
    return jax.random.uniform(jax.random.key(seed), (n, draws))


def reference_boxes(rng, height, width, scale, ratio, n=N):
    """RandomResizedCrop.get_params, torchvision 0.29, transforms.py."""
    boxes = []
    for _ in range(n):
        for _ in range(10):
            area = height * width * rng.uniform(*scale)
            aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                boxes.append((rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w))
                break
        else:
            shape = width / height
            w, h = width, height
            if shape < ratio[0]:
                h = round(w / ratio[0])
            elif shape > ratio[1]:
                w = round(h * ratio[1])
            boxes.append(((height - h) // 2, (width - w) // 2, h, w))
    return np.array(boxes)


@pytest.mark.parametrize(
    "height, width, scale, ratio",
    [
        (224, 224, (0.08, 1.0), (3 / 4, 4 / 3)),
        (32, 20, (0.2, 1.0), (3 / 4, 4 / 3)),
        (60, 180, (0.5, 1.0), (3 / 4, 4 / 3)),  # many tries fail: wide fallback
        (180, 60, (0.9, 1.0), (1.0, 1.2)),  # every try fails: tall fallback
        (33, 33, (0.05, 0.4), (0.5, 2.0)),
    ],
)
def test_crop_boxes(height, width, scale, ratio):
    expected = reference_boxes(np.random.default_rng(1), height, width, scale, ratio)
    box = crop.sample(uniform(2, crop.DRAWS), jnp.full((N, 2), jnp.array([height, width])), scale=scale, ratio=ratio)
    top, left, h, w = (np.asarray(box[k]) for k in ("top", "left", "height", "width"))
    assert (h > 0).all() and (w > 0).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    # areas and ratios take many values; ks_2samp handles the ties of the rest conservatively
    for name, a, b in zip(
        ("top", "left", "height", "width", "area", "slack"),
        (top, left, h, w, h * w, height - h - top),
        (*expected.T, expected[:, 2] * expected[:, 3], height - expected[:, 2] - expected[:, 0]),
    ):
        assert stats.ks_2samp(a, b).pvalue > ALPHA, name


def test_crop_box_is_the_first_try_that_fits():
    u = np.full((1, crop.DRAWS), 0.5, np.float32)
    u[0, :10] = 1.0 - 1e-6  # whole area at ratio above 1 does not fit in a square …
    u[0, 10:20] = 0.9
    u[0, 4], u[0, 14] = 0.25, 0.5  # … the fifth try does
    box = crop.sample(jnp.asarray(u), jnp.array([[100, 100]]), scale=(0.0625, 1.0), ratio=(0.5, 2.0))
    side = round(100 * math.sqrt(0.0625 + 0.25 * 0.9375))
    assert (int(box["height"][0]), int(box["width"][0])) == (side, side)


@pytest.mark.parametrize("strength", [0.4, 0.8, 1.5])
def test_jitter_factors(strength):
    params = color.sample_jitter(uniform(3, color.JITTER_DRAWS), 1.0, brightness=strength, contrast=strength, saturation=strength, hue=0.2)
    low = max(0.0, 1 - strength)
    for name in color.NAMES[:3]:
        assert stats.kstest(np.asarray(params[name]), stats.uniform(low, 1 + strength - low).cdf).pvalue > ALPHA, name
    assert stats.kstest(np.asarray(params["hue"]), stats.uniform(-0.2, 0.4).cdf).pvalue > ALPHA
    factors = np.stack([params[k] for k in color.NAMES])
    assert np.abs(np.corrcoef(factors) - np.eye(4)).max() < 4 / math.sqrt(N)  # drawn independently


def test_jitter_order_is_uniform_over_all_permutations():
    order = np.asarray(color.sample_jitter(uniform(4, color.JITTER_DRAWS, 24 * 200), 1.0)["order"])
    seen, counts = np.unique(order, axis=0, return_counts=True)
    assert len(seen) == 24 and (np.sort(seen) == np.arange(4)).all()
    assert stats.chisquare(counts).pvalue > ALPHA


def test_jitter_without_some_operations():
    params = color.sample_jitter(uniform(5, color.JITTER_DRAWS), 1.0, contrast=0.0, hue=0.0)
    assert set(params) == {"order", "brightness", "saturation"}
    assert set(map(tuple, np.asarray(params["order"]))) == {(0, 2), (2, 0)}


def test_jitter_probability_gives_neutral_factors():
    params = color.sample_jitter(uniform(6, color.JITTER_DRAWS), 0.8)
    neutral = np.asarray(params["brightness"]) == 1.0
    assert ((np.asarray(params["hue"]) == 0.0) == neutral).all()
    assert stats.binomtest(int((~neutral).sum()), N, 0.8).pvalue > ALPHA


def test_blur_sigma():
    sigma = np.asarray(blur.sample(uniform(7, blur.DRAWS), 0.5, sigma=(0.1, 2.0)))
    assert stats.binomtest(int((sigma > 0).sum()), N, 0.5).pvalue > ALPHA
    assert stats.kstest(sigma[sigma > 0], stats.uniform(0.1, 1.9).cdf).pvalue > ALPHA


def test_pipeline_draws_each_probability_for_each_view():
    chances = dict(flip=(0.5, 0.3), jitter=(0.9, 0.4), gray=(0.2, 0.0), blur=(1.0, 0.1), solarize=(0.0, 0.2), invert=(0.3, 1.0))
    views = make(size=4, return_params=True, **chances)
    batch = {"image": jnp.zeros((N, 4, 4, 3), jnp.uint8), "size": jnp.full((N, 2), 4)}
    params = jax.jit(lambda k, b: views(k, b)["view_params"])(jax.random.key(8), batch)
    happened = {k: np.asarray(params[k]) for k in ("flip", "gray", "solarize", "invert")}
    happened["jitter"] = np.asarray(params["jitter"]["brightness"]) != 1.0
    happened["blur"] = np.asarray(params["blur"]) > 0
    for name, expected in chances.items():
        for v, p in enumerate(expected):
            assert stats.binomtest(int(happened[name][:, v].sum()), N, p).pvalue > ALPHA, (name, v)
    flags = np.concatenate([h.T for h in happened.values()]).astype(float)
    varying = flags[flags.std(-1) > 0]
    off_diagonal = np.corrcoef(varying) - np.eye(len(varying))
    assert np.abs(off_diagonal).max() < 5 / math.sqrt(N)  # operations and views are independent
