"""Segmentation by counts of pixels: confusion of true and predicted classes, IoU, and which class a cluster stands for.

    IoU_c = |true c and predicted c| / |true c or predicted c|       mIoU: their mean over the classes that are true or predicted anywhere

Pixels without a true class (below 0) do not count. Counts are summed over all images before anything is divided, as in Pascal VOC's and ADE20K's measures; a
mean of images' own IoU is another number.
"""
from typing import NamedTuple

import numpy as np

_DRAWS = 1000
_AT_ONCE = 2**22


class Scores(NamedTuple):
    """iou f64 [C], nan where a class is neither true nor predicted. mean: mIoU. pixels: share of pixels that are right. classes: mean over true classes of that share."""
    iou: np.ndarray
    mean: float
    pixels: float
    classes: float


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int, predictions: int = 0) -> np.ndarray:
    """int64 [C, K]: pixels whose true class is the row and whose prediction is the column; K is `predictions`, or C. truth, predicted: int, of one shape.

    ValueError for a class that is not among the C, or shapes that differ.
    """
    truth, predicted, columns = np.asarray(truth).ravel(), np.asarray(predicted).ravel(), predictions or classes
    if truth.shape != predicted.shape:
        raise ValueError(f"truth and prediction are of different shapes: {truth.shape} and {predicted.shape}")
    known = truth >= 0
    truth, predicted = truth[known].astype(np.int64), predicted[known].astype(np.int64)
    if len(truth) and (truth.max() >= classes or predicted.min() < 0 or predicted.max() >= columns):
        raise ValueError(f"classes reach {truth.max()} and predictions {predicted.min()} to {predicted.max()}; there are {classes} and {columns}")
    return np.bincount(truth * columns + predicted, minlength=classes * columns).reshape(classes, columns)


def scores(matrix: np.ndarray) -> Scores:
    """Of a confusion matrix, as `summary` takes it."""
    return of_summary(summary(matrix))


def of_summary(parts: np.ndarray) -> Scores:
    """Of pixels that are right, true and predicted [3, C]."""
    iou = _iou(parts)
    true = parts[1] > 0
    return Scores(iou, float(np.nanmean(iou)) if np.isfinite(iou).any() else 0., float(parts[0].sum() / max(parts[1].sum(), 1)),
                  float(np.mean(parts[0][true] / parts[1][true])) if true.any() else 0.)


def summary(matrix: np.ndarray) -> np.ndarray:
    """int64 [3, C] of a confusion matrix [C, C] or [C, C + 1], whose last column is of no class: pixels that are right, true, and predicted."""
    return np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)[:len(matrix)]])


def interval(parts: np.ndarray, *, seed: int = 0, level: float = .95, draws: int = _DRAWS) -> tuple[float, float]:
    """95 % interval of mIoU over images, by the bootstrap: images are drawn with their pixels. parts [N, 3, C]: the `summary` of each image."""
    n, rng, found = len(parts), np.random.default_rng(seed), []
    flat = parts.reshape(n, -1).astype(np.float64)
    for start in range(0, draws, max(_AT_ONCE // n, 1)):
        count = min(max(_AT_ONCE // n, 1), draws - start)
        drawn = rng.multinomial(n, np.full(n, 1 / n), count)                                # [draws, N]
        found.append(np.nanmean(_iou((drawn @ flat).reshape(count, 3, -1)), axis=-1))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _iou(parts):
    """f64 [..., C] of right, true and predicted pixels [..., 3, C]."""
    right, true, predicted = (parts[..., i, :].astype(np.float64) for i in range(3))
    union = true + predicted - right
    return np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0)


def hungarian(matrix: np.ndarray) -> np.ndarray:
    """int64 [K]: the class of each of K clusters, from the confusion [C, K] of classes and clusters, one cluster a class, so that most pixels are right; -1 for
    clusters that are left over (there are more of them than classes)."""
    from scipy.optimize import linear_sum_assignment
    rows, columns = linear_sum_assignment(-matrix)
    found = np.full(matrix.shape[1], -1)
    found[columns] = rows
    return found


def majority(matrix: np.ndarray) -> np.ndarray:
    """int64 [K]: for each cluster the class of most of its pixels, of equals the first; a class may have many clusters, or none."""
    return matrix.argmax(0)


def merged(matrix: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The confusion [C, C + 1] when cluster k is taken for classes[k]; the last column is of clusters without a class (-1), whose pixels are true and never right."""
    found = np.zeros((len(matrix), len(matrix) + 1), np.int64)
    np.add.at(found.T, np.where(classes < 0, len(matrix), classes), matrix.T)
    return found
