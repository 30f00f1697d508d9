"""`python -m jaxssl.data inspect`: what is in a set, in numbers and in a contact sheet."""
import collections
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from jaxssl.data import channels, native
from jaxssl.data.decode import Broken, canvas, look, pixel_limit, pixels_of
from jaxssl.data.listing import many
from jaxssl.data.order import evenly
from jaxssl.data.pipeline import NAMED, ahead, cores
from jaxssl.errors import shown

_FEW = 3                                        # images named in a warning
_DIM_BITS = 14                                  # 16-bit images whose largest value has no more bits than this come from a camera of fewer
_BAR = 40                                       # characters of the longest bar
ROWS, COLUMNS, TILE = 24, 10, 68    # of the contact sheet; a tile is its side in pixels, a gap of 4 included
_NAME = 24                          # characters of a class name that fit beside a row


class Fact(NamedTuple):
    """What was found of one image. kind: such as "JPEG RGB"; for a broken image the reason, with size None. mean: 0 to 255, and flat: one colour, both as training
    sees it; peak: the largest value of 16-bit grey, else None; alpha: whether it was laid on white."""
    name: str
    label: int
    kind: str
    size: tuple[int, int] | None = None     # (height, width)
    length: int = 0
    mean: float = 0.
    flat: bool = False
    peak: int | None = None
    alpha: bool = False


def describe(source, *, limit: int = 0, max_broken: float = .01, progress=None) -> tuple[str, int]:
    """The report on a source as text, and how many broken images it has. Decodes every image, or `limit` of them."""
    indices, facts = evenly(len(source), limit), []
    with ThreadPoolExecutor(cores()) as pool, contextlib.closing(ahead(pool, lambda i: _facts(source, int(indices[i])), len(indices))) as found:
        for fact in found:
            facts.append(fact)
            if progress is not None:
                progress(len(facts), len(indices))
    labels = collections.Counter(fact.label for fact in facts)
    whole, broken = [fact for fact in facts if fact.size], [fact for fact in facts if not fact.size]
    kinds = collections.Counter(fact.kind for fact in whole)
    lines = [f"{shown(source.name)}", f"  images    {len(source):,}" + (f" ({len(indices):,} looked at)" if len(indices) < len(source) else "")]
    lines += [f"  encoded   {sum(fact.length for fact in whole) / 2**20:,.1f} MiB", "  kinds     " + ", ".join(f"{kind} {n:,}" for kind, n in kinds.most_common())]
    if whole:
        lines += _sizes(np.array([fact.size for fact in whole]))
        lines += _channels(source, whole) if pixels_of(source).native else _brightness(whole)
    lines += _classes(source, labels)
    lines += [f"  broken    {len(broken):,}"] + [f"    {fact.name}: {fact.kind}" for fact in broken[:NAMED]]
    if len(broken) > NAMED:
        lines.append(f"    … and {len(broken) - NAMED:,} more")
    if len(broken) > max_broken * len(facts):
        lines.append(f"  warning   training would refuse this set: {len(broken):,} of {len(facts):,} images cannot be decoded, and data.max_broken={max_broken:g} allows "
                     f"{max_broken:.4g} of the set; mend them, delete them, or raise data.max_broken")
    return "\n".join(lines), len(broken)


