"""Views on the device: every augmentation is a pure function of images and explicit parameters, inside the jitted step.

    views = augment.make(size=32, blur=0.)          # checks its arguments once
    batch = views(key, batch)                       # uint8 canvases [B, S, S, 3] -> batch["views"] [B, V, size, size, 3]

The stream of one view, in order: crop (or squash) and flip, vertical flip and quarter turns, RandAugment, colour jitter, channel jitter, grey, blur, solarize, invert, channels
left out, normalise. Colours are of three channels; `mean` says how many there are, and what only RGB has is refused for others. Image i of the batch draws from
`fold_in(key, i)` only, so a view does not depend on the other images, on the batch size, or on how many devices share the batch.
"""
import jax
import jax.numpy as jnp

from jaxssl.augment import blur as blurring
from jaxssl.augment import channels, color, crop
from jaxssl.augment import randaugment as rand
from jaxssl.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
# Of matrix products: accelerators multiply float32 in fewer bits unless told otherwise, which is enough for bfloat16 views only.
PRECISION = {"float32": "highest", "bfloat16": "default"}
FLAGS = ("flip", "gray", "solarize", "invert")  # one draw each
ANY = ("channel_jitter", "channel_drop", "flip_vertical", "turns")  # of any channels, drawn by keys of their own


