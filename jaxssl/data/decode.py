"""An encoded image, or an array, to a uint8 canvas.

Every image becomes RGB: grey is repeated, palettes are looked up, CMYK is converted, 16 bits are scaled to 8, anything
transparent is laid on white, and the EXIF orientation is applied. It is then shrunk (never enlarged) with an
antialiased bicubic filter to fit S×S with its aspect ratio kept, and placed top-left; the rest stays black, and the
size of the valid part travels with it. libjpeg's reduced-scale decoding is not used: it changes pixels.

A set whose `Pixels` are native is read as it is instead, of any number of channels, in 8 or 16 bits or floats: `jaxssl.data.native`.
"""
import io
import re
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxssl.data import native
from jaxssl.data.order import mix
from jaxssl.data.pixels import FORMATS, MAX_BYTES, MAX_PIXELS, RGB, Broken, Pixels, placed
from jaxssl.errors import UserError, shown

__all__ = ["EXTENSIONS", "FORMATS", "MAX_BYTES", "MAX_PIXELS", "RGB", "Broken", "Pixels", "Seen", "canvas", "demand_rgb", "look", "pixel_limit",
           "pixels_of", "placed", "rgb", "sample", "whole"]
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".jpe", ".dib")
SUBSTITUTES = 16
_ORIENTATION = 0x0112
# A picture beyond Pillow's pixel limit is broken, not merely warned about.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class Seen(NamedTuple):
    """What a decoded file was. peak: its largest value where it is 16-bit grey, else None; alpha: whether it was laid on white."""
    format: str
    mode: str
    peak: int | None
    alpha: bool


def rgb(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The decoded RGB picture, upright: of an animation or a file of pages the first. Raises `Broken`."""
    return look(encoded, max_pixels)[0]


def look(encoded: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, Seen]:
    """`rgb`, and what the file was. Raises `Broken`."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS):
        Image.MAX_IMAGE_PIXELS = max_pixels             # asked for by the config; the check below holds for everything else
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels):
                raise Broken(_too_large(f"{image.width}×{image.height}", max_pixels))
            image.load()
            seen = Seen(image.format, image.mode, int(np.asarray(image).max()) if image.mode.startswith("I") else None, _see_through(image))
            return _upright(_to_rgb(image), image), seen
    except Broken:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Broken(_too_large((re.findall(r"\d+", str(error)) or ["its"])[0], max_pixels)) from error
    except UnidentifiedImageError as error:
        raise Broken(f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from error
    except Exception as error:      # Pillow's plugins raise whatever their parser trips over
        raise Broken(f"{type(error).__name__}: {shown(str(error))}") from error


def _too_large(pixels: str, limit: int) -> str:
    return f"{pixels} pixels exceed data.max_pixels={limit}; raise it (a pixel takes 3 to 8 bytes while decoding), or shrink the image"


def _see_through(image) -> bool:
    return "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")


def _to_rgb(image):
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise Broken("its pixels are floating-point numbers, whose black and white are not known; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):                       # 16-bit grey, in one of Pillow's spellings
        grey = np.asarray(image).astype(np.float32)
        if grey.max(initial=0) > 65535:
            raise Broken("its pixels have more than 16 bits; convert it to 8 or 16 bits")
        clear = image.info.get("transparency")
        if isinstance(clear, int):                       # the one grey that is see-through
            grey = np.where(grey == clear, 65535, grey)
        return Image.fromarray(np.clip(np.rint(grey / 257), 0, 255).astype(np.uint8)).convert("RGB")
    if _see_through(image):
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


def canvas(image, size: int, prepare: Callable | None = None, max_pixels: int = MAX_PIXELS, pixels: Pixels = RGB) -> tuple[np.ndarray, np.ndarray]:
    """`image` (encoded bytes, or uint8 [h,w,3]) -> canvas uint8 [S,S,3], int32 [2] = (h, w) of the valid part. Raises `Broken`.

    prepare(uint8 [h,w,3]) -> uint8 [h',w',3] is called first; what it leaves larger than the canvas is shrunk. With native `pixels` all are of those channels and that type.
    """
    if pixels.native:
        return native.canvas(image, size, prepare, max_pixels, pixels)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise Broken(f"an array of {image.dtype} {image.shape} where uint8 [h, w, 3] was expected")
        picture = None
    else:
        picture = rgb(image, max_pixels)
    if prepare is not None:
        image, picture = prepare(image if picture is None else np.asarray(picture)), None
    height, width = image.shape[:2] if picture is None else picture.size[::-1]
    if max(height, width) > size:
        picture = picture or Image.fromarray(image)
        scale = size / max(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        picture = picture.resize((width, height), Image.BICUBIC)
    return placed(image if picture is None else np.asarray(picture), size)


def pixels_of(source) -> Pixels:
    """What the pixels of `source` are."""
    return getattr(source, "pixels", RGB)


def demand_rgb(source, what: str) -> None:
    """Raises: UserError where the images of `source` are not read as RGB of 8 bits, which is all that `what` reads."""
    if (kind := pixels_of(source)).native:
        raise UserError(f"{what} reads RGB of 8 bits, and the images of {shown(source.name)} are read as they are ({kind.channels} channels of {kind.depth}); "
                        "leave it out for these")


def whole(source, index: int) -> np.ndarray:
    """Sample `index` in its own size: uint8 [h, w, 3], or [h, w, C] as `pixels_of(source)` says. Raises: `Broken`."""
    image, kind = source.read(index)[0], pixels_of(source)
    if kind.native:
        array = image if isinstance(image, np.ndarray) else native.read(image, pixel_limit(source))
        return native.filled(native.agreed(array, kind), kind.nodata)
    return image if isinstance(image, np.ndarray) else np.asarray(rgb(image, pixel_limit(source)))


def pixel_limit(source) -> int:
    """The pixels that an image of `source` may have."""
    return getattr(source, "max_pixels", MAX_PIXELS)


def sample(source, index: int, size: int, prepare: Callable | None = None):
    """Sample `index` of `source`, or the first of its substitutes that can be decoded.

    -> canvas uint8 [S,S,3] (or as `pixels_of(source)` says), size int32 [2], label, the index that was used, and `[(index, reason)]` of those that are
    broken. The substitutes of an index are a pure function of it, so every process and every resume picks the same.
    """
    broken, tried, limit, kind = [], index, pixel_limit(source), pixels_of(source)
    for attempt in range(SUBSTITUTES + 1):
        try:
            image, label, _ = source.read(tried)
            pixels, valid = canvas(image, size, prepare, limit, kind)
            return pixels, valid, label, tried, broken
        except Broken as error:
            broken.append((tried, str(error)))
        tried = int(mix(np.uint64(index * (SUBSTITUTES + 1) + attempt)) % np.uint64(len(source)))
    names = ", ".join(source.entry(i)[1] for i, _ in broken[:3])
    raise UserError(f"{SUBSTITUTES + 1} images in a row cannot be decoded in {shown(source.name)} ({names}, …; "
                    f"{broken[0][1]}); run `python -m jaxssl.data inspect` on it.")
