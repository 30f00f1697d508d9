"""`python -m jaxssl.augment --config configs/x.py --out views.png`: originals beside their views, with what was drawn under each."""
import argparse
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxssl import augment, config as configs, data
from jaxssl.augment.color import NAMES
from jaxssl.data import decode
from jaxssl.errors import UserError
from jaxssl.main import guarded, split_overrides

CELL, MARGIN, LINE, FONT = 192, 6, 12, 10  # pixels


def main(argv=None) -> int:
    flags, rest = _parser().parse_known_args(argv)

    def body():
        if flags.count < 1:
            raise UserError(f"--count is {flags.count}; at least one image is needed")
        config = configs.load(flags.config, split_overrides(rest))
        try:
            views = augment.make(**config.augment, return_params=True)
        except ValueError as error:
            raise UserError(f"augment.{error}") from error
        canvases = _canvases(data.make(**config.data), flags.count)
        key = jax.random.key(config.seed if flags.seed is None else flags.seed)
        batch = jax.tree.map(np.asarray, jax.jit(views)(key, canvases))
        sheet = draw(canvases, batch["views"], batch["view_params"], config.augment.mean, config.augment.std)
        out = Path(flags.out)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(out)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write {out} ({error}); give --out a writable path that ends in .png") from error
        print(f"{len(canvases['size'])} images beside {config.augment.views} views each: {out}")

    return guarded(body, flags.debug)


def draw(canvases, views, params, mean, std):
    """Contact sheet: a row an image, the original's valid part first, then its views, each over its parameters.

    canvases: dict of `image` uint8 [B, S, S, 3] and `size` [B, 2]; views [B, V, size, size, 3] normalised; params as `make` returns.
    """
    pixels = np.clip(np.asarray(views, np.float32) * np.asarray(std) + np.asarray(mean), 0, 1)
    pixels = np.round(pixels * 255).astype(np.uint8)
    rows, columns = len(pixels), pixels.shape[1] + 1
    captions = [[caption(params, i, v) for v in range(columns - 1)] for i in range(rows)]
    lines = max(len(c) for row in captions for c in row)
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


def caption(params, i, v):
    """What was drawn for view `v` of image `i`, as a few short lines."""
    box = {k: int(x[i, v]) for k, x in params["crop"].items()}
    lines = [f"crop {box['height']}x{box['width']} at {box['top']},{box['left']}" + (" flip" if params["flip"][i, v] else "")]
    if "jitter" in params:
        drawn = {n: float(params["jitter"][n][i, v]) for n in NAMES if n in params["jitter"]}
        if any(x != (0 if n == "hue" else 1) for n, x in drawn.items()):
            order = [NAMES[o] for o in params["jitter"]["order"][i, v]]
            steps = [f"{n} {drawn[n]:+.2f}" if n == "hue" else f"{n} x{drawn[n]:.2f}" for n in order]
            lines += [", ".join(steps[k : k + 2]) for k in range(0, len(steps), 2)]
    rest = [name for name in ("gray", "solarize", "invert") if params[name][i, v]]
    if params["blur"][i, v] > 0:
        rest.insert(0, f"blur {params['blur'][i, v]:.2f}")
    return lines + ([", ".join(rest)] if rest else [])


def _canvases(facts, count):
    """The first images of as many places, spread evenly over the training set, decoded as training decodes them."""
    source = facts.train
    places = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
    samples = [decode.sample(source, int(p), facts.canvas) for p in places]
    return {"image": np.stack([s[0] for s in samples]), "size": np.stack([s[1] for s in samples])}


def _parser():
    parser = argparse.ArgumentParser(prog="python -m jaxssl.augment", description=__doc__.split(": ", 1)[1],
                                     epilog="Any key of the config: --config.augment.blur=0.5.")
    parser.add_argument("--config", required=True, help="configs/<dataset>/<method>.py[:variant]")
    parser.add_argument("--out", default="views.png", help="where the picture goes (default: %(default)s)")
    parser.add_argument("--count", type=int, default=8, help="images (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the views (default: the config's seed)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
