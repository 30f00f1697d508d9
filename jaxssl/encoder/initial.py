"""Where a run begins when it does not begin from its seed: a fresh state with the encoder, and heads of the same names, of other weights."""
import inspect
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxssl import models, tree
from jaxssl.encoder import load as loading
from jaxssl.errors import UserError, listed, section, whole
from jaxssl.encoder.formats import covers, families, short
from jaxssl.encoder.formats.families import described

# Keys of a model that weights fit whatever they are.
FREE = ("image", "mask_token", "drop_path", "drop_path_shape", "drop_rows", "remat", "scan", "kernel_init", "frozen_patch", "lora", "lora_alpha")
COPIES = ("", "aux/", "aux/teacher/")       # where a train state keeps params and batch_stats, averages included


class Start(NamedTuple):
    """values: our name ("params/encoder/…") → array f32. note: what was used, unused, missing and assumed, in short. names: every one of them, a line each.
    sources: "init_from" or a place in aux → what the weights there are (`workdir.sources`)."""
    values: dict[str, np.ndarray]
    note: str
    names: str
    sources: dict[str, dict] = {}


def expanded(kernel: np.ndarray, words: tuple[str, ...]) -> np.ndarray:
    """Filters [h, w, 3, D] of red, green and blue → [h, w, C, D] of C channels: each begins with those of its word, "r", "g", "b" or "mean", times 3 / C, so that a sum over
    channels that say the same stays what it was over three."""
    red, green, blue = np.moveaxis(kernel, 2, 0)
    parts = {"r": red, "g": green, "b": blue, "mean": kernel.mean(2)}
    return np.stack([parts[word] for word in words], 2) * np.float32(3 / len(words))


def _expanded(found, wanted, path, words):
    """(found with the first layer's RGB filters expanded where the run's has other channels, what is said of it). Raises: UserError."""
    names = [n for n in wanted if n in found and found[n].ndim == 4 == len(wanted[n].shape) and found[n].shape != wanted[n].shape
             and (*found[n].shape[:2], found[n].shape[3]) == (*wanted[n].shape[:2], wanted[n].shape[3])]
    if not names:
        if words:
            raise UserError(f"init_channels is {words!r}, but the weights in {path} take as many channels as the images have; leave it out")
        return found, []
    theirs, own = found[names[0]].shape[2], wanted[names[0]].shape[2]
    if theirs != 3:
        raise UserError(f"init_from={path} takes {theirs} channel{'s' if theirs > 1 else ''} and the images have {own}; only filters of RGB are made into others: begin with other "
                        "weights")
    each = tuple(words.split(",")) if words else ()
    if each == ("mean",):
        each *= own
    if len(each) != own:
        what = f"init_channels names {len(each)} channels" if each else f"init_from={path} takes RGB"
        raise UserError(f"{what} and the images have {own} channel{'s' if own > 1 else ''}; say whose filters each begins with: "
                        f"--config.init_channels=mean, or a word a channel such as {','.join((['b', 'g', 'r'] + ['mean'] * own)[:own])}")
    counted = ", ".join(f"{i} {word}" for i, word in enumerate(each))
    said = "the mean of the RGB filters for each" if set(each) == {"mean"} else counted
    return {**found, **{n: expanded(found[n], each) for n in names}}, [f"{own} channels from RGB: {said}, times 3 / {own}"]


