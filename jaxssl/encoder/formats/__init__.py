"""Weights in and out. One file per format: name table, what is written, and the code that opens it; `read` takes in any of them.

Written: torchvision, timm, transformers, safetensors (ours), onnx, stablehlo. Read: torchvision, timm, transformers, simclr, safetensors.
What is a ResNet's, a vision transformer's and a ConvNeXt's is asked of `families`.
"""
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxssl import encoder as encoders, models, tree
from jaxssl.workdir import folder as folders
from jaxssl.errors import UserError, listed, nearest, whole
from jaxssl.encoder.formats import families, files, foreign, names, records

WRITTEN = ("timm", "torchvision", "transformers", "safetensors", "onnx", "stablehlo")


class Weights(NamedTuple):
    """What a file holds, in our names.

    layout: whose names it had. config: at least `model` and `augment`. variables: as in `encoder.Encoder`, without what is missing.
    weights, step: "student" or "teacher", and of which step, where known. used, unused: their names. missing: our name → theirs.
    refused: names of the network itself that our architecture has no place for. assumed: what nothing states, "architecture" or keys of the
    preprocessing. replaced: sentences on the stated preprocessing that ours cannot do. notes: `assumed` and `replaced` in sentences. licence: as it is stated, or "".
    """
    layout: str
    name: str
    config: dict
    variables: dict
    weights: str
    step: int | None
    used: tuple[str, ...]
    unused: tuple[str, ...]
    missing: dict[str, str]
    refused: tuple[str, ...]
    assumed: tuple[str, ...]
    replaced: tuple[str, ...]
    notes: tuple[str, ...]
    licence: str = ""


def target(name: str, module=None) -> ModuleType:
    """The module of a format that is written. Raises: UserError for an unknown one, or one that cannot hold a network like `module`."""
    if name not in WRITTEN:
        raise UserError(f"format {name!r} is not one of {', '.join(WRITTEN)}{nearest(name, WRITTEN)}")
    if module is not None:
        families.demand(module, name)
    return importlib.import_module(f"jaxssl.encoder.formats.{name}")


def read(path: str | Path, *, model: str = "", prefix: str = "", preprocessing: dict | None = None, told: dict | None = None) -> Weights:
    """The weights in a file or a folder (ours, torchvision's, timm's, transformers', SimCLR's).

    model: the architecture ("resnet50"), where the names leave it open. prefix: what stands before every wanted name; others are unused.
    told: heads, eps or pool of a vision transformer, instead of what is stated beside the weights or assumed.
    preprocessing: size, mean, std or interpolation, instead of what is stated beside the weights or assumed.
    A file of ours must be whole: its names, shapes and digest are checked here. For the others, `demand` does it.
    Raises: UserError.
    """
    if model:
        families.named(model)
    path = Path(path)
    with files.readable(path):
        file = locate(path)
        tensors, metadata = files.read(file)
    record = records.parse(file, metadata)
    if record is not None:
        if prefix or model or told:
            raise UserError(f"{file} is a file of ours, which says itself what it holds; leave out --{'prefix' if prefix else 'model' if model else next(iter(told))}, "
                            "which is for files of other programs")
        return own(file, tensors, record, preprocessing or {})
    if prefix and any(name.startswith(prefix + ".") for name in tensors):
        prefix += "."
    found = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    if prefix and not found:
        begins = sorted({name.partition(".")[0] for name in tensors})
        raise UserError(f"no name in {file.name} begins with {prefix!r}; they begin with {listed(begins)}: give another --prefix{nearest(prefix, begins)}")
    family, side, found = foreign.detect(file, found)
    if model and model not in family.NAMES:
        raise UserError(f"{file.name} holds a {family.WORD}, and {model} is none; leave out --model")
    with files.readable(path):
        config, assumed, replaced = foreign.config(family, side, path, model, {short: tensors[name] for short, name in found.items()}, preprocessing or {}, told or {})
    table = {**side.table(models.make(**config["model"], precision="f32")), **side.head(list(found))}
    quantised = [f"{found[name]} {tensors[found[name]].dtype}" for name in table if name in found and not jnp.issubdtype(tensors[found[name]].dtype, jnp.floating)]
    if quantised:
        raise UserError(f"{len(quantised)} tensors of {file.name} are no floating-point numbers ({listed(quantised)}), so they are quantised or no weights; save them in float32"
                        f"{whole({'no floating-point numbers': quantised})}")
    missing, broken = names.gone(table, found)
    used = [name for name in table if name in found and name not in broken]
    variables = names.ours(table, {name: np.asarray(tensors[found[name]], np.float32) for name in used})
    left = [name for name in found if name not in table]
    refused = [name for name in left if re.match(side.body, name) and not re.fullmatch(side.known, name)]
    return Weights(layout=side.layout, name=path.stem if path.is_file() else path.name, config=config, variables=collections(variables), weights="student", step=None,
                   used=tuple(found[name] for name in used),
                   unused=(*(found[name] for name in (*left, *sorted(broken))), *(name for name in tensors if not name.startswith(prefix))),
                   missing={ours: prefix + name for ours, name in missing.items()}, refused=tuple(found[name] for name in refused),
                   assumed=assumed, replaced=replaced, notes=foreign.notes(config, assumed) + replaced, licence="" if side.layout == "simclr" else foreign.licence(path))


