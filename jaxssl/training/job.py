"""Everything a run is before it touches data: method, optimizer, schedule, shardings and the jitted step. Built alike by `train` and `plan`."""
import contextlib
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxssl import augment, config as configs, config_keys, data as datas, durations, models, optim, tree
from jaxssl.encoder import frozen
from jaxssl.errors import UserError
from jaxssl.methods import base
from jaxssl.parallel import mesh as sharding
from jaxssl.planning import flops
from jaxssl.training import checks, continued, mixed, online, programs, room
from jaxssl.training.movers import movers
from jaxssl.training.step import TrainState, init_state, train_step


class Facts(NamedTuple):
    """What the run needs to know of its data: training images, classes (0: no labels), canvas side, whether all of it stays on the device, and the
    shorter sides in pixels of a few images (`Data.sides`; empty where the data are not at hand). order(seed, batch_size) -> Order: which images make the batches
    (`Data.order`); None where the data are not at hand, whose images are then shuffled. channels, depth: of the canvases."""
    examples: int
    classes: int
    canvas: int
    resident: bool
    sides: tuple[int, ...] = ()
    order: Callable | None = None
    channels: int = 3
    depth: str = "uint8"


class Job(NamedTuple):
    """A run ready to start.

    total, warmup: steps. views, local: of an image. width: D of the encoder's features.
    embedding() -> K of what the loss compares, None where it compares none; traces the loss, so that what it refuses is refused.
    seen: shapes of the batch as the loss sees it (views, local, label, id).
    state, state_sharding: trees of shapes and of shardings. batch, batch_sharding: likewise, of what the step takes.
    init(key_data) -> state, step(state, batch) -> (state, metrics), embed(state, batch of canvases) -> [B, D]: jitted, not yet compiled.
    flops() -> FLOPs of the loss and its gradient for a global batch, without what model.remat and micro_batch compute again; traced when called.
    order(number, rows) -> ids of the samples of a batch.
    executables() -> the compiled steps, one for each of `sizes`, and what looks at a state for values that are not finite; compiled when first called.
    sizes, steps: of views that are drawn by weight (`mixed.Size`), and a step of each, like `step`, which is the first. drawn(step) -> which of them this step has.
    numbers: {path of the config: value} of what the step takes from its batch, under "numbers", and holds no constant of; see `prepare`.
    """
    facts: Facts
    mesh: Mesh
    method: base.Method
    optim: optim.Optim
    total: int
    warmup: int
    views: int
    local: int
    width: int
    embedding: Callable
    seen: dict
    batch: dict
    batch_sharding: dict
    state: TrainState
    state_sharding: TrainState
    init: Callable
    step: Callable
    embed: Callable
    flops: Callable
    order: datas.Order
    executables: Callable
    sizes: tuple
    steps: tuple
    drawn: Callable
    numbers: dict = {}

    def duration(self, value: Any, key: str, batch_size: int) -> int:
        return durations.steps(value, key, examples=self.facts.examples, batch_size=batch_size, total=self.total)

    def same(self, store: dict | None) -> dict:
        """What is the same in every batch, on the host: the resident `store` of decoded images where there is one, and the `numbers` of the run."""
        parts = {"store": {name: store[name] for name in self.batch["store"]} if store else {}, "numbers": {path: np.float32(value) for path, value in self.numbers.items()}}
        return {name: part for name, part in parts.items() if part}


