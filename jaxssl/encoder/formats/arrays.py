"""Images on their way into other libraries, which are imported only when a check needs them."""
import numpy as np

from jaxssl.encoder.formats import files


def planes(x: np.ndarray) -> np.ndarray:
    """[B, H, W, 3] as contiguous [B, 3, H, W]."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def tensor(x: np.ndarray):
    """Normalised [B, H, W, 3] as a torch tensor [B, 3, H, W]."""
    return files.library("torch", "checking this export").from_numpy(planes(x))


def picture(image: np.ndarray):
    """uint8 [h, w, 3] as a PIL image."""
    from PIL import Image
    return Image.fromarray(image)
