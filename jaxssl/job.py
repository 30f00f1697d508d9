"""Everything a run is before it touches data: method, optimizer, schedule, shardings and the jitted step. Built alike by `train` and `plan`."""
import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxssl import augment, config as configs, data as datas, durations, flops, models, online, optim, sharding
from jaxssl.errors import UserError
from jaxssl.methods import base
from jaxssl.step import TrainState, init_state, train_step

log = logging.getLogger("jaxssl.job")
# XLA for TPUs copies arrays from HBM to the chip ahead of their use, by default also where one operation then reads the copy once and nothing is won.
# Here what uses a copy must move four times its bytes. Measured on the ImageNet recipe, v5e:4x4, with ratios of 1.5, 2.5 and 4: 4.31, 4.14 and 4.10 GB to
# or from HBM a step, 14.7, 13.8 and 13.6 GB as XLA counts bytes.
TPU_OPTIONS = {"xla_tpu_msa_inefficient_use_to_copy_ratio": 4.0}


class Facts(NamedTuple):
    """What the run needs to know of its data: training images, classes (0: no labels), canvas side, whether all of it stays on the device, and the
    shorter sides in pixels of a few images (`Data.sides`; empty where the data are not at hand)."""
    examples: int
    classes: int
    canvas: int
    resident: bool
    sides: tuple[int, ...] = ()


class Job(NamedTuple):
    """A run ready to start.

    total, warmup: steps. views: of an image. width, embedding: of the encoder's features and of what the loss sees.
    state, state_sharding: trees of shapes and of shardings. batch, batch_sharding: likewise, of what the step takes.
    init(key_data) -> state, step(state, batch) -> (state, metrics), embed(state, batch of canvases) -> [B, D]: jitted, not yet compiled.
    flops() -> FLOPs of the loss and its gradient for a global batch, without what model.remat computes again; traced when called.
    """
    facts: Facts
    mesh: Mesh
    method: base.Method
    optim: optim.Optim
    total: int
    warmup: int
    views: int
    width: int
    embedding: int
    batch: dict
    batch_sharding: dict
    state: TrainState
    state_sharding: TrainState
    init: Callable
    step: Callable
    embed: Callable
    flops: Callable

    def duration(self, value: Any, key: str, batch_size: int) -> int:
        return durations.steps(value, key, examples=self.facts.examples, batch_size=batch_size, total=self.total)


