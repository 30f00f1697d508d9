"""Pictures of what an encoder says of places: principal components as colours, attention of the class token and the registers, places matched between two images."""
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from jaxssl.encoder import Encoder
from jaxssl.evaluation.measures import patches
from jaxssl.models import dense

LEAST = 4               # rows and columns of a map that is worth a picture
_SHOWN = 256            # pixels of a picture's short side, at least, by whole factors
_RAMP = np.array([[8, 4, 30], [90, 22, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)        # dark to light, of growing lightness


class Seen(NamedTuple):
    """Images as the network met them, uint8 [H, W, 3], with their maps f32 [h, w, D], and attention f32 [heads, P, h, w] of the last block, None without one; prefix: names
    of the P tokens."""
    images: list[np.ndarray]
    maps: list[np.ndarray]
    attention: list[np.ndarray] | None
    prefix: tuple[str, ...]


class Picture(NamedTuple):
    """pixels uint8 [h, w, 3], and what it shows in words."""
    pixels: np.ndarray
    caption: str


def side_of(encoder: Encoder, shape: Sequence[int], size: int) -> tuple[int, int]:
    """Height and width in whole patches of an image of `shape` whose short side is to be about `size`."""
    patch = dense.patch(encoder.module)
    return tuple(max(round(extent * size / min(shape[:2]) / patch), 1) * patch for extent in shape[:2])


def see(encoder: Encoder, images: Sequence[np.ndarray]) -> Seen:
    """Of uint8 images [H, W, 3] whose sides the patches divide (`side_of`); one program a shape."""
    p, attends = encoder.preprocessing, hasattr(encoder.module, "patch") and encoder.module.cls + encoder.module.registers > 0

    @jax.jit
    def call(variables, pixels):
        found = encoder.maps(variables, (pixels.astype(jnp.float32) / 255 - np.asarray(p["mean"], np.float32)) / np.asarray(p["std"], np.float32), attention=attends)
        return found.patches[0], found.attention
    maps, attention = [], []
    for shape in dict.fromkeys(image.shape for image in images):
        own = [i for i, image in enumerate(images) if image.shape == shape]
        found = jax.tree.map(np.asarray, call(encoder.variables, np.stack([images[i] for i in own])))
        maps += list(zip(own, found[0]))
        attention += list(zip(own, found[1])) if attends else []
    ordered = [[value for _, value in sorted(pairs, key=lambda pair: pair[0])] for pairs in (maps, attention)]
    names = (("class token",) if getattr(encoder.module, "cls", False) else ()) + tuple(f"register {i + 1}" for i in range(getattr(encoder.module, "registers", 0)))
    return Seen(list(images), ordered[0], ordered[1] if attends else None, names if attends else ())


def grid(encoder: Encoder) -> tuple[int, int]:
    """Rows and columns of the map of an image at the encoder's own size; nothing is computed."""
    size = encoder.preprocessing["size"]
    x = jax.ShapeDtypeStruct((1, size, size, len(encoder.preprocessing["mean"])), jnp.float32)
    return jax.eval_shape(lambda variables, x: encoder.maps(variables, x).patches[0], encoder.variables, x).shape[1:3]


def worth(seen: Seen) -> bool:
    """Whether the maps have rows and columns enough to be looked at."""
    return all(min(m.shape[:2]) >= LEAST for m in seen.maps)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((size[1], size[0]), Image.BICUBIC))


def components(seen: Seen, threshold: float | None = 0.) -> tuple[list[Picture], list[np.ndarray]]:
    """A picture an image, and what stands out in each."""
    found = patches.coloured(seen.maps, threshold=threshold)
    text = "three principal components as colours" + ("" if threshold is None else "; black: what does not stand out in the first")
    return [Picture(_large(np.rint(255 * rgb).astype(np.uint8), image.shape), text) for rgb, image in zip(found.rgb, seen.images)], found.front


def rows(seen: Seen) -> list[list[Picture]]:
    """For each image itself, its principal components, and what its tokens attend to."""
    drawn, _ = components(seen)
    return [[Picture(original(image), ""), drawn[i]._replace(caption=drawn[i].caption if i == 0 else ""), *attentions(seen, i)] for i, image in enumerate(seen.images)]


def attentions(seen: Seen, image: int, *, heads: bool = False) -> list[Picture]:
    """The mean over heads of what the class token and each register attend to; with `heads` each head of the class token too. Each picture is scaled by its own largest."""
    if seen.attention is None:
        return []
    own, shape = seen.attention[image], seen.images[image].shape
    found = [Picture(_heat(own[:, token].mean(0), shape), f"{name}, mean of {own.shape[0]} heads: {own[:, token].sum((1, 2)).mean():.0%} of its attention is on patches")
             for token, name in enumerate(seen.prefix)]
    return found + ([Picture(_heat(own[head, 0], shape), f"{seen.prefix[0]}, head {head + 1}") for head in range(len(own))] if heads else [])


def matching(seen: Seen, fronts: Sequence[np.ndarray], *, most: int = 20) -> Picture:
    """The first two images side by side, with lines between the places that belong together."""
    found = patches.matched(seen.maps[0], seen.maps[1], (fronts[0], fronts[1]), most=most)
    left, right = (original(seen.images[i]) for i in (0, 1))
    gap = 12
    canvas = Image.new("RGB", (left.shape[1] + gap + right.shape[1], max(left.shape[0], right.shape[0])), "white")
    canvas.paste(Image.fromarray(left), (0, 0))
    canvas.paste(Image.fromarray(right), (left.shape[1] + gap, 0))
    draw = ImageDraw.Draw(canvas)
    for number, match in enumerate(found):
        ends = [((place[1] + .5) / m.shape[1] * picture.shape[1] + shift, (place[0] + .5) / m.shape[0] * picture.shape[0])
                for place, m, picture, shift in ((match.first, seen.maps[0], left, 0), (match.second, seen.maps[1], right, left.shape[1] + gap))]
        colour = tuple(int(v) for v in _ramp(np.array(.25 + .7 * number / max(len(found) - 1, 1))))
        draw.line(ends, fill=colour, width=2)
        for x, y in ends:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="white")
    mean = f", cosine {np.mean([m.cosine for m in found]):.2f} on average" if found else ""
    return Picture(np.asarray(canvas), f"{len(found)} pairs of places, the surest of a one-to-one assignment{mean}")