def read(path: str, *, state: Any, heads: tuple[str, ...], config: Any, allow_missing: str = "", channels: str = "",
         spare: tuple[str, ...] = ()) -> Start:
    """Finds in the weights at `path` (anything that `jaxssl.load` opens) what a train state of these shapes can begin with.

    state: tree of shapes. heads: names of the method's heads. config: the run's. allow_missing: names of tensors, or folders of names
    ("projector"), with commas between them, that keep the values of the seed when the weights lack them or have another shape. channels: init_channels of the
    config. spare: names that may do so unasked, as low-rank additions always may.
    Raises: UserError.
    """
    allowed = [a for a in allow_missing.replace(" ", "").split(",") if a]
    source, choice = loading.load(path), ()
    lacking = [n for n in heads if n not in source.variables["params"] and n not in (*allowed, *spare)]
    if lacking and source.weights == "teacher" and not source.origin.layout:         # a workdir has both
        source = loading.load(path, weights="student")
        choice = (f"the moving average there lacks {', '.join(lacking)}, so this run begins with the student; --config.init_allow_missing={','.join(lacking)} takes the average",)
    stats = state.aux["batch_stats"]
    wanted = tree.names({"params": {n: state.params[n] for n in ("encoder", *heads)}, "batch_stats": {n: stats[n] for n in ("encoder", *heads)}})
    family = families.of(source.module)
    found, resized = family.fitted(tree.names(source.variables), wanted, source.module)
    found, widened = _expanded(found, wanted, path, channels)
    fitting = {name for name in wanted if name in found and found[name].shape == wanted[name].shape}
    missing = [name for name in wanted if name not in fitting]
    refused = [name for name in missing if not ("_lora/" in name or any(covers(a, name) for a in (*allowed, *spare)))]
    if refused:
        lacking, other = [short(n) for n in refused], [f"{short(n)} is {found[n].shape} there and {wanted[n].shape} here" for n in refused if n in found]
        networks = sorted({short(n).split("/")[0] for n in refused})
        model = f"Use the model it was trained with ({flags(source, config.model)}), or name in --config.init_allow_missing what may begin from the seed"
        advice = (model if "encoder" in networks else
                  f"Let them begin from the seed: --config.init_allow_missing={','.join(networks)}")
        raise UserError(f"init_from={path} ({described(source.config['model'])}) lacks {len(refused)} of the {len(wanted)} tensors of this run "
                        f"({described(config.model)}, heads {', '.join(heads)}): {listed(lacking)}"
                        f"{f'; of another shape: {listed(other, 3)}' if other else ''}. {advice}"
                        f"{whole({'missing': lacking})}{whole({'of another shape': other}, 3)}")
    left = [short(n) for n in found if n not in wanted and n not in family.OPTIONAL and short(n).startswith("encoder/")]
    if left:
        raise UserError(f"init_from={path} ({described(source.config['model'])}) has {len(left)} encoder tensors that this run ({described(config.model)}) "
                        f"has no place for: {listed(left)}; without them its weights mean nothing: use the model it was trained with ({flags(source, config.model)})"
                        f"{whole({'without a place': left})}")
    idle = [a for a in allowed if not any(covers(a, name) for name in missing)]
    absent, unused = [short(n) for n in missing], [*(short(n) for n in found if n not in fitting), *source.origin.unused]
    if idle:
        raise UserError(f"init_allow_missing names {idle[0]!r}, but nothing of that name is missing in {path} "
                        f"(missing: {listed(absent)}){whole({'missing': absent})}")
    begun = f"beginning from {path} ({source.weights}{f' of step {source.step}' if source.step is not None else ''})"
    lines = [f"{begun}: {len(fitting)} tensors used; {len(unused)} unused ({listed(unused)}); {len(missing)} missing, from the seed ({listed(absent)}); "
             "every name is in text/init_from.txt of the workdir"]
    notes = [f"note: {note}" for note in (*choice, *resized, *widened, *source.origin.notes)]
    lines += notes
    theirs, own = source.preprocessing, config.augment
    for key in ("mean", "std", "interpolation"):
        mine = own[key] if key == "interpolation" else tuple(own[key])
        if key != "interpolation" and len(theirs[key]) != len(mine):
            continue                                    # other channels: their numbers say nothing of these
        if theirs[key] != mine if key == "interpolation" else not np.allclose(theirs[key], mine, atol=1e-3):
            assumed = key in source.origin.assumed
            lines.append(f"warning: these weights {'are assumed to have been' if assumed else 'were'} trained on pixels with {key} {theirs[key]}, this run uses {mine}; "
                         f"set --config.augment.{key} to {'what they were trained with' if assumed else 'keep what they learned'}")
    lines += other_arithmetic(source, models.make(**config.model, precision="f32"))
    accounts = {"used": [short(n) for n in fitting], "unused": unused, "missing, from the seed": absent}
    return Start({name: found[name] for name in fitting}, "\n".join(lines), "\n".join([begun, *notes, *(section(what, who) for what, who in accounts.items()), ""]),
                 {"init_from": described_source(source)})


