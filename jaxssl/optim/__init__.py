"""Optimizers: one optax transformation from options, parameter shapes and one table of path rules; LARS as SimCLR runs it; the online probe kept apart."""
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax

from jaxssl import schedules, tree
from jaxssl.errors import UserError, nearest
from jaxssl.optim import optimizers, transforms
from jaxssl.optim.optimizers import families
from jaxssl.optim.rules import CLIP_BY, Row, defaults, layer_factors, table

__all__ = ["SCALED_BY_RULES", "SCALES", "Optim", "families", "layer_factors", "make"]
SCALES = ("lr", "end_lr", "weight_decay", "weight_decay_end")       # keys that only scale: a step that takes them as arguments is the same program for all their values
SCALED_BY_RULES = ("rate", "decay")                                # and settings of a rule


class Optim(NamedTuple):
    """What `make` returns. groups: path -> the settings that hold for it, `{"decay": 1.0, "adapt": True}`."""
    tx: optax.GradientTransformation
    schedule: schedules.Schedule  # step -> learning rate where no rule says otherwise
    groups: dict[str, dict]
    describe: str  # the text printed at start
    weight_decay: schedules.Schedule  # step -> weight decay, likewise

    def moving(self, params: Any) -> Any:
        """`params` of which those that stand still have no gradient."""
        still = [bool(settings.get("still")) for settings in self.groups.values()]
        if not any(still):
            return params
        leaves, form = jax.tree.flatten(params)
        return jax.tree.unflatten(form, [jax.lax.stop_gradient(leaf) if held else leaf for leaf, held in zip(leaves, still)])


def make(*, name: str = "lars", lr: float = 0.3, scaling: str = "linear", schedule: str = "cosine", end_lr: float = 0.0,
         lr_steps: tuple[float, ...] = (), lr_gamma: float = 0.1, lr_power: float = 1.0, weight_decay: float = 1e-6,
         weight_decay_end: float | None = None, clip: float = 0.0, clip_by: str = "all", layer_decay: float = 1.0,
         rules: tuple[tuple[str | int, dict], ...] = (), probe_lr: float = 1e-3,
         params: Any, batch_size: int, total: int, warmup: int, ahead: tuple[tuple[str | int, dict], ...] = (), networks: tuple[str, ...] = ("encoder",),
         numbers: Mapping[str, Any] = {}, **own: Any) -> Optim:
    """The optimizer of a run.

    name: one of `families()`, whose keywords are further keys. lr, scaling: peak rate = schedules.scaled_lr(lr, batch_size, scaling). end_lr is absolute, not
    scaled. lr_steps: where the step schedule decays, as fractions of the run (.6, .8), each time by lr_gamma; lr_power: the polynomial's.
    weight_decay: to weight_decay_end along half a cosine over the whole run, constant where that is None.
    clip: largest norm of the gradients, 0 = off: of all jointly, or of each network (encoder, projector, …: DINOv2) or array (DINO) by itself.
    layer_decay: factor on the rate from a layer of the encoder to the one below (`rules.layer_factors`).
    rules: (pattern, settings), as `((r"/bias$", dict(rate=.024)), ("^predictor/", dict(fixed=True)), ("^head/last", dict(frozen_until=1250)))`: the first rule
    that matches a path and names a setting decides it, each setting by itself. A pattern is a regex, searched in "a/b/c" paths, or a number: arrays of at most that
    rank, within a layer where layers are stacked under "blocks/". Settings: `rules.Row`. One that decides nothing is an error. Behind them stand `rules.defaults`:
    arrays of rank 1 get neither decay nor LARS adaptation, and what is under probe/ (the online linear probe) gets an Adam of its own at a constant probe_lr.

    params: tree of arrays or ShapeDtypeStructs (only paths and shapes are read). batch_size: global images. total, warmup: steps.
    ahead: rules before these, which may decide nothing. networks: those whose layers count for the layer decay, from below; all others are the top.
    numbers: of `SCALES`, and "rules.0.rate" and such, traced values that take the place of these in the transformation and the schedules; what is
    checked and described are the keys' own.
    UserError for unknown names, values out of range, and rules that decide nothing.
    """
    options = {key: value for key, value in locals().items() if key not in ("params", "batch_size", "total", "warmup", "ahead", "networks", "numbers", "own")}
    if name not in families():
        raise UserError(f"optim.name is {name!r}{nearest(name, families())}; choose one of {', '.join(families())}")
    _check(options)
    around = dict(ahead=ahead, behind=defaults(probe_lr), clip_by=clip_by, total=total, layer_decay=layer_decay, networks=networks)
    rows = table(params, rules, **around)
    part = families()[name](rows, **own)
    moved = rows
    if traced := {path: value for path, value in numbers.items() if path.startswith("rules.")}:
        told = tuple((pattern, {key: traced.get(f"rules.{i}.{key}", value) for key, value in settings.items()}) for i, (pattern, settings) in enumerate(rules))
        moved = table(params, told, **around)
    if not part.adapts and any("adapt" in settings for _, settings in rules):
        raise UserError(f"optim.rules: adapt is the trust ratio of LARS, which {name} has not; leave it out")
    peak = schedules.scaled_lr(lr, batch_size, scaling)
    used = {"peak": peak, "end_lr": end_lr, "weight_decay": weight_decay, "weight_decay_end": weight_decay_end, **numbers}
    if "lr" in numbers:
        used["peak"] = schedules.scaled_lr(numbers["lr"], batch_size, scaling)
    rate = schedules.make(schedule, base=used["peak"], total=total, warmup=warmup, end=used["end_lr"], steps=_steps(lr_steps, total), gamma=lr_gamma,
                          power=lr_power)
    moves = weight_decay_end not in (None, weight_decay)
    decay = (schedules.cosine(used["weight_decay"], used["weight_decay_end"], total) if moves else
             schedules.make("constant", base=used["weight_decay"], total=total))

    decayed = transforms.decay(decay if weight_decay_end is not None else used["weight_decay"], moved)
    chain = optax.chain(*([transforms.clip(clip, rows)] if clip else []), *([] if part.decoupled else [decayed]), *part.before,
                        *([decayed] if part.decoupled else []), transforms.rate(rate, used["peak"], moved), *part.after)
    labels = ["probe" if row.adam else "still" if row.still else "main" for row in rows.values()]
    still = {"still": optax.set_to_zero()} if "still" in labels else {}
    tx = optax.partition({"main": chain, "probe": transforms.apart(moved), **still}, jax.tree.unflatten(jax.tree.structure(params), labels))
    groups = {path: _settings(row, part, clip) for path, row in rows.items()}
    every = {key: p.default for key, p in inspect.signature(families()[name]).parameters.items() if p.default is not p.empty} | own
    text = _describe({**options, "rules": (*ahead, *rules)}, every, params, groups, schedules.lr_sentence(lr, batch_size, scaling), total, warmup)
    if peak > part.largest:
        text += f"\nwarning: lr {peak:g} suits LARS, not {name}; rates of 1e-4 to 5e-3 are usual, set optim.lr and optim.scaling"
    return Optim(tx, rate, groups, text, decay)