def original(image: np.ndarray) -> np.ndarray:
    """The image at the size of its pictures."""
    return _large(image, image.shape)


def sheet(rows: Sequence[Sequence[Picture]]) -> np.ndarray:
    """Rows of pictures over their captions as one image, uint8 [h, w, 3]."""
    pad, line = 10, 14
    width = max(sum(p.pixels.shape[1] + pad for p in row) for row in rows) + pad
    height = sum(max(p.pixels.shape[0] for p in row) + 3 * line + 2 * pad for row in rows) + pad
    canvas, top = Image.new("RGB", (width, height), "white"), pad
    draw = ImageDraw.Draw(canvas)
    for row in rows:
        at = pad
        for picture in row:
            canvas.paste(Image.fromarray(picture.pixels), (at, top))
            for number, text in enumerate(_wrapped(picture.caption, picture.pixels.shape[1] // 6)[:3]):
                draw.text((at, top + picture.pixels.shape[0] + 2 + number * line), text, fill="black")
            at += picture.pixels.shape[1] + pad
        top += max(p.pixels.shape[0] for p in row) + 3 * line + 2 * pad
    return np.asarray(canvas)


def _wrapped(text, most):
    return textwrap.wrap(text.replace("×", "x").encode("ascii", "replace").decode(), max(most, 8))              # of more the built-in font has no pictures


def _large(pixels, shape):
    """A map or an image at the size of the image, which small ones are enlarged to by whole pixels."""
    factor = max(-(-_SHOWN // min(shape[:2])), 1)
    size = (shape[1] * factor, shape[0] * factor)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.NEAREST))


def _heat(values, shape):
    return _large(np.rint(_ramp(values / max(values.max(), 1e-12))).astype(np.uint8), shape)


def _ramp(share):
    """f64 [..., 3] of the ramp at shares in [0, 1]."""
    return np.stack([np.interp(share, np.linspace(0, 1, len(_RAMP)), _RAMP[:, channel]) for channel in range(3)], -1)