def make(
    *,
    size=32,
    views=2,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    squash=False,
    interpolation="bilinear",
    flip=0.5,
    randaugment=0,
    randaugment_magnitude=9,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    gray=0.2,
    blur=0.5,
    blur_sigma=(0.1, 2.0),
    blur_kernel=0,
    solarize=0.0,
    solarize_threshold=0.5,
    invert=0.0,
    flip_vertical=0.0,
    turns=0.0,
    channel_jitter=0.0,
    channel_brightness=0.2,
    channel_contrast=0.2,
    channel_drop=0.0,
    channel_keep: tuple[int, ...] = (),
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    low: tuple[float, ...] = (),
    high: tuple[float, ...] = (),
    dtype="float32",
    return_params=False,
):
    """Builds the function that turns a batch of canvases into views (SimCLR appendix A; BYOL appendix B).

    Args:
      size: side of a view in pixels.
      views: views of each image, V.
      crop_scale: range of the crop's share of the image area.
      crop_ratio: range of the crop's width / height.
      squash: the whole image, height and width each resized to `size`, in place of a crop; in evaluation too.
      interpolation: "bilinear" or "bicubic", both antialiased.
      randaugment: operations of RandAugment (`augment.randaugment`) one after another, 0 for none; randaugment_magnitude: of all of them, 0 to 30.
      flip, jitter, gray, blur, solarize, invert: probabilities, a float for all views or a tuple of one a view.
      flip_vertical, turns, channel_jitter, channel_drop: the same, of a mirror image top to bottom, of one to three quarter turns, of each channel's own brightness and contrast
        (`augment.channels`), and of each channel's being left out: it is its mean then.
      channel_brightness, channel_contrast: standard deviations of factors around 1, at least .5. channel_keep: channels that are never left out.
      brightness, contrast, saturation: jitter strengths s; factors are uniform in [max(0, 1 - s), 1 + s].
      hue: jitter strength in turns, at most .5.
      blur_sigma: range of the Gaussian's sigma in pixels.
      blur_kernel: its taps, odd; 0 means a tenth of `size`, made odd, at least 3.
      solarize_threshold: values at or above it are inverted.
      mean, std: of each channel, on the [0, 1] scale; so many channels the images have.
      low, high: the values of the images that become 0 and 1, one or one a channel; () are 0 and 255, of uint8 images.
      dtype: "float32" or "bfloat16", of the views and of what is stored between operations.
      return_params: also return what was drawn, as `view_params`.

    Returns:
      `f(key, batch) -> batch`: `image` uint8 [B, S, S, 3] and `size` int32 [B, 2] (height, width of the valid part; the whole canvas
      when absent) are replaced by `views` [B, V, size, size, 3]; other entries pass. With `return_params`, `view_params` holds
      crop {top, left, height, width}, flip, randaugment {op, sign}, jitter {order, brightness, …}, gray, blur (sigma), solarize, invert, all [B, V, …], and where one of
      them is on, channels {gain, contrast, dropped, flip_vertical, turn}.

    Raises:
      ValueError: an argument out of its range.
    """
    kernel = blur_kernel or max(3, 2 * (size // 20) + 1)
    probabilities = dict(flip=flip, jitter=jitter, gray=gray, blur=blur, solarize=solarize, invert=invert)
    _check_size(size, interpolation, mean, std, dtype, low, high)
    _check_channels(len(mean), randaugment, dict(jitter=jitter, gray=gray, solarize=solarize), (channel_brightness, channel_contrast), channel_keep)
    _check(1 <= views <= 1000, f"views={views}: from one to 1,000 views of each image.")
    _check_range("crop_scale", crop_scale, 0.0, 1.0)
    _check_range("crop_ratio", crop_ratio, 0.0)
    _check_range("blur_sigma", blur_sigma, 0.0)
    _check(0 <= randaugment <= 14, f"randaugment={randaugment}: from 0 to 14 operations one after another.")
    _check(0 <= randaugment_magnitude < rand.BINS, f"randaugment_magnitude={randaugment_magnitude}: a magnitude from 0 to {rand.BINS - 1}.")
    for name, s, most in (("brightness", brightness, None), ("contrast", contrast, None), ("saturation", saturation, None), ("hue", hue, 0.5)):
        _check(s >= 0 and (most is None or s <= most), f"{name}={s}: a jitter strength is not negative{f' and at most {most}' if most else ''}.")
    _check(blur_kernel >= 0 and kernel % 2 == 1, f"blur_kernel={blur_kernel}: expected an odd number of taps, or 0 for a tenth of the size.")
    _check(0 <= solarize_threshold <= 1, f"solarize_threshold={solarize_threshold}: expected a value between 0 and 1.")
    chance = {name: _per_view(name, p, views) for name, p in probabilities.items()}  # name -> [V], or None when never
    own = {name: _per_view(name, p, views) for name, p in zip(ANY, (channel_jitter, channel_drop, flip_vertical, turns))}
    own = {name: 0.0 if p is None else p for name, p in own.items()} if any(p is not None for p in own.values()) else {}
    if not any((brightness, contrast, saturation, hue)):
        chance["jitter"] = None
    taps = blurring.radius(kernel, blur_sigma[1])
    _check(chance["blur"] is None or taps < size, f"blur_kernel={kernel}: half of it must be smaller than size={size}.")

    def sample(key, valid):
        """Draws all parameters: valid [B, 2] -> dict of [B, V, …]."""
        draws = crop.DRAWS + len(FLAGS) + color.JITTER_DRAWS + blurring.DRAWS
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(valid)))
        u = jax.vmap(lambda k: jax.random.uniform(k, (views, draws)))(keys)  # [B, V, draws]
        ends = [crop.DRAWS, crop.DRAWS + len(FLAGS), draws - blurring.DRAWS]
        u_crop, u_flags, u_jitter, u_blur = jnp.split(u, ends, axis=-1)
        if squash:
            params = {"crop": crop.whole(jnp.broadcast_to(valid[:, None], (len(valid), views, 2)))}
        else:
            params = {"crop": crop.sample(u_crop, valid[:, None], scale=crop_scale, ratio=crop_ratio)}
        if randaugment:  # by keys of their own, so that the other draws are those without it
            apart = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
            params["randaugment"] = rand.sample(jax.vmap(lambda k: jax.random.uniform(k, (views, randaugment, rand.DRAWS)))(apart), randaugment)
        if own:
            apart = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
            params["channels"] = channels.sample(apart, views, len(mean), jitter=own["channel_jitter"], brightness=channel_brightness, contrast=channel_contrast,
                                                 drop=own["channel_drop"], keep=channel_keep, flip=own["flip_vertical"], turns=own["turns"])
        for i, name in enumerate(FLAGS):
            params[name] = u_flags[..., i] < (0.0 if chance[name] is None else chance[name])
        if chance["jitter"] is not None:
            params["jitter"] = color.sample_jitter(
                u_jitter, chance["jitter"], brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
            )
        params["blur"] = blurring.sample(u_blur, 0.0 if chance["blur"] is None else chance["blur"], sigma=blur_sigma)
        return params

    def apply(images, params):
        """[B, S, S, C] canvases and parameters of [B, V, …] -> [B, V, size, size, C]. An operation of probability 0 costs nothing."""
        precision = PRECISION[dtype]
        planes = crop.crop(images, params["crop"], params["flip"], size=size, interpolation=interpolation, precision=precision, low=low, high=high)
        if own:
            planes = channels.turned(planes, params["channels"]["flip_vertical"], params["channels"]["turn"])
        if randaugment:
            planes = rand.apply(planes, params["randaugment"], magnitude=randaugment_magnitude)
        planes = planes.astype(dtype)  # [B, V, C, size, size]
        if chance["jitter"] is not None:
            planes = color.jitter(planes, params["jitter"])
        if own:
            planes = channels.jitter(planes, params["channels"]["gain"], params["channels"]["contrast"])
        if chance["gray"] is not None:
            planes = color.gray(planes, params["gray"])
        if chance["blur"] is not None:
            planes = blurring.blur(planes, params["blur"], radius=taps, precision=precision)
        if chance["solarize"] is not None:
            planes = color.solarize(planes, params["solarize"], threshold=solarize_threshold)
        if chance["invert"] is not None:
            planes = color.invert(planes, params["invert"])
        if own:
            planes = channels.dropped(planes, params["channels"]["dropped"], mean)
        return jnp.moveaxis(color.normalize(planes, mean, std), -3, -1)

    def make_views(key, batch):
        rest = {k: v for k, v in batch.items() if k not in ("image", "size")}
        _check_images(batch["image"], mean)
        params = sample(key, _valid(batch))
        drawn = {"view_params": params} if return_params else {}
        return {"views": apply(batch["image"], params), **drawn, **rest}

    return make_views


