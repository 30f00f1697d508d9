"""Samplers of masks: exact counts, no patch favoured, and an image's mask its own."""
import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.augment import masks

GRID, RATIO, KEPT = (4, 6), .7, 7  # floor(24 × .3)
SAMPLERS = {"random": lambda key, n, rows=None: masks.random(key, n, GRID[0] * GRID[1], RATIO, rows)}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


@functools.cache
def sampled(sampler, n, seed=0):
    return jax.tree.map(np.asarray, jax.jit(SAMPLERS[sampler], static_argnums=1)(jax.random.key(seed), n))


@every_sampler
def test_counts_are_exact(sampler):
    keep, mask = sampled(sampler, 500)
    assert keep.shape == (500, KEPT) and keep.dtype == np.int32 and mask.shape == (500, 24) and mask.dtype == bool
    assert (mask.sum(1) == 24 - KEPT).all()
    assert (np.diff(keep, axis=1) > 0).all()                                # ascending, so each once
    assert not np.take_along_axis(mask, keep, 1).any()
    place = np.cumsum(~mask, 1) - 1                                         # where a visible patch stands in keep
    np.testing.assert_array_equal(np.take_along_axis(place, keep, 1), np.broadcast_to(np.arange(KEPT), keep.shape))


@every_sampler
def test_an_image_s_mask_is_its_own(sampler):
    """Of the batch size, of the other images, of which slice of the batch it is drawn with."""
    keep, mask = sampled(sampler, 16)
    np.testing.assert_array_equal(sampled(sampler, 500)[1][:16], mask)
    rows = np.random.default_rng(0).permutation(16).astype(np.int32)
    for part in (rows[:8], rows[8:]):
        for got, want in zip(jax.jit(SAMPLERS[sampler], static_argnums=1)(jax.random.key(0), 8, part), (keep, mask)):
            np.testing.assert_array_equal(got, want[part])
    assert len({m.tobytes() for m in sampled(sampler, 500)[1]}) > 400       # and differs from the others'
    assert (sampled(sampler, 16, 1)[1] != mask).any()


@every_sampler
def test_eight_devices_draw_the_same_without_talking(sampler):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    place = NamedSharding(mesh, P("data"))
    draw = jax.jit(SAMPLERS[sampler], static_argnums=1, out_shardings=place)
    rows = jax.device_put(np.arange(16, dtype=np.int32), place)
    text = draw.lower(jax.random.key(0), 16, rows).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    for got, want in zip(draw(jax.random.key(0), 16, rows), sampled(sampler, 16)):
        np.testing.assert_array_equal(got, want)


def test_random_favours_no_patch_and_no_pair():
    """Chi-square of patches and of pairs of patches, against the .1 % quantile; a fixed key, so it does not flicker."""
    mask = sampled("random", 500)[1].astype(float)
    share = 17 / 24
    deviation = (mask.sum(0) - 500 * share) / np.sqrt(500 * share * (1 - share))
    assert np.sum(deviation ** 2) * 23 / 24 < 49.7                          # 23 degrees of freedom: the counts are tied
    pair = share * 16 / 23
    together = (mask.T @ mask)[np.triu_indices(24, 1)]
    assert abs((together - 500 * pair) / np.sqrt(500 * pair * (1 - pair))).max() < 4.5


@pytest.mark.parametrize("n, ratio, kept", [(196, .75, 49), (49, .75, 12), (51, .75, 12), (10, .9, 1), (64, .6, 25), (16, 0., 16), (5, .8, 1)])
def test_visible(n, ratio, kept):
    assert masks.visible(n, ratio) == kept


@pytest.mark.parametrize("n, ratio", [(10, 1.), (10, .95), (10, -.1), (10, float("nan"))])
def test_nothing_left_is_refused(n, ratio):
    with pytest.raises(ValueError, match=f"a ratio of {ratio} hides all of 10 patches or is out of range; expected 0 ≤ ratio ≤ 0.9"):
        masks.random(jax.random.key(0), 2, n, ratio)
