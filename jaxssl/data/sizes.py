"""How large the images of a source are, from the headers of a few of them."""
import io

import numpy as np
from PIL import Image

from jaxssl.data import native
from jaxssl.data.decode import FORMATS, pixel_limit, pixels_of
from jaxssl.data.order import evenly

SAMPLE = 32         # images looked at


def short_sides(source) -> tuple[int, ...]:
    """The shorter side in pixels of `SAMPLE` images spread evenly over `source`, ascending; those that cannot be read are left out."""
    few = evenly(len(source), SAMPLE)
    sides = (_short_side(source, int(i)) for i in few)
    return tuple(sorted(side for side in sides if side))


def _short_side(source, index) -> int:
    """Of one image; 0 when it is broken."""
    try:
        image = source.read(index)[0]
        if isinstance(image, np.ndarray):
            return min(image.shape[:2])
        if pixels_of(source).native:
            return min(native.read(image, pixel_limit(source)).shape[:2])
        with Image.open(io.BytesIO(image), formats=FORMATS) as header:      # reads no pixels
            return min(header.size)
    except Exception:               # Pillow's plugins raise whatever their parser trips over; decoding will say it
        return 0
