"""Opens a trained encoder: a workdir, an export, or one file of weights."""
import os

from jaxssl.workdir import folder as folders, sources
from jaxssl.encoder import formats as interop
from jaxssl import models
from jaxssl.encoder import WEIGHTS, Encoder, Origin, build, method, understood
from jaxssl.errors import UserError, nearest
from jaxssl.methods.base import Method


def load(path: str, *, weights: str = "", precision: str = "f32") -> Encoder:
    """The encoder in a workdir, an export folder, or one file of weights (ours, or the layout of torchvision, timm, transformers or SimCLR; DINO's, DINOv2's, DeiT's,
    MAE's and MoCo v3's are timm's).

    weights: of a workdir with a moving average, "student" or "teacher" ("" is the teacher). A file holds one of them; another one is refused.
    precision: of the arithmetic, "f32" or "bf16". Raises: UserError: nothing there, damaged, changed since its export, incomplete, or unknown.
    """
    path = str(path)
    if "://" in path or interop.is_workdir(path):
        return from_workdir(path, weights=weights, precision=precision)
    with understood(path):
        found = interop.read(path)
        interop.demand(found)
    if weights and weights != found.weights:
        raise UserError(f"{path} holds the {found.weights}, not the {weights}; export the {weights} from the workdir" if weights in WEIGHTS else
                        f"weights {weights!r} is not one of {', '.join(WEIGHTS)}{nearest(weights, WEIGHTS)}")
    with understood(path):
        return build(found.config, found.variables, name=found.name, weights=found.weights, step=found.step, precision=precision,
                     origin=Origin(found.layout, found.used, found.unused, found.assumed, found.notes, found.replaced, found.licence))


def from_workdir(workdir: str, *, weights: str = "", step: int | None = None, precision: str = "f32") -> Encoder:
    """The encoder in a checkpoint of a run: its newest, or that of `step`.

    weights: "student", "teacher" (the moving average, with those heads alone that are averaged too), or "" for the teacher where there is one.
    Raises: UserError.
    """
    from jaxssl.workdir import checkpoint            # orbax is imported for workdirs only
    config = folders.read_config(workdir)
    manager = checkpoint.open_reader(workdir)
    try:
        newest = manager and manager.latest()
        if newest is None:
            raise UserError(f"workdir {workdir} has no committed checkpoint yet; let its run reach checkpoint_every, or the end")
        state = manager.weights(newest if step is None else step)
        step = newest if step is None else step
    finally:
        if manager:
            manager.close()
    average = state["aux"].get("teacher") or state["aux"].get("ema")      # runs before the contract of today called it ema
    average = average if average and "encoder" in average["params"] else None        # SimCLR's slow projector alone is nothing to be given
    weights = weights or ("teacher" if average else "student")
    if weights not in WEIGHTS:
        raise UserError(f"weights {weights!r} is not one of {', '.join(WEIGHTS)}{nearest(weights, WEIGHTS)}")
    if weights == "teacher" and not average:
        raise UserError(f"the run in {workdir} kept no moving average (neither its method nor ema={config.get('ema')}), so it has no teacher; use weights=student")
    params, stats = state["params"], state["aux"]["batch_stats"]
    if weights == "teacher":                               # what it does not average is the student's, and no loss saw the two together
        params, stats = average["params"], average["batch_stats"]
    with understood(workdir, "use the version that its run was trained with, or restore its config.json"):
        variables = network(config, params, stats)
        return build(config, variables, name=os.path.basename(os.path.abspath(workdir)), weights=weights, step=step, precision=precision,
                     origin=Origin(licence=sources.licence(workdir)))


def trained(workdir: str, step: int) -> tuple[Method, dict, dict]:
    """The method of a run with all that it trained, what is not kept with an encoder too: (method, params, aux) at checkpoint `step`. Raises: UserError."""
    from jaxssl.workdir import checkpoint
    config = folders.read_config(workdir)
    manager = checkpoint.open_reader(workdir)
    if manager is None:
        raise UserError(f"workdir {workdir} has no committed checkpoint")
    try:
        state = manager.weights(step)
    finally:
        manager.close()
    return method(config, models.make(**config["model"], precision="f32")), state["params"], state["aux"]


def hides(config: dict) -> bool:
    """Whether the config's method hides patches of its views."""
    return method(config, models.make(**config["model"], precision="f32")).hidden is not None


def network(config: dict, params: dict, stats: dict) -> dict:
    """Of a train state's parameters and statistics those of the network that is kept: the encoder and the method's heads, which say what it is."""
    module = models.make(**config["model"], precision="f32")
    names = [n for n in ("encoder", *method(config, module).heads) if n in params]
    return {"params": {n: params[n] for n in names}, "batch_stats": {n: stats.get(n, {}) for n in names}}