def described_source(source: Any, licence: str = "") -> dict:
    """What a run keeps of the weights that it learned from, as JSON. licence: as a person states it, else their own."""
    return {"name": source.name, "model": described(source.config["model"]), "licence": licence or source.origin.licence, "digest": source.digest}


def flags(source: Any, own: Any) -> str:
    """What to set so that a run has the architecture of the weights `source`: of the keys of both models those that shape or change features, where they differ."""
    model = source.config["model"]
    usual = inspect.signature(models.families()[model["name"]]).parameters
    theirs = {key: model.get(key, usual[key].default if key in usual else value) for key, value in own.items()}
    told = [f"--config.model.{key}={theirs[key]}" for key in own if key not in (*FREE, *source.origin.assumed) and theirs[key] != own[key]]
    return " ".join(told) or "its keys are those of this run"


def add(start: Start | None, place: str, path: str, *, state: Any, licence: str = "") -> Start:
    """`start` and, for the networks in `state.aux` at `place` ("frozen/teacher": {"params": …, "batch_stats": …}), the weights at `path`: a method's `loads`.

    licence: of these weights, where a person states it. Raises: UserError when no weights were given, a tensor is missing there or has another shape.
    """
    if not path:
        key = place.rpartition("/")[2]
        raise UserError(f"method.{key} is empty, and the run learns from it; give weights that jaxssl.load opens, a workdir, an export or a file: --config.method.{key}=PATH")
    source, networks = loading.load(path), state.aux
    for part in place.split("/"):
        networks = networks[part]
    wanted, found = tree.names(networks), tree.names(source.variables)
    faults = [f"{name} is {found[name].shape} there and {wanted[name].shape} here" if name in found else f"{name} is missing" for name in wanted
              if name not in found or found[name].shape != wanted[name].shape]
    if faults:
        raise UserError(f"{path} ({source.config['model']['name']}) does not hold the network that this run reads from it ({place}): {listed(faults)}; "
                        f"give weights of the same architecture{whole({'faults': faults})}")
    note = f"{place}: {len(wanted)} tensors from {path} ({source.weights}{f' of step {source.step}' if source.step is not None else ''})"
    note = "\n".join([note, *(f"note: {place}: {said}" for said in source.origin.notes)])
    values = {f"aux/{place}/{name}": found[name] for name in wanted}
    return Start({**(start.values if start else {}), **values}, "\n".join([*([start.note] if start else []), note]), "\n".join([*([start.names] if start else []), note]),
                 {**(start.sources if start else {}), place: described_source(source, licence)})


def other_arithmetic(source: Any, own: Any) -> list[str]:
    """Warnings on what shapes do not show and the run does otherwise than the weights were trained."""
    lines, family = [], families.of(source.module)
    for key, (theirs, mine) in family.UNSEEN.items() if isinstance(own, family.MODULE) else ():
        was, now = getattr(source.module, key), getattr(own, key)
        if was != now:
            lines.append(f"warning: these weights {'are assumed to have been' if key in source.origin.assumed else 'were'} trained with {theirs.format(was)}, "
                         f"this run has {mine.format(now)}; set --config.model.{key}={was} to keep what they learned")
    return lines


def place(state: Any, start: Start, sharding: Any) -> Any:
    """`state` with the values of `start` in its parameters, statistics and averages, each placed by its sharding."""
    def put(name, leaf, where):
        keys = [name, *(name.removeprefix(copy) for copy in COPIES if name.startswith(copy))]
        values = next((start.values[key] for key in keys if key in start.values), None)
        return leaf if values is None else jax.make_array_from_callback(leaf.shape, where, lambda index: values[index].astype(leaf.dtype))
    placed = [put(name, leaf, where) for (name, leaf), where in zip(tree.names(state).items(), jax.tree.leaves(sharding))]
    return jax.tree.unflatten(jax.tree.structure(state), placed)
