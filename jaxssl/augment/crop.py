"""Random resized crop, flip and the evaluation resize: antialiased resampling of a canvas.

A resize is linear and separable, so a crop is two small products, rows then columns, whose weights carry the crop box, the
antialiasing filter and the mirror image at once. Accelerators run them as matrix products. A CPU runs the same weights as a few
gathered rows for each output row once the canvas is large (measured at 224 px from 288: 1.0 ms against 5.7 ms for two views).
"""
import math

import jax
import jax.numpy as jnp

DRAWS = 22  # uniform numbers a crop consumes: area and ratio of ten tries, then top and left
TRIES = 10
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # half width of the filter, in output pixels when shrinking
DENSE = 64  # canvases up to this size are cheaper as matrix products on a CPU too


def sample(u, size, *, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """Draws crop boxes as torchvision's `RandomResizedCrop.get_params` does: ten tries, then the largest central crop.

    Args:
      u: [..., 22] uniform numbers in [0, 1).
      size: [..., 2] height and width of the valid part of the canvas, in pixels.
      scale: range of the box's area as a share of the valid area.
      ratio: range of width / height, drawn log-uniformly.

    Returns:
      dict of int32 arrays [...]: top, left, height, width, in canvas pixels, inside the valid part.
    """
    height, width = (size[..., i].astype(jnp.float32) for i in (0, 1))  # [...]
    area = (height * width)[..., None] * (scale[0] + u[..., :TRIES] * (scale[1] - scale[0]))  # [..., 10]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = jnp.exp(low + u[..., TRIES : 2 * TRIES] * (high - low))  # [..., 10]
    w = jnp.round(jnp.sqrt(area * aspect))  # half to even, as Python's round
    h = jnp.round(jnp.sqrt(area / aspect))
    fits = (0 < w) & (w <= width[..., None]) & (0 < h) & (h <= height[..., None])
    first = fits & (jnp.cumsum(fits, -1) == 1)  # one-hot of the first try that fits, or all false

    shape = width / height
    wide, tall = shape > ratio[1], shape < ratio[0]
    central_w = jnp.where(wide, jnp.round(height * ratio[1]), width)
    central_h = jnp.where(tall, jnp.round(width / ratio[0]), height)
    found = jnp.any(fits, -1)
    w = jnp.where(found, jnp.sum(first * w, -1), jnp.minimum(central_w, width))
    h = jnp.where(found, jnp.sum(first * h, -1), jnp.minimum(central_h, height))
    top = jnp.where(found, jnp.floor(u[..., -2] * (height - h + 1)), (height - h) // 2)
    left = jnp.where(found, jnp.floor(u[..., -1] * (width - w + 1)), (width - w) // 2)
    return {k: v.astype(jnp.int32) for k, v in dict(top=top, left=left, height=h, width=w).items()}


def whole(size):
    """The box of all there is, of size [..., 2] height and width of the valid part; see `sample`."""
    zero = jnp.zeros(size.shape[:-1], jnp.int32)
    return {"top": zero, "left": zero, "height": size[..., 0].astype(jnp.int32), "width": size[..., 1].astype(jnp.int32)}


def crop(images, box, flip, *, size, interpolation="bilinear", form="auto", precision="highest", low=(), high=()):
    """Cuts boxes out of canvases, resizes them to squares and mirrors them where asked.

    Args:
      images: [B, S, S, C] uint8, values 0 to 255; or any numbers with `low` and `high`.
      box: dict of [B, V] arrays as `sample` returns.
      flip: [B, V] bool, mirror left-right.
      size: side of the output in pixels.
      interpolation: "bilinear" or "bicubic", antialiased as in Pillow.
      form: "dense" (matrix products), "taps" (gathered rows) or "auto" (what is faster on the platform).
      precision: of the matrix products, where float32 can be multiplied in fewer bits; "default" is enough for bfloat16 views.
      low, high: the values that become 0 and 1, one or one a channel; () are 0 and 255.

    Returns:
      [B, V, C, size, size] float32 planes in [0, 1].
    """
    canvas = images.shape[1]

    def axis(start, extent, mirror):
        return _filter(start, extent, extent / size, jnp.zeros_like(start), mirror, size, canvas, canvas / size, interpolation)

    return _resample(
        images, axis(box["top"], box["height"], jnp.zeros_like(flip)), axis(box["left"], box["width"], flip), form, precision, (low, high)
    )


def resize_center(images, valid, *, resize, size, interpolation="bilinear", form="auto", precision="highest", low=(), high=()):
    """Resizes the short side of the valid part to `resize` and cuts the central `size` square: `Resize` then `CenterCrop`.

    Args:
      images, low, high: as for `crop`.
      valid: [B, 2] height and width of the valid part.
      resize: target of the short side, at least `size`.

    Returns:
      [B, C, size, size] float32 planes in [0, 1].
    """
    canvas = images.shape[1]
    short = jnp.min(valid, -1)

    def axis(extent):
        target = resize * extent // short  # torchvision truncates the long side
        offset = jnp.round((target - size) / 2)  # and rounds the margin half to even
        zero = jnp.zeros_like(extent)
        limit = canvas / max(resize - 1, 1)  # the truncated long side shrinks a little more than canvas / resize
        parts = (zero, extent, extent / target, offset, zero.astype(bool))
        return _filter(*(p[:, None] for p in parts), size, canvas, limit, interpolation)

    return _resample(images, axis(valid[:, 0]), axis(valid[:, 1]), form, precision, (low, high))[:, 0]


def _filter(start, extent, scale, offset, mirror, size, canvas, limit, interpolation):
    """Both forms of one axis's weights, as functions, so that only the chosen one is traced into the program.

    start, extent, scale (source pixels per output pixel), offset (in output pixels), mirror: [B, V]; `limit` bounds `scale`.
    """
    o = jnp.arange(size)
    o = jnp.where(mirror[..., None], size - 1 - o, o) + offset[..., None]
    center = (o + 0.5) * scale[..., None]  # [B, V, size], in source pixels after `start`
    shrink = jnp.maximum(scale, 1.0)[..., None, None]  # the filter widens when shrinking: antialiasing

    def weigh(position):  # [..., K] source pixel after start -> weights, 0 outside the box
        w = _kernel((position + 0.5 - center[..., None]) / shrink, interpolation)
        w = jnp.where((position >= 0) & (position < extent[..., None, None]), w, 0.0)
        return w / jnp.sum(w, -1, keepdims=True)

    def dense():  # [B, V, size, canvas]
        return weigh(jnp.arange(canvas) - start[..., None, None])

    def taps():  # indices [B, V, size, K] into the canvas, weights [B, V, size, K]
        radius = SUPPORT[interpolation] * shrink[..., 0]
        count = math.ceil(2 * SUPPORT[interpolation] * max(limit, 1.0))
        position = jnp.floor(center - radius + 0.5)[..., None] + jnp.arange(count)
        weights = weigh(position)
        index = jnp.clip(position.astype(jnp.int32) + start[..., None, None], 0, canvas - 1)
        return index, weights

    return dense, taps


def _kernel(x, interpolation):
    x = jnp.abs(x)
    if interpolation == "bilinear":
        return jnp.maximum(1.0 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1.0  # Keys' cubic with a = -1/2, as Pillow and torchvision's antialiased bicubic
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


def _resample(images, rows, columns, form, precision, ends):
    """[B, S, S, C] and both axes' filters -> [B, V, C, size, size] in [0, 1], from ends = (low, high) (bicubic overshoots: clipped)."""
    if images.dtype != jnp.uint8 and not ends[1]:
        raise ValueError(f"high=(): images are {images.dtype}, whose black and white are not known; give low and high, the values that become 0 and 1.")
    low, high = (jnp.asarray(end, jnp.float32).reshape(-1, 1, 1) for end in ends)

    def dense(images):
        planes = jnp.moveaxis(images, -1, 1).astype(jnp.float32)  # [B, C, S, S]
        planes = jnp.einsum("bvyh,bchw->bvcyw", rows[0](), planes, precision=precision)
        return jnp.einsum("bvcyw,bvxw->bvcyx", planes, columns[0](), precision=precision)

    def taps(images):
        planes = _barrier(images.transpose(0, 2, 3, 1))  # [B, W, C, H]: a column of the image is one row of memory
        planes = jax.vmap(jax.vmap(_gather, (None, 0, 0)))(planes, *columns[1]())  # [B, V, x, C, H]
        planes = _barrier(_barrier(planes).transpose(0, 1, 3, 4, 2))  # [B, V, C, H, x]
        over_planes = jax.vmap(_gather, (0, None, None))
        return jax.vmap(jax.vmap(over_planes))(planes, *rows[1]())  # [B, V, C, y, x]

    forms = {"dense": dense, "taps": taps}
    if form == "auto" and images.shape[1] > DENSE:
        planes = jax.lax.platform_dependent(images, cpu=taps, default=dense)
    else:
        planes = forms["dense" if form == "auto" else form](images)
    return jnp.clip((planes - low) / (high - low) if ends[1] else planes / 255.0, 0.0, 1.0)


def _gather(rows, index, weights):
    """[S, ...] rows, index and weights [n, K] -> [n, ...]: each output row is a weighted sum of K rows."""
    spread = (slice(None),) + (None,) * (rows.ndim - 1)
    total = 0.0
    for k in range(index.shape[-1]):
        total += rows.at[index[:, k]].get(mode="promise_in_bounds").astype(jnp.float32) * weights[:, k][spread]
    return total


# Without it XLA's CPU backend fuses the transpose into the gather and reads with a stride.
_barrier = jax.lax.optimization_barrier