def prepare(config: Any, mesh: Mesh, facts: Facts, varied: Collection[str] = ()) -> Job:
    """Builds the job; nothing is compiled and no array is made. varied: paths of the config whose values other runs vary. Those of them that only scale (`scales`) are
    arguments of the step, so that it is the same program for all their values and is compiled once. Raises: UserError for every mismatch that can be known here."""
    sizes, configured = mixed.configured(config)
    for each in configured:
        checks.config(each, mesh, facts)
    total, warmup = schedule(config, facts)
    encoder, plain = method_of(config, mesh, facts, total)
    for each in configured:
        checks.needs(each, facts, encoder, plain.needs)
    test_view, made = views(config)[1], [views(each, drawn=plain.needs.drawn)[0] for each in configured]
    batch, batch_sharding = batch_shapes(config.batch_size, facts, mesh)
    shapes = [seen_shapes(make_views, batch) for make_views in made]
    seen, method = shapes[0], watched(plain, facts, encoder)
    params, aux = initial_shapes(method, config, seen)
    optimizer = optimizer_of(config, facts, params)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, jax.eval_shape(optimizer.tx.init, params), aux, jax.ShapeDtypeStruct((2,), jnp.uint32))
    placed = TrainState(sharding.replicated(mesh), sharding.update_slices(state.params, mesh), sharding.update_slices(state.opt_state, mesh),
                        sharding.auxiliary(state.aux, mesh, method.places), sharding.replicated(mesh))
    gathered, sliced, restored = movers(config, mesh, state, placed, method.places)
    numbers = scales(config, mesh, facts, total, state, seen, varied)
    if numbers:
        batch["numbers"] = {path: jax.ShapeDtypeStruct((), jnp.float32) for path in numbers}
        batch_sharding["numbers"] = dict.fromkeys(numbers, sharding.replicated(mesh))

    def of(values):
        """The method and the transformation with traced values of `numbers`."""
        at = {section: {path.partition(".")[2]: value for path, value in values.items() if path.startswith(f"{section}.")} for section in ("method", "optim")}
        own = method_of(config, mesh, facts, total, numbers=at["method"])[1] if at["method"] else plain
        return watched(own, facts, encoder), optimizer_of(config, facts, params, numbers=at["optim"]).tx

    def stepped(make_views):
        def step(state, batch):
            batch = dict(batch)
            stop = batch.pop("stop").max()
            own, tx = of(batch.pop("numbers")) if numbers else (method, optimizer.tx)
            state, metrics = train_step(state, batch, method=own, tx=tx, moving=optimizer.moving, augment=lambda key, b: make_views(key, datas.lookup(b)),
                                        gathered=gathered, sliced=sliced, restored=restored)
            return state, {**metrics, "stop": stop}
        return jax.jit(step, donate_argnums=0, in_shardings=(placed, batch_sharding), out_shardings=(placed, sharding.replicated(mesh)))

    def embed(state, batch):
        return method.embed(*gathered(state.params, state.aux), test_view(batch)).pooled

    jitted = tuple(map(stepped, made))
    return Job(facts=facts, mesh=mesh, method=method, optim=optimizer, total=total, warmup=warmup, views=config.augment.views, local=config.local.views,
               width=encoder.features, embedding=functools.cache(functools.partial(embedding_width, plain, state, seen)), seen=seen, batch=batch, batch_sharding=batch_sharding,
               state=state, state_sharding=placed,
               init=initial(config, method, optimizer.tx, seen, placed, mesh),
               step=jitted[0], sizes=sizes, steps=jitted, drawn=mixed.drawn(config.seed, sizes),
               embed=jax.jit(embed, out_shardings=sharding.replicated(mesh)),
               flops=functools.cache(functools.partial(mixed.mean, sizes, functools.partial(loss_flops, config, mesh, facts, total, state, optimizer.moving), shapes)),
               order=ordered(config, facts),
               executables=functools.cache(functools.partial(programs.executables, jitted, (state, batch), (placed, batch_sharding), mesh)), numbers=numbers)


def watched(method: base.Method, facts: Facts, encoder: models.Net) -> base.Method:
    """The method with the online probe beside it, where there are labels."""
    return online.watch(method, classes=facts.classes, width=encoder.features)


def ordered(config: Any, facts: Facts) -> datas.Order:
    """See `Job.order`."""
    return facts.order(config.seed, config.batch_size) if facts.order else datas.shuffled(config.seed, config.batch_size, facts.examples)


def initial(config: Any, method: base.Method, tx: Any, seen: dict, placed: TrainState, mesh: Mesh) -> Callable:
    """See `Job.init`."""
    def init(key_data):
        return init_state(key_data, batch=zeros(few(config, seen)), method=method, tx=tx)
    return jax.jit(init, out_shardings=placed, compiler_options=programs.init_options(mesh))


def scales(config: Any, mesh: Mesh, facts: Facts, total: int, state: TrainState, seen: dict, varied: Collection[str]) -> dict[str, float]:
    """{path: value} of those of `varied` that only scale: rates and decays of the optimizer (`optim.SCALES`) and of its rules, and numbers of the method with which its loss can be
    traced without their values: what branches on one, or reckons with it in Python, keeps it as a constant."""
    found = {path: config.optim[key] for path in varied for section, _, key in [path.partition(".")] if section == "optim" and key in optim.SCALES}
    if "optim.rules" in varied:
        found |= {f"optim.rules.{i}.{key}": value for i, (_, settings) in enumerate(config.optim.rules) for key, value in settings.items()
                  if key in optim.SCALED_BY_RULES and isinstance(value, float) and value}
    key = jax.eval_shape(jax.random.key, 0)
    for path in varied:
        section, _, name = path.partition(".")
        if section != "method" or not isinstance(config.method.get(name), float):
            continue

        def loss(value, params, aux, batch, key, name=name):
            return method_of(config, mesh, facts, total, numbers={name: value})[1].loss(params, aux, batch, key, jnp.zeros((), jnp.int32))[0]
        with contextlib.suppress(Exception):         # each place that asks for the value raises its own kind; with the number itself it has been traced
            jax.eval_shape(loss, jax.ShapeDtypeStruct((), jnp.float32), state.params, state.aux, seen, key)
            found[path] = config.method[name]
    return {path: float(value) for path, value in sorted(found.items()) if value is not None}


