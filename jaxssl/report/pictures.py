"""Images for the page: squares, sheets of squares, the views of the first training step, all as WebP in data addresses."""
import base64
import io
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageOps

from jaxssl import augment, data as datas
from jaxssl.augment import picture
from jaxssl.augment.picture import caption, with_masks
from jaxssl.data import channels, decode

QUALITY = 78     # of WebP, 0 to 100


class Viewed(NamedTuple):
    """One training image as the network met it. original: uint8 [h, w, 3]. views: uint8 [V, size, size, 3]. captions: what was drawn for each, in lines."""
    id: str
    original: np.ndarray
    views: np.ndarray
    captions: list[list[str]]


def square(pixels: np.ndarray, valid: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the middle of the valid part (h, w) of a canvas of any channels (`channels.picture`); small images are enlarged by whole pixels."""
    height, width = (int(v) for v in valid)
    image = Image.fromarray(np.ascontiguousarray(channels.picture(pixels[:height, :width])))
    return np.asarray(ImageOps.fit(image, (side, side), Image.NEAREST if min(height, width) < side else Image.LANCZOS))


def address(pixels: np.ndarray) -> str:
    """A data: address of uint8 [h, w, 3] as WebP."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def columns(n: int) -> int:
    """Of a sheet of n tiles: as many as rows, since WebP holds at most 16,383 pixels either way."""
    return math.isqrt(n - 1) + 1


def sheet(tiles: np.ndarray) -> np.ndarray:
    """uint8 [N, T, T, 3] laid out in rows of C = `columns`(N): uint8 [rows·T, C·T, 3]; tile i is in row i // C."""
    n, side = tiles.shape[:2]
    across = columns(n)
    rows = -(-n // across)
    padded = np.zeros((rows * across, side, side, 3), np.uint8)
    padded[:n] = tiles
    return padded.reshape(rows, across, side, side, 3).swapaxes(1, 2).reshape(rows * side, across * side, 3)


def views(config: dict, data: Any, *, count: int = 6) -> list[Viewed]:
    """The first `count` images of the first training batch, with exactly the views that step drew: ids and keys are functions of the seed.

    config: resolved, of the run. data: `jaxssl.data.Data`. Broken images, whose place another one takes in training, are shown as that other one.
    """
    samples, batch, _ = first(config, data, count)
    pixels, a = visible(config, batch["views"]), config["augment"]
    originals = [channels.picture(s[0][:s[1][0], :s[1][1]], a.get("low", ()), a.get("high", ())) for s in samples]
    return [Viewed(data.train.entry(s[3])[1], originals[i], pixels[i], [caption(batch["view_params"], i, v) for v in range(config["augment"]["views"])])
            for i, s in enumerate(samples)]


def masked(config: dict, data: Any, method: Any, params: dict, aux: dict, *, count: int = 6) -> list[Viewed]:
    """The first view of each of these images, beside it what the masks of that step left of it, and where the method predicts pixels, the view as it is rebuilt by `params`."""
    samples, batch, key = first(config, data, count)

    def drawn(views):
        return method.hidden(key, views), None if method.rebuilt is None else method.rebuilt(params, aux, views, key)
    hidden, rebuilt = jax.tree.map(np.asarray, jax.jit(drawn)(batch["views"]))
    pixels = visible(config, batch["views"][:, :1])
    shown, said = with_masks(pixels, [[["view 1"]] for _ in samples], hidden[:, :1])
    if rebuilt is not None:
        shown, said = np.concatenate([shown, visible(config, rebuilt[:, :1])], 1), [lines + [["rebuilt"]] for lines in said]
    return [Viewed(data.train.entry(s[3])[1], shown[i, 0], shown[i, 1:], said[i][1:]) for i, s in enumerate(samples)]


def visible(config: dict, views: np.ndarray) -> np.ndarray:
    """Normalised views as uint8."""
    return picture.visible(views, config["augment"]["mean"], config["augment"]["std"])


def first(config: dict, data: Any, count: int) -> tuple[list, dict, jax.Array]:
    """Of the first `count` images of the first training batch the samples, the batch as the loss saw it, and the key that the loss had."""
    a, seed = config["augment"], config["seed"]
    dtype = {"bf16": "bfloat16", "f32": "float32"}[config["precision"]]
    places = data.order(seed, config["batch_size"])(0)[:count]
    samples = [decode.sample(data.train, int(p), data.canvas) for p in places]
    canvases = {"image": np.stack([s[0] for s in samples]), "size": np.stack([s[1] for s in samples])}
    key, of_loss = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0))      # as the train step does at step 0
    made = augment.pair(a, config.get("local", {"views": 0}), dtype=dtype, return_params=True)
    return samples, jax.tree.map(np.asarray, jax.jit(made)(key, canvases)), of_loss
