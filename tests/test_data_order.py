"""The order of the samples: exact permutations, uniform, keyed, and the same for any number of processes."""
import numpy as np
import pytest

from jaxssl.data import order

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 1797, 4095, 4096, 4097, 50_000]


def splitmix(x):
    """splitmix64 in Python integers, from Vigna's reference code."""
    mask = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def naive(x, n, key):
    """The cycle-walking Feistel permutation, one number at a time, in Python integers."""
    half = max(3, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = x >> half, x & mask
        for r in range(order.ROUNDS):
            left, right = right, left ^ (splitmix(right ^ splitmix(key ^ splitmix(r))) & mask)
        x = (left << half) | right
        if x < n:
            return x


def test_mix_is_splitmix64():
    assert int(order.mix(0)) == 0xE220A8397B1DCDAF      # the first output of the reference code for seed 0
    values = [1, 2, 12345, 2**63, 2**64 - 1]
    assert [int(v) for v in order.mix(np.array(values, np.uint64))] == [splitmix(v) for v in values]


@pytest.mark.parametrize("n", SIZES)
def test_every_sample_once(n):
    for key in (0, 1, 2**64 - 1):
        assert np.array_equal(np.sort(order.permute(np.arange(n), n, np.uint64(key))), np.arange(n))


@pytest.mark.parametrize("n", [1, 3, 10, 64, 65, 1000])
def test_against_integers(n):
    x = np.random.default_rng(0).integers(0, n, 20)
    assert [int(v) for v in order.permute(x, n, np.uint64(99))] == [naive(int(v), n, 99) for v in x]


def test_pinned():
    """A changed order would silently break resuming old runs."""
    assert order.ids(0, 0, 8, 50_000).tolist() == [15332, 2672, 37320, 22479, 42123, 14880, 31936, 43169]
    assert order.ids(7, 12_345, 8, 1_281_167).tolist() == [1135510, 326329, 297075, 632668, 927209, 620149, 1130047, 547349]


def test_seeds_and_epochs_differ():
    n = 500
    orders = [order.ids(seed, epoch, n, n) for seed in range(3) for epoch in range(3)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).mean() < .03
    assert np.array_equal(order.ids(5, 3, 16, n), order.ids(5, 3, 16, n))


def test_epochs_are_whole_though_batches_straddle_them():
    n, batch = 37, 8
    stream = np.concatenate([order.ids(1, step, batch, n) for step in range(n)])     # 8 epochs of 37
    for epoch in stream.reshape(batch, n):
        assert np.array_equal(np.sort(epoch), np.arange(n))


def test_a_batch_larger_than_the_set():
    for n in (1, 2, 3):
        stream = order.ids(0, 5, 6 * 64, n).reshape(-1, n)
        assert np.array_equal(np.sort(stream, 1), np.tile(np.arange(n), (len(stream), 1)))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_rows_of_processes_make_up_the_batch(parts):
    whole = order.ids(3, 1000, 64, 777)
    size = 64 // parts
    assert np.array_equal(np.concatenate([order.ids(3, 1000, 64, 777, slice(p * size, (p + 1) * size)) for p in range(parts)]), whole)


@pytest.mark.parametrize("n", [3, 10, 37])
def test_positions_are_uniform(n):
    """Over many epochs each sample stands at each place equally often: chi-square over the n×n table."""
    epochs = 4000
    table = np.zeros((n, n))
    places = order.ids(11, 0, epochs * n, n).reshape(epochs, n)
    for place in range(n):
        table[place] = np.bincount(places[:, place], minlength=n)
    chi2 = ((table - epochs / n) ** 2 / (epochs / n)).sum()
    degrees = (n - 1) ** 2
    assert abs(chi2 - degrees) < 5 * np.sqrt(2 * degrees)


def test_all_permutations_of_a_tiny_set_occur():
    places = order.ids(2, 0, 3 * 6000, 3).reshape(6000, 3)
    counts = np.unique(places @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6 and ((counts - 1000) ** 2 / 1000).sum() < 30      # 5 degrees of freedom


def test_neighbours_are_independent():
    """No serial correlation, and neither with the next epoch."""
    n = 10_000
    a, b = order.ids(0, 0, n, n).astype(float), order.ids(0, 1, n, n).astype(float)
    for x, y in ((a[:-1], a[1:]), (a, b), (a, np.arange(n)), (a[:-2], a[2:])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 4.5 / np.sqrt(n)


def test_far_into_a_run():
    assert len(np.unique(order.ids(2**63 + 5, 10**9, 4096, 10**6))) == 4096
    assert order.ids(-1, 0, 4, 10).tolist() == order.ids(2**64 - 1, 0, 4, 10).tolist()


@pytest.mark.parametrize("bad", [dict(n=0), dict(batch_size=0), dict(step=-1)])
def test_refuses(bad):
    with pytest.raises(ValueError):
        order.ids(**({"seed": 0, "step": 0, "batch_size": 4, "n": 4} | bad))
    with pytest.raises(ValueError):
        order.permute([4], 4, 0)


def test_batch_numbers_leave_out_the_skipped():
    skipped = (2, 3, 7)
    left = [i for i in range(20) if i not in skipped]
    assert [order.batch_number(step, skipped) for step in range(15)] == left[:15]
    assert [order.batch_number(step, [7, 3, 3, 2]) for step in range(15)] == left[:15]
    assert order.batch_number(5) == 5
