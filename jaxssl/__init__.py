"""jaxssl: self-supervised and metric-learning pre-training of image encoders in JAX."""
import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:      # `python -m jaxssl.COMMAND`, whose modules are about to be imported, in whatever order
    from jaxssl import command, startup
    sys.excepthook = command.refused_at_import
    startup.of_commands()


def load(path, *, weights="", precision="f32"):
    """The encoder in a workdir, an export or a file of weights; see `jaxssl.encoder.load.load`. `encoder(images)` gives features.

    Where JAX has not started yet, XLA_FLAGS gets a flag against a fault of XLA, if this version has that fault (`jaxssl.startup`).
    """
    from jaxssl import startup
    startup.of_library(precision)
    from jaxssl.encoder import load as loading      # jax is imported only when an encoder is wanted
    return loading.load(path, weights=weights, precision=precision)