def prepare(config: Any, mesh: Mesh, facts: Facts) -> Job:
    """Builds the job; nothing is compiled and no array is made. Raises: UserError for every mismatch that can be known here."""
    check(config, mesh, facts)
    duration = functools.partial(durations.steps, examples=facts.examples, batch_size=config.batch_size)
    total = duration(config.total, "total")
    warmup = duration(config.warmup, "warmup", total=total)
    if not 0 <= warmup < max(total, 1):
        raise UserError(f"warmup is {warmup} steps of {total} in all; it must be shorter than the run (total={config.total!r}, warmup={config.warmup!r})")
    make_views, view = views(config)
    encoder, plain = method_of(config, mesh, total)
    method = online.watch(plain, classes=facts.classes, width=encoder.features)

    size = config.augment.size
    example = {"views": jax.ShapeDtypeStruct((2 * config.model.get("bn_groups", 1), config.augment.views, size, size, 3), jnp.float32)}
    params, _ = jax.eval_shape(method.init, jax.eval_shape(jax.random.key, 0), example)
    optimizer = optim.make(**config.optim, params=params, batch_size=config.batch_size, total=total, warmup=warmup)

    def init(key_data):
        return init_state(key_data, batch=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example), method=method, tx=optimizer.tx)

    state = jax.eval_shape(init, jax.ShapeDtypeStruct((2,), jnp.uint32))
    placed = TrainState(sharding.replicated(mesh), sharding.update_slices(state.params, mesh), sharding.update_slices(state.opt_state, mesh),
                        sharding.parameters(state.aux, mesh), sharding.replicated(mesh))
    used = sharding.parameters(state.params, mesh)
    batch, batch_sharding = batch_shapes(config.batch_size, facts, mesh)
    key, first = jax.random.key(0), jnp.zeros((), jnp.int32)
    seen = jax.eval_shape(lambda b: make_views(key, lookup(b)), {name: part for name, part in batch.items() if name != "stop"})
    _, (_, metrics) = jax.eval_shape(plain.loss, state.params, state.aux, seen, key, first)

    def model_flops():
        loss = method_of(config, mesh, total, remat=False)[1].loss
        return flops.count(jax.make_jaxpr(jax.grad(loss, has_aux=True))(state.params, state.aux, seen, key, first).jaxpr)

    def gathered(params):
        # In bf16 the encoder's kernels are cast before they travel: half the bytes, and it would cast them anyway. Heads compute in float32.
        half = {"encoder": jax.tree.map(lambda w: w.astype(jnp.bfloat16) if w.ndim > 1 else w, params["encoder"])} if config.precision == "bf16" else {}
        return jax.lax.with_sharding_constraint({**params, **half}, used)

    def sliced(grads):
        # Two constraints in a row: the sum over devices ends in the first; with the second alone XLA for TPUs splits the convolutions of
        # the weight gradients over channels and gathers their activations (measured on v5e:4x4: 41 GB moved a step instead of 20).
        return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(grads, used), placed.params)

    def step(state, batch):
        batch = dict(batch)
        stop = batch.pop("stop").max()
        state, metrics = train_step(state, batch, method=method, tx=optimizer.tx, augment=lambda key, b: make_views(key, lookup(b)),
                                    gathered=gathered, sliced=sliced)
        return state, {**metrics, "stop": stop}

    def embed(state, batch):
        return method.embed(gathered(state.params), state.aux, view(batch))

    return Job(facts, mesh, method, optimizer, total, warmup, config.augment.views, encoder.features, metrics["embeddings"].shape[-1], batch, batch_sharding, state, placed,
               init=jax.jit(init, out_shardings=placed),
               step=jax.jit(step, donate_argnums=0, in_shardings=(placed, batch_sharding), out_shardings=(placed, sharding.replicated(mesh))),
               embed=jax.jit(embed, out_shardings=sharding.replicated(mesh)), flops=model_flops)


def method_of(config: Any, mesh: Mesh, total: int, **model: Any) -> tuple[Any, base.Method]:
    """The encoder's module and the method on it, with its moving average; `model` changes keys of `config.model`."""
    encoder = models.make(**{**config.model, **model}, precision=config.precision)
    context = dict(encoder=encoder, mesh=mesh, batch_size=config.batch_size, views=config.augment.views, total=total)
    own = {k: v for k, v in config.method.items() if k != "name"}
    method = base.build(configs.function("method", config), own, context)
    return encoder, base.with_ema(method, config.ema) if config.ema else method


def describe(config: Any, job: Job) -> str:
    """What is printed and logged at start: mesh, model, views, learning rate, schedule, optimizer groups."""
    f, d = job.facts, jax.devices()
    parameters = sum(x.size for x in jax.tree.leaves(job.state.params))
    epochs = job.total * config.batch_size / f.examples
    return "\n".join([
        f"mesh: {' × '.join(f'{n} {a}' for a, n in job.mesh.shape.items())} = {len(d)} {d[0].device_kind} devices in {jax.process_count()} process(es)",
        f"data: {f.examples:,} images of at most {f.canvas}×{f.canvas}, {f.classes or 'no'} classes, {'resident on every device' if f.resident else 'streamed'}",
        f"method: {config.method.name}, {job.views} views of {config.augment.size}×{config.augment.size}; global batch {config.batch_size} images "
        f"({config.batch_size // job.mesh.size} a device), {config.precision}",
        f"parameters: {parameters:,} ({config.model.name}, features of {job.width})",
        f"schedule: {job.total} steps ({epochs:.4g} epochs), warm-up {job.warmup} steps; log every {job.duration(config.log_every, 'log_every', config.batch_size)}, "
        f"evaluate every {job.duration(config.eval_every, 'eval_every', config.batch_size)}, save every {job.duration(config.checkpoint_every, 'checkpoint_every', config.batch_size)}",
        job.optim.describe])


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


