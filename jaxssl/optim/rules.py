"""One table of path rules: the rate, decay, adaptation, freezing and clipping of every array, each decided by the first rule that matches and names it."""
import contextlib
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxssl import tree
from jaxssl.errors import UserError, nearest

STACKED = re.compile(r"(?:^|/)blocks/")     # layers stacked by nn.scan: the first axis counts them
_BLOCK = re.compile(r"/(?:stage(\d+)/)?(?:block(\d+)|(blocks))/")
_STAGE = re.compile(r"/stage(\d+)/")
_INPUT = re.compile(r"^\w+/(?:stem|patch|pos|cls|mask|reg|token|embed)")
_NUMBERED = re.compile(r"^\w+/[a-z]+(\d+)/")


class Row(NamedTuple):
    """What holds for one array; the settings of a rule, with what holds where no rule says otherwise.

    rate: factor on the scheduled rate; 0 freezes. fixed: the peak rate times `rate` throughout, no warm-up and no schedule (SimSiam's predictor).
    decay: factor on the weight decay. adapt: LARS's trust ratio. clip: arrays of one name share the norm that is clipped; "" is not clipped.
    frozen_until: step, or share of the run below 1, before which updates are exactly 0. Gradients count and moments gather meanwhile, as with DINOv2's rate of 0.
    thaw: steps, or share of the run below 1, over which its rate then rises from 0 in a straight line. still: never moves, has no gradient, and no slots are kept for it.
    adam: above 0, the constant rate of an Adam apart, which nothing else of the table holds for: no schedule, decay or clipping.
    """
    rate: float = 1.0
    fixed: bool = False
    decay: float = 1.0
    adapt: bool = True
    frozen_until: float = 0
    thaw: float = 0
    still: bool = False
    clip: str = "all"
    adam: float = 0.0
    layer: Any = 1.0        # not a setting: factor of the layer decay, a tuple of one a layer where layers are stacked
    stacked: bool = False   # not a setting: trust ratio and clipping by the array are each layer's own


SETTINGS = Row._fields[:-2]
PATIENCE = 5.0
CLIP_BY = ("all", "network", "array")


def defaults(probe_lr: float) -> tuple:
    """Rules behind those of the config: the online probe, and no decay and no adaptation of biases and norms (rank at most 1, within a layer)."""
    return (("^probe/", {"adam": probe_lr}), (1, {"decay": 0.0, "adapt": False}))


def table(params: Any, rules: Sequence[tuple[str | int, Mapping]], *, ahead: Sequence[tuple[str | int, Mapping]] = (), behind: Sequence[tuple[str | int, Mapping]], clip_by: str,
          total: int, layer_decay: float = 1.0, networks: Sequence[str] = ("encoder",)) -> dict[str, Row]:
    """{path: Row} of every array of `params` (arrays or shapes), in the order of its leaves.

    rules, and those ahead of and behind them: (pattern, settings); a pattern is a regex searched in "a/b/c" paths, or a number: arrays of at most that rank, within a layer.
    Raises: UserError for a setting that there is not, a wrong value, and a setting of `rules` that decides nothing.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in tree.names(params).items()}
    rules = [(pattern, dict(settings)) for pattern, settings in rules]
    _check(rules)
    every = [*ahead, *rules, *behind]
    factors = layer_factors(shapes, layer_decay, networks) if layer_decay != 1 else {}
    used, rows = set(), {}
    with _ending(rules):
        matches = {path: [_matches(pattern, path, len(shape) - bool(STACKED.search(path))) for pattern, _ in every] for path, shape in shapes.items()}
    for path, shape in shapes.items():
        stacked = bool(STACKED.search(path))
        row = Row(clip={"all": "all", "network": path.split("/")[0], "array": path}[clip_by], layer=factors.get(path, 1.0), stacked=stacked)
        matching = [(place, settings) for place, (_, settings) in enumerate(every) if matches[path][place]]
        first = {setting: (place, settings[setting]) for place, settings in reversed(matching) for setting in settings}
        if first.get("adam", (0, 0))[1]:
            first = {"adam": first["adam"]}
        used |= {(place, setting) for setting, (place, _) in first.items()}
        rows[path] = row._replace(**{setting: value for setting, (_, value) in first.items()})
    unused = [f"{setting} of {pattern!r}" for place, (pattern, settings) in enumerate(rules, len(ahead)) for setting in settings if (place, setting) not in used]
    if unused:
        raise UserError(f"optim.rules: {', '.join(unused)} decides nothing (the first rule that matches and names a setting wins); "
                        f"names are like {', '.join(map(repr, list(shapes)[:5]))}")
    def steps(value):
        return round(value * total) if value < 1 else int(value)
    return {path: row._replace(frozen_until=steps(row.frozen_until), thaw=steps(row.thaw)) for path, row in rows.items()}


def _matches(pattern: str | int, path: str, rank: int) -> bool:
    return rank <= pattern if isinstance(pattern, int) else bool(re.search(pattern, path))


@contextlib.contextmanager
def _ending(rules: Sequence) -> Iterator[None]:
    """Raises: UserError when the block takes `PATIENCE` seconds of processor time: some patterns, such as (a+)+$, never end. Python keeps such clocks in its main thread alone."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(*_):
        raise UserError(f"optim.rules: matching {', '.join(repr(pattern) for pattern, _ in rules)} to the names of arrays does not end; write it without repeats within repeats")
    former = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)