def check(*, mean, std, **_) -> None:
    """What can be wrong in the section `augment` whatever the images are. Raises: UserError."""
    if len(mean) != len(std):
        raise UserError(f"augment.std has {len(std)} numbers and augment.mean has {len(mean)} numbers; give one a channel of each, so three for RGB")


def unread(*, jitter, blur, solarize, randaugment=0, squash=False, channel_jitter=0.0, channel_drop=0.0, **_):
    """{probability that is 0, or key as it is set: keys that nothing reads then}."""
    never = {"jitter": ("brightness", "contrast", "saturation", "hue"), "blur": ("blur_sigma", "blur_kernel"), "solarize": ("solarize_threshold",),
             "channel_jitter": ("channel_brightness", "channel_contrast"), "channel_drop": ("channel_keep",)}
    probabilities = {"jitter": jitter, "blur": blur, "solarize": solarize, "channel_jitter": channel_jitter, "channel_drop": channel_drop}
    found = {name: never[name] for name, p in probabilities.items() if not any(p if isinstance(p, tuple) else (p,))}
    return {**found, **({} if randaugment else {"randaugment": ("randaugment_magnitude",)}), **({"squash": ("crop_scale", "crop_ratio")} if squash else {})}


def pair(whole, local, *, dtype="float32", return_params=False):
    """Views of two sizes: `make(**whole)` and, where `local["views"]` is not 0, `make(**local)` beside it (multi-crop, arXiv:2006.09882).

    Returns: `f(key, batch) -> batch` as `make` does, with `local` [B, L, size, size, 3] (and `local_params`) where there are some.

    Raises:
      ValueError: an argument out of its range; begins with the section that it is of.
    """
    views = _section("augment", whole, dtype, return_params)
    if not local["views"]:
        return views
    if tuple(whole["mean"]) != tuple(local["mean"]) or tuple(whole["std"]) != tuple(local["std"]):
        raise ValueError(f"local.mean={local['mean']}, local.std={local['std']}: expected those of augment, {whole['mean']} and {whole['std']}, since one encoder sees both.")
    for key in ("low", "high"):
        if tuple(whole.get(key, ())) != tuple(local.get(key, ())):
            raise ValueError(f"local.{key}={local.get(key)}: expected that of augment, {whole.get(key)}, since one encoder sees both.")
    crops = _section("local", local, dtype, return_params)

    def make_views(key, batch):
        one, other = jax.random.split(key)
        small = crops(other, batch)
        drawn = {"local_params": small["view_params"]} if return_params else {}
        return {**views(one, batch), "local": small["views"], **drawn}

    return make_views


def _section(name, options, dtype, return_params):
    try:
        return make(**options, dtype=dtype, return_params=return_params)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error


