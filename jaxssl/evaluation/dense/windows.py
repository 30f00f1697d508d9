"""Images of any shape as square windows of one size, and what was said of windows put together again.

An image is resized until its short side is that of the windows (times a scale); windows lie `stride` apart along each side, the last one at the edge, as
in mmsegmentation's sliding test. Masks are never resized for a test: scores are, to the size of the mask.
"""
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxssl import data as datas
from jaxssl.data.decode import Broken, demand_rgb, pixel_limit, rgb
from jaxssl.errors import UserError

_FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
_AHEAD = 4      # images decoded ahead, a processor


class View(NamedTuple):
    """side: of a window, pixels. stride: between windows. interpolation: of the images' resizing."""
    side: int
    stride: int
    interpolation: str


class Picture(NamedTuple):
    """A decoded image with its answer. pixels uint8 [h, w, 3]; target [h, w], as its source has it; place: in the source."""
    pixels: np.ndarray
    target: np.ndarray
    place: int


class Cut(NamedTuple):
    """windows uint8 [W, S, S, 3] of an image resized to `size` (height, width), their top left corners `at`; target [h, w] of the whole, place in the source."""
    windows: np.ndarray
    at: list[tuple[int, int]]
    size: tuple[int, int]
    target: np.ndarray
    place: int


def pictures(source: Any, rows: Sequence[int], broken: list[str]) -> Iterator[Picture]:
    """The images `rows` of a source with their targets, in order; names of those that cannot be decoded go to `broken`. Raises: UserError for a target of another size."""
    with ThreadPoolExecutor(datas.cores()) as pool:
        rows, waiting = list(map(int, rows)), []
        ahead = _AHEAD * datas.cores()
        for number in range(len(rows) + ahead):
            if number < len(rows):
                waiting.append(pool.submit(_picture, source, rows[number]))
            if number >= ahead:
                found = waiting.pop(0).result()
                if isinstance(found, Picture):
                    yield found
                else:
                    broken.append(found)


def _picture(source, place):
    demand_rgb(source, "an evaluation of places")
    try:
        image = source.read(place)[0]
        pixels = image if isinstance(image, np.ndarray) else np.asarray(rgb(image, pixel_limit(source)))
    except Broken:
        return source.id(place)
    target = source.target(place)
    if target.shape != pixels.shape[:2]:
        raise UserError(f"{source.id(place)} of {source.name} is {pixels.shape[0]}×{pixels.shape[1]} and its {'map of depth' if source.targets == 'depth' else 'mask'} "
                        f"{target.shape[0]}×{target.shape[1]} pixels; give both the same size")
    return Picture(pixels, target, place)


def cut(picture: Picture, view: View, *, scale: float = 1., flip: bool = False) -> Cut:
    """The windows of an image. scale: of its short side beyond the window's. flip: left to right, its target not."""
    height, width = picture.pixels.shape[:2]
    factor = view.side * scale / min(height, width)
    size = tuple(max(round(n * factor), view.side) for n in (height, width))
    pixels = resized(picture.pixels[:, ::-1] if flip else picture.pixels, size, view.interpolation)
    at = [(y, x) for y in places(size[0], view) for x in places(size[1], view)]
    return Cut(np.stack([pixels[y:y + view.side, x:x + view.side] for y, x in at]), at, size, picture.target, picture.place)


def resized(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    if pixels.shape[:2] == tuple(size):
        return np.ascontiguousarray(pixels)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((size[1], size[0]), _FILTERS[interpolation]))


def nearest(target: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A target resized without mixing values: of each new pixel the one its middle lies in."""
    rows, columns = (np.minimum(((np.arange(new) + .5) * old / new).astype(int), old - 1) for old, new in zip(target.shape, size))
    return target[rows[:, None], columns[None]]


def places(extent: int, view: View) -> list[int]:
    """Where windows begin along a side: a stride apart, the last at the edge."""
    last = extent - view.side
    return list(range(0, last, view.stride)) + [last]


@functools.cache
def interpolation(new: int, old: int) -> np.ndarray:
    """f32 [new, old]: linear interpolation of `old` samples at the middles of `new` ones, edges continued; as torch's without align_corners."""
    at = np.clip((np.arange(new) + .5) * old / new - .5, 0, old - 1)
    low = np.minimum(at.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old), np.float32)
    np.add.at(matrix, (np.arange(new), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(new), np.minimum(low + 1, old - 1)), at - low)
    return matrix


def enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[..., h, w, C] to [..., H, W, C], linearly."""
    rows, columns = interpolation(size[0], maps.shape[-3]), interpolation(size[1], maps.shape[-2])
    return np.einsum("Yy,...yxc,Xx->...YXc", rows, maps, columns, optimize=True)


def stitched(maps: np.ndarray, found: Cut, view: View) -> np.ndarray:
    """f32 [h, w, C] at the size of the target from what was said of each window, maps [W, m, m, C]: enlarged, the mean where windows overlap."""
    total, count = np.zeros((*found.size, maps.shape[-1]), np.float32), np.zeros((*found.size, 1), np.float32)
    for own, (y, x) in zip(maps, found.at):
        total[y:y + view.side, x:x + view.side] += enlarged(own, (view.side, view.side))
        count[y:y + view.side, x:x + view.side] += 1
    return enlarged(total / count, found.target.shape) if found.size != found.target.shape else total / count
