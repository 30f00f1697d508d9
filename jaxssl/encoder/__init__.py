"""A trained encoder as an object: images in, features out. What evaluation, export and `jaxssl.load` share; no optimizer, no loss, no data pipeline."""
import contextlib
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl import augment, models, tree
from jaxssl.encoder import preprocessing
from jaxssl.errors import UserError, listed, nearest, whole
from jaxssl.methods import base
from jaxssl.models import dense

WEIGHTS = ("student", "teacher")
_CHUNK = 256    # images in one forward pass of `Encoder.__call__`


class Origin(NamedTuple):
    """Where weights come from that a file holds; all but the licence empty for those of a workdir.

    layout: whose names they had. used, unused: names of the file's tensors. assumed: what nothing states, "architecture" or keys of the
    preprocessing. notes: sentences on it, and `replaced`, those on the stated preprocessing that ours cannot do. licence: of the weights, or of those that they
    learned from, as far as it is stated; of a workdir's too.
    """
    layout: str = ""
    used: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    licence: str = ""

    def account(self) -> list[str]:
        """Sentences for a person: on the names without a use, in short, and on what was assumed."""
        return ([f"{len(self.unused)} tensors of the file are unused ({listed(self.unused)})"] if self.unused else []) + list(self.notes)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder with the transform it was trained for.

    name: of the workdir or file it came from. config: the resolved config of its run, as plain dicts. weights: "student" or "teacher" (the moving
    average). step: of its training, None when unknown. module: the network; heads: what training put on top of it, name → (module, what it stands on).
    variables: {"params": {"encoder": …, "projector": …}, "batch_stats": {…}}, float32. origin: of weights in a file, every name accounted for.

    `encoder(images)` gives features; `forward` is the pure function under it, for probes and fine-tuning.
    """
    name: str
    config: dict
    weights: str
    step: int | None
    module: Any
    heads: dict
    variables: dict
    origin: Origin = Origin()

    @property
    def width(self) -> int:
        """D of the backbone's features."""
        return self.module.features

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the features it can give: "backbone", then every head layer ("projector.1", …), input to output. `blocks` has further ones."""
        return ("backbone", *(f"{name}.{i}" for name, (head, _) in self.heads.items() for i in range(1, len(head.dims) + 1)))

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the features that DINOv2's linear evaluation tries on a transformer with a class token: "last1" is the token of the last block, "last4" are those of the
        last four (or of all, where there are fewer) side by side, and with ".mean" the mean of the last block's patches behind them; all normed. () for other networks."""
        if not getattr(self.module, "cls", False):
            return ()
        return tuple(f"last{n}{mean}" for mean in ("", ".mean") for n in dict.fromkeys((1, min(4, self.module.depth))))

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over every array of `variables`."""
        return tree.digest(self.variables)

    @property
    def preprocessing(self) -> dict:
        """What `view` does: size, resize (target of the short side), interpolation, mean, std (of pixels in [0, 1])."""
        return preprocessing.of(self.config)

    @functools.cached_property
    def view(self) -> Callable:
        """The test-time transform: a batch of canvases {image uint8 [B, S, S, 3], size int32 [B, 2]} to [B, size, size, 3] float32."""
        return augment.test_view(**self.preprocessing)

    def forward(self, variables: dict, x: jax.Array, *, layer: str = "backbone", train: bool = False, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
        """Features f32 [B, D] of `layer` for normalised images [B, H, W, C], and the batch statistics after it (unchanged unless `train`).

        Pure. A head layer's features are taken behind its norm and activation. key: of stochastic depth in training. Raises: UserError for an unknown layer.
        """
        self.check_layer(layer)
        if layer in self.blocks:
            number, _, mean = layer.removeprefix("last").partition(".")
            found = self.maps(variables, x, blocks=range(-int(number), 0))
            return jnp.concatenate([*(tokens[:, 0] for tokens in found.prefix), *([found.patches[-1].mean((1, 2))] if mean else [])], 1), variables["batch_stats"]
        h, stats = models.Net(self.module).pooled(variables["params"]["encoder"], variables["batch_stats"]["encoder"], x, train=train, key=key)
        stats = {**variables["batch_stats"], "encoder": stats}
        return (h, stats) if layer == "backbone" else self.behind(variables | {"batch_stats": stats}, h, layer, train=train)

    def behind(self, variables: dict, h: jax.Array, layer: str, *, train: bool = False) -> tuple[jax.Array, dict]:
        """Features of a head's layer from those of the backbone [B, D], through the heads that it stands on, and the batch statistics after it."""
        name, _, depth = layer.partition(".")
        stats = dict(variables["batch_stats"])
        for below in self.below(name):
            h, stats[below] = models.Net(self.heads[below][0])(variables["params"][below], stats[below], h, train=train)
        head = models.Net(self.heads[name][0].clone(depth=int(depth)))
        h, stats[name] = head(variables["params"][name], stats[name], h, train=train)
        return h, stats

    def below(self, head: str) -> tuple[str, ...]:
        """Names of the heads that `head` stands on, the lowest first."""
        base = self.heads[head][1]
        return () if base == "encoder" else (*self.below(base), base)

    def embed(self, layer: str = "backbone", *, place: Any = None) -> Callable:
        """A jitted function from a batch of canvases to features f32 [B, D] of `layer`, batch norm in inference mode.

        place: a sharding for the weights (replicated over the mesh that the batches are split over); None is the default device.
        """
        self.check_layer(layer)
        variables = jax.device_put(self.variables, place)
        call = jax.jit(lambda variables, batch: self.forward(variables, self.view(batch), layer=layer)[0])
        return lambda batch: call(variables, {name: batch[name] for name in ("image", "size") if name in batch})

    def check_layer(self, layer: str) -> None:
        if layer not in (*self.layers, *self.blocks):
            if self.weights == "teacher" and layer.partition(".")[0] in method(self.config, self.module).heads:
                raise UserError(f"layer {layer!r} is one of the student: the moving average holds {' and '.join(self.variables['params'])} alone; use --use student for it")
            raise UserError(f"layer {layer!r} is not one of {', '.join((*self.layers, *self.blocks))}{nearest(layer, (*self.layers, *self.blocks))}")

    def __call__(self, images: np.ndarray | Sequence[np.ndarray], layer: str = "backbone") -> np.ndarray:
        """Features f32 [B, D] of uint8 images [B, H, W, 3], or of a list of uint8 [h, w, 3] of different sizes; of the channels that it was trained on, and of any real numbers
        where its preprocessing says which become 0 and 1.

        Raises: UserError for anything else.
        """
        return self._in_chunks(self._embed(layer), images)

    def patches(self, images: np.ndarray | Sequence[np.ndarray], *, blocks: Sequence[int] = (-1,), norm: bool = True) -> np.ndarray:
        """One vector a place f32 [B, h, w, D], of images as for `__call__` and through the same transform.

        Of a vision transformer the tokens of its patches, without class token and registers, behind the final norm; of other networks the last map. blocks, norm: as
        in `models.dense.maps`; several blocks lie side by side, D each. Raises: UserError.
        """
        return self._in_chunks(self._maps(tuple(blocks), norm), images)

    def maps(self, variables: dict, x: jax.Array, **how: Any) -> dense.Maps:
        """What the encoder says of each place of normalised images [B, H, W, C] of any size that its patches divide: `models.dense.maps`. Pure."""
        return dense.maps(self.module, variables["params"]["encoder"], variables["batch_stats"]["encoder"], x, **how)

    def _in_chunks(self, embed: Callable, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """embed(batch of canvases) for all images, so many at a time."""
        if not isinstance(images, np.ndarray | jax.Array | list | tuple):
            raise UserError(f"images are a {type(images).__name__}; expected uint8 [B, H, W, 3], or a list of uint8 [h, w, 3], such as [numpy.asarray(picture)]")
        images = list(images)
        if not images:
            raise UserError("no images were given; pass uint8 [B, H, W, 3], or a list of uint8 [h, w, 3]")
        p, count = self.preprocessing, preprocessing.channels(self.config)
        kinds, expected = ("uif", f"real numbers [h, w, {count}]") if p.get("high") else ("u", f"uint8 [h, w, {count}] ({'RGB, ' if count == 3 else ''}0 to 255)")
        for image in images:
            good = isinstance(image, np.ndarray | jax.Array) and image.dtype.kind in kinds and (kinds != "u" or image.dtype == np.uint8)
            if not (good and image.ndim == 3 and image.shape[2] == count and 0 not in image.shape):
                raise UserError(f"an image is {getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}; expected {expected}")
            if image.dtype.kind == "f" and not np.isfinite(image).all():
                raise UserError("an image holds numbers that are not finite; give such places the mean of their channel, as training does (jaxssl.data.native.filled)")
        largest, parts = preprocessing.side(images, p), []
        for start in range(0, len(images), _CHUNK):
            chunk = images[start:start + _CHUNK]
            filled = [*chunk, *[chunk[-1]] * (min(_CHUNK, len(images)) - len(chunk))]     # the last chunk is filled up, so that one size compiles
            parts.append(np.asarray(embed(preprocessing.placed(filled, p, largest)))[:len(chunk)])
        return np.concatenate(parts)

    @functools.cached_property
    def _embed(self):
        return functools.cache(self.embed)

    @functools.cached_property
    def _maps(self):
        @functools.cache
        def compiled(blocks, norm):
            call = jax.jit(lambda variables, batch: jnp.concatenate(self.maps(variables, self.view(batch), blocks=blocks, norm=norm).patches, -1))
            return functools.partial(call, jax.device_put(self.variables))
        return compiled


def build(config: dict, variables: dict, *, name: str, weights: str = "student", step: int | None = None, precision: str = "f32", origin: Origin = Origin()) -> Encoder:
    """The encoder of a resolved `config` with these `variables`; heads whose parameters are missing are left out.

    precision: of the arithmetic, "f32" or "bf16". Raises: UserError when the variables do not fit the architecture (all differences are listed), or
    the preprocessing cannot be applied.
    """
    preprocessing.check(config)
    module = models.make(**config["model"], precision=precision)
    variables = {**variables, "batch_stats": {n: {} for n in variables["params"]} | variables["batch_stats"]}      # files keep no empty ones
    heads = {n: head for n, head in _heads(config, module).items() if n in variables["params"]}
    heads = {n: head for n, head in heads.items() if head[1] == "encoder" or head[1] in heads}
    encoder = Encoder(name, config, weights, step, module, heads, jax.tree.map(lambda a: np.asarray(a, np.float32), variables), origin)
    expected, found = tree.names(shapes(encoder)), tree.names(encoder.variables)
    lists = {"missing": sorted(expected.keys() - found.keys()), "not part of it": sorted(found.keys() - expected.keys()),
             "of another shape": sorted(f"{k} {found[k].shape} instead of {expected[k].shape}" for k in expected.keys() & found.keys() if expected[k].shape != found[k].shape)}
    if any(lists.values()):
        faults = [f"{len(entries)} {what} ({listed(entries)})" for what, entries in lists.items() if entries]
        raise UserError(f"the weights of {name} do not fit {config['model']['name']} of its config: tensors {'; '.join(faults)}{whole(lists)}")
    return encoder


def check_finite(name: str, variables: dict) -> None:
    """Raises: UserError when a weight of `variables`, which are `name`'s, is not finite. Features need not show it: XLA's ReLU may turn what is not a number into 0."""
    bad = [tensor for tensor, values in tree.names(variables).items() if not np.isfinite(values).all()]
    if bad:
        raise UserError(f"{len(bad)} tensors of {name} hold numbers that are not finite ({listed(bad)}): its training diverged, or the file is damaged; "
                        f"take an earlier checkpoint (--step), or other weights{whole({'not finite': bad})}")


def shapes(encoder: Encoder) -> dict:
    """Shapes of `encoder.variables` as the architecture has them."""
    return jax.eval_shape(functools.partial(_draw, encoder.module, encoder.heads, encoder.config["augment"]["size"], preprocessing.channels(encoder.config)), jax.random.key(0))


def fill(config: dict, variables: dict) -> dict:
    """`variables` with every tensor that the architecture of `config` has and they lack, drawn from seed 0; heads that they know nothing of stay out."""
    preprocessing.check(config)
    module = models.make(**config["model"], precision="f32")
    heads = {n: head for n, head in _heads(config, module).items() if n in variables["params"]}
    drawn = jax.jit(functools.partial(_draw, module, heads, config["augment"]["size"], preprocessing.channels(config)))(jax.random.key(0))
    known = tree.names(variables)
    return jax.tree.unflatten(jax.tree.structure(drawn), [np.asarray(known.get(name, leaf)) for name, leaf in tree.names(drawn).items()])


def _draw(module, heads, size, channels, key):
    params, stats, rows = {}, {}, 2 * getattr(module, "bn_groups", 1)
    params["encoder"], stats["encoder"] = models.Net(module).init(key, jnp.zeros((rows, size, size, channels)))
    widths = {"encoder": module.features, **{name: head.dims[-1] for name, (head, _) in heads.items()}}
    for name, (head, below) in heads.items():
        params[name], stats[name] = models.Net(head).init(key, jnp.zeros((rows, widths[below])))
    return {"params": params, "batch_stats": stats}


@contextlib.contextmanager
def understood(path: str, remedy: str = "export it again with this version") -> Iterator[None]:
    """Raises: UserError in place of whatever building from a record or a config raises in the block; one from elsewhere may hold anything."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the config in {path} is not one that this version of jaxssl understands ({type(error).__name__}: {error}); {remedy}") from error


def untrained(encoder: Encoder) -> Encoder:
    """The same network as its run began: a pure function of the config's seed. Without a seed (weights from elsewhere), seed 0."""
    if "method" not in encoder.config:                     # weights from elsewhere: an encoder and nothing else
        return dataclasses.replace(encoder, name=f"{encoder.name}, untrained", step=0, variables=fill(encoder.config, {"params": {}, "batch_stats": {}}))
    config, size = encoder.config, encoder.config["augment"]["size"]
    shape, kind = (2 * config["model"].get("bn_groups", 1), size, size, preprocessing.channels(config)), jnp.float32 if config["augment"].get("high") else jnp.uint8
    canvas = {"image": jax.ShapeDtypeStruct(shape, kind)}
    views = augment.pair(whole_section(augment.make, config["augment"]), whole_section(augment.make, config.get("local", {"views": 0})))
    example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(views, jax.eval_shape(jax.random.key, 0), canvas))
    params, aux = jax.jit(method(config, encoder.module).init)(jax.random.key(config.get("seed", 0)), example)
    keep = encoder.variables["params"].keys()
    variables = {"params": {n: params[n] for n in keep}, "batch_stats": {n: aux["batch_stats"][n] for n in keep}}
    return dataclasses.replace(encoder, name=f"{encoder.name}, untrained", step=0, variables=jax.tree.map(np.asarray, variables))