def schedule(config: Any, facts: Facts) -> tuple[int, int]:
    """Steps in all and of warm-up. Raises: UserError."""
    duration = functools.partial(durations.steps, examples=facts.examples, batch_size=config.batch_size)
    total = duration(config.total, "total")
    warmup = duration(config.warmup, "warmup", total=total)
    if not 0 <= warmup < max(total, 1):
        raise UserError(f"warmup is {warmup} steps of {total} in all; it must be shorter than the run (total={config.total!r}, warmup={config.warmup!r})")
    return total, warmup


def optimizer_of(config: Any, facts: Facts, params: Any, numbers: Mapping[str, Any] = {}) -> optim.Optim:
    """The optimizer of `config` for `params` (arrays or shapes), with what stands still of a continued run. numbers: traced values, as `optim.make` takes them."""
    total, warmup = schedule(config, facts)
    ahead = continued.rules(config, durations.steps(config.head_warmup, "head_warmup", examples=facts.examples, batch_size=config.batch_size, total=total), warmup, total)
    return optim.make(**config.optim, ahead=ahead, params=params, batch_size=config.batch_size, total=total, warmup=warmup, numbers=numbers)


def views(config: Any, drawn: bool = False) -> tuple[Callable, Callable]:
    """(training views, test view) of `config.augment` and `config.local`; the test view resizes the short side (to size·8/7 from 128 pixels on) and crops the centre.
    drawn: batches hold what was drawn for the training views, too."""
    dtype = {"bf16": "bfloat16", "f32": "float32"}[config.precision]
    a = config.augment
    try:
        plain = augment.test_view(size=a.size, squash=a.squash, interpolation=a.interpolation, mean=a.mean, std=a.std, low=a.low, high=a.high, dtype=dtype)
        if drawn and any(np.any(section[key]) for section in (a, config.local) for key in ("flip_vertical", "turns")):
            raise ValueError(f"augment.flip_vertical and augment.turns move places, and {config.method.name} matches those of two views by their crops and flips; set both to 0")
        return augment.pair(a, config.local, dtype=dtype, return_params=drawn), plain
    except ValueError as error:
        raise UserError(str(error)) from error


def seen_shapes(make_views: Callable, batch: dict) -> dict:
    """Shapes of the batch as the loss sees it."""
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(lambda key, b: make_views(key, datas.lookup(b)), key, {name: part for name, part in batch.items() if name != "stop"})


