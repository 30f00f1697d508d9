"""Our own format: one safetensors file with our names, encoder and heads, and the config in its metadata. `jaxssl.load` opens it."""
from pathlib import Path

import numpy as np

from jaxssl import tree
from jaxssl.encoder.formats import files, records


def write(encoder, folder: Path) -> None:
    save(encoder, folder / files.WEIGHTS)


def save(encoder, file: Path) -> None:
    """Everything that the encoder holds, in `file`."""
    tensors = {name: np.ascontiguousarray(array) for name, array in tree.names(encoder.variables).items()}
    files.write(file, tensors, records.metadata(encoder, "safetensors", encoder.variables))


def usage(encoder, folder: Path) -> tuple[str, str]:
    """Code that makes an encoder of the folder, and code that makes `features` [B, D] of `images`, uint8 [B, H, W, 3] or a list of different sizes."""
    return f"import jaxssl\n\nencoder = jaxssl.load({str(folder)!r})", "features = encoder(images)"


def feed(x: np.ndarray, pixels: list):
    return pixels