def whole_section(function: Callable, keys: dict) -> dict:
    """The keys of a config's section that `function` reads, with its defaults for those that an older config lacks."""
    return {**{name: p.default for name, p in inspect.signature(function).parameters.items() if name not in ("dtype", "return_params")}, **keys}


def _heads(config: dict, module: Any) -> dict:
    """The heads of a config's method; none for weights from elsewhere, whose config has no method."""
    return method(config, module).heads if "method" in config else {}


def method(config: dict, module: Any) -> base.Method:
    """The method of a config, for its initialisation and its heads; its loss is never called, so it gets no mesh and one step."""
    name = config["method"]["name"]
    if not name.isidentifier():
        raise UserError(f"method.name is {name!r}, which is no name of a method")
    own = {k: v for k, v in config["method"].items() if k != "name"}
    context = dict(encoder=models.Net(module), net=models.Net, mesh=None, batch_size=config.get("batch_size", 2), views=config["augment"].get("views", 2),
                   local=config.get("local", {}).get("views", 0), classes=config["data"].get("classes", 0) if "data" in config else 0, examples=1, total=1,
                   duration=lambda value, key: 1, frozen=lambda path: base.Frozen(models.Net(module)))
    return base.build(importlib.import_module(f"jaxssl.methods.{name}").make, own, context)
