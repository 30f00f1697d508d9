"""The arithmetic of an encoder: the one table of `precision`."""
import jax.numpy as jnp

from jaxssl.errors import UserError, nearest

DTYPES = {"bf16": jnp.bfloat16, "f32": jnp.float32}


def dtype(precision: str) -> jnp.dtype:
    """What "bf16" or "f32" stands for. Raises: UserError."""
    if precision not in DTYPES:
        raise UserError(f"precision is {precision!r}{nearest(precision, DTYPES)}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[precision]
