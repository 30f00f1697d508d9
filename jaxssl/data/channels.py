"""How many channels a set has and of which numbers, found from a few of its files; and the statistics of each channel."""
import contextlib
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxssl.data import native
from jaxssl.data.decode import Broken, Pixels, pixel_limit, pixels_of
from jaxssl.data.listing import many
from jaxssl.data.order import evenly
from jaxssl.data.pipeline import ahead, cores
from jaxssl.errors import UserError, shown

DEPTHS = ("uint8", "uint16", "float32")
LOOKED = 16                     # files that say what a set is
IMAGES, SAMPLED = 256, 2**12    # images that the statistics are of, and pixels of each
TAILS = (.1, 99.9)              # percentiles of floats that become 0 and 1


def nodata_of(text: str) -> float | None:
    """data.nodata as a number. Raises: UserError."""
    try:
        return float(text) if text else None
    except ValueError:
        raise UserError(f"data.nodata='{shown(text)}' is no number; give the value that says nothing in your files, such as 0 or -99999 (NaN always says nothing)") from None


def found(source, channels: int, depth: str, nodata: str, *, like: Pixels | None = None) -> Pixels:
    """What the pixels of `source` are: RGB of 8 bits, unless the keys data.channels, data.depth or data.nodata say that files are read as they are, or the files are of kinds that
    only are read so: .npy, DICOM, and TIFF of floats, of more than 8 bits a colour, or of channels that are no colours. like: of the set that it must agree with.

    Raises: UserError where files disagree.
    """
    if depth and depth not in DEPTHS:
        raise UserError(f"data.depth='{shown(depth)}' is none of {', '.join(DEPTHS)}")
    if channels > native.MOST:
        raise UserError(f"data.channels is {channels}; at most {native.MOST} are read")
    value, asked = nodata_of(nodata), bool(channels or depth or nodata)
    if channels and depth:
        return Pixels(channels, depth, value, True)         # as a run has found it
    few = [int(i) for i in evenly(len(source), LOOKED)]
    if like is not None:
        return _agreed(source, few, like.channels, like.depth, value)
    if not (asked or any(_beyond(source, i) for i in few)):
        return Pixels()
    return _agreed(source, few, channels, depth, value)


def _beyond(source, index) -> bool:
    """Whether a file is of a kind that only is read as it is."""
    try:
        low = source.id(index).lower()
    except UserError:               # of a damaged index, as reading will say
        return False
    if low.endswith(native.ARRAYS):
        return True
    files = hasattr(source, "paths") or hasattr(source, "names")        # whose names may lack an extension; others draw images, or pack them
    if low.endswith(native.TIFFS) or files and "." not in low.rpartition("/")[2]:
        try:
            head = source.read(index)[0]
        except Broken:
            return False
        if isinstance(head, np.ndarray):
            return False
        if head[native.DICOM_AT:native.DICOM_AT + 4] == native.DICOM or head.startswith(native.NUMPY):
            return True
        facts = native.tiff_facts(head)
        return facts is not None and (facts[2] != 1 or facts[0] not in (1, 3, 4) or facts[0] > 1 and facts[1] > 8)
    return False


