"""Vectors of places, through the frozen encoder: of windows, of a whole training set, and judged image by image."""
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.encoder import Encoder
from jaxssl.errors import UserError
from jaxssl.evaluation.dense import windows
from jaxssl.models import dense
from jaxssl.parallel import mesh as sharding

MOST_BYTES = 2**30          # of a training set's tokens that are kept; images beyond are left out, evenly
_BATCH, _BATCH_PIXELS = 128, 2**20       # windows of a forward pass, and pixels in them, at most


@dataclasses.dataclass(frozen=True)
class Form:
    """What is taken of each place.

    blocks: of a transformer, side by side (`models.dense.maps`). norm: behind the final norm. cls: the class token beside each patch. side: of a window, in pixels,
    a multiple of the patch. stride: between windows.
    """
    blocks: tuple[int, ...] = (-1,)
    norm: bool = True
    cls: bool = False
    side: int = 224
    stride: int = 224

    def said(self) -> str:
        """For a table's column of layers."""
        return "patches" if self.blocks == (-1,) else f"patches of blocks {', '.join(map(str, self.blocks))}"


class Places(NamedTuple):
    """A set's windows. x [M, n, n, D] f32 or f16; targets [M, S, S] at the windows' size; place int64 [M] of the image of each in its source. note: what was left out."""
    x: np.ndarray
    targets: np.ndarray
    place: np.ndarray
    note: str


def form(encoder: Encoder, *, side: int = 0, blocks: tuple[int, ...] = (-1,), overlap: float = 0., **more: Any) -> Form:
    """With a side that the patches divide, at least `side` (0: the encoder's own), and windows that overlap by a share. Raises: UserError."""
    side, patch = side or encoder.preprocessing["size"], dense.patch(encoder.module)
    if not 0 <= overlap < 1 or side < 1:
        raise UserError(f"windows of side {side} that overlap by {overlap:g}: give a side above 0 and an overlap in [0, 1)")
    side = -(-side // patch) * patch
    return Form(tuple(blocks), side=side, stride=max(round(side * (1 - overlap)), 1), **more)


class Embed:
    """A compiled function from windows uint8 [B, S, S, 3] to tokens f32 [B, n, n, D] on the devices."""

    def __init__(self, encoder: Encoder, form: Form, mesh: Any):
        self.form, self.mesh = form, mesh
        self.view = windows.View(form.side, form.stride, encoder.preprocessing["interpolation"])
        self.batch = -(-max(min(_BATCH_PIXELS // form.side**2, _BATCH), 1) // mesh.size) * mesh.size
        mean, std = (np.asarray(encoder.preprocessing[name], np.float32) for name in ("mean", "std"))

        def tokens(variables, pixels):
            found = encoder.maps(variables, (pixels.astype(jnp.float32) / 255 - mean) / std, blocks=form.blocks, norm=form.norm)
            parts = list(found.patches)
            if form.cls:
                if not found.prefix[0].shape[1]:
                    raise UserError("this network has no class token to stand beside its patches")
                parts = [jnp.concatenate([p, jnp.broadcast_to(c[:, None, None, 0], p.shape)], -1) for p, c in zip(found.patches, found.prefix)]
            return jnp.concatenate(parts, -1)
        self._call = jax.jit(tokens)
        self._variables = jax.device_put(encoder.variables, sharding.replicated(mesh))

    def __call__(self, pixels: np.ndarray) -> jax.Array:
        """Of at most `batch` windows; fewer are filled up, so that one size compiles, and come back filled."""
        return self._call(self._variables, sharding.put(_filled(pixels, self.batch), sharding.batch(self.mesh)))


def collect(embed: Embed, source: Any, rows: Sequence[int], *, most: int = MOST_BYTES) -> Places:
    """Tokens and targets of the windows of the images `rows`. Images beyond `most` bytes are left out evenly, which the note says."""
    x, targets, place, broken, rows = [], [], [], [], np.asarray(rows)
    note, wanted, cuts = "", len(rows), None
    first = next(iter(windows.pictures(source, rows[:1], [])), None)
    if first is not None:
        size = jax.eval_shape(embed._call, embed._variables, jax.ShapeDtypeStruct((embed.batch, embed.form.side, embed.form.side, 3), jnp.uint8)).shape
        each = int(np.prod(size[1:])) * 4 * len(windows.cut(first, embed.view).at)
        if each * wanted > most:
            rows = rows[np.linspace(0, wanted - 1, max(most // each, 1)).astype(int)]
            note = f"tokens of {len(rows):,} of {wanted:,} images, evenly spread, since more take above {most / 1e9:.1f} GB"
    cuts = (windows.cut(picture, embed.view) for picture in windows.pictures(source, rows, broken))
    for tokens, members in _embedded(embed, cuts):
        x.append(np.asarray(tokens))
        for found, number in members:
            y, left = found.at[number]
            whole = windows.nearest(found.target, found.size)
            targets.append(whole[y:y + embed.view.side, left:left + embed.view.side])
            place.append(found.place)
    if not x:
        raise UserError(f"none of the {wanted} images of {source.name} can be decoded; see them with `python -m jaxssl.data inspect`")
    note = "; ".join(filter(None, (note, f"{len(broken)} images cannot be decoded" if broken else "")))
    return Places(np.concatenate(x), np.stack(targets), np.array(place), note)


def judged(embed: Embed, source: Any, scores: Callable, *, scales: Sequence[float] = (1.,), flip: bool = False,
           finish: Callable = lambda maps: maps) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(f32 [h, w, C], target [h, w], place) of every image: scores(tokens) -> [B, m, m, C] of windows, put together, then `finish`ed, over scales and with `flip` their
    mirror images too, and averaged. Images that cannot be decoded are left out."""
    ways = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    cuts = (windows.cut(picture, embed.view, scale=scale, flip=mirrored) for picture in windows.pictures(source, range(len(source)), []) for scale, mirrored in ways)
    held, parts, total, done = None, [], 0., 0

    def put_together(found, maps):
        nonlocal total, done
        mirrored = ways[done][1]
        whole = finish(windows.stitched(np.stack(maps), found, embed.view))
        total, done = total + (whole[:, ::-1] if mirrored else whole), done + 1
        if done == len(ways):
            result, total, done = total / len(ways), 0., 0
            return result
        return None
    for tokens, members in _embedded(embed, cuts, scores):
        tokens = np.asarray(tokens)
        for maps, (found, _) in zip(tokens, members):
            held, parts = found, [*parts, maps]
            if len(parts) == len(found.at):
                whole = put_together(held, parts)
                parts = []
                if whole is not None:
                    yield whole, found.target, found.place


def _embedded(embed: Embed, cuts: Iterator, scores: Callable = lambda tokens: tokens) -> Iterator[tuple[np.ndarray, list]]:
    """(tokens or their scores [b, …], [(cut, which of its windows)]) of full batches of windows and the rest."""
    waiting = []

    def flush():
        pixels = np.stack([found.windows[number] for found, number in waiting])
        return np.asarray(scores(embed(pixels)))[:len(waiting)], list(waiting)
    for found in cuts:
        for number in range(len(found.at)):
            waiting.append((found, number))
            if len(waiting) == embed.batch:
                yield flush()
                waiting.clear()
    if waiting:
        yield flush()


def _filled(pixels, batch):
    return pixels if len(pixels) == batch else np.concatenate([pixels, np.repeat(pixels[-1:], batch - len(pixels), 0)])
