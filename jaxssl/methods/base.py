"""What a method is (the contract), and what methods share: the moving average that teaches, and what they need.

A method is one file beside this one with `make(*, …) -> Method`. Arguments without a default are passed by the program
(`CONTEXT`), arguments with one are the keys of `config.method`.
"""
import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl import tree
from jaxssl.errors import UserError
from jaxssl.losses.masked import patches, repainted
from jaxssl.models.features import Features
from jaxssl.models.net import Net

# What a method's `make` may ask for by naming it: encoder (a `Net`, which gives `Features`), net(module) -> Net for its heads, mesh, batch_size (global
# images), views and local (views of an image), classes (0: no labels), examples (training images), total (steps),
# duration(value, name of the key) -> steps, frozen(path) -> `Frozen`.
CONTEXT = ("encoder", "net", "mesh", "batch_size", "views", "local", "classes", "examples", "total", "duration", "frozen")


MOST_LAYERS = 256       # of a head or decoder: each is traced by itself


def unread(*, layers=2, **_):
    """Of every method, as a method's own `unread` is of it (`jaxssl.config.UNREAD`): {key as it is set: keys that nothing reads then}. A head of one layer has no hidden ones."""
    return {} if layers > 1 else {"layers": ("hidden",)}


class Needs(NamedTuple):
    """What a method cannot do without; the program refuses a config that lacks it, in one sentence.

    views, local: the fewest of an image; local None: no local ones are read, and a config has none. most: views that are read, 0 for all, and a config has no more.
    batch: the smallest global batch. labels: of the training images. patches: an encoder that takes the patches to see (a ViT). maps: one whose convolutions leave out
    cells of its last map (a ConvNeXt). drawn: what was drawn for the views, their boxes and flips among it, in batch["view_params"] and batch["local_params"]
    (`augment.make`). pairs: images of one class are compared, so that a sampler by class must give at least two of each. embeddings that one device alone holds
    need nothing here.
    """
    views: int = 1
    most: int = 0
    local: int | None = None
    batch: int = 2
    labels: bool = False
    patches: bool = False
    maps: bool = False
    drawn: bool = False
    pairs: bool = False


class Frozen(NamedTuple):
    """A trained encoder that a method asks and never trains: what `frozen(path)` tells of weights. Their numbers come by `Method.loads`.

    net: the encoder; ask it with `train=False`. heads: name -> Net of what its training put on the encoder's vector. shapes: of the weights,
      {"params": {network: …}, "batch_stats": …}; None where no weights are at hand (a plan, a loaded student), and the method's own encoder, drawn, stands in.
    seen: (views [..., H, W, C] of the run, side) -> the same as these weights were trained to see them: by their mean and deviation, with so many pixels a side (0: their own).
    """
    net: Net
    heads: dict = {}
    shapes: Any = None
    seen: Callable = lambda views, side: views

    def begin(self, key: jax.Array, x: jax.Array, heads: tuple[str, ...] = ()) -> dict:
        """What aux holds of it before its weights are read, networks "encoder" and `heads`: no numbers, which no loss survives; of a stand-in, drawn ones."""
        if self.shapes is None:
            params, stats = nets(key, encoder=(self.net, x), **{name: (self.heads[name], jnp.zeros((2, self.net.features))) for name in heads})
            return {"params": params, "batch_stats": stats}
        return {kind: {name: jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), networks.get(name, {})) for name in ("encoder", *heads)}
                for kind, networks in self.shapes.items()}