def _agreed(source, few, channels, depth, nodata) -> Pixels:
    kinds, broken = {}, []
    for index in few:
        try:
            array = source.read(index)[0]
            array = array if isinstance(array, np.ndarray) else native.read(array, pixel_limit(source))
            own = (array.shape[2], native.depth_of(array.dtype))
            native.filled(array, nodata)
            kinds.setdefault(own, shown(source.id(index)))
        except Broken as error:
            broken.append(f"{shown(source.id(index))}: {error}")
    name = shown(source.name)
    if not kinds:
        raise UserError(f"none of {many(len(few), 'image')} looked at in {name} can be read as it is ({broken[0]}); "
                        "mend the files, or see them by `python -m jaxssl.data inspect`")
    counts, depths = (list(dict.fromkeys(own[at] for own in kinds)) for at in (0, 1))
    for at, key, what, given in ((0, "channels", counts, channels), (1, "depth", depths, depth)):
        wanted = given or what[0]
        other = next((value for value in what if value != wanted), None)
        if other is not None:
            def say(value, at=at):
                return many(value, "channel") if at == 0 else str(value)
            mine = next((f" ({where})" for own, where in kinds.items() if own[at] == wanted), f" (data.{key})")
            where = next(where for own, where in kinds.items() if own[at] == other)
            raise UserError(f"the images of {name} disagree: {say(other)} ({where}) and {say(wanted)}{mine}; a set has one number of channels and one type of numbers: "
                            f"convert the files, part them, or mend data.{key}")
    return Pixels(channels or counts[0], depth or depths[0], nodata, True)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of `images` images, at most `SAMPLED` pixels of each, without what says nothing. low, high: the values that become 0 and 1, of each channel, or () for those of uint8;
    mean, std: on that scale. smallest, largest: of the files' own numbers, of all pixels of these images. missing: the share that says nothing. how: what
    was decided about the range, a sentence."""
    images: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    smallest: tuple[float, ...]
    largest: tuple[float, ...]
    missing: float
    how: str


def statistics(source, images: int = IMAGES) -> Statistics:
    """Of images spread evenly over `source`, the same whenever and wherever they are reckoned. Raises: UserError where none can be read."""
    few, kind = evenly(len(source), images), pixels_of(source)
    with ThreadPoolExecutor(cores()) as pool, contextlib.closing(ahead(pool, lambda i: _sampled(source, int(few[i]), kind), len(few))) as results:
        parts = [part for part in results if part is not None]
    if not parts:
        raise UserError(f"none of {many(len(few), 'image')} of {shown(source.name)} can be read, so their channels have no statistics; see `python -m jaxssl.data inspect`")
    values = np.concatenate([rows for rows, *_ in parts]).astype(np.float64)    # [N, C], NaN where nothing is said
    smallest, largest = np.min([low for _, low, _ in parts], 0), np.max([high for *_, high in parts], 0)
    low, high, how = _range(values, largest, kind)
    unit = np.clip((values - low) / (high - low), 0, 1)
    mean, std = np.nanmean(unit, 0), np.nanstd(unit, 0)
    std = np.where(std > 1e-6, std, 1.0)                                        # a constant channel stays at 0
    plain = kind.depth == "uint8"
    return Statistics(len(parts), () if plain else _tuple(low), () if plain else _tuple(high), _tuple(mean), _tuple(std), _tuple(smallest), _tuple(largest),
                      float(np.isnan(values).mean()), how)


def _range(values, largest, kind):
    """(low [C], high [C], what was decided)."""
    zeros = np.zeros(kind.channels)
    if kind.depth == "uint8":
        return zeros, zeros + 255, "8 bits, 0 to 255"
    if kind.depth == "uint16":
        bits = max(int(largest.max()).bit_length(), 8)
        said = f"{bits}-bit data in 16-bit files: stretched from 0–{2**bits - 1:,} to the whole range" if bits < 16 else "16 bits, 0 to 65,535"
        return zeros, zeros + 2**bits - 1, f"{said} (the largest value that was seen is {int(largest.max()):,})"
    low, high = np.nanpercentile(values, TAILS, 0)
    high = np.where(high > low, high, low + 1)
    return low, high, f"floats: each channel's values from its percentile {TAILS[0]} to {TAILS[1]} become 0 to 1, and those beyond are clipped"


def _tuple(x: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{v:.6g}") for v in x)


def _sampled(source, index, kind):
    """([n, C] pixels of an image in float32, NaN where nothing is said; smallest and largest [C] of all its pixels); None for a broken one."""
    try:
        image = source.read(index)[0]
        array = native.agreed(image if isinstance(image, np.ndarray) else native.read(image, pixel_limit(source)), kind)
        whole = native.filled(array, kind.nodata)               # a channel that says nothing makes an image broken here as in training
        said = native.valid(array, kind.nodata)
    except Broken:
        return None
    flat = array.reshape(-1, kind.channels)
    rows = slice(None) if len(flat) <= SAMPLED else np.sort(np.random.default_rng(0).choice(len(flat), SAMPLED, replace=False))
    out = flat[rows].astype(np.float32)
    return (out if said is None else np.where(said.reshape(-1, kind.channels)[rows], out, np.nan)), whole.min((0, 1)), whole.max((0, 1))


def picture(array: np.ndarray, low: Sequence[float] = (), high: Sequence[float] = ()) -> np.ndarray:
    """[..., h, w, C] of any numbers as people look at it, uint8 [..., h, w, 3]: one channel is grey, of two the third colour is black, of more than three the first three are
    shown.

    low, high: values that become black and white, one or one a channel; without them uint8 is as it is, and others are stretched from their smallest to their largest.
    """
    if array.dtype == np.uint8 and array.shape[-1] == 3:
        return array
    x = array.astype(np.float32)
    if array.dtype != np.uint8 or len(low):
        axes = tuple(range(array.ndim - 1))
        bottom = np.asarray(low, np.float32) if len(low) else x.min(axes)
        top = np.asarray(high, np.float32) if len(high) else x.max(axes)
        x = 255 * np.clip((x - bottom) / np.where(top > bottom, top - bottom, 1), 0, 1)
    x = np.repeat(x, 3, -1) if x.shape[-1] == 1 else np.concatenate([x, np.zeros_like(x[..., :1])], -1) if x.shape[-1] == 2 else x[..., :3]
    return np.rint(x).astype(np.uint8)
