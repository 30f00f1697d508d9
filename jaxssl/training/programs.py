"""How the programs of a run are compiled: their options, and those that a run needs before its first step."""
import os
from typing import Any

import jax
from jax.sharding import Mesh

from jaxssl import tree
from jaxssl.parallel import mesh as sharding

# XLA for TPUs copies arrays from HBM to the chip ahead of their use, by default also where one operation then reads the copy once and nothing is won.
# Here what uses a copy must move four times its bytes. Measured on the ImageNet recipe, v5e:4x4, with ratios of 1.5, 2.5 and 4: 4.31, 4.14 and 4.10 GB to
# or from HBM a step, 14.7, 13.8 and 13.6 GB as XLA counts bytes.
TPU_OPTIONS = {"xla_tpu_msa_inefficient_use_to_copy_ratio": 4.0}
# XLA for CPUs: the first weights are drawn once, and optimizing the code that draws them cost half as much as the step. At this level a fifth;
# the last bits of some draws are others than at a higher one, and the same on all machines with fused multiply-add, as there (benchmarks/compile_init.py).
INIT_OPTIONS = {"xla_backend_optimization_level": 0}


def init_options(mesh: Mesh) -> dict | None:
    """`INIT_OPTIONS` on CPUs, unless XLA_FLAGS chooses a level."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return INIT_OPTIONS if on_cpu and not any(name in os.environ.get("XLA_FLAGS", "") for name in INIT_OPTIONS) else None


def compiled(lowered: Any, mesh: Mesh) -> Any:
    """The executable of a lowered step, with `TPU_OPTIONS` on a mesh of TPUs, as far as the installed compiler knows them."""
    if mesh.devices.flat[0].platform != "tpu":
        return lowered.compile()
    try:
        return lowered.compile(TPU_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()


def executables(steps: tuple, shapes: tuple, shardings: tuple, mesh: Mesh) -> tuple[list, Any]:
    """The compiled train steps of (state, batch), ahead of time, so that none can be traced again; and what looks at every array of a state (`tree.finite`), which a stop has no
    time to compile."""
    given = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
    return [compiled(step.lower(*given), mesh) for step in steps], jax.jit(tree.finite, out_shardings=sharding.replicated(mesh)).lower(given[0]).compile()
