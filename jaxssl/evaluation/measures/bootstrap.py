"""Intervals by the bootstrap, over images and over whole classes, and paired comparisons on the same images or the same seeds.

Percentile intervals (Efron and Tibshirani 1993, chapter 13). Over images: another draw of test images. Over classes: another draw of classes
with all their images, which is the honest one where the test classes stand for all that could come (retrieval, metric learning).
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_DRAWS = 2000           # for an interval: its ends are then sure to a twentieth of its width
_FLIPS = 10_000         # for a p-value: the smallest is 1e-4
_FEW = 256              # different values up to which their counts are drawn instead of the rows
_AT_ONCE = 2**22        # random numbers held at a time


class Interval(tuple):
    """(low, high) of a mean over images.

    classes: (low, high) when whole classes are drawn, None with fewer than two. For `paired`: outcomes f64 [N], what the mean was taken of; ids
    int [N], which images they belong to, None when that is not known; labels int [N] where classes count alike, else None.
    """
    classes: tuple[float, float] | None
    outcomes: np.ndarray
    ids: np.ndarray | None
    labels: np.ndarray | None

    def __new__(cls, images, classes, outcomes, *, ids=None, labels=None):
        self = super().__new__(cls, images)
        self.classes, self.outcomes, self.ids, self.labels = classes, outcomes, ids, labels
        return self


class Comparison(NamedTuple):
    """a - b: mean, 95 % interval, two-sided p of "no difference", and over how many pairs."""
    difference: float
    interval: tuple[float, float]
    p: float
    n: int


def interval(outcomes: np.ndarray, labels: np.ndarray, *, ids: np.ndarray | None = None, balanced: bool = False, level: float = .95,
             draws: int = _DRAWS, seed: int = 0) -> Interval:
    """The interval of the mean of `outcomes` (bool or float [N], one a test image), over images and over the classes of `labels` int [N].

    balanced: of the mean over classes of their means. Images are then drawn within each class (a class with one image has no spread of its own), and
    drawn classes count alike whatever their size. level: share of draws inside. ids: kept, see `Interval`. Deterministic in `seed`.
    ValueError for anything but finite outcomes [N] with as many labels.
    """
    outcomes, labels = np.asarray(outcomes, np.float64), np.asarray(labels)
    if outcomes.ndim != 1 or not len(outcomes) or not np.isfinite(outcomes).all() or labels.shape != outcomes.shape:
        raise ValueError(f"an interval needs finite outcomes [N] with N >= 1 and labels [N], got {outcomes.shape} and {labels.shape}")
    rng, ends = np.random.default_rng(seed), np.array([(1 - level) / 2, (1 + level) / 2])
    images = _pair(np.quantile(_balanced(outcomes, labels, draws, rng) if balanced else _means(outcomes, draws, rng), ends))
    _, of = np.unique(labels, return_inverse=True)
    counts, classes = np.bincount(of), None
    if len(counts) > 1:
        sums, means = np.bincount(of, outcomes), []
        if balanced:
            sums, counts = sums / counts, np.ones(len(counts))
        for part in _parts(draws, len(counts)):
            drawn = rng.integers(0, len(counts), (part, len(counts)))       # [draws, C]
            means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
        classes = _pair(np.quantile(np.concatenate(means), ends))
    return Interval(images, classes, outcomes, ids=ids, labels=labels if balanced else None)


def paired(a: np.ndarray, b: np.ndarray, *, labels: np.ndarray | None = None, level: float = .95, draws: int = _DRAWS, flips: int = _FLIPS, seed: int = 0) -> Comparison:
    """Two encoders on the same images: outcomes a and b [N], image by image.

    The interval is a bootstrap of a - b. p is that of a sign-flip test: exact when all differences have one size (for right and wrong this is
    McNemar's exact test), drawn `flips` times otherwise. labels int [N]: classes count alike, as with `interval`'s balanced. ValueError when the
    shapes differ.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"a paired test needs outcomes of the same images, got {a.shape} and {b.shape}")
    rng, d = np.random.default_rng(seed), a - b
    ends = np.quantile(_means(d, draws, rng) if labels is None else _balanced(d, labels, draws, rng), [(1 - level) / 2, (1 + level) / 2])
    if labels is not None:
        _, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
        d = d * len(d) / (len(counts) * counts[of])         # their mean is that of the classes' means
    changed = d[d != 0]
    if not len(changed):
        p = 1.0
    elif np.ptp(np.abs(changed)) == 0:
        from scipy.stats import binomtest
        p = float(binomtest(int((changed > 0).sum()), len(changed)).pvalue)
    else:
        reached = 0
        for part in _parts(flips, len(changed)):
            signs = 2. * rng.integers(0, 2, (part, len(changed)), np.int8) - 1
            reached += int((np.abs(signs @ changed) >= abs(changed.sum()) * (1 - 1e-12)).sum())
        p = (reached + 1) / (flips + 1)         # with the sample itself, so that p is never 0
    return Comparison(float(d.mean()), _pair(ends), p, len(d))


def paired_seeds(a: Sequence[float], b: Sequence[float], *, level: float = .95) -> Comparison:
    """Two recipes trained with the same seeds: one value a seed each. Student's paired t; differences that are all the same have no spread to compare with,
    and p is then that of their signs. ValueError for fewer than two pairs."""
    from scipy import stats
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if d.ndim != 1 or len(d) < 2:
        raise ValueError(f"a paired t-test needs at least two seeds, got {d.shape}")
    mean, error = float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d)))
    half = float(stats.t.ppf((1 + level) / 2, len(d) - 1)) * error
    same = np.ptp(d) <= 1e-9 * abs(mean)             # but for rounding
    p = (.5 ** (len(d) - 1) if mean else 1.) if same else float(2 * stats.t.sf(abs(mean) / error, len(d) - 1))
    return Comparison(mean, (mean - half, mean + half), p, len(d))


def _means(values, draws, rng):
    """Means of `draws` samples of len(values) rows each, with replacement."""
    n = len(values)
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) <= _FEW:              # how often each value is drawn is multinomial: the same distribution for less work
        return rng.multinomial(n, counts / n, size=draws) @ kinds / n
    return np.concatenate([values[rng.integers(0, n, (part, n))].mean(1) for part in _parts(draws, n)])


def _balanced(values, labels, draws, rng):
    """Means over the classes of their means, the rows of each class drawn with replacement, `draws` times."""
    order, counts = np.argsort(labels, kind="stable"), np.unique(labels, return_counts=True)[1]
    return sum(_means(part, draws, rng) for part in np.split(values[order], np.cumsum(counts)[:-1])) / len(counts)


def _parts(draws, width):
    """`draws` cut into parts of at most about `_AT_ONCE` numbers."""
    most = max(1, _AT_ONCE // width)
    return [min(most, draws - at) for at in range(0, draws, most)]


def _pair(ends):
    return float(ends[0]), float(ends[1])