def _check(options: dict[str, Any]) -> None:
    """Collects every wrong option and raises once."""
    faults = [f"optim.{option} must be above 0, got {options[option]}" for option in ("lr", "probe_lr") if not options[option] > 0]
    for option in ("end_lr", "weight_decay", "weight_decay_end", "clip"):
        if options[option] is not None and not options[option] >= 0:
            faults.append(f"optim.{option} must be 0 or more, got {options[option]}")
    if not 0 < options["layer_decay"] <= 1:
        faults.append(f"optim.layer_decay must lie in (0, 1], got {options['layer_decay']}")
    if options["clip_by"] not in CLIP_BY:
        faults.append(f"optim.clip_by is {options['clip_by']!r}; choose one of {', '.join(CLIP_BY)}")
    elif options["clip_by"] != "all" and not options["clip"]:
        faults.append(f"optim.clip_by={options['clip_by']} needs optim.clip above 0")
    if not all(0 < at < 1 for at in options["lr_steps"]):
        faults.append(f"optim.lr_steps are fractions of the run, between 0 and 1, got {options['lr_steps']}")
    if not options["clip"] and any("clip" in settings for _, settings in options["rules"]):
        faults.append("optim.rules name groups to clip, which needs optim.clip above 0")
    if faults:
        raise UserError("; ".join(faults))


def _steps(fractions: Sequence[float], total: int) -> tuple[int, ...]:
    return tuple(round(at * total) for at in fractions)


def _settings(row: Row, part: optimizers.Part, clip: float) -> dict:
    """What holds for an array, as far as something reads it and it is not as for most."""
    if row.adam:
        return {"adam": row.adam}
    if row.still:
        return {"still": True}
    said = {"decay": row.decay, **({"adapt": row.adapt} if part.adapts else {}), **({"clip": row.clip} if clip else {})}
    plain = Row()
    return said | {setting: getattr(row, setting) for setting in ("rate", "fixed", "frozen_until", "thaw", "layer") if getattr(row, setting) != getattr(plain, setting)}


def _describe(options: dict[str, Any], own: dict[str, Any], params: Any, groups: dict[str, dict], sentence: str, total: int, warmup: int) -> str:
    """The lines printed at start: rate with its numbers, schedule in steps, decay, and arrays and parameters of equal settings."""
    name, shape = options["name"], options["schedule"]
    detail = {"cosine": f"cosine to {options['end_lr']:g}", "polynomial": f"polynomial (power {options['lr_power']:g}) to {options['end_lr']:g}",
              "step": f"times {options['lr_gamma']:g} at steps {_steps(options['lr_steps'], total)}", "constant": "constant"}[shape]
    decay, last = options["weight_decay"], options["weight_decay_end"]
    by = {"all": "", "network": " in each network", "array": " in each array"}[options["clip_by"]]
    lines = [f"optimizer: {name} ({', '.join(f'{key} {value}' for key, value in own.items())})",
             f"{sentence}; {warmup} steps of linear warm-up, then {detail}, {total} steps in all",
             f"weight decay {decay:g}" + ("" if last is None else f" to {last:g} (cosine)")
             + f"; clip {'off' if not options['clip'] else format(options['clip'], 'g') + by}"
             + ("" if options["layer_decay"] == 1 else f"; layer decay {options['layer_decay']:g}"),
             "rules, the first that names a setting wins: " + "; ".join(
                 f"{f'rank <= {pattern}' if isinstance(pattern, int) else repr(pattern)} {_text(settings)}"
                 for pattern, settings in (*options["rules"], *defaults(options["probe_lr"])))]
    sizes: dict[str, list[int]] = {}
    for path, leaf in tree.names(params).items():
        shown = {setting: value for setting, value in groups[path].items() if setting not in ("layer", "clip")}
        sizes.setdefault(_text(shown), []).append(math.prod(leaf.shape))
    return "\n".join(lines + [f"  {settings}: {len(counts)} arrays, {sum(counts):,} parameters" for settings, counts in sorted(sizes.items())])


def _text(settings: Any) -> str:
    """`decay 1, adapt True`."""
    return ", ".join(f"{key} {value:g}" if type(value) in (int, float) else f"{key} {value}" for key, value in settings.items())