def _facts(source, index) -> Fact:
    label, name = source.entry(index)
    try:
        image, own = source.read(index)[0], pixels_of(source)
        if own.native:
            array = native.agreed(read := image if isinstance(image, np.ndarray) else native.read(image, pixel_limit(source)), own)
            shown_as = native.filled(array, own.nodata)
            flat = bool((np.ptp(shown_as, (0, 1)) == 0).all())
            return Fact(name, label, f"{array.shape[2]} channels of {read.dtype.name}", array.shape[:2], len(image), float(shown_as.mean()), flat)
        if isinstance(image, np.ndarray):
            return Fact(name, label, "array RGB", image.shape[:2], image.nbytes, float(image.mean()), int(np.ptp(image)) == 0)
        picture, seen = look(image, pixel_limit(source))
        mean = float(np.asarray(picture.reduce(max(1, min(picture.size) // 64))).mean())
        flat = all(low == high for low, high in picture.getextrema())
        return Fact(name, label, f"{seen.format} {seen.mode}", picture.size[::-1], len(image), mean, flat, seen.peak, seen.alpha)
    except Broken as error:
        return Fact(name, label, shown(str(error)))


def _brightness(facts: list[Fact]) -> list[str]:
    """How bright the images are as training sees them, and what is likely to be an accident of their format."""
    means = np.array([fact.mean for fact in facts])
    lines = [f"  bright    mean {means.mean():.0f} of 255, from {means.min():.0f} to {means.max():.0f} an image"]
    if flat := [fact for fact in facts if fact.flat]:
        clear = sum(fact.alpha for fact in flat)
        lines.append(f"  warning   {many(len(flat), 'image')} of one colour" + (f", {clear:,} of them once their transparency is laid on white" if clear else "")
                     + f", teaching nothing: {', '.join(fact.name for fact in flat[:_FEW])}{', …' if len(flat) > _FEW else ''}")
    deep = [fact for fact in facts if fact.peak is not None]
    peak = max((fact.peak for fact in deep), default=0)
    if deep and peak.bit_length() <= _DIM_BITS:
        times = 2 ** (16 - peak.bit_length())
        lines.append(f"  warning   the largest value of {many(len(deep), '16-bit image')} is {peak:,}: {peak.bit_length()} bits are used, so they are {times} times too dark; "
                     f"multiply their values by {times}, or convert them to 8 bits")
    return lines


def _channels(source, facts: list[Fact]) -> list[str]:
    """The numbers of each channel, the flags that say them to training, and images that teach nothing."""
    found = channels.statistics(source)
    lines = [f"  range     {found.how}" + (f"; {found.missing:.1%} says nothing and is left out" if found.missing else ""),
             f"  channels  of {many(found.images, 'image')}, mean and std on the scale from 0 to 1:"]
    lines += [f"    {c:<3} {found.smallest[c]:>12g} to {found.largest[c]:<12g} mean {m:.4f}  std {s:.4f}" for c, (m, s) in enumerate(zip(found.mean, found.std))]
    told = {"mean": found.mean, "std": found.std, "low": found.low, "high": found.high}
    flags = {key: ",".join(f"{v:g}" for v in numbers) for key, numbers in told.items() if numbers}
    lines.append("  flags     " + " ".join(f"--config.augment.{key}={value}" for key, value in flags.items()) + " (what training finds itself, where it is given none)")
    if flat := [fact for fact in facts if fact.flat]:
        lines.append(f"  warning   {many(len(flat), 'image')} of one value, teaching nothing: {', '.join(fact.name for fact in flat[:_FEW])}{', …' if len(flat) > _FEW else ''}")
    return lines


def _sizes(sizes):
    """min, median, max, and a histogram of the longer side by powers of √2."""
    lines = [f"  {name}    min {column.min()}, median {np.median(column):g}, max {column.max()}" for name, column in zip(("height", "width "), sizes.T)]
    steps = np.floor(2 * np.log2(sizes.max(1)) + 1e-9).astype(int)
    lines.append("  longer side")
    for step in range(steps.min(), steps.max() + 1):
        count = int((steps == step).sum())
        low, high = int(np.ceil(2**(step / 2) - 1e-6)), int(np.ceil(2**((step + 1) / 2) - 1e-6)) - 1
        lines.append(f"    {low:>6}–{high:<6} {'█' * round(_BAR * count / len(steps)):<{_BAR}} {count:,}")
    return lines


def _classes(source, labels):
    if not source.classes:
        return ["  classes   none: the images have no labels"]
    lines = [f"  classes   {len(source.classes)}"]
    names = [(name, labels[i]) for i, name in enumerate(source.classes)] + ([("(unlabelled)", labels[-1])] if labels[-1] else [])
    width = min(40, max(len(name) for name, _ in names))
    if len(names) > 60:
        counts = np.array([n for _, n in names])
        lines.append(f"    images a class: min {counts.min()}, median {np.median(counts):g}, max {counts.max()}; the first 60:")
    return lines + [f"    {name:<{width}} {n:,}" for name, n in names[:60]]


def contact_sheet(source) -> Image.Image:
    """Ten images a class, a class a row with its name (24 classes, spread evenly); a plain grid without labels."""
    labels = np.array([source.entry(i)[0] for i in range(len(source))]) if source.classes else np.zeros(len(source), int)
    rows = []
    for label in evenly(len(source.classes), ROWS):
        members = np.flatnonzero(labels == label)
        rows.append((source.classes[label], members[evenly(len(members), COLUMNS)]))
    if not source.classes:
        spread = evenly(len(source), ROWS * COLUMNS // 2)
        rows = [("", spread[i:i + COLUMNS]) for i in range(0, len(spread), COLUMNS)]
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    left = max((int(measure.textlength(name[:_NAME])) + 12 for name, _ in rows if name), default=0)
    sheet = Image.new("RGB", (left + COLUMNS * TILE, max(1, len(rows)) * TILE), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, members) in enumerate(rows):
        draw.text((4, row * TILE + TILE // 2 - 6), name[:_NAME], fill="black")
        for column, index in enumerate(members):
            _place(sheet, draw, source, int(index), (left + column * TILE, row * TILE))
    return sheet


def _place(sheet, draw, source, index, corner):
    """One tile: the image shrunk, or enlarged by whole pixels, to fit; a crossed box where it is broken."""
    try:
        pixels, (height, width) = canvas(source.read(index)[0], TILE - 4, max_pixels=pixel_limit(source), pixels=pixels_of(source))
        pixels = channels.picture(pixels[:height, :width])
        times = max(1, (TILE - 4) // max(height, width))
        tile = Image.fromarray(pixels[:height, :width])
        sheet.paste(tile.resize((width * times, height * times), Image.NEAREST), (corner[0] + 2, corner[1] + 2))
    except Broken:
        box = (corner[0] + 2, corner[1] + 2, corner[0] + TILE - 3, corner[1] + TILE - 3)
        draw.rectangle(box, outline="red")
        draw.line(box, fill="red")
