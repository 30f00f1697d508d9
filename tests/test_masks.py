"""Samplers of masks: exact counts, no patch favoured, and an image's mask its own."""
import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.augment import masks

GRID, RATIO, KEPT = (4, 6), .7, 7  # floor(24 × .3)
SAMPLERS = {"random": lambda key, n, rows=None: masks.random(key, n, GRID[0] * GRID[1], RATIO, rows),
            "block": lambda key, n, rows=None: masks.block(key, n, GRID, RATIO, rows),
            "inverse_block": lambda key, n, rows=None: masks.inverse_block(key, n, GRID, RATIO, rows, side=2)}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


@functools.cache
def compiled(sampler):
    return jax.jit(SAMPLERS[sampler], static_argnums=1)


@functools.cache
def sampled(sampler, seed=0):
    return jax.tree.map(np.asarray, compiled(sampler)(jax.random.key(seed), 500))


@every_sampler
def test_counts_are_exact(sampler):
    keep, mask = sampled(sampler)
    assert keep.shape == (500, KEPT) and keep.dtype == np.int32 and mask.shape == (500, 24) and mask.dtype == bool
    assert (mask.sum(1) == 24 - KEPT).all()
    assert (np.diff(keep, axis=1) > 0).all()                                # ascending, so each once
    assert not np.take_along_axis(mask, keep, 1).any()
    place = np.cumsum(~mask, 1) - 1                                         # where a visible patch stands in keep
    np.testing.assert_array_equal(np.take_along_axis(place, keep, 1), np.broadcast_to(np.arange(KEPT), keep.shape))


@every_sampler
def test_an_image_s_mask_is_its_own(sampler):
    """Of the batch size, of the other images, of which slice of the batch it is drawn with."""
    keep, mask = sampled(sampler)
    for rows in np.random.default_rng(0).permutation(500).astype(np.int32)[:32].reshape(2, 16):
        for got, want in zip(compiled(sampler)(jax.random.key(0), 16, rows), (keep, mask)):
            np.testing.assert_array_equal(got, want[rows])
    assert len({m.tobytes() for m in mask}) > 300                           # and differs from the others'
    assert (sampled(sampler, 1)[1] != mask).any()