def demand(found: Weights, allowed: tuple[str, ...] = ()) -> None:
    """Whether `found` is a whole network.

    allowed: names of tensors, or folders of names, that may be missing. Raises: UserError when another one is missing, one has no place in the
    architecture, a number is not finite, or an allowed name covers nothing.
    """
    model = found.config["model"]["name"]
    covered = {ours: [a for a in allowed if covers(a, ours) or a == theirs] for ours, theirs in found.missing.items()}
    missing = [f"{found.missing[ours]} ({short(ours)})" for ours, by in covered.items() if not by]
    faults = [f"{len(found.refused)} tensors have no place in {model} ({listed(found.refused)})"] if found.refused else []
    faults += [f"{len(missing)} tensors are missing ({listed(missing)})"] if missing else []
    if faults:
        advice = "; a missing one can be drawn anew with `python -m jaxssl.convert … --allow_missing`" if missing and not found.refused else ""
        raise UserError(f"{found.name} does not hold a whole {model} in {found.layout}'s names: {'; '.join(faults)}; unused: {listed(found.unused)}. "
                        f"It is damaged, renamed, or another architecture{advice}"
                        f"{whole({'without a place': found.refused, 'missing': missing, 'unused': found.unused})}")
    encoders.check_finite(found.name, found.variables)
    idle = sorted(set(allowed) - {a for by in covered.values() for a in by})
    if idle:
        absent = [short(n) for n in found.missing]
        raise UserError(f"{idle[0]!r} is allowed to be missing, but nothing of that name is (missing: {listed(absent)}){whole({'missing': absent})}")


def covers(allowed: str, ours: str) -> bool:
    """Whether "encoder/stage4" stands for the tensor "params/encoder/stage4/…", or its full name does."""
    return allowed in (ours, short(ours)) or short(ours).startswith(allowed.rstrip("/") + "/")


def short(ours: str) -> str:
    """Our name without its collection: "encoder/stem/conv/kernel"."""
    return ours.split("/", 1)[1]


def is_workdir(path: str) -> bool:
    """Whether a folder is a run's: its config.json is, or it has checkpoints and no weights lie beside them."""
    folder = Path(path)
    file = folder / "config.json"
    with files.readable(path):
        try:
            if file.is_file() and folders.is_run(folders.read_object(file)):
                return True
        except UserError:               # torn: it may be anyone's
            pass
        return (folder / "checkpoints").is_dir() and not any((folder / name).is_file() for name in files.NAMES)


def locate(path: Path) -> Path:
    """The file with the weights. Raises: UserError."""
    if not path.is_dir():
        return path
    for name in files.NAMES:
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path} holds neither {' nor '.join(files.NAMES)}, so it is no export, and no config.json of a run, so it is no workdir")


def own(file: Path, tensors: dict[str, np.ndarray], record: dict, stated: dict) -> Weights:
    """The weights of a file that this program wrote, found intact, with the preprocessing `stated` by a person. Raises: UserError."""
    layout, config = record["layout"], record["config"]
    if layout == "safetensors":
        named, used = tensors, tuple(tensors)
    else:
        name = config.get("model", {}).get("name")
        if name not in families.NAMES:
            raise UserError(f"{file} was exported from {name!r}, which this version of jaxssl does not have")
        module, side = models.make(**config["model"], precision="f32"), target(layout).SIDES[families.named(name)]
        table, constants = side.table(module), side.constants(module, config["augment"]["size"])
        body = {n: a for n, a in tensors.items() if not n.endswith(names.COUNTERS)}
        gone, extra = sorted((table.keys() | constants.keys()) - body.keys()), sorted(body.keys() - table.keys() - constants.keys())
        if gone or extra:
            raise UserError(f"{file} was changed since it was exported: {len(gone)} tensors are missing ({listed(gone)}), "
                            f"{len(extra)} are not part of it ({listed(extra)}); export it again{whole({'missing': gone, 'not part of it': extra})}")
        other = [n for n, a in constants.items() if not np.array_equal(body[n], a)]
        if other:
            raise UserError(f"{file} was changed since it was exported: {len(other)} tensors have other values than this network ({listed(other)}); export it again")
        named, used = names.ours(table, body), tuple(table)
    variables = collections(named)
    if tree.digest(variables) != record["digest"]:
        raise UserError(f"{file} was changed since it was exported: its tensors do not have the digest that it names; it is corrupted or edited: export it again")
    config = {**config, "augment": foreign.restated(config["augment"], stated)} if stated else config
    assumed, replaced = tuple(what for what in record.get("assumed", ()) if what not in stated), tuple(record.get("replaced", ()))        # of weights that were converted
    return Weights(layout, record["name"], config, variables, record["weights"], record["step"], used, (), {}, (), assumed, replaced,
                   (foreign.notes(config, assumed) if assumed else ()) + replaced, record.get("licence", ""))


def collections(named: dict[str, np.ndarray]) -> dict:
    """Named tensors as {"params": …, "batch_stats": …}."""
    return {"params": {}, "batch_stats": {}, **names.nested(named)}