def views(config: Any) -> tuple[Callable, Callable]:
    """(training views, test view) of `config.augment`; the test view resizes the short side (to size·8/7 from 128 pixels on) and crops the centre."""
    dtype = {"bf16": "bfloat16", "f32": "float32"}[config.precision]
    a = config.augment
    try:
        return augment.make(**a, dtype=dtype), augment.test_view(size=a.size, interpolation=a.interpolation, mean=a.mean, std=a.std, dtype=dtype)
    except ValueError as error:
        raise UserError(f"augment.{error}") from error


def check(config: Any, mesh: Mesh, facts: Facts) -> None:
    """Config against devices and data. Warns of images that are enlarged to make a view. Raises: UserError."""
    if config.batch_size % mesh.size:
        below = config.batch_size // mesh.size * mesh.size
        raise UserError(f"batch_size is {config.batch_size}, which {mesh.size} devices cannot share equally; use {below or mesh.size} or {below + mesh.size}")
    if config.batch_size > facts.examples:
        raise UserError(f"batch_size is {config.batch_size}, but there are only {facts.examples} training images; use at most {facts.examples}")
    if config.augment.size > facts.canvas:
        raise UserError(f"augment.size is {config.augment.size} pixels, but images arrive on a canvas of {facts.canvas}; "
                        f"set --config.augment.size={facts.canvas} or less, or a larger --config.data.canvas if the images are larger")
    groups = config.model.get("bn_groups", 1)
    if groups < 1 or (config.batch_size * config.augment.views) % groups:
        raise UserError(f"model.bn_groups is {groups}; it must be at least 1 (the global batch) and divide the {config.batch_size * config.augment.views} views of a batch")
    check_sides(config.augment.size, facts.sides)


def check_sides(size: int, sides: tuple[int, ...]) -> None:
    """Views of `size` pixels against the shorter sides of a few images, ascending. Raises: UserError when not one reaches half of it; a warning when most fall short."""
    if sides and 2 * sides[-1] < size:
        raise UserError(f"augment.size is {size} pixels, but the images are small: of {len(sides)} looked at, the shorter side is {sides[-1]} pixels at most, "
                        f"and views would be mostly invented; set --config.augment.size={sides[-1]} or less, or give larger images")
    if sides and (middle := sides[len(sides) // 2]) < size and jax.process_index() == 0:
        log.warning("warning: augment.size is %d pixels and the images are smaller (of %d looked at, half have a shorter side of at most %d): "
                    "views are enlarged; --config.augment.size=%d would cost less", size, len(sides), middle, middle)


def batch_shapes(batch_size: int, facts: Facts, mesh: Mesh) -> tuple[dict, dict]:
    """Shapes and shardings of what the step takes: indices into the resident store, or decoded canvases; and one stop flag a device."""
    def arrays(n):
        return {"image": jax.ShapeDtypeStruct((n, facts.canvas, facts.canvas, 3), jnp.uint8), "size": jax.ShapeDtypeStruct((n, 2), jnp.int32),
                "label": jax.ShapeDtypeStruct((n,), jnp.int32)}
    split, whole = sharding.batch(mesh), sharding.replicated(mesh)
    flag = jax.ShapeDtypeStruct((mesh.size,), jnp.int32)
    if not facts.resident:
        batch = {**arrays(batch_size), "stop": flag}
        return batch, {name: split for name in batch}
    store = arrays(facts.examples)
    return ({"index": jax.ShapeDtypeStruct((batch_size,), jnp.int32), "stop": flag, "store": store},
            {"index": split, "stop": split, "store": {name: whole for name in store}})


def lookup(batch: dict) -> dict:
    """The batch's samples: taken from the resident store by index, or as they came."""
    return datas.lookup(batch["store"], {"index": batch["index"]}) if "store" in batch else batch