def few(config: Any, seen: dict) -> dict:
    """Shapes of a batch of as few images as the network takes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((2 * config.model.get("bn_groups", 1), *x.shape[1:]), x.dtype), seen)


def zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def initial_shapes(method: base.Method, config: Any, seen: dict) -> tuple[Any, Any]:
    """Shapes of params and aux."""
    return jax.eval_shape(lambda key: method.init(key, zeros(few(config, seen))), jax.eval_shape(jax.random.key, 0))


def embedding_width(method: base.Method, state: TrainState, seen: dict) -> int | None:
    """K of what the loss compares; None for a method that compares no embeddings."""
    found = jax.eval_shape(lambda p, a, b, key: method.loss(p, a, b, key, jnp.zeros((), jnp.int32))[1][2], state.params, state.aux, seen, jax.eval_shape(jax.random.key, 0))
    return found["embeddings"].shape[-1] if "embeddings" in found else None


def loss_flops(config: Any, mesh: Mesh, facts: Facts, total: int, state: TrainState, moving: Callable, seen: dict) -> float:
    """See `Job.flops`."""
    remat = {"remat": {bool: False, str: "none"}[type(config.model.remat)]} if "remat" in config.model else {}
    loss, key, first = method_of(config, mesh, facts, total, parts=1, **remat)[1].loss, jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((), jnp.int32)
    return flops.count(jax.make_jaxpr(jax.grad(lambda params, *a: loss(moving(params), *a)[0]))(state.params, state.aux, seen, key, first).jaxpr)


def method_of(config: Any, mesh: Mesh, facts: Facts, total: int, *, parts: int = 0, numbers: Mapping[str, Any] = {}, **model: Any) -> tuple[models.Net, base.Method]:
    """The encoder and the method on it, with its moving average; parts: micro-batches (0: the config's); numbers: traced values of keys of `config.method`; `model`
    changes keys of `config.model`."""
    parts = parts or (config.batch_size // config.micro_batch if config.micro_batch else 1)
    encoder = models.Net(models.make(**{**config.model, **model}, precision=config.precision), parts)
    duration = functools.partial(durations.steps, examples=facts.examples, batch_size=config.batch_size, total=total)
    context = dict(encoder=encoder, net=functools.partial(head_net, parts=parts, groups=config.model.get("bn_groups", 1)), mesh=mesh, batch_size=config.batch_size,
                   views=config.augment.views, local=config.local.views, classes=facts.classes, examples=facts.examples, total=total, duration=duration,
                   frozen=frozen.opener(encoder, mean=config.augment.mean, std=config.augment.std, precision=config.precision))
    own = {**{k: v for k, v in config.method.items() if k != "name"}, **numbers}
    method = base.build(config_keys.function("method", config), own, context)
    return encoder, base.with_teacher(method, ("encoder",), lambda step: config.ema) if config.ema else method


def head_net(module: Any, *, parts: int, groups: int) -> models.Net:
    """A head behind the seam: in the micro-batches, and with the ghost groups of batch norm, that the encoder has."""
    return models.Net(module.clone(bn_groups=groups) if groups > 1 and hasattr(module, "bn_groups") else module, parts)


def describe(config: Any, job: Job) -> str:
    """What is printed and logged at start: mesh, model, views, learning rate, schedule, optimizer groups."""
    f, d = job.facts, jax.devices()
    parameters = sum(x.size for x in jax.tree.leaves(job.state.params))
    epochs = job.total * config.batch_size / f.examples
    every = {name: job.duration(config[name], name, config.batch_size) for name in ("log_every", "eval_every", "checkpoint_every")}
    local = f" and {job.local} of {config.local.size}×{config.local.size}" if job.local else ""
    parts = [f"chosen: {job.method.said}"] if job.method.said else []
    parts += [f"online probe: none, since {f.classes:,} classes are more than {online.MOST:,}"] if f.classes > online.MOST else []
    if config.micro_batch:
        parts += [f"micro-batches: {config.batch_size // config.micro_batch} of {config.micro_batch} images, forward twice; the gradient is the whole batch's, and batch norm sees "
                 "its part"]
    return "\n".join([
        f"mesh: {' × '.join(f'{n} {a}' for a, n in job.mesh.shape.items())} = {len(d)} {d[0].device_kind} devices in {jax.process_count()} process(es)",
        f"data: {f.examples:,} images of at most {f.canvas}×{f.canvas}{of_channels(f)}, {f.classes or 'no'} classes, {'resident on every device' if f.resident else 'streamed'}",
        f"method: {config.method.name}, {job.views} view{'s' if job.views > 1 else ''} of {config.augment.size}×{config.augment.size}{local}; "
        f"global batch {config.batch_size} images ({config.batch_size // job.mesh.size} a device), {config.precision}",
        *filter(None, [mixed.sentence(job.sizes)]), *parts,
        f"parameters: {parameters:,} ({config.model.name}, features of {job.width})",
        f"schedule: {job.total} steps ({epochs:.4g} epochs), warm-up {job.warmup} steps; log every {every['log_every']}, "
        f"evaluate every {every['eval_every']}, save every {every['checkpoint_every']}",
        room.kept(job.state, job.total, every["checkpoint_every"], **config.checkpoint),
        job.optim.describe])


def of_channels(facts: Facts) -> str:
    """Of canvases that are not RGB of 8 bits."""
    return "" if (facts.channels, facts.depth) == (3, "uint8") else f" of {facts.channels} channel{'s' if facts.channels > 1 else ''} in {facts.depth}"


def parameter_table(job: Job) -> str:
    from clu import parameter_overview
    return parameter_overview.get_parameter_overview(job.state.params, include_stats=False)


def batch_shapes(batch_size: int, facts: Facts, mesh: Mesh) -> tuple[dict, dict]:
    """Shapes and shardings of what the step takes: indices into the resident store, or decoded canvases; and one stop flag a device."""
    def arrays(n):
        return {"image": jax.ShapeDtypeStruct((n, facts.canvas, facts.canvas, facts.channels), jnp.dtype(facts.depth)), "size": jax.ShapeDtypeStruct((n, 2), jnp.int32),
                "label": jax.ShapeDtypeStruct((n,), jnp.int32), "id": jax.ShapeDtypeStruct((n,), jnp.int32)}
    split, whole = sharding.batch(mesh), sharding.replicated(mesh)
    flag = jax.ShapeDtypeStruct((mesh.size,), jnp.int32)
    if not facts.resident:
        batch = {**arrays(batch_size), "stop": flag}
        return batch, {name: split for name in batch}
    store = arrays(facts.examples)
    return ({"index": jax.ShapeDtypeStruct((batch_size,), jnp.int32), "stop": flag, "store": store},
            {"index": split, "stop": split, "store": {name: whole for name in store}})
