"""Optimizers: one optax transformation from options and parameter shapes; LARS as SimCLR runs it; the online probe kept apart."""
import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from jaxssl import schedules, tree
from jaxssl.errors import UserError, nearest

# the optional keywords of make() that only some optimizers read; changing one that the chosen optimizer does not read is an error
_READS = {
    "lars": ("momentum", "nesterov", "trust_coefficient"),
    "sgd": ("momentum", "nesterov"),
    "adam": ("b1", "b2", "eps"),
    "adamw": ("b1", "b2", "eps"),
    "rmsprop": ("momentum", "rho", "eps"),
}
# Adam-like updates have about unit size, so a LARS-sized rate destroys the weights within an epoch
_ADAPTIVE_MAX_LR = 0.05


class Optim(NamedTuple):
    """What `make` returns. `groups`: path -> "decayed+adapted" (LARS), "decayed", "excluded" or "probe"."""
    tx: optax.GradientTransformation
    schedule: schedules.Schedule  # step -> learning rate of the main groups
    groups: dict[str, str]
    describe: str  # the text printed at start
    weight_decay: schedules.Schedule  # step -> weight decay of the decayed group


def make(*, name: str = "lars", lr: float = 0.3, scaling: str = "linear", schedule: str = "cosine", end_lr: float = 0.0,
         lr_steps: tuple[float, ...] = (), lr_gamma: float = 0.1, lr_power: float = 1.0, weight_decay: float = 1e-6,
         weight_decay_end: float | None = None, momentum: float = 0.9, nesterov: bool = False, b1: float = 0.9, b2: float = 0.999,
         rho: float = 0.99, eps: float = 1e-8, trust_coefficient: float = 1e-3, clip: float = 0.0, exclude: tuple[str, ...] = (),
         exclude_rank: int = 1, stacked: tuple[str, ...] = (), lr_rules: tuple[tuple[str, float], ...] = (), probe_lr: float = 1e-3,
         params: Any, batch_size: int, total: int, warmup: int) -> Optim:
    """The optimizer of a run.

    params: tree of arrays or ShapeDtypeStructs (only paths and shapes are read). batch_size: global images. total, warmup: steps.
    lr, scaling: peak rate = schedules.scaled_lr(lr, batch_size, scaling). end_lr is absolute, not scaled. lr_steps: where the step
    schedule decays, as fractions of the run (.6, .8), each time by lr_gamma; lr_power: the polynomial's.
    lr_rules: (regex, factor) on the rate, first match wins, others 1; 0 freezes.
    weight_decay: to weight_decay_end along half a cosine over the whole run, constant where that is None.
    clip: global norm of the gradients outside probe/, 0 = off.
    Groups: arrays of rank <= exclude_rank (1: biases and norms; 0: scalars only; -1: none) and paths matching `exclude` get neither
    weight decay nor LARS adaptation. stacked: regexes of parameters whose leading axis counts layers (nn.scan): rank and trust
    ratio are then per layer. Regexes are searched in "a/b/c" paths; one that matches nothing is an error.
    Paths under probe/ (the online linear probe) form their own group: Adam, constant probe_lr, no decay, outside the clip norm.

    lars     SimCLR's (arXiv 1708.03888; google-research/simclr tf2/lars_optimizer.py, classic_momentum): g += wd p;
             ratio = trust_coefficient |p| / |g|, 1 where either is 0; v = momentum v + lr ratio g; p -= v. Nesterov as there.
    sgd      g += wd p; v = momentum v + g; p -= lr v (nesterov: lr (g + momentum v)), PyTorch's
    adam     g += wd p before the moments; adamw: p -= lr (adam + wd p). eps outside the root, bias-corrected; both PyTorch's
    rmsprop  PyTorch's, not TensorFlow's: g += wd p; s = rho s + (1-rho) g^2 from 0; v = momentum v + g / (sqrt(s) + eps); p -= lr v
    UserError for unknown names, values out of range, and any option changed from its default that the choice does not read.
    """
    options = {key: value for key, value in locals().items() if key not in ("params", "batch_size", "total", "warmup")}
    _check(options)
    peak = schedules.scaled_lr(lr, batch_size, scaling)
    rate = schedules.make(schedule, base=peak, total=total, warmup=warmup, end=end_lr, steps=_steps(lr_steps, total), gamma=lr_gamma,
                          power=lr_power)
    last = weight_decay if weight_decay_end is None else weight_decay_end
    decay = schedules.cosine(weight_decay, last, total) if last != weight_decay else schedules.make("constant", base=weight_decay, total=total)
    groups, layered = _groups(name, params, exclude, exclude_rank, stacked)
    masks = {group: jax.tree.map(lambda g, group=group: g == group, groups) for group in set(jax.tree.leaves(groups))}
    decayed = jax.tree.map(lambda group: group.startswith("decayed"), groups)
    factors = _by_path(params, lr_rules, 1.0, "lr_rules")

    parts = [optax.clip_by_global_norm(clip)] if clip else []
    add_decay = optax.add_decayed_weights(decay if weight_decay_end is not None else weight_decay, mask=decayed)
    follow_rate = [optax.scale_by_learning_rate(rate), *_factors(factors)]
    velocity = [optax.trace(momentum, nesterov=nesterov)] if momentum and "momentum" in _READS[name] else []
    if name == "lars":
        parts += [add_decay, *_trust_ratio(trust_coefficient, masks.get("decayed+adapted"), layered), *follow_rate, *velocity]
    elif name == "sgd":
        parts += [add_decay, *velocity, *follow_rate]
    elif name == "adam":
        parts += [add_decay, optax.scale_by_adam(b1, b2, eps), *follow_rate]
    elif name == "adamw":
        parts += [optax.scale_by_adam(b1, b2, eps), add_decay, *follow_rate]
    else:
        parts += [add_decay, optax.scale_by_rms(rho, eps, eps_in_sqrt=False), *velocity, *follow_rate]
    labels = jax.tree.map(lambda group: "probe" if group == "probe" else "main", groups)
    tx = optax.partition({"main": optax.chain(*parts), "probe": optax.adam(probe_lr)}, labels)
    text = _describe(options, params, groups, factors, schedules.lr_sentence(lr, batch_size, scaling), peak, total, warmup)
    return Optim(tx, rate, tree.names(groups), text, decay)


