"""What JAX and XLA read of the environment, once, as they start: set before that, for every command as the package is imported and for the library as it loads an encoder."""
import importlib.util
import os
import pkgutil
import re
import sys
import warnings

import jaxlib.version

# What draws the random numbers and how products round: fixed in commands, whatever the environment says, since the same command must give the same run.
FIXED = {"jax_default_prng_impl": "threefry2x32", "jax_threefry_partitionable": True, "jax_enable_x64": False, "jax_default_matmul_precision": None,
         "jax_numpy_dtype_promotion": "standard", "jax_random_seed_offset": 0}

# Flags of XLA, and the versions of jaxlib, from and below, that are known to have them: an unknown flag ends the process.
# No product is fused into a kernel of Triton: as XLA looks what it could fuse, a strided slice before a product ends the process (openxla/xla issue 47381).
_UNFUSED = "--xla_gpu_enable_triton_gemm=false", (0, 10), (0, 12)
# No product or convolution on CPUs by YNNPACK: the bfloat16 features of a ResNet then hold values that are not finite, and others at every call (jaxlib 0.11.2).
_UNFUSED_ON_CPUS = "--xla_cpu_experimental_ynn_fusion_type=", (0, 11), (0, 12)


_SAID: set[str] = set()


def of_commands() -> None:
    """For a process that is a command of ours, before it imports JAX: without the variables that would change `FIXED`, and with flags against faults of XLA."""
    for name in FIXED:
        os.environ.pop(name.upper(), None)
    against_faults()


def against_faults() -> None:
    """Flags against faults of XLA, before JAX looks for its devices; what the user set stays."""
    add(*_UNFUSED_ON_CPUS)
    if nvidia():
        add(*_UNFUSED)


def of_library(precision: str) -> None:
    """The same for a process of somebody else, who wants an encoder that computes in `precision`. Where JAX has started, nothing is set, and what may go wrong is said once."""
    backend = sys.modules.get("jax._src.xla_bridge")
    if not backend or not backend.backends_are_initialized():
        return against_faults()
    platform = sys.modules["jax"].default_backend()
    for told, (flag, *versions), wrong in (
            (platform == "cpu" and precision == "bf16", _UNFUSED_ON_CPUS, "features in bfloat16 may differ from call to call and hold numbers that are not finite"),
            (platform == "gpu", _UNFUSED, "XLA may end the process as it compiles an encoder")):
        if told and _missing(flag, *versions) and flag not in _SAID:
            _SAID.add(flag)
            warnings.warn(f"JAX had started before an encoder was loaded, so that XLA does not know {flag!r}, without which, in jaxlib {jaxlib.version.__version__}, {wrong}; "
                          "load the encoder before anything is computed, or set XLA_FLAGS before Python starts", RuntimeWarning, stacklevel=3)


def nvidia() -> bool:
    """Whether JAX may compute on NVIDIA GPUs, told without starting it: a plugin of CUDA is installed, and JAX_PLATFORMS leaves it in."""
    found = importlib.util.find_spec("jax_plugins")
    names = [module.name for module in pkgutil.iter_modules(found.submodule_search_locations or ())] if found else []
    asked = (sys.modules["jax"].config.jax_platforms if "jax" in sys.modules else os.environ.get("JAX_PLATFORMS")) or "cuda"
    return any(name.startswith("xla_cuda") for name in names) and any(name.strip() in ("cuda", "gpu") for name in asked.split(","))


def add(flag: str, first: tuple[int, int], below: tuple[int, int]) -> None:
    """Adds a flag to XLA_FLAGS where this jaxlib knows it, unless it is set already, or XLA_FLAGS names a file of flags."""
    if _missing(flag, first, below):
        os.environ["XLA_FLAGS"] = f"{_given()} {flag}".strip()


def _missing(flag, first, below):
    return first <= jaxlib.version.__version_info__[:2] < below and _given()[:1] in ("", "-") and not re.search(rf"{flag.partition('=')[0]}\b", _given())


def _given():
    return os.environ.get("XLA_FLAGS", "").strip()