def test_view(*, size=32, resize=0, squash=False, interpolation="bilinear", mean=MEAN, std=STD, low=(), high=(), dtype="float32"):
    """Builds the evaluation transform: short side of the valid part to `resize`, centre crop, normalise; with `squash`, both sides of it to `size`.

    Args:
      size: side of the result in pixels.
      resize: target of the short side; 0 means `size`·8/7 from 128 pixels on (256 for 224), else `size`.

    Returns:
      `f(batch) -> [B, size, size, C]` of the batch's `image` and `size`.

    Raises:
      ValueError: an argument out of its range.
    """
    resize = size if squash else resize or (size * 8 // 7 if size >= 128 else size)
    _check_size(size, interpolation, mean, std, dtype, low, high)
    _check(resize >= size, f"resize={resize}: the short side must be at least size={size}.")

    def view(batch):
        _check_images(batch["image"], mean)
        if squash:
            box = crop.whole(_valid(batch)[:, None])
            planes = crop.crop(batch["image"], box, jnp.zeros_like(box["top"], bool), size=size, interpolation=interpolation, precision=PRECISION[dtype], low=low, high=high)[:, 0]
            return jnp.moveaxis(color.normalize(planes, mean, std), -3, -1).astype(dtype)
        planes = crop.resize_center(
            batch["image"], _valid(batch), resize=resize, size=size, interpolation=interpolation, precision=PRECISION[dtype], low=low, high=high
        )
        return jnp.moveaxis(color.normalize(planes, mean, std), -3, -1).astype(dtype)

    return view


test_view.__test__ = False  # pytest collects names that begin with test_


def _valid(batch):
    """[B, 2] height and width of the valid part."""
    if "size" in batch:
        return batch["size"]
    b, height, width, _ = batch["image"].shape
    return jnp.broadcast_to(jnp.array([height, width]), (b, 2))


def _per_view(name, probability, views):
    """A float or one float a view -> a float or float32 [V]; None when it is 0 for all."""
    values = list(probability) if isinstance(probability, (tuple, list)) else [probability]
    _check(len(values) in (1, views), f"{name}={probability}: expected one probability, or {views}, one a view.")
    _check(all(0 <= p <= 1 for p in values), f"{name}={probability}: a probability lies between 0 and 1.")
    return jnp.asarray(values, jnp.float32) if any(values) else None


def _check_images(images, mean):
    _check(images.shape[-1] == len(mean), f"mean={tuple(mean)}: {len(mean)} numbers for images of {images.shape[-1]} channels; give one a channel, and so many of std.")


def _check_channels(count, randaugment, colours, factors, keep):
    """What only three channels have is off for others."""
    on = [f"{name}=0" for name, p in {**colours, "randaugment": randaugment}.items() if any(p if isinstance(p, (tuple, list)) else (p,))]
    _check(count == 3 or not on, f"mean: {count} channel{'s' if count > 1 else ''}, and colour jitter, grey, solarize and RandAugment are of RGB; set {', '.join(on)}, and "
           "channel_jitter, channel_drop, flip_vertical or turns in their place.")
    _check(all(0 <= s <= 10 for s in factors), f"channel_brightness={factors[0]}, channel_contrast={factors[1]}: standard deviations from 0 to 10.")
    _check(all(0 <= c < count for c in keep), f"channel_keep={keep}: channels are numbered from 0 to {count - 1}.")


def _check_size(size, interpolation, mean, std, dtype, low=(), high=()):
    _check(size >= 1, f"size={size}: a view has at least one pixel.")
    _check(interpolation in crop.SUPPORT, f"interpolation={interpolation!r}: expected one of {', '.join(crop.SUPPORT)}.")
    _check(dtype in PRECISION, f"dtype={dtype!r}: expected float32 or bfloat16.")
    _check(len(mean) == len(std) > 0 and all(s > 0 for s in std), f"mean={mean}, std={std}: expected a number each for every channel (three for RGB), std above 0.")
    _check(len(low) == len(high) and len(low) in (0, 1, len(mean)) and all(a < b for a, b in zip(low, high)),
           f"low={low}, high={high}: expected one number each or one a channel, low below high, or () for 0 and 255.")


def _check_range(name, pair, above, most=None):
    ordered = len(pair) == 2 and above < pair[0] <= pair[1] and (most is None or pair[1] <= most)
    bounds = f"{above:g} < low <= high" + ("" if most is None else f" <= {most:g}")
    _check(ordered, f"{name}={pair}: expected (low, high) with {bounds}.")


def _check(holds, message):
    if not holds:
        raise ValueError(message)