class Method(NamedTuple):
    """Four pure functions, and what the program must know of them.

    init(key, batch) -> params, aux: batch is what loss will see, of a few images (views, local, label, id); aux holds every array that gradients do not
      touch: `batch_stats` {network: …}, `teacher`, queue, center, …
    loss(params, aux, batch, key, step) -> loss, (aux, metrics, seen): differentiated in params only. metrics: scalars. seen: `features` [B, V, D] (what the
      encoder gives) for the online probe and `embeddings` [B, V, K] (what the loss compares) for the collapse monitor; of a masked method `predicted`, all that is
      said by those who do not see hidden patches, and where there is a teacher its `target`; each may be absent.
    post(params, aux, step) -> params, aux: after the update (teacher, queue, prototype norm).
    embed(params, aux, images [B, H, W, C]) -> Features: what evaluation and export see.

    heads: name -> (module, name of what it stands on): with the encoder, the network that is kept, loaded and exported.
    places: (regex, place) for paths of aux, before the house's own: "slices" (split like parameters between steps, gathered for the loss),
      "rows" (its first axis over all devices, if they can share it equally) or "whole" (on every device).
    loads: path in aux -> weights (`jaxssl.load`) that it begins with, {"params": …, "batch_stats": …}; read once, when the run starts. "" is one that is still to be given.
    licence: of these weights, where a person states it; "" is what they state themselves.
    needs: see `Needs`.
    hidden: of a masked method, (key, views [B, V, H, W, C]) -> bool [B, V, M, rows, columns]: the patches that the student does not see where loss has this key,
      in each of M masks of a view.
    said: a line for the start of a run, of what the method chose by its batch and images; "" for nothing.
    rebuilt: of one that predicts pixels, (params, aux, views, key) -> [B, V, H, W, C]: the views with hidden patches as they are predicted.
    """
    init: Callable
    loss: Callable
    post: Callable
    embed: Callable
    heads: dict = {}
    places: tuple = ()
    loads: dict = {}
    licence: str = ""
    needs: Needs = Needs()
    hidden: Callable | None = None
    rebuilt: Callable | None = None
    said: str = ""


