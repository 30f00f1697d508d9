"""jaxssl: self-supervised and metric-learning pre-training of image encoders in JAX."""
__version__ = "0.1.0"


def load(path, *, weights="", precision="f32"):
    """The encoder in a workdir, an export or a file of weights; see `jaxssl.encoder.load.load`. `encoder(images)` gives features."""
    from jaxssl.encoder import load as loading      # jax is imported only when an encoder is wanted
    return loading.load(path, weights=weights, precision=precision)
