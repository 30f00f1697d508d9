"""Images as their files have them: any number of channels, 8 or 16 bits or floats, nothing scaled.

NumPy's .npy (no pickle) needs no package, TIFF needs tifffile and DICOM pydicom: `pip install "jaxssl[science]"`. Other kinds are Pillow's. What says nothing (the value `nodata`,
and numbers that are not finite) takes the mean of its channel over the rest of its image, so that it moves neither that mean nor a normalised image far from zero.
"""
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from jaxssl.data.pixels import FORMATS, MAX_PIXELS, Broken, Pixels, placed
from jaxssl.errors import UserError, shown

ARRAYS = (".npy", ".dcm", ".dicom")       # of files that are images of a set where no others are there
TIFFS = (".tif", ".tiff")
NUMPY, DICOM, DICOM_AT = b"\x93NUMPY", b"DICM", 128
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
EXTRA = 'pip install "jaxssl[science]"'
MOST = 1000         # channels of an image: more are an axis that was meant for something else


class Lacking(UserError):
    """A package that a kind of file needs is not installed."""


def read(encoded: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """[h, w, C] in the file's own numbers (a DICOM's after its rescale, float32). Of frames, times and depths the first. Raises: `Broken`, `Lacking`."""
    try:
        if encoded.startswith(NUMPY):
            return _numpy(encoded, max_pixels)
        if encoded[DICOM_AT:DICOM_AT + 4] == DICOM:
            return _dicom(encoded, max_pixels)
        if encoded[:4] in _TIFF_HEADS:
            return _tiff(encoded, max_pixels)
        return _picture(encoded, max_pixels)
    except (Broken, UserError):
        raise
    except MemoryError as error:
        raise Broken("it does not fit in memory") from error
    except Exception as error:      # each library raises whatever its parser trips over
        raise Broken(f"{type(error).__name__}: {shown(str(error))[:200]}") from error


def depth_of(dtype: np.dtype) -> str:
    """The type of the canvases that numbers of `dtype` lie on. Raises: `Broken`."""
    if dtype.kind not in "buif":
        raise Broken(f"its numbers are {dtype}; save them as 8 or 16 bits, or as floats")
    return {"bool": "uint8", "uint8": "uint8", "uint16": "uint16"}.get(dtype.newbyteorder("=").name, "float32")


def agreed(array: np.ndarray, pixels: Pixels) -> np.ndarray:
    """`array` in the type of the set. Raises: `Broken` where its channels or its type are not those of the set."""
    if array.ndim != 3 or 0 in array.shape:
        raise Broken(f"an array of shape {array.shape} where [height, width, {pixels.channels}] was expected")
    if array.shape[2] != pixels.channels:
        raise Broken(f"{array.shape[2]} channels, where the set has {pixels.channels}")
    if (own := depth_of(array.dtype)) != pixels.depth:
        raise Broken(f"{own}, where the set has {pixels.depth}; convert its files to one type")
    return array.astype(pixels.depth)


def valid(array: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """bool [h, w, C]: where [h, w, C] says something; None where everything does."""
    said = np.isfinite(array)
    if nodata is not None:          # of floats in their own type, in which such a value was written
        said &= array != (np.asarray(nodata, array.dtype) if array.dtype.kind == "f" else nodata)
    return None if said.all() else said


def filled(array: np.ndarray, nodata: float | None) -> np.ndarray:
    """`array` with the mean of its channel where nothing is said. Raises: `Broken` where a whole channel says nothing."""
    said = valid(array, nodata)
    if said is None:
        return array
    counts = said.sum((0, 1))
    if not counts.all():
        empty = np.flatnonzero(counts == 0)
        raise Broken("no-data everywhere" if len(empty) == len(counts) else f"no-data everywhere in channel {', '.join(map(str, empty[:5]))}")
    mean = np.where(said, array, 0).sum((0, 1), dtype=np.float64) / counts
    return np.where(said, array, (np.rint(mean) if array.dtype.kind != "f" else mean).astype(array.dtype))


def canvas(image, size: int, prepare: Callable | None, max_pixels: int, pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """As `decode.canvas`, of encoded bytes or [h, w, C], to the channels and the type of `pixels`. Raises: `Broken`."""
    array = filled(agreed(image if isinstance(image, np.ndarray) else read(image, max_pixels), pixels), pixels.nodata)
    if prepare is not None:
        array = prepare(array)
    height, width = array.shape[:2]
    if max(height, width) > size:
        scale = size / max(height, width)
        array = resized(array, (max(1, round(width * scale)), max(1, round(height * scale))))
    return placed(array, size)


def resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w, C] at (width, height) by the filter of `decode.canvas`, each channel in float32, whole numbers rounded and kept in their range."""
    if array.dtype == np.uint8 and array.shape[2] == 3:
        return np.asarray(Image.fromarray(array).resize(size, Image.BICUBIC))
    planes = [np.asarray(Image.fromarray(np.ascontiguousarray(array[..., c], np.float32)).resize(size, Image.BICUBIC)) for c in range(array.shape[2])]
    out = np.stack(planes, -1)
    return out if array.dtype.kind == "f" else np.clip(np.rint(out), 0, np.iinfo(array.dtype).max).astype(array.dtype)


def _room(shape, max_pixels):
    if shape[0] * shape[1] > max_pixels:
        raise Broken(f"{shape[1]}×{shape[0]} pixels exceed data.max_pixels={max_pixels}; raise it, or cut the image")
    if len(shape) > 2 and shape[2] > MOST:
        raise Broken(f"{shape[2]:,} channels; expected [height, width] or [height, width, channels]")


def _numpy(encoded, max_pixels):
    """.npy by its header alone: what it promises is compared with what is there before anything is made of it."""
    file = io.BytesIO(encoded)
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if header is None:
        raise Broken(f"a .npy file of version {version[0]}.{version[1]}, where 1.0 and 2.0 are read")
    shape, fortran, dtype = header(file)
    if dtype.hasobject or dtype.kind not in "buif":
        raise Broken(f"its numbers are {dtype}, which are not read; save them as 8 or 16 bits, or as floats")
    if len(shape) not in (2, 3) or 0 in shape:
        raise Broken(f"an array of shape {shape}; expected [height, width] or [height, width, channels]")
    _room(shape, max_pixels)
    start, count = file.tell(), math.prod(shape)
    if len(encoded) - start != count * dtype.itemsize:
        raise Broken(f"{len(encoded) - start:,} bytes for an array of {count * dtype.itemsize:,}; it is truncated")
    array = np.frombuffer(encoded, dtype, count, start).reshape(shape[::-1] if fortran else shape)
    array = array.T if fortran else array
    array = array * np.uint8(255) if dtype.kind == "b" else array
    return np.ascontiguousarray(array if array.ndim == 3 else array[..., None])


def tiff_facts(encoded: bytes) -> tuple[int, int, int] | None:
    """(channels, bits, kind of number: 1 whole, 2 signed, 3 float) of the first page by its tags alone; None where they cannot be read."""
    order = {b"II": "little", b"MM": "big"}.get(encoded[:2])
    if order is None or encoded[:4] not in _TIFF_HEADS[:2]:
        return (0, 0, 0) if encoded[:4] in _TIFF_HEADS[2:] else None        # a large file's tags are for its own reader

    def number(at, size):
        return int.from_bytes(encoded[at:at + size], order)
    start, tags = number(4, 4), {}
    for at in range(start + 2, min(start + 2 + 12 * number(start, 2), len(encoded) - 11), 12):
        kind, count = number(at + 2, 2), number(at + 4, 4)
        size = {1: 1, 3: 2, 4: 4}.get(kind, 0)
        if size and number(at, 2) in (258, 277, 339):
            tags[number(at, 2)] = number(number(at + 8, 4) if size * count > 4 else at + 8, size)
    return tags.get(277, 1), tags.get(258, 1), tags.get(339, 1)


def _tiff(encoded, max_pixels):
    try:
        import tifffile
    except ImportError:
        raise Lacking(f"TIFF files are read as they are by tifffile, which is not installed; {EXTRA}") from None
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        series = file.series[0]
        sizes = dict(zip(series.axes, series.shape))
        _room((sizes.get("Y", 0), sizes.get("X", 0)), max_pixels)
        channels = math.prod(n for axis, n in sizes.items() if axis in "SCIQ")
        if channels > MOST or series.axes.count("Y") != 1 or series.axes.count("X") != 1:
            raise Broken(f"a TIFF of axes {series.axes} {series.shape}; expected height, width and up to {MOST} channels")
        array, axes = series.asarray(), series.axes
    for axis in [a for a in axes if a not in "YXSCIQ"]:                     # times, depths and the like: the first
        array, axes = array.take(0, axes.index(axis)), axes.replace(axis, "", 1)
    array = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (0, 1))
    return np.ascontiguousarray(array.reshape(*array.shape[:2], -1))


def _dicom(encoded, max_pixels):
    """The first frame: float32 after rescale, lowest dark; colour of 8 bits as uint8 RGB. Padding is not finite."""
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise Lacking(f"DICOM files are read by pydicom, which is not installed; {EXTRA}") from None
    file = pydicom.dcmread(io.BytesIO(encoded))
    if "PixelData" not in file and "FloatPixelData" not in file and "DoubleFloatPixelData" not in file:
        raise Broken("a DICOM file without pixels")
    _room((int(file.Rows), int(file.Columns)), max_pixels)
    kind = str(file.PhotometricInterpretation)
    array = pydicom.pixels.pixel_array(file, index=0)
    if kind == "PALETTE COLOR":
        array = pydicom.pixels.apply_color_lut(array, file)
        array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    if array.ndim == 3:
        return np.ascontiguousarray(array)
    padding = np.zeros(array.shape, bool)
    if (low := file.get("PixelPaddingValue")) is not None:
        high = file.get("PixelPaddingRangeLimit", low)
        padding = (array >= min(low, high)) & (array <= max(low, high))
    if "ModalityLUTSequence" in file:
        raise Broken("a DICOM file whose values a table gives (Modality LUT Sequence); save it with rescaled values")
    slope, intercept = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    values = array.astype(np.float64) * slope + intercept
    if kind == "MONOCHROME1":                       # its lowest value is white
        bits, signed = int(file.BitsStored), int(file.get("PixelRepresentation", 0))
        ends = (-(2**(bits - 1)), 2**(bits - 1) - 1) if signed else (0, 2**bits - 1)
        values = (ends[0] + ends[1]) * slope + 2 * intercept - values
    return np.where(padding, np.nan, values).astype(np.float32)[..., None]


def _picture(encoded, max_pixels):
    """What Pillow reads; palettes and bits become colours and greys, and nothing is laid on white."""
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        _room(image.size[::-1], max_pixels)
        if image.format == "PNG" and encoded[24] == 16 and encoded[25] != 0:
            raise Broken("a PNG of 16-bit colours, of which Pillow reads 8; save it as TIFF or .npy")
        image.load()
        if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
        elif image.mode == "1":
            image = image.convert("L")
        image = ImageOps.exif_transpose(image)
        array = np.asarray(image)
        array = array.astype(np.uint16) if image.mode.startswith("I") and array.min(initial=0) >= 0 and array.max(initial=0) <= 65535 else array
    return np.ascontiguousarray(array if array.ndim == 3 else array[..., None])
