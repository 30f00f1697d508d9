"""How images reach a trained encoder: its test-time transform, and the canvases that the transform takes."""
import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxssl.errors import UserError

LARGEST = 2     # images above so many times the resize target are resized and cropped on the host


def of(config: dict) -> dict:
    """size, resize (target of the short side), interpolation, mean, std (of pixels in [0, 1]) by a resolved config, or by that of weights from elsewhere; squash, true, where
    height and width are each resized to `size` instead, and resize is that too; low and high, the values that become 0 and 1, where they are not 0 and 255."""
    a = config["augment"]
    size, squash = a["size"], a.get("squash", False)                           # a workdir from before that key has none
    resize = size if squash else a.get("resize") or (size * 8 // 7 if size >= 128 else size)      # stated beside weights from elsewhere only
    return {"size": size, "resize": resize, "interpolation": a["interpolation"], "mean": tuple(a["mean"]), "std": tuple(a["std"]), **({"squash": True} if squash else {}),
            **({"low": tuple(a["low"]), "high": tuple(a["high"])} if a.get("high") else {})}


def channels(config: dict) -> int:
    """C of the images that a resolved config's encoder takes."""
    return len(config["augment"]["mean"])


def check(config: dict) -> None:
    """Raises: UserError when the preprocessing of `config` cannot be applied."""
    from jaxssl import augment      # here, so that processes which only decode go without JAX
    try:
        augment.test_view(**of(config))
    except ValueError as error:
        raise UserError(f"the preprocessing of these weights cannot be applied ({str(error).rstrip('.')}); state another with python -m jaxssl.convert and its "
                        "--size, --mean, --std or --interpolation") from error


def placed(images: Sequence[np.ndarray], preprocessing: dict, side: int) -> dict:
    """uint8 images [h, w, C] as a batch for `Encoder.view`: image uint8 [B, side, side, C], each top-left on black, and size int32 [B, 2]; float32 where there are `low`
    and `high`.

    `side`, as the function of that name gives it, holds every image that is `prepared`.
    """
    kind = np.float32 if preprocessing.get("high") else np.uint8
    out, sizes = np.zeros((len(images), side, side, len(preprocessing["mean"])), kind), np.zeros((len(images), 2), np.int32)
    for place, image in enumerate(images):
        image = prepared(np.asarray(image), preprocessing)
        height, width = sizes[place] = image.shape[:2]
        out[place, :height, :width] = image
    return {"image": out, "size": sizes}


def side(images: Sequence[np.ndarray], preprocessing: dict) -> int:
    """The side of the smallest canvas that `placed` fits these images on."""
    return max(preprocessing["resize"] if _large(image, preprocessing) else max(image.shape[:2]) for image in images)


def before(preprocessing: dict, canvas: int) -> Callable | None:
    """`prepared` for a data pipeline with canvases of this side, or None where they are smaller than LARGEST times the resize target: such images are fitted
    into the canvas as training does, which is all that it ever saw of them."""
    return functools.partial(prepared, preprocessing=preprocessing) if canvas >= LARGEST * preprocessing["resize"] else None


def prepared(image: np.ndarray, preprocessing: dict) -> np.ndarray:
    """[h, w, C] as it is, up to LARGEST times the resize target; a larger one goes through `middle`."""
    return middle(image, preprocessing) if _large(image, preprocessing) else image


def middle(image: np.ndarray, preprocessing: dict) -> np.ndarray:
    """[resize, resize, C] in the type of `image` [h, w, C] of which `Encoder.view` only cuts its centre crop: the short side of `image` resized to `resize`, its middle along the
    long one; all of it where views are squashed.

    The filter is Pillow's, antialiased and rounded to 8 bits, as in torchvision's and timm's transforms; the offsets are those of the view.
    """
    from PIL import Image
    resize, size = preprocessing["resize"], preprocessing["size"]
    kind = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[preprocessing["interpolation"]]
    if preprocessing.get("squash"):
        return _resized(image, (size, size), kind, None)
    box = []                                                                    # top, bottom, left, right in pixels of the image
    for extent in image.shape[:2]:
        target = resize * extent // min(image.shape[:2])
        offset = round((target - size) / 2) - round((resize - size) / 2)        # of the middle, so that the crop of size `size` begins where the view's would
        box.append((offset * extent / target, (offset + resize) * extent / target))
    (top, bottom), (left, right) = box
    return _resized(image, (resize, resize), kind, (left, top, min(right, image.shape[1]), min(bottom, image.shape[0])))


def _resized(image, size, kind, box):
    from PIL import Image
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(size, kind, box=box))
    out = np.stack([np.asarray(Image.fromarray(plane).resize(size, kind, box=box)) for plane in np.ascontiguousarray(np.moveaxis(image, -1, 0), np.float32)], -1)
    return out if image.dtype.kind == "f" else np.clip(np.rint(out), 0, np.iinfo(image.dtype).max).astype(image.dtype)


def _large(image, preprocessing):
    return max(image.shape[:2]) > LARGEST * preprocessing["resize"]
