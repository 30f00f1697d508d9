"""The arithmetic of a traced program, by the shapes of its products: the same number on every backend and any number of devices."""
import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def count(jaxpr: core.Jaxpr) -> int:
    """FLOPs of the matrix products and convolutions in `jaxpr`, two for each multiply-add, on all devices together; loops of known length multiplied out.

    Nothing else is counted (norms, activations, sums: a few per cent; a norm computed by products is, `models.product_norm`: 6 % of ResNet-50), nor the
    zeros between the dilated inputs of a strided convolution's gradient. A `while` loop counts once, of a `cond` its longest branch.
    XLA's own analysis would not do: of a compiled program it misses what a GPU's libraries compute, and of a lowered one JAX offers it on the CPU only.
    """
    total = 0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            left, contracted = eqn.invars[0].aval.shape, eqn.params["dimension_numbers"][0][0]
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)
        elif name == "conv_general_dilated":
            total += _convolution(eqn)
        elif inner := [count(part) for part in _parts(eqn.params)]:
            total += _times(eqn) * (max(inner) if name == "cond" else sum(inner))
    return total


def _convolution(eqn: core.JaxprEqn) -> int:
    kernel, order = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec     # order: output features, input features, space
    terms = math.prod(kernel[d] for d in order[1:])
    return 2 * math.prod(eqn.outvars[0].aval.shape) * terms // math.prod(eqn.params["lhs_dilation"])


def _times(eqn: core.JaxprEqn) -> int:
    """How often the programs inside an equation run."""
    if eqn.primitive.name == "scan":
        return eqn.params["length"]
    if eqn.primitive.name == "shard_map":
        return eqn.params["mesh"].size               # each device runs it on its part; every axis of the mesh is manual in this program's shard_maps
    return 1


def _parts(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                yield getattr(item, "jaxpr", item)
