"""Bootstrap intervals and paired tests against naive loops, exhaustive enumeration and scipy."""
import itertools

import numpy as np
import pytest
from scipy import stats

from jaxssl.evaluation.measures import bootstrap


def naive(outcomes, labels, seed=0, draws=4000):
    """Percentiles of the means of resampled images, and of resampled classes with all their images."""
    rng, n, classes = np.random.default_rng(seed), len(outcomes), np.unique(labels)
    images = [outcomes[rng.integers(0, n, n)].mean() for _ in range(draws)]
    parts = {c: outcomes[labels == c] for c in classes}
    whole = [np.concatenate([parts[c] for c in rng.choice(classes, len(classes))]).mean() for _ in range(draws)]
    return np.quantile(images, [.025, .975]), np.quantile(whole, [.025, .975])


@pytest.mark.parametrize("kind", ["right or wrong", "continuous"])
def test_intervals_equal_the_naive_bootstrap(kind):
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(12), rng.integers(5, 60, 12))          # classes of different size and difficulty
    score = rng.random(len(labels)) ** (1 + labels % 4)
    outcomes = (score > .4).astype(float) if kind == "right or wrong" else score
    found = bootstrap.interval(outcomes, labels)
    images, classes = naive(outcomes, labels)
    width = images[1] - images[0]
    np.testing.assert_allclose(found, images, atol=.08 * width)         # both are draws: their ends are sure to some percent of the width
    np.testing.assert_allclose(found.classes, classes, atol=.08 * (classes[1] - classes[0]))
    assert found.classes[1] - found.classes[0] > 1.5 * width            # classes differ, so another draw of classes differs more
    np.testing.assert_array_equal(found.outcomes, outcomes)
    assert found == bootstrap.interval(outcomes, labels) != bootstrap.interval(outcomes, labels, seed=1)
    low, high = found
    assert low < outcomes.mean() < high


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = bootstrap.interval(rng.random(200) < .7, np.zeros(200), draws=400)
        hits += low <= .7 <= high
    assert .91 < hits / 400 < .98                                       # 95 %, whose own standard deviation is 1.1 points here


def test_one_class_has_no_interval_over_classes():
    assert bootstrap.interval(np.ones(5), np.zeros(5)).classes is None
    assert bootstrap.interval(np.ones(5), np.arange(5)) == (1, 1)


def test_classes_of_any_size_count_alike():
    """A perfect classifier of classes of 10 and 1,000 images is sure of its mean per class; a mixed one is as a naive loop draws it."""
    labels = np.repeat([3, 7], [10, 1000])
    found = bootstrap.interval(np.ones(1010), labels, balanced=True)
    assert found == (1, 1) and found.classes == (1, 1)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), [5, 300, 40, 8, 90, 12, 700, 20])
    for outcomes in ((rng.random(len(labels)) < .3 + .08 * labels).astype(float), rng.random(len(labels)) ** (1 + labels)):
        found, parts = bootstrap.interval(outcomes, labels, balanced=True), [outcomes[labels == c] for c in range(8)]
        images = np.quantile([np.mean([part[rng.integers(0, len(part), len(part))].mean() for part in parts]) for _ in range(4000)], [.025, .975])
        classes = np.quantile([np.mean([parts[c].mean() for c in rng.integers(0, 8, 8)]) for _ in range(4000)], [.025, .975])
        np.testing.assert_allclose(found, images, atol=.08 * np.ptp(images))
        np.testing.assert_allclose(found.classes, classes, atol=.08 * np.ptp(classes))
        assert 0 <= found.classes[0] < np.mean([part.mean() for part in parts]) < found.classes[1] <= 1
        np.testing.assert_array_equal(found.labels, labels)
    assert bootstrap.interval(outcomes, labels).labels is None


def test_paired_means_per_class():
    labels = np.repeat([0, 1], [10, 1000])
    found = bootstrap.paired(np.ones(1010), np.zeros(1010), labels=labels)
    assert found.difference == pytest.approx(1) and found.interval == (1, 1) and found.p < .001
    a, b = np.zeros(1010), np.zeros(1010)
    a[:5], b[10:30] = 1, 1                                              # half of the small class against a fiftieth of the large one
    found = bootstrap.paired(a, b, labels=labels)
    assert found.difference == pytest.approx(.25 - .01) and found.interval[0] < .24 < found.interval[1] and bootstrap.paired(a, b).difference < 0


def test_paired_right_and_wrong_is_mcnemars_exact_test():
    rng = np.random.default_rng(2)
    a, b = rng.random(300) < .8, rng.random(300) < .7
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    found = bootstrap.paired(a, b)
    assert found.p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    assert found.difference == pytest.approx(a.mean() - b.mean()) and found.n == 300
    low, high = found.interval
    error = np.std(a.astype(float) - b) / np.sqrt(300)
    assert [low, high] == pytest.approx([found.difference - 1.96 * error, found.difference + 1.96 * error], abs=.25 * error)
    assert bootstrap.paired(a, a) == (0, (0, 0), 1, 300)


def test_paired_scores_are_tested_by_flipping_signs():
    rng = np.random.default_rng(3)
    a, b = rng.random(10) + .25, rng.random(10)
    sums = [abs(np.dot(signs, a - b)) for signs in itertools.product((-1, 1), repeat=10)]
    exact = np.mean(np.array(sums) >= abs((a - b).sum()) * (1 - 1e-12))
    assert bootstrap.paired(a, b).p == pytest.approx(exact, abs=.02)
    assert bootstrap.paired(a, b).p == bootstrap.paired(b, a).p
    far = bootstrap.paired(rng.random(500) + .5, rng.random(500), flips=999)
    assert far.p == 1 / 1000                                            # never 0: the sample itself is one of the draws


def test_paired_seeds_are_students_paired_t():
    a, b = [.81, .83, .80, .84], [.79, .80, .80, .80]
    theirs = stats.ttest_rel(a, b)
    found = bootstrap.paired_seeds(a, b)
    assert found.p == pytest.approx(theirs.pvalue) and found.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval()))
    assert bootstrap.paired_seeds([.5, .5], [.5, .5]).p == 1 and bootstrap.paired_seeds([.5, .5], [.25, .25]).p == .5
    assert bootstrap.paired_seeds([.9234, .9148], [.9233, .9147]).p == .5 and bootstrap.paired_seeds([.9, .8, .7], [.8, .7, .6]).p == .25      # but for rounding


def test_what_cannot_be_read_is_refused():
    for call, words in ((lambda: bootstrap.interval([], []), "outcomes"), (lambda: bootstrap.interval([1, np.nan], [0, 0]), "finite"),
                        (lambda: bootstrap.interval([1, 0], [0]), "labels"), (lambda: bootstrap.paired([1, 0], [1]), "same images"),
                        (lambda: bootstrap.paired_seeds([1], [0]), "two seeds")):
        with pytest.raises(ValueError, match=words):
            call()
