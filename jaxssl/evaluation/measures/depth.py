"""Depth of pixels: how far off, in the unit of the truth and as a share of it (Eigen et al., arXiv 1406.2283)."""
from typing import NamedTuple

import numpy as np


class Sums(NamedTuple):
    """Of pixels whose depth is known: their number, and sums of squared error, of error relative to the truth, and of pixels within a factor of 1.25."""
    pixels: int
    squared: float
    relative: float
    near: float


def sums(truth: np.ndarray, predicted: np.ndarray, *, most: float, least: float = 1e-3) -> Sums:
    """truth, predicted: float, of one shape. Pixels whose true depth is not in (least, most] do not count; predictions are clipped to [least, most]."""
    known = (truth > least) & (truth <= most)
    t, p = truth[known].astype(np.float64), np.clip(predicted[known].astype(np.float64), least, most)
    return Sums(int(known.sum()), float(((p - t)**2).sum()), float((np.abs(p - t) / t).sum()), float((np.maximum(p / t, t / p) < 1.25).sum()))


def scores(images: list[Sums]) -> dict[str, float]:
    """RMSE, AbsRel and a1: the mean over images of each image's own, as the measures of NYU and KITTI are taken."""
    known = [s for s in images if s.pixels]
    if not known:
        raise ValueError("no pixel of any image has a known depth")
    return {"RMSE": float(np.mean([(s.squared / s.pixels)**.5 for s in known])), "AbsRel": float(np.mean([s.relative / s.pixels for s in known])),
            "a1": float(np.mean([s.near / s.pixels for s in known]))}