@every_sampler
def test_eight_devices_draw_the_same_without_talking(sampler):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    place = NamedSharding(mesh, P("data"))
    rows = jax.device_put(np.arange(16, dtype=np.int32), place)
    draw = jax.jit(SAMPLERS[sampler], static_argnums=1, out_shardings=place).lower(jax.random.key(0), 16, rows).compile()
    assert not any(word in draw.as_text() for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    for got, want in zip(draw(jax.random.key(0), rows), sampled(sampler)):
        np.testing.assert_array_equal(got, want[:16])


def test_random_favours_no_patch_and_no_pair():
    """Chi-square of patches and of pairs of patches, against the .1 % quantile; a fixed key, so it does not flicker."""
    mask = sampled("random")[1].astype(float)
    share = 17 / 24
    deviation = (mask.sum(0) - 500 * share) / np.sqrt(500 * share * (1 - share))
    assert np.sum(deviation ** 2) * 23 / 24 < 49.7                          # 23 degrees of freedom: the counts are tied
    pair = share * 16 / 23
    together = (mask.T @ mask)[np.triu_indices(24, 1)]
    assert abs((together - 500 * pair) / np.sqrt(500 * pair * (1 - pair))).max() < 4.5


def squares(mask):
    """Which 2 × 2 squares of the grid lie in each mask: [n, 24] → [n, 15] bool."""
    m = mask.reshape(-1, *GRID)
    return np.stack([m[:, i:i + 2, j:j + 2].all((1, 2)) for i in range(3) for j in range(5)], 1)


def test_blocks_are_rectangles():
    """Where four patches are hidden by squares of four, each is one square, and no place is favoured."""
    mask = np.asarray(jax.jit(lambda key: masks.block(key, 500, GRID, 4 / 24, aspect=1.))(jax.random.key(0))[1])
    found = squares(mask)
    assert (mask.sum(1) == 4).all() and (found.sum(1) == 1).all()
    counts = found.sum(0)
    assert np.sum((counts - 500 / 15) ** 2) / (500 / 15) < 36.1             # chi-square, 14 degrees of freedom, .1 %


def test_inverse_blocks_leave_squares():
    """With four patches left, 15 of the 35 squares of four lie inside the grid; the others are cut, and a second one is begun."""
    mask = np.asarray(jax.jit(lambda key: masks.inverse_block(key, 500, GRID, 20 / 24, side=2))(jax.random.key(0))[1])
    assert (mask.sum(1) == 20).all()
    assert .36 < squares(~mask).any(1).mean() < .56
    assert (~mask).mean(0).min() > .1 and (~mask).mean(0).max() < .24       # 1/6 each, borders too


@functools.cache
def blocks(grid=(14, 14), visible=.35, n=64):
    return jax.tree.map(np.asarray, jax.jit(lambda key, rows: masks.multi_block(key, n, grid, visible, rows))(jax.random.key(3), np.arange(n, dtype=np.int32)))


def rectangle(patches, width):
    """(top, left, height, width) of a set of patches, which must be one."""
    rows, columns = np.divmod(np.sort(patches), width)
    assert len(set(patches)) == len(patches) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    return rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1


def test_multi_block_hides_what_it_asks_for_and_shares_its_sizes():
    keep, there, targets, valid = blocks()
    assert keep.shape == there.shape == (64, 68) and targets.shape == (64, 4, len(valid)) and (np.diff(keep, axis=1) > 0).all() and keep.max() < 196
    found = [[rectangle(block[valid], 14) for block in image] for image in targets]
    (sides,) = {side[2:] for image in found for side in image}                          # one size for the whole batch
    assert valid.sum() == sides[0] * sides[1] and 25 <= valid.sum() <= 42 and .6 < sides[0] / sides[1] < 1.8
    for image, places, mine, meant in zip(targets, found, keep, there):
        shown = mine[meant]
        assert meant.sum() >= 9 and not set(shown) & set(image[:, valid].ravel())
        rows, columns = np.divmod(shown, 14)
        assert np.ptp(rows) < 13 and np.ptp(columns) < 13                               # within a square of 13
    tops = {side[0] for image in found for side in image}
    assert tops == set(range(15 - sides[0]))                                            # down to the last row, which the official draws never reach
    assert 40 < there.sum(1).mean() <= 68


def test_multi_block_is_each_images_own_and_differs_by_key():
    whole = blocks()
    some = np.array([5, 40, 2, 63], np.int32)
    part = masks.multi_block(jax.random.key(3), 4, (14, 14), .35, some)
    for got, want in zip(part[:3], whole[:3]):
        np.testing.assert_array_equal(got, want[some])
    assert len({x.tobytes() for x in whole.targets}) == 64
    sizes = {int(masks.multi_block(jax.random.key(i), 1, (14, 14), .35).valid.sum()) for i in range(8)}
    assert len(sizes) > 2


def test_rows_of_one_number_share_a_mask():
    """MSN's one permutation for the whole batch."""
    keep, _ = masks.random(jax.random.key(0), 8, 24, RATIO, np.zeros(8, np.int32))
    assert (np.asarray(keep) == np.asarray(keep)[0]).all()


def test_units_of_patches():
    mask = np.array([[[True, False]]])
    np.testing.assert_array_equal(masks.units(mask, 2), [[[1, 1, 0, 0], [1, 1, 0, 0]]])


@pytest.mark.parametrize("n, ratio, kept", [(196, .75, 49), (49, .75, 12), (51, .75, 12), (10, .9, 1), (64, .6, 25), (16, 0., 16), (5, .8, 1)])
def test_visible(n, ratio, kept):
    assert masks.visible(n, ratio) == kept


@pytest.mark.parametrize("n, ratio", [(10, 1.), (10, .95), (10, -.1), (10, float("nan"))])
def test_nothing_left_is_refused(n, ratio):
    with pytest.raises(ValueError, match=f"a ratio of {ratio} hides all of 10 patches or is out of range; expected 0 ≤ ratio ≤ 0.9"):
        masks.random(jax.random.key(0), 2, n, ratio)


@pytest.mark.parametrize("call, words", [
    (lambda key: masks.block(key, 2, GRID, .5, aspect=0.), "aspect, smallest and tries are 0.0, 4 and 32"),
    (lambda key: masks.inverse_block(key, 2, GRID, .5, side=5), "side is 5; expected 1 to 4"),
    (lambda key: masks.multi_block(key, 2, (4, 4), .5), "4 blocks of up to 4 patches may hide all 9 of those that are shown, of 4 × 4"),
    (lambda key: masks.multi_block(key, 2, (14, 14), 1.5), "visible are 4, .* and 1.5; expected"),
    (lambda key: masks.multi_block(key, 2, (14, 14), .4, scale=(.2, .15)), "three ranges"),
])
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call(jax.random.key(0))
