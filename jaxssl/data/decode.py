"""An encoded image, or an array, to a uint8 canvas.

Every image becomes RGB: grey is repeated, palettes are looked up, CMYK is converted, 16 bits are scaled to 8, anything
transparent is laid on white, and the EXIF orientation is applied. It is then shrunk (never enlarged) with an
antialiased bicubic filter to fit S×S with its aspect ratio kept, and placed top-left; the rest stays black, and the
size of the valid part travels with it. libjpeg's reduced-scale decoding is not used: it changes pixels.
"""
import io
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxssl.data.order import mix
from jaxssl.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
MAX_BYTES = 256 * 2**20     # an encoded image above this is taken for broken rather than read
SUBSTITUTES = 16
_ORIENTATION = 0x0112
# A picture beyond Pillow's pixel limit is broken, not merely warned about.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class Broken(Exception):
    """An image that cannot be decoded; the message says why."""


def rgb(encoded: bytes) -> Image.Image:
    """The decoded RGB picture, upright. Raises `Broken`."""
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Broken(f"{image.width}×{image.height} pixels exceed the limit of {Image.MAX_IMAGE_PIXELS}")
            image.load()
            return _upright(_to_rgb(image), image)
    except Broken:
        raise
    except UnidentifiedImageError as error:
        raise Broken(f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from error
    except Exception as error:      # Pillow's plugins raise whatever their parser trips over
        raise Broken(f"{type(error).__name__}: {error}") from error


def _to_rgb(image):
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):                       # 16-bit grey, in one of Pillow's spellings
        grey = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.clip(np.rint(grey / 257), 0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _upright(picture, image):
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:               # unreadable metadata does not make the pixels unreadable
        return picture
    if orientation == 1:
        return picture
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    picture.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(picture)


def canvas(image, size: int, prepare: Callable | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`image` (encoded bytes, or uint8 [h,w,3]) -> canvas uint8 [S,S,3], int32 [2] = (h, w) of the valid part. Raises `Broken`.

    prepare(uint8 [h,w,3]) -> uint8 [h',w',3] is called first; what it leaves larger than the canvas is shrunk.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise Broken(f"an array of {image.dtype} {image.shape} where uint8 [h, w, 3] was expected")
        picture = None
    else:
        picture = rgb(image)
    if prepare is not None:
        image, picture = prepare(image if picture is None else np.asarray(picture)), None
    height, width = image.shape[:2] if picture is None else picture.size[::-1]
    if max(height, width) > size:
        picture = picture or Image.fromarray(image)
        scale = size / max(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        picture = picture.resize((width, height), Image.BICUBIC)
    pixels = image if picture is None else np.asarray(picture)
    if (height, width) == (size, size):
        return pixels, np.array((size, size), np.int32)
    out = np.zeros((size, size, 3), np.uint8)
    out[:height, :width] = pixels
    return out, np.array((height, width), np.int32)


def sample(source, index: int, size: int, prepare: Callable | None = None):
    """Sample `index` of `source`, or the first of its substitutes that can be decoded.

    -> canvas uint8 [S,S,3], size int32 [2], label, the index that was used, and `[(index, reason)]` of those that are
    broken. The substitutes of an index are a pure function of it, so every process and every resume picks the same.
    """
    broken, tried = [], index
    for attempt in range(SUBSTITUTES + 1):
        try:
            image, label, _ = source.read(tried)
            pixels, valid = canvas(image, size, prepare)
            return pixels, valid, label, tried, broken
        except Broken as error:
            broken.append((tried, str(error)))
        tried = int(mix(np.uint64(index * (SUBSTITUTES + 1) + attempt)) % np.uint64(len(source)))
    names = ", ".join(source.entry(i)[1] for i, _ in broken[:3])
    raise UserError(f"{SUBSTITUTES + 1} images in a row cannot be decoded in {source.name} ({names}, …; "
                    f"{broken[0][1]}); run `python -m jaxssl.data inspect` on it.")
