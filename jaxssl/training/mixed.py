"""Views of several sizes in one run: each step draws one pair of (global, local) sizes by weight, and each pair is a program of its own, compiled once ahead (DINOv3's stage of
high resolution, arXiv 2508.10104, section 5)."""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxssl.errors import UserError


class Size(NamedTuple):
    """large, small: pixels of a view and of a local one (0 where there are none). share: of the steps, in (0, 1]."""
    large: int
    small: int
    share: float


def configured(config: Any) -> tuple[tuple[Size, ...], list[Any]]:
    """The sizes of a config and, for each, the config with it in augment and local. Raises: UserError for local sizes that fit no local views."""
    if not config.sizes:
        return (Size(config.augment.size, config.local.size if config.local.views else 0, 1.0),), [config]
    if odd := [size for size in config.sizes if bool(size[1]) != bool(config.local.views)]:
        raise UserError(f"sizes holds {odd[0]!r}, and local.views is {config.local.views}: the second number is 0 without local views, else their pixels")
    whole, found = sum(weight for *_, weight in config.sizes), []
    for large, small, _ in config.sizes:
        each = config.copy_and_resolve_references().unlock()
        each.augment.size, each.local.size = int(large), int(small) or each.local.size
        found.append(each.lock())
    return tuple(Size(int(large), int(small), weight / whole) for large, small, weight in config.sizes), found


def drawn(seed: int, sizes: Sequence[Size]) -> Callable[[int], int]:
    """step -> which of `sizes` it has: a pure function of seed and step, the same in every process and after a resume."""
    if len(sizes) == 1:
        return lambda step: 0
    ends = np.cumsum([size.share for size in sizes])
    return lambda step: int(min(np.searchsorted(ends, np.random.Generator(np.random.Philox(key=[seed, step])).random(), side="right"), len(sizes) - 1))


def mean(sizes: Sequence[Size], of: Callable, shapes: Sequence[Any]) -> float:
    """The mean of `of` the shapes of each size, by their shares."""
    return sum(size.share * of(shape) for size, shape in zip(sizes, shapes))


def sentence(sizes: Sequence[Size]) -> str:
    """What is said of them at start; "" of one."""
    told = ", ".join(f"{size.large}{f' and {size.small}' if size.small else ''} ({100 * size.share:.3g} %)" for size in sizes)
    return f"sizes, drawn anew for every step and compiled once each: {told} pixels" if len(sizes) > 1 else ""