def _check(options: dict[str, Any]) -> None:
    """Collects every wrong option and raises once."""
    name = options["name"]
    if name not in _READS:
        raise UserError(f"unknown optimizer '{name}'{nearest(name, _READS)}; there are {', '.join(_READS)}")
    faults = []
    defaults = inspect.signature(make).parameters
    for option in sorted({option for reads in _READS.values() for option in reads} - set(_READS[name])):
        if options[option] != defaults[option].default:
            readers = " and ".join(other for other, reads in _READS.items() if option in reads)
            faults.append(f"optim.{option}={options[option]} is read by {readers}, not by {name}: leave it out")
    for option in ("lr", "probe_lr", "trust_coefficient", "eps"):
        if not options[option] > 0:
            faults.append(f"optim.{option} must be above 0, got {options[option]}")
    for option in ("end_lr", "weight_decay", "weight_decay_end", "clip"):
        if options[option] is not None and not options[option] >= 0:
            faults.append(f"optim.{option} must be 0 or more, got {options[option]}")
    for option in ("momentum", "b1", "b2", "rho"):
        if not 0 <= options[option] < 1:
            faults.append(f"optim.{option} must lie in [0, 1), got {options[option]}")
    if options["nesterov"] and not options["momentum"]:
        faults.append("optim.nesterov needs optim.momentum above 0")
    if not all(0 < at < 1 for at in options["lr_steps"]):
        faults.append(f"optim.lr_steps are fractions of the run, between 0 and 1, got {options['lr_steps']}")
    if faults:
        raise UserError("; ".join(faults))


def _steps(fractions: Sequence[float], total: int) -> tuple[int, ...]:
    return tuple(round(at * total) for at in fractions)


def _by_path(params: Any, pairs: Sequence[tuple[str, Any]], default: Any, option: str) -> Any:
    """tree.rules over everything but the probe, which takes `default`: its group is fixed, so no rule may claim to change it."""
    main = {path: leaf for path, leaf in tree.names(params).items() if not _is_probe(path)}
    values = tree.rules(main, pairs, default=default, what=f"optim.{option}")
    return jax.tree.unflatten(jax.tree.structure(params), [values.get(path, default) for path in tree.names(params)])


