"""What decoded images are: the words that every reader shares."""
from typing import NamedTuple

import numpy as np

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 89_478_485     # of an image, unless data.max_pixels says otherwise: Pillow's own limit
MAX_BYTES = 256 * 2**20     # an encoded image above this is taken for broken rather than read


class Broken(Exception):
    """An image that cannot be decoded; the message says why."""


class Pixels(NamedTuple):
    """What the canvases of a set hold. channels: C; depth: their type, "uint8", "uint16" or "float32"; nodata: the value that says nothing, beside what is not finite, or None;
    native: whether files are read as they are, and not as RGB of 8 bits."""
    channels: int = 3
    depth: str = "uint8"
    nodata: float | None = None
    native: bool = False

    @property
    def nbytes(self) -> int:
        """Of a pixel."""
        return self.channels * np.dtype(self.depth).itemsize


RGB = Pixels()


def placed(pixels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [h,w,C] top-left on a canvas [S,S,C] of zeros, and int32 [2] = (h, w)."""
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels, np.array((size, size), np.int32)
    out = np.zeros((size, size, pixels.shape[2]), pixels.dtype)
    out[:height, :width] = pixels
    return out, np.array((height, width), np.int32)
