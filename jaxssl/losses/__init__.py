"""Losses: plain functions on global arrays, `jax.numpy` in, scalar (and metrics) out; no config, no flax."""