def _is_probe(path: str) -> bool:
    return path.split("/")[0] == "probe"


def _groups(name: str, params: Any, exclude: Sequence[str], exclude_rank: int, stacked: Sequence[str]) -> tuple[Any, Any]:
    """(tree of group names, tree of bools: stacked by scan), both like `params`."""
    layered = _by_path(params, [(pattern, True) for pattern in stacked], False, "stacked")
    out = _by_path(params, [(pattern, True) for pattern in exclude], False, "exclude")
    kept = "decayed+adapted" if name == "lars" else "decayed"

    def group(path, leaf, layers, excluded):
        if _is_probe(path):
            return "probe"
        return "excluded" if excluded or len(leaf.shape) - layers <= exclude_rank else kept
    labels = [group(*row) for row in zip(tree.names(params), *map(jax.tree.leaves, (params, layered, out)))]
    return jax.tree.unflatten(jax.tree.structure(params), labels), layered


def _trust_ratio(coefficient: float, adapted: Any, layered: Any) -> list[optax.GradientTransformation]:
    """LARS's ratio on the adapted group: one a parameter, or one a layer where parameters are stacked."""
    if adapted is None:
        return []
    whole = optax.scale_by_trust_ratio(trust_coefficient=coefficient)

    def per_layer(updates, state, params=None):
        one = jax.vmap(lambda u, p: whole.update(u, state, p)[0])  # [L, ...]: each layer its own norms
        return jax.tree.map(one, updates, params), state
    stacked = optax.GradientTransformation(whole.init, per_layer)
    return [optax.masked(whole, jax.tree.map(lambda a, s: a and not s, adapted, layered)),
            optax.masked(stacked, jax.tree.map(lambda a, s: a and s, adapted, layered))]


def _factors(factors: Any) -> list[optax.GradientTransformation]:
    """One scaling for each distinct factor of lr_rules other than 1."""
    distinct = sorted(set(jax.tree.leaves(factors)) - {1.0})
    return [optax.masked(optax.scale(factor), jax.tree.map(lambda f, factor=factor: f == factor, factors)) for factor in distinct]


def _describe(options: dict[str, Any], params: Any, groups: Any, factors: Any, sentence: str, peak: float, total: int, warmup: int) -> str:
    """The lines printed at start: rate with its numbers, schedule in steps, decay, and arrays and parameters of each group."""
    name, shape = options["name"], options["schedule"]
    detail = {"cosine": f"cosine to {options['end_lr']:g}", "polynomial": f"polynomial (power {options['lr_power']:g}) to {options['end_lr']:g}",
              "step": f"times {options['lr_gamma']:g} at steps {_steps(options['lr_steps'], total)}", "constant": "constant"}[shape]
    decay, last = options["weight_decay"], options["weight_decay_end"]
    lines = [f"optimizer: {name} ({', '.join(f'{key} {options[key]}' for key in _READS[name])})",
             f"{sentence}; {warmup} steps of linear warm-up, then {detail}, {total} steps in all",
             f"weight decay {decay:g}" + ("" if last is None else f" to {last:g} (cosine)")
             + f"; clip {'off' if not options['clip'] else format(options['clip'], 'g')}"]
    sizes: dict[str, list[int]] = {}
    for leaf, group, factor in zip(jax.tree.leaves(params), jax.tree.leaves(groups), jax.tree.leaves(factors)):
        key = group + (f" (Adam, lr {options['probe_lr']:g}, constant)" if group == "probe" else f" (lr × {factor:g})" if factor != 1 else "")
        sizes.setdefault(key, []).append(math.prod(leaf.shape))
    lines += [f"  {group}: {len(counts)} arrays, {sum(counts):,} parameters" for group, counts in sorted(sizes.items())]
    if name in ("adam", "adamw", "rmsprop") and peak > _ADAPTIVE_MAX_LR:
        lines.append(f"warning: lr {peak:g} suits LARS, not {name}; rates of 1e-4 to 5e-3 are usual, set optim.lr and optim.scaling")
    return "\n".join(lines)
