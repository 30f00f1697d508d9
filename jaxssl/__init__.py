"""jaxssl: self-supervised and metric-learning pre-training of image encoders in JAX."""
__version__ = "0.1.0"
