"""Views as people look at them: originals beside their views, with what was drawn under each."""
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxssl.augment.color import NAMES
from jaxssl.augment.randaugment import NAMES as RANDOM, SHARPNESS, SHEAR_X

CELL, MARGIN, LINE, FONT = 192, 6, 12, 10  # pixels


COVER, MASKS = (92, 64, 160), 4  # colour of what is hidden; masks of a view that are shown


def draw(canvases, views, params, mean, std, hidden=None):
    """Contact sheet: a row an image, the original's valid part first, then its views, each over its parameters, and behind them what a masked method shows of each.

    canvases: dict of `image` uint8 [B, S, S, 3] and `size` [B, 2]; views [B, V, size, size, 3] normalised; params as `make` returns. hidden: as `Method.hidden` gives it.
    """
    pixels = visible(views, mean, std)
    captions = [[caption(params, i, v) for v in range(pixels.shape[1])] for i in range(len(pixels))]
    if hidden is not None:
        pixels, captions = with_masks(pixels, captions, hidden)
    rows, columns = len(pixels), pixels.shape[1] + 1
    lines = max(2, *(len(c) for row in captions for c in row))      # an original has two
    pitch = (CELL + MARGIN, CELL + MARGIN + LINE * lines + MARGIN)
    sheet = Image.new("RGB", (columns * pitch[0] + MARGIN, rows * pitch[1] + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for i in range(rows):
        height, width = (int(x) for x in canvases["size"][i])
        original = canvases["image"][i, :height, :width]
        cells = [(original, [f"image {i}", f"{height} x {width} pixels"]), *zip(pixels[i], captions[i])]
        for column, (image, text) in enumerate(cells):
            x, y = MARGIN + column * pitch[0], MARGIN + i * pitch[1]
            scale = CELL / max(image.shape[:2])
            shape = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            # nearest when enlarging: the pixels are what one wants to see
            sheet.paste(Image.fromarray(image).resize(shape, Image.NEAREST if scale > 1 else Image.LANCZOS), (x, y))
            for k, line in enumerate(text):
                pen.text((x, y + CELL + MARGIN // 2 + k * LINE), line, "black", font)
    return sheet


def visible(views, mean, std):
    """Normalised views [..., C] as uint8 [..., 3]: one channel is grey, of two the third colour is black, of more than three the first three are shown."""
    pixels = np.round(np.clip(np.asarray(views, np.float32) * np.asarray(std, np.float32) + np.asarray(mean, np.float32), 0, 1) * 255).astype(np.uint8)
    channels = pixels.shape[-1]
    return np.repeat(pixels, 3, -1) if channels == 1 else np.concatenate([pixels, np.zeros_like(pixels[..., :1])], -1) if channels == 2 else pixels[..., :3]


def with_masks(pixels, captions, hidden):
    """Views uint8 [B, V, h, w, 3] and their captions [B][V], with at most `MASKS` masks of each behind them."""
    hidden = np.asarray(hidden)[:, :, :MASKS]
    shown = np.stack([[covered(view, mask) for view, masks in zip(views, masked) for mask in masks] for views, masked in zip(pixels, hidden)])
    said = [[[f"{mask.sum()} of {mask.size} hidden"] for masks in masked for mask in masks] for masked in hidden]
    return np.concatenate([pixels, shown], 1), [own + more for own, more in zip(captions, said)]


def covered(pixels, hidden):
    """uint8 [h, w, 3], one colour where hidden, bool [rows, columns] of the patches."""
    side = (pixels.shape[0] // hidden.shape[0], pixels.shape[1] // hidden.shape[1])
    return np.where(hidden.repeat(side[0], 0).repeat(side[1], 1)[..., None], np.uint8(COVER), pixels)


def caption(params, i, v):
    """What was drawn for view `v` of image `i`, as a few short lines."""
    box = {k: int(x[i, v]) for k, x in params["crop"].items()}
    lines = [f"crop {box['height']}x{box['width']} at {box['top']},{box['left']}" + (" flip" if params["flip"][i, v] else "")]
    if "randaugment" in params:
        drawn = zip(params["randaugment"]["op"][i, v], params["randaugment"]["sign"][i, v])
        lines.append(", ".join(f"{RANDOM[int(op)]}{' -' if sign < 0 and SHEAR_X <= op <= SHARPNESS else ''}" for op, sign in drawn))
    if "jitter" in params:
        drawn = {n: float(params["jitter"][n][i, v]) for n in NAMES if n in params["jitter"]}
        if any(x != (0 if n == "hue" else 1) for n, x in drawn.items()):
            order = [NAMES[o] for o in params["jitter"]["order"][i, v]]
            steps = [f"{n} {drawn[n]:+.2f}" if n == "hue" else f"{n} x{drawn[n]:.2f}" for n in order]
            lines += [", ".join(steps[k : k + 2]) for k in range(0, len(steps), 2)]
    if "channels" in params:
        own = {k: np.asarray(x[i, v]) for k, x in params["channels"].items()}
        words = [f"turn {90 * int(own['turn'])}°"] * bool(own["turn"]) + ["upside down"] * bool(own["flip_vertical"])
        words += [f"without {', '.join(map(str, np.flatnonzero(own['dropped'])))}"] * bool(own["dropped"].any())
        words += ["gain " + " ".join(f"{g:.2f}" for g in own["gain"][:4])] * bool((own["gain"] != 1).any())
        lines += [", ".join(words[k : k + 2]) for k in range(0, len(words), 2)]
    rest = [name for name in ("gray", "solarize", "invert") if params[name][i, v]]
    if params["blur"][i, v] > 0:
        rest.insert(0, f"blur {params['blur'][i, v]:.2f}")
    return lines + ([", ".join(rest)] if rest else [])
