"""`python -m jaxssl.data inspect`: what is in a set, in numbers and in a contact sheet."""
import collections
import contextlib
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageDraw

from jaxssl.data.decode import FORMATS, Broken, canvas, rgb
from jaxssl.data.order import evenly
from jaxssl.data.pipeline import NAMED, ahead, cores

_BAR = 40                                       # characters of the longest bar
ROWS, COLUMNS, TILE = 24, 10, 68    # of the contact sheet; a tile is its side in pixels, a gap of 4 included
_NAME = 24                          # characters of a class name that fit beside a row


def describe(source, *, limit: int = 0, progress=None) -> tuple[str, int]:
    """The report on a source as text, and how many broken images it has. Decodes every image, or `limit` of them."""
    indices = evenly(len(source), limit)
    sizes, kinds, labels, broken, total = [], collections.Counter(), collections.Counter(), [], 0
    with ThreadPoolExecutor(cores()) as pool, contextlib.closing(ahead(pool, lambda i: _facts(source, int(indices[i])), len(indices))) as facts:
        for place, fact in enumerate(facts):
            name, label, kind, shape, length = fact
            labels[label] += 1
            if shape is None:
                broken.append((name, kind))
            else:
                sizes.append(shape)
                kinds[kind] += 1
                total += length
            if progress is not None:
                progress(place + 1, len(indices))
    lines = [f"{source.name}", f"  images    {len(source):,}" + (f" ({len(indices):,} looked at)" if len(indices) < len(source) else "")]
    lines += [f"  encoded   {total / 2**20:,.1f} MiB", "  kinds     " + ", ".join(f"{kind} {n:,}" for kind, n in kinds.most_common())]
    if sizes:
        lines += _sizes(np.array(sizes))
    lines += _classes(source, labels)
    lines += [f"  broken    {len(broken):,}"] + [f"    {name}: {why}" for name, why in broken[:NAMED]]
    if len(broken) > NAMED:
        lines.append(f"    … and {len(broken) - NAMED:,} more")
    return "\n".join(lines), len(broken)


def _facts(source, index):
    """-> (id, label, kind such as "JPEG RGB", (height, width), bytes); a broken image has its reason for kind and None for size."""
    label, name = source.entry(index)
    try:
        image = source.read(index)[0]
        if isinstance(image, np.ndarray):
            return name, label, "array RGB", image.shape[:2], image.nbytes
        picture = rgb(image)
        with Image.open(io.BytesIO(image), formats=FORMATS) as header:
            return name, label, f"{header.format} {header.mode}", picture.size[::-1], len(image)
    except Broken as error:
        return name, label, str(error), None, 0


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
        pixels, (height, width) = canvas(source.read(index)[0], TILE - 4)
        times = max(1, (TILE - 4) // max(height, width))
        tile = Image.fromarray(pixels[:height, :width])
        sheet.paste(tile.resize((width * times, height * times), Image.NEAREST), (corner[0] + 2, corner[1] + 2))
    except Broken:
        box = (corner[0] + 2, corner[1] + 2, corner[0] + TILE - 3, corner[1] + TILE - 3)
        draw.rectangle(box, outline="red")
        draw.line(box, fill="red")