def build(make: Callable, config: dict, context: dict) -> Method:
    """`make` called with its keys from `config` and those of `context` it asks for. Raises: UserError for more layers than can be written out one by one."""
    check_range(**{key: (config[key], f"at most {MOST_LAYERS}", config[key] <= MOST_LAYERS) for key in ("layers", "depth") if key in config})
    wanted = [p.name for p in inspect.signature(make).parameters.values() if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    return make(**{name: context[name] for name in wanted}, **config)


def nets(key: jax.Array, **wanted: tuple) -> tuple[dict, dict]:
    """Parameters and batch statistics of several networks, each from a key of its own: name -> (Net, an input), or (Net, an input, further ones by name)."""
    made = {name: net.init(jax.random.fold_in(key, i), x, **dict(*how)) for i, (name, (net, x, *how)) in enumerate(wanted.items())}
    return {name: params for name, (params, _) in made.items()}, {name: stats for name, (_, stats) in made.items()}


def begin(key: jax.Array, batch: dict, encoder: Net, **heads: Net) -> tuple[dict, dict]:
    """The params and aux of an encoder and of heads that stand one on the other in this order, each as wide as the `dims` of the one below end."""
    views, width = batch["views"][:, 0], encoder.features
    wanted = {"encoder": (encoder, views)}
    for name, head in heads.items():
        wanted[name] = head, jnp.zeros((len(views), width))
        width = head.module.dims[-1]
    params, stats = nets(key, **wanted)
    return params, {"batch_stats": stats}


def projected(encoder: Net, projector: Net, params: dict, stats: dict, views: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array, dict]:
    """Views [B, V, …] through "encoder" and "projector": features [B, V, D], projections [B, V, K], and the statistics with those of both renewed."""
    h, in_encoder = encoder.pooled.per_view(params["encoder"], stats["encoder"], views, key=key)
    z, in_projector = projector.per_view(params["projector"], stats["projector"], h)
    return h, z, {**stats, "encoder": in_encoder, "projector": in_projector}


def asked_and_told(encoder: Net, projector: Net, predictor: Net | None, params: dict, aux: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, dict]:
    """A student of the first view and of local ones where there are some, and its teacher of the second view: features [B, 1 + L, D], what the student predicts
    [B, 1 + L, K], what the teacher projects [B, 1, K], and the student's statistics renewed."""
    h, q, stats = crops_projected(encoder, projector, params, aux["batch_stats"], {**batch, "views": batch["views"][:, :1]}, key)
    if predictor is not None:
        q, stats["predictor"] = predictor.per_view(params["predictor"], stats["predictor"], q)
    return h, q, told(encoder, projector, aux["teacher"], batch["views"][:, 1:2]), stats


def told(encoder: Net, projector: Net, teacher: dict, views: jax.Array) -> jax.Array:
    """What a teacher projects of views [B, V, …]: [B, V, K]. It norms by its own batch; what it finds is left out, since `with_teacher` averages the student's."""
    return among_others(encoder, views, lambda x: projected(encoder, projector, teacher["params"], teacher["batch_stats"], x)[1])


def among_others(encoder: Net, views: jax.Array, answer: Callable) -> Any:
    """answer(views): what a teacher says of views [B, V, …], arrays [B, …], where its norms see an image among others than the student's do.

    Where norms see parts of a batch (`model.bn_groups`, micro_batch), images that share a part of the student's are dealt to all parts of the teacher's: else an image
    and its key share statistics that no other image of the queue has, and give themselves away (MoCo, arXiv 1911.05722, section 3.3, shuffles for this).
    """
    parts = math.gcd(len(views), encoder.parts * getattr(encoder.module, "bn_groups", 1))
    return jax.tree.map(lambda told: _turned(told, parts, -1), answer(_turned(views, parts, 1)))


def _turned(x, parts, way):
    """Rows [B, …] in runs of `parts`, each turned by its own number: row s of run q goes to place (s + way · q) mod parts of it. No row leaves its run, nor its device."""
    runs = x.reshape(-1, parts, *x.shape[1:])                                                         # [B, …] -> [B / parts, parts, …]
    source = (np.arange(parts) - way * np.arange(len(runs))[:, None]) % parts
    return jnp.take_along_axis(runs, source.reshape(*source.shape, *(1,) * (x.ndim - 1)), 1).reshape(x.shape)


def all_crops(batch: dict) -> list[jax.Array]:
    """The whole views of a batch, and behind them its local ones where there are some: [B, V, …] each."""
    return [batch["views"], *([batch["local"]] if "local" in batch else [])]


def encoded(encoder: Net, params: dict, stats: dict, crops: list[jax.Array], key: jax.Array | None = None) -> tuple[jax.Array, dict]:
    """Crops of several sizes, [B, V, …] each, through "encoder": features [B, V, D] of all, and the statistics with the encoder's renewed. Sizes are normed apart."""
    stats, h = dict(stats), []
    for i, views in enumerate(crops):
        features, stats["encoder"] = encoder.pooled.per_view(params["encoder"], stats["encoder"], views, key=None if key is None else jax.random.fold_in(key, i))
        h.append(features)
    return jnp.concatenate(h, 1), stats


def crops_projected(encoder: Net, projector: Net, params: dict, stats: dict, batch: dict, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array, dict]:
    """`projected` of all crops of a batch, the whole views first; the projector norms all sizes together."""
    h, stats = encoded(encoder, params, stats, all_crops(batch), key)
    z, stats["projector"] = projector.per_view(params["projector"], stats["projector"], h)
    return h, z, stats


def rows_at_once(mesh: Any, numbers: int) -> int:
    """Images at a time for losses that go through them in parts (`losses.rows`): as many as have a million numbers in all, at `numbers` each, and a power of two, which
    divides most batches. 0, all, on several devices: each has its share of them, and would have to add up with the others at every part."""
    return 0 if mesh is not None and mesh.size > 1 else 1 << (max(2**20 // numbers, 1).bit_length() - 1)


def embedding(encoder: Net) -> Callable:
    """The `embed` of a method whose encoder lies under "encoder": test-time features, running statistics."""
    return lambda params, aux, images: encoder(params["encoder"], aux["batch_stats"]["encoder"], images, train=False)[0]


def unchanged(params: Any, aux: Any, step: jax.Array) -> tuple[Any, Any]:
    """The `post` of a method that has nothing to do after the update."""
    return params, aux


def with_teacher(method: Method, names: tuple[str, ...], tau: Callable) -> Method:
    """`method` with a moving average of the networks `names` in aux["teacher"], {"params": …, "batch_stats": …}, which `embed` then uses.

    After every update, average ← tau(step) · average + (1 − tau(step)) · current, batch statistics included (else the teacher drifts). It starts as a copy.
    There is one teacher: `init` raises UserError where the method keeps one already.
    """
    def select(params, aux):
        return {"params": {n: params[n] for n in names}, "batch_stats": {n: aux["batch_stats"][n] for n in names}}

    def init(key, batch):
        params, aux = method.init(key, batch)
        if "teacher" in aux:
            raise UserError("ema asks for a moving average, but this method keeps one already, its teacher; leave ema out")
        return params, {**aux, "teacher": jax.tree.map(jnp.copy, select(params, aux))}

    def post(params, aux, step):
        params, aux = method.post(params, aux, step)
        return params, {**aux, "teacher": tree.ema(aux["teacher"], select(params, aux), tau(step))}

    def embed(params, aux, images):
        teacher = aux["teacher"]
        return method.embed({**params, **teacher["params"]}, {**aux, "batch_stats": {**aux["batch_stats"], **teacher["batch_stats"]}}, images)

    return method._replace(init=init, post=post, embed=embed)


@contextlib.contextmanager
def blamed(key: str) -> Iterator[None]:
    """Raises: UserError in place of the ValueError of a sampler of masks, naming the key of `method` that it is about."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"method.{key}: {error}") from error


def flat(views: jax.Array) -> jax.Array:
    """[B, V, …] -> [B·V, …], batch-major."""
    return views.reshape(-1, *views.shape[2:])


def on_grid(mask: jax.Array, views: jax.Array, side: int) -> jax.Array:
    """What `Method.hidden` gives, [B, V, M, rows, columns], of masks [B·V·M, N] of the patches of `side` pixels."""
    return mask.reshape(*views.shape[:2], -1, views.shape[2] // side, views.shape[3] // side)


def all_tokens(encoder: Net, seen: Features) -> jax.Array:
    """[R, cls + n, D]: the class token before the others, where it is what the encoder gives for an image."""
    return jnp.concatenate([seen.pooled[:, None], seen.tokens], 1) if encoder.module.pool == "cls" else seen.tokens


def of_pixels(encoder: Net, side: str, init: Callable, drawn: Callable, predicted: Callable, error: Callable, normalise: bool, needs: Needs) -> Method:
    """A method whose loss is the `error` (of `losses.masked`) of the pixels that are predicted for hidden patches.

    side: name of the encoder's field that says how many pixels a patch has a side. drawn(key, images [R, H, W, C]) -> bool [R, N], the hidden patches where loss has this key;
    predicted(params, stats, images, key) -> Features of what is not hidden, pixels [R, N, P] of all patches, new statistics.
    """
    def size():
        return getattr(encoder.module, side)

    def hidden(key, views):
        return on_grid(drawn(key, flat(views)), views, size())

    def rebuilt(params, aux, views, key):
        x = flat(views)
        return repainted(x, predicted(params, aux["batch_stats"], x, key)[1], drawn(key, x), size(), normalise=normalise).reshape(views.shape)

    def loss(params, aux, batch, key, step):
        views = batch["views"]
        x = flat(views)                                                                                    # [B, V, H, W, C] -> [B·V, H, W, C]
        seen, y, stats = predicted(params, aux["batch_stats"], x, key)                                     # y: [B·V, N, P]
        value = error(y, patches(x, size()), drawn(key, x), normalise=normalise)
        return value, ({**aux, "batch_stats": stats}, {}, {"features": seen.pooled.reshape(*views.shape[:2], -1), "predicted": y})

    return Method(init, loss, unchanged, embedding(encoder), needs=needs, hidden=hidden, rebuilt=rebuilt)


def check_range(**values: tuple[float, str, bool]) -> None:
    """Raises: UserError for every key of `method` out of its range; values: key -> (value, the range in words, whether it lies there). A traced
    value, of which that is not known yet, was checked as a number before (`training.job`)."""
    faults = [f"method.{key} is {value}; it must be {words}" for key, (value, words, good) in values.items() if not (isinstance(good, jax.core.Tracer) or good)]
    if faults:
        raise UserError("; ".join(faults))


def check_pool(encoder: Net, pool: str, method: str) -> None:
    """Raises: UserError for a vision transformer that pools in another way than `method` trains."""
    if getattr(encoder.module, "pool", pool) != pool:
        raise UserError(f"model.pool is {encoder.module.pool!r}, which {method} does not train; set model.pool={pool}")


def check_places(tokens: jax.Array, method: str) -> None:
    """Raises: UserError for maps [..., N, D] of fewer places than two by two, where `method` compares places."""
    if tokens.shape[-2] < 4:
        raise UserError(f"the encoder's map of a view has one place, and {method} compares places: choose a larger augment.size, or model.stem=cifar")


def check_queue(queue: int, added: int, what: str = "keys") -> None:
    """Raises: UserError for a queue that steps of `added` rows do not fill to the last one. what: the rows are, in the plural."""
    if queue < 1 or queue % added:
        raise UserError(f"method.queue is {queue}; a step adds {added} {what}, so choose a multiple of that, as {max(round(queue / added), 1) * added}")