def _check(rules: Sequence[tuple[str | int, dict]]) -> None:
    """Collects every wrong rule and raises once."""
    faults = []
    for pattern, settings in rules:
        try:
            re.compile("" if isinstance(pattern, int) else pattern)
        except (re.error, OverflowError, RecursionError) as error:
            faults.append(f"{str(pattern)[:80]!r} is not a regular expression ({error}); escape what is meant literally")
        if not settings:
            faults.append(f"{pattern!r} has no settings; give it some of {', '.join(SETTINGS)}, or leave it out")
        for setting, value in settings.items():
            if setting not in SETTINGS:
                faults.append(f"{pattern!r} sets {setting!r}, which there is not{nearest(str(setting), SETTINGS)}; there are {', '.join(SETTINGS)}")
                continue
            kind = type(Row._field_defaults[setting])
            good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 if kind in (int, float) else isinstance(value, kind)
            if not (good or isinstance(value, jax.core.Tracer)):         # a traced number was checked before
                faults.append(f"{setting} of {pattern!r} is {value!r}; it takes {'a number, 0 or more' if kind in (int, float) else f'a {kind.__name__}'}")
    if faults:
        raise UserError(f"optim.rules: {'; '.join(faults)}")


def layer_factors(shapes: Mapping[str, tuple], decay: float, networks: Sequence[str] = ("encoder",)) -> dict[str, Any]:
    """Factor on the rate of each parameter: decay^(layers above its own), as in BEiT, MAE (arXiv 2111.06377, A.1) and DINOv2.

    Layers of the encoder, from below: stem, patches, positions and tokens; every residual block; what stands behind them. Then the numbered layers of each
    further network named in `networks`; all others are the topmost, whose factor is 1. Layers stacked by nn.scan get a tuple, one factor a layer.
    """
    blocks: dict[tuple, int] = {}       # (stage, block) -> how many layers
    for path, shape in shapes.items():
        if path.startswith("encoder/") and (match := _BLOCK.search(path)):
            blocks[int(match[1] or 0), int(match[2] or 0)] = shape[0] if match[3] else 1
    if not blocks:
        raise UserError(f"layer_decay is {decay:g}, but the encoder has no residual blocks that it could act on; leave it at 1")
    first, layer = {}, 1
    for block in sorted(blocks):
        first[block], layer = layer, layer + blocks[block]
    heads = sorted({(networks.index(path.split("/")[0]), int(match[1])) for path in shapes
                    if not path.startswith("encoder/") and path.split("/")[0] in networks and (match := _NUMBERED.search(path))})
    top = layer + len(heads)

    def height(path):
        network = path.split("/")[0]
        if network != "encoder":
            match = _NUMBERED.search(path)
            return layer + heads.index((networks.index(network), int(match[1]))) if network in networks and match else top
        if match := _BLOCK.search(path):
            return first[int(match[1] or 0), int(match[2] or 0)]
        if match := _STAGE.search(path):                                # what leads into a stage goes with its first block
            return min((first[block] for block in first if block[0] == int(match[1])), default=layer)
        return 0 if _INPUT.search(path) else layer
    heights = {path: height(path) for path in shapes}
    return {path: tuple(decay ** (top - heights[path] - i) for i in range(shape[0])) if path.startswith("encoder/") and STACKED.search(path) else decay ** (top - heights[path])
            for path, shape in shapes.items()}
