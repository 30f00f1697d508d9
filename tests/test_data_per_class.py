"""M images of each of B/M classes: exact counts, no class or image twice, pure, and the same for any number of processes."""
import numpy as np
import pytest

from jaxssl import data as datas
from jaxssl.data import order, per_class
from jaxssl.errors import UserError
from jaxssl.methods.base import Needs
from jaxssl.training import checks
from tests.tiny import config_of


def labels_of(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


# (images of each class, batch, M): balanced, ragged, as many classes as groups, classes between one and two batches, classes smaller than M, one class
CASES = [([20] * 10, 16, 4), ([3, 5, 8, 13, 21, 2, 4], 6, 2), ([7] * 5, 20, 4),
         ([6, 9, 4, 5, 11, 3, 8], 20, 4), ([1, 2, 9, 3], 12, 4), ([30], 8, 8), ([5] * 23, 8, 1), ([4] * 101, 30, 3)]


def epoch_of(counts, batch, m, seed=0, epochs=1):
    """Whole batches that cover some epochs: ids [steps, B] and labels."""
    labels = labels_of(counts)
    drawn = per_class.m_per_class(seed, batch, labels, m)
    steps = -(-per_class.epoch(drawn) * epochs // batch)
    return np.stack([drawn(step) for step in range(steps)]), labels, per_class.epoch(drawn)


@pytest.mark.parametrize("counts, batch, m", CASES)
def test_m_of_each_of_different_classes(counts, batch, m):
    ids, labels, _ = epoch_of(counts, batch, m, epochs=3)
    for rows in ids:
        groups = labels[rows].reshape(m, batch // m)
        assert (groups == groups[0]).all() and len(set(groups[0])) == batch // m
        for own in rows.reshape(m, -1).T:
            assert len(set(own)) == min(m, counts[labels[own[0]]])


@pytest.mark.parametrize("counts, batch, m", CASES)
def test_an_epoch_shows_classes_equally_often_and_every_image(counts, batch, m):
    """Three epochs in turn, cut out of the stream of groups, which batches straddle."""
    ids, labels, size = epoch_of(counts, batch, m, epochs=3)
    groups = ids.reshape(len(ids), m, -1).swapaxes(1, 2).reshape(-1, m)        # in the order in which they are drawn
    for at in range(0, 3 * size // m, size // m):
        part = groups[at:at + size // m].reshape(-1)
        assert len(set(np.bincount(labels[part]))) == 1
        often = np.bincount(part, minlength=len(labels))
        assert often.min() >= 1
        for c in range(len(counts)):
            assert np.ptp(often[labels == c]) <= 1


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_rows_of_processes_make_up_the_batch(parts):
    drawn = per_class.m_per_class(3, 16, labels_of([9] * 12), 4)
    assert np.array_equal(np.concatenate([drawn(1000, slice(p * 16 // parts, (p + 1) * 16 // parts)) for p in range(parts)]), drawn(1000))


def test_neighbours_change():
    """Classes that share a batch are drawn anew every round, and classes are paired equally often: chi-square over the pairs."""
    classes, groups, steps = 12, 4, 1000
    labels = np.arange(classes)
    drawn = per_class.m_per_class(5, groups, labels, 1)
    seen = np.zeros((steps, classes))
    seen[np.arange(steps)[:, None], np.stack([drawn(step) for step in range(steps)])] = 1
    pairs = (seen.T @ seen)[np.triu_indices(classes, 1)]
    expected = steps * groups * (groups - 1) / (classes * (classes - 1))
    assert abs(((pairs - expected) ** 2 / expected).sum() / len(pairs) - 1) < .7


def test_seeds_differ_and_places_are_uniform():
    labels = labels_of([10] * 30)
    a, b = (np.concatenate([per_class.m_per_class(seed, 60, labels, 2)(step) for step in range(50)]) for seed in (0, 1))
    assert (a == b).mean() < .02
    drawn = per_class.m_per_class(0, 6, labels_of([5] * 9), 2)
    table = np.zeros((6, 9))
    for step in range(600):
        table[np.arange(6), labels_of([5] * 9)[drawn(step)]] += 1
    assert (abs(table - 600 / 9) < 6 * np.sqrt(600 / 9)).all()


def test_unlabelled_images_are_not_drawn():
    labels = np.array([-1, 0, 0, 1, 1, -1, 5, 5])
    drawn = per_class.m_per_class(0, 4, labels, 2)
    assert set(np.concatenate([drawn(step) for step in range(20)])) == {1, 2, 3, 4, 6, 7}


def test_pinned():
    """A changed order would silently break resuming old runs."""
    drawn = per_class.m_per_class(0, 8, np.arange(1000) // 10, 2)
    assert drawn(0).tolist() == PINNED[0] and drawn(12_345).tolist() == PINNED[12_345]


PINNED = {0: [133, 835, 861, 13, 138, 837, 863, 18], 12_345: [897, 486, 991, 855, 894, 481, 999, 856]}


def test_mixed_sizes_permute_as_one_by_one():
    n = np.array([1, 7, 64, 65, 1000])
    assert order.permute(n - 1, n, np.arange(5)).tolist() == [int(order.permute(m - 1, m, i)) for i, m in enumerate(n)]


def test_ten_million_classes_cost_nothing_to_hold():
    drawn = per_class.windows(np.array([7, 10**6]), 1024, np.array([10**7, 10**7]), np.uint64(3))
    assert all(len(set(row)) == 1024 for row in drawn)


@pytest.mark.parametrize("batch, m, classes, said", [(64, 4, 10, ("64", "data.per_class=4", "10 classes", "at most 40")),
                                                     (30, 4, 10, ("30", "data.per_class=4", "28 or 32")), (8, 0, 3, ("at least 1",))])
def test_refusals_name_the_numbers(batch, m, classes, said):
    with pytest.raises(UserError) as refused:
        per_class.m_per_class(0, batch, labels_of([20] * classes), m)
    assert all(part in str(refused.value) for part in said)


def test_of_real_data_resident_and_streamed():
    made = datas.make(source="digits", variant="clean", canvas=16, sampler="m_per_class", per_class=4, workers=0)
    drawn = made.order(3, 40)
    for resident in ("yes", "no"):
        one = datas.make(source="digits", variant="clean", canvas=16, sampler="m_per_class", per_class=4, workers=0, resident=resident)
        with datas.batches(one, drawn=one.order(3, 40), batch_size=40, start_step=7, total_steps=9) as stream:
            for step, batch in stream:
                ids = batch["index" if resident == "yes" else "id"]
                assert np.array_equal(ids, drawn(step))
                assert resident == "yes" or np.array_equal(batch["label"], made.labels[ids])
                assert (np.bincount(made.labels[ids], minlength=10) == 4).all()


@pytest.mark.parametrize("keys, said", [({"sampler": "m_per_clas"}, "did you mean 'm_per_class'"),
                                        ({"per_class": 2}, "data.sampler='m_per_class' only"), ({"sampler": "m_per_class", "per_class": 0}, "at least 1")])
def test_refused_keys(keys, said):
    with pytest.raises(UserError, match=said):
        datas.make(source="digits", **keys)


def test_pairs_need_two_of_a_class():
    config = config_of("supcon", **{"data.sampler": "m_per_class", "data.per_class": "1"})
    facts = type("Facts", (), {"classes": 10})
    with pytest.raises(UserError, match="data.per_class is 1 .* batch of 16 out of 10 classes .* at least data.per_class=2"):
        checks.needs(config, facts, type("Encoder", (), {"module": None}), Needs(pairs=True))
    checks.needs(config_of("supcon", **{"data.sampler": "m_per_class"}), facts, type("Encoder", (), {"module": None}), Needs(pairs=True))
