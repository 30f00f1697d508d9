"""StableHLO through `jax.export`: one program for CPU, CUDA and TPU, weights included, with a batch of any size.

Such a file is for serving, not for keeping: it loads within a compatibility window, so the weights lie beside it in our own format.
"""
import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxssl.encoder.formats import files, safetensors

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write(encoder, folder: Path) -> None:
    """`model.stablehlo`, which takes normalised float32 [b, size, size, 3], and the weights beside it."""
    files.library("flatbuffers", "exporting to StableHLO")      # which jax.export writes with, and does not depend on
    variables, size = jax.tree.map(jnp.asarray, encoder.variables), encoder.preprocessing["size"]
    batch, = jax.export.symbolic_shape("b")
    program = jax.export.export(jax.jit(lambda images: encoder.forward(variables, images)[0]), platforms=PLATFORMS)
    with jax.default_matmul_precision("highest"), unlocated():      # the precision is the program's own: elsewhere it computes as it did in the check
        made = program(jax.ShapeDtypeStruct((batch, size, size, len(encoder.preprocessing["mean"])), jnp.float32))
    (folder / FILE).write_bytes(made.serialize())
    safetensors.write(encoder, folder)


@contextlib.contextmanager
def unlocated() -> Iterator[None]:
    """Programs that are lowered inside name no source file: an export tells no folder of this machine."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def notes(encoder, folder: Path) -> list[str]:
    """The compatibility window (docs.jax.dev, "Exporting and serializing", compatibility guarantees), for the screen and the card."""
    made = jax.export.deserialize(bytearray((folder / FILE).read_bytes()))
    return [f"written by jax {jax.__version__}, calling convention {made.calling_convention_version} (this jax reads "
            f"{jax.export.minimum_supported_calling_convention_version} to {jax.export.maximum_supported_calling_convention_version}), for {', '.join(made.platforms)}",
            f"compatibility window: releases of jax up to 6 months newer than {jax.__version__} read this file, and those up to 3 weeks older; after that, "
            "export again from model.safetensors beside it"]


def usage(encoder, folder: Path) -> tuple[str, str]:
    """Code that opens the file, and code that makes `features` [B, D] of `images`, normalised float32 [B, size, size, 3]."""
    return (f"import pathlib\n\nimport jax.export\n\nprogram = jax.export.deserialize(bytearray(pathlib.Path({str(folder / FILE)!r}).read_bytes()))",
            "features = program.call(images)")


def feed(x: np.ndarray, pixels: list):
    return x
