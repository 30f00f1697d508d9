"""Tiny versions of every method, built by listing the folders: a new method or config is covered by existing."""
import dataclasses
import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl import config as configs, data as datas, tree
from jaxssl.training import job as jobs
from jaxssl.parallel import mesh as sharding
from jaxssl.data import pipeline

ROOT = Path(__file__).parent.parent
METHODS = sorted(p.stem for p in (ROOT / "jaxssl" / "methods").glob("*.py") if p.stem not in ("__init__", "base"))
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").glob("*/*.py") if p.parent.name not in ("studies", "curation"))     # tables of other commands
# The family of a method's encoder, the module that its name begins with -> what makes it tiny.
ENCODERS = {"resnet": {"model.name": "resnet10", "model.depths": "(1, 1)", "model.width": "0.0625", "model.stem": "imagenet"},
            "vit": {"model.name": "vit_tiny", "model.width": "32", "model.depth": "2", "model.heads": "2", "model.patch": "4", "model.image": "16"},
            "convnextv2": {"model.name": "convnextv2_atto", "model.width": "16", "model.depths": "(1, 1)"},
            "convnext": {"model.name": "convnext_tiny", "model.width": "16", "model.depths": "(1, 1)"}}
ON_VIT = ("metric",)        # what has no head whose arrays would be large enough to be split, and needs no batch norm
# On four stages, whose arrays are large enough to be split where those of the heads are not (SSCD, W-MSE, distillation), or whose gradients differ less between
# devices (VISReg: 1.2e-5 of their norm on two).
DEEPER = ("sscd", "visreg", "wmse", "distill")
LESS = {"augment.size": "16", "data.source": "digits", "data.canvas": "16", "data.variant": "clean"}
BRIEF = {"batch_size": "16", "total": "30", "warmup": "3", **LESS}
SMALL = {**BRIEF, **ENCODERS["resnet"]}     # of SimCLR
# Whatever a recipe has: arithmetic that can be compared, and an optimizer whose first moments are the gradient.
PLAIN = {"precision": "f32", "data.path": "", "data.test_path": "", "data.examples": "0", "data.classes": "0", "optim.name": "adamw", "optim.lr": "4e-3", "optim.scaling": "none"}
WIDTHS, WIDEST = ("hidden", "dim", "prototypes", "bottleneck", "tokens"), 64
# Of methods that whiten in sub-batches, which are parts of the batch and wider than an embedding; shrunk, so that whitening eight images is no test of rounding.
WHITE = {"method.subbatch": "8", "method.dim": "4", "method.shrink": ".1"}


@functools.cache
def spec(method: str) -> tuple[str, dict]:
    """(config, what to change in it): of the first data set of these that has one for `method`, the variant with local crops where there is one;
    else SimCLR's with the method's name."""
    for file in (Path("configs") / data / f"{method}.py" for data in ("digits", "cifar10", "folder", "imagenet")):
        if (ROOT / file).exists():
            scope = runpy.run_path(str(ROOT / file))
            best = max(("", *scope.get("VARIANTS", ())), key=lambda variant: scope["get_config"](variant).get("local", {}).get("views", 0) > 0)
            return f"{file}:{best}".rstrip(":"), {"model.name": "vit_tiny"} if method in ON_VIT else {}
    return "configs/digits/simclr.py", {"method.name": method}


@functools.cache
def _small(method):
    file, name = spec(method)
    config = configs.load(str(ROOT / file), name)
    encoder = next(changes for family, changes in ENCODERS.items() if config.model.name.startswith(family))
    encoder = encoder | ({"model.depths": "(1, 1, 1, 1)", "model.stem": "cifar"} if method in DEEPER else {})
    heads = {f"method.{key}": str(WIDEST) for key in WIDTHS if config.method.get(key, 0) > WIDEST}
    once = {"fill": "0_steps", "every": "2_steps", "reset": "2", "memory_start": "2"}    # of what happens once in a while, where an epoch is longer than a test
    once |= {"targets": "2", "top_layers": "2"}                                        # what fits into four by four patches and two blocks
    bank = {f"method.{key}": text for key, text in once.items() if key in config.method}
    white = WHITE if "subbatch" in config.method else {}
    return {**name, **LESS, **PLAIN, **encoder, **heads, **bank, **white, **({"local.views": "2", "local.size": "8"} if config.local.views else {})}


def small(method: str) -> dict[str, str]:
    """What makes a run of `method` tiny and plain, its schedule aside: key -> text of a flag."""
    return dict(_small(method))


def config_of(method: str, **changes):
    """The tiny config of `method`."""
    return configs.load(str(ROOT / spec(method)[0]), {**BRIEF, **small(method), **changes})


@functools.cache
def built(method: str):
    """(config, encoder, the method) of its tiny config, from which nothing was traced."""
    config = config_of(method)
    return config, *jobs.method_of(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True), 30)


@functools.cache
def kinds_of_state(method: str) -> frozenset[tuple[str, str]]:
    """(top key of aux, place between steps) of every array that `method` keeps beside its parameters; from shapes alone."""
    config, _, made = built(method)
    mesh, facts = sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True)
    seen = jobs.seen_shapes(jobs.views(config, made.needs.drawn)[0], jobs.batch_shapes(config.batch_size, facts, mesh)[0])
    aux = jobs.initial_shapes(made, config, seen)[1]
    return frozenset((name.partition("/")[0], kind) for name, kind in tree.names(sharding.kinds(aux, made.places)).items())


@functools.cache
def covering() -> tuple[str, ...]:
    """The fewest methods (as a greedy choice finds them) whose states, with a moving average of the encoder beside them, have every kind of place that any
    method's state has: what a stop, a kill or a second process could lose. That each array of each method is saved and restored is in its story."""
    kinds = {method: {kind for _, kind in kinds_of_state(method)} | {"slices"} for method in ("simclr", *METHODS)}
    chosen = []
    while missing := set().union(*kinds.values()).difference(*map(kinds.get, chosen)):
        chosen.append(max(kinds, key=lambda method: len(kinds[method] & missing)))
    return tuple(chosen)


@functools.cache
def digits():
    data = datas.make(source="digits", variant="clean", canvas=16)
    return data, datas.store(data, data.train)


class Tiny:
    """A job on `data × fsdp` devices with its state, its own or a copy of another's, and its batches."""

    def __init__(self, config, devices: int, fsdp: int = 1, state=None, varied=()):
        self.config, (data, store) = config, digits()
        self.data = dataclasses.replace(data, per_class=config.data.per_class if config.data.sampler == "m_per_class" else 0)
        self.mesh = sharding.make_mesh(devices=jax.devices()[:devices], fsdp=fsdp)
        self.job = jobs.prepare(config, self.mesh, jobs.Facts(len(self.data.train), len(self.data.classes), self.data.canvas, True, order=self.data.order), varied)
        self.same = sharding.put(self.job.same(store), sharding.replicated(self.mesh))
        # Of another's state a copy is read: what the host has looked at is not donated (jax 0.11).
        own = self.job.init if state is None else lambda _: sharding.put(jax.tree.map(np.array, jax.jit(functools.partial(jax.tree.map, jnp.copy))(state)), self.job.state_sharding)
        self.state = own(np.asarray(jax.random.key_data(jax.random.key(config.seed))))

    def batch(self, step: int):
        split = sharding.batch(self.mesh)
        rows = pipeline.rows_of(self.config.batch_size, jax.process_index(), jax.process_count())
        index = self.job.order(step, rows).astype(np.int32)
        return {"index": sharding.put(index, split), "stop": sharding.put(np.zeros(self.mesh.size // jax.process_count(), np.int32), split), **self.same}

    def run(self, steps: int, start: int = 0) -> list[dict]:
        """Metrics of the steps [start, start + steps)."""
        found = []
        for step in range(start, start + steps):
            self.state, metrics = self.job.step(self.state, self.batch(step))
            found.append({k: float(v) for k, v in metrics.items()})
        return found

    def named(self, part: str) -> dict[str, np.ndarray]:
        """name -> array of a part of the state, on the host."""
        return tree.names(jax.tree.map(np.asarray, getattr(self.state, part)))
