"""What cannot fit into memory is refused by arithmetic: before the workdir is claimed by what a run holds at the very least, and once it is compiled by what the compiler says.

Each bound is far below what training takes (gradients of activations are not in it), so what is refused here could not have run.
"""
import bisect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxssl import tree
from jaxssl.errors import UserError
from jaxssl.planning import hlo

WORKER = 60e6       # bytes of a decoding process before it reads anything
BUFFERED = 2        # batches that it keeps (data/pipeline.py)
SHOWN = 3           # arrays in a sentence


class Demand(NamedTuple):
    """Bytes of something that a run holds. keys: key -> (its value, how the bytes grow with it: its power). where: 0 the machine's memory, 1 that of its devices."""
    what: str
    nbytes: float
    keys: dict[str, tuple[int, int]]
    where: int = 0


def demands(config: Any, facts: Any) -> list[Demand]:
    """Of this process, from the config alone."""
    rows, canvas = config.batch_size / jax.process_count(), facts.canvas ** 2 * facts.channels * np.dtype(facts.depth).itemsize
    part, of = ("micro_batch" if 0 < config.micro_batch < config.batch_size else "batch_size"), {"data.canvas": (facts.canvas, 2)}
    pixel, workers = {"bf16": 2, "f32": 4}[config.precision], max(config.data.workers, 0)
    batch = {"batch_size": (config.batch_size, 1)}
    found = [Demand("the decoded images of a batch", rows * canvas, batch | of),
             Demand("the images of a forward pass of the evaluation", config.eval.batch / jax.process_count() * canvas, {"eval.batch": (config.eval.batch, 1)} | of),
             Demand("decoding processes", workers * WORKER, {"data.workers": (workers, 1)}),
             Demand("the batches that decoding processes prepare", workers * BUFFERED * rows * canvas, {"data.workers": (workers, 1)} | batch | of)]
    if facts.resident:
        found.append(Demand(f"{facts.examples:,} decoded images (data.resident=no streams them)", facts.examples * canvas * (1 + jax.local_device_count()), of))
    for section in ("augment", "local"):
        views, size = config[section].views, config[section].size
        found.append(Demand(f"the {'views' if section == 'augment' else 'local views'}", config[part] / jax.process_count() * views * size ** 2 * facts.channels * pixel,
                            {f"{section}.views": (views, 1), f"{section}.size": (size, 2), part: (config[part], 1)}, 1))
    return found


def ask(config: Any, facts: Any, memory: tuple[int, int]) -> None:
    """Refuses what alone takes more than `memory` (`runtime.memory`). Raises: UserError with the largest values that would fit, of each key with the others as they are."""
    beyond = [(each.nbytes / memory[each.where], each.keys, each) for each in demands(config, facts) if memory[each.where] and each.nbytes > memory[each.where]]
    if not beyond:
        return
    worst = max(beyond, key=lambda each: each[0])[2]
    common = [key for key in worst.keys if all(key in keys for _, keys, _ in beyond)]
    fitting = {key: math.floor(min(keys[key][0] * over ** (-1 / keys[key][1]) for over, keys, _ in beyond)) for key in common}
    advice = " or ".join(f"{key} of at most {most:,}" for key, most in fitting.items() if most >= 1)
    values = ", ".join(f"{key}={value:,}" for key, (value, _) in worst.keys.items())
    raise UserError(f"{worst.what} take {size(worst.nbytes)} ({values}), and this machine has {size(memory[worst.where])}; "
                    + (f"{advice} would fit, the other keys as they are" if advice else "lower several of these keys"))


def state(job: Any, config: Any, memory: int) -> None:
    """Refuses parameters, optimizer slots and gradients that `memory` bytes of this process's devices cannot hold. Raises: UserError with the largest arrays and what to lower."""
    pairs = [(name, leaf, _bytes(leaf, place)) for part in ("params", "opt_state", "aux")
             for (name, leaf), place in zip(tree.names(getattr(job.state, part)).items(), jax.tree.leaves(getattr(job.state_sharding, part)))]
    moving = [not settings.get("still") for settings in job.optim.groups.values()]
    pairs += [pair for pair, moves in zip(pairs, moving) if moves]                   # of each parameter that is trained a gradient
    need = sum(nbytes for *_, nbytes in pairs)
    if not memory or need <= memory:
        return
    largest = {name: (leaf, nbytes) for name, leaf, nbytes in sorted(pairs, key=lambda pair: pair[2]) if name in tree.names(job.state.params)}
    shown = ", ".join(f"{name} {'×'.join(map(str, leaf.shape))} ({size(nbytes)})" for name, (leaf, nbytes) in [*largest.items()][:-SHOWN - 1:-1])
    raise UserError(f"parameters, optimizer and gradients take {size(need)}, and this machine's devices have {size(memory)}; the largest arrays are {shown}; "
                    f"{_lower(config, pairs, need, memory)}")


def _lower(config, pairs, need, memory):
    """Which key to lower, and to what: of those whose value is a side of the arrays, the one that frees most."""
    def taken(key, most):
        return sum(nbytes * (most / counts[key]) ** leaf.shape.count(counts[key]) for _, leaf, nbytes in pairs)
    counts = {f"{section}.{key}": value for section in ("model", "method") for key, value in config[section].items() if type(value) is int and value > 8}
    key = min(counts, key=lambda key: taken(key, 1), default="")
    if key and taken(key, 1) <= memory:
        most = bisect.bisect_right(range(1, counts[key]), memory, key=lambda most: taken(key, most))
        return f"{key} of at most {most:,} would fit, the other keys as they are"
    if isinstance(width := config.model.get("width"), float) and (most := math.floor(99 * width * (memory / need) ** .5)):        # nearly all arrays are of its square
        return f"model.width of at most {most / 100:g} would fit, the other keys as they are"
    return "choose a smaller model.name, smaller heads, or more devices"


def _bytes(leaf, place):
    """Of an array on the devices of this process together."""
    shape = place.shard_shape(leaf.shape) if math.prod(leaf.shape) else leaf.shape
    return math.prod(shape) * leaf.dtype.itemsize * len(place.addressable_devices)


def compiled(executables: Sequence[Any], memory: int, devices: int) -> None:
    """Refuses compiled steps of which one needs more than `memory` bytes of `devices` devices. Raises: UserError with its largest buffers and what to lower."""
    for executable in executables:
        found = executable.memory_analysis()
        need = devices * (found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes) if found else 0
        if not memory or need <= memory:
            continue
        raise UserError(f"a step takes {size(need)}, and this machine's devices have {size(memory)}; its largest buffers are {buffers(executable)}; {ADVICE}")


ADVICE = "lower micro_batch, batch_size, augment.size or augment.views, or set model.remat"


def buffers(executable: Any) -> str:
    return ", ".join(f"{each['shape']} ({size(each['bytes'])}, {each['op_name'][:80] or 'unnamed'})" for each in hlo.largest(hlo.parse(executable.as_text()), SHOWN))


def kept(state: Any, total: int, every: int, *, keep_last: int, keep_every: int, **_: Any) -> str:
    """What the checkpoints of a run of `total` steps take on disk, in a line; state: shapes of what one holds; every: steps between saves, 0 for the last alone."""
    nbytes, saved = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)), sorted({*range(every, total, every), total} if every else {total})
    stay = len({step for step in saved if keep_every and step % keep_every == 0} | {*saved[-keep_last:]})
    for_good = f", and for good each whose step is a multiple of {keep_every:,}" if keep_every else ""
    return f"checkpoints: {small(nbytes)} each; the newest {keep_last} stay{for_good}: {stay:,} at the end, {small(stay * nbytes)}"


def small(nbytes: float) -> str:
    """As `size`, in MB below a GB."""
    return size(nbytes) if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"


def size(nbytes: float) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes < 1e15 else f"{nbytes / 1e9:.1e} GB"
