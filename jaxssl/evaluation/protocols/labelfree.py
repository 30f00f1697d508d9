"""What can be said without labels: RankMe, α-ReQ, LiDAR, alignment, uniformity, singular spectrum, stable rank and mean cosine, at h and at z.

RankMe (arXiv 2210.02885), α-ReQ (2202.05808), stable rank, mean cosine and the spectrum on training images in the test-time view, without labels;
LiDAR (2312.04000) and alignment (2005.10242) on augmented views of training images, drawn as in training, or as in SimCLR where the weights do not
say how they were trained; uniformity (2005.10242) on images.
"""
import inspect
import itertools
import time

import jax
import numpy as np

from jaxssl import augment, data as datas
from jaxssl.evaluation.measures import rank, spectrum
from jaxssl.evaluation.protocols import Context, Row

LABELS = ()         # read by this protocol
_WIDTH = 256        # singular values that go into the table
_PROBABILITIES = {"flip", "jitter", "gray", "blur", "solarize", "invert", "flip_vertical", "turns", "channel_jitter", "channel_drop"}
_DRAWN = inspect.signature(augment.make).parameters.keys() - {"size", "views", "interpolation", "mean", "std", "low", "high", "dtype", "return_params"}
UNITS = {"rankme": "rank", "alphareq": "slope", "stable rank": "rank", "mean cosine": "cosine", "uniformity": "nats", "dimensions": "directions", "lidar": "rank",
         "alignment": "squared distance"}
VIEWS = {"short": (500, 10), "published": (1000, 50)}      # images, views of each: the second is LiDAR's own


def run(context: Context, *, images: int = 25_600, pairs: int = 10_000, layers: tuple = ("backbone", "last"), views: bool = True) -> list[Row]:
    """Rows of every measure at every layer.

    images: at most so many for the spectrum (RankMe's paper takes 25,600). pairs: for uniformity. layers: of the encoder; "last" is its last head
    layer, what the loss sees. views: also embed augmented views, for LiDAR and alignment.
    """
    rows, seen = [], []
    for layer in layers:
        layer = context.encoder.layers[-1] if layer == "last" else layer
        if layer in seen:
            continue
        seen.append(layer)
        rows += _of_images(context, layer, images, pairs)
        if views:
            rows += _of_views(context, layer)
    return rows


def measure(name: str, x: np.ndarray) -> float:
    """A label-free measure of the features x [N, D] by name: "rankme" or "alphareq", with which models can be compared without labels."""
    return {"rankme": rank.rankme, "alphareq": spectrum.alpha_req}[name](x)


def better(name: str, value: float) -> float:
    """A score that is higher for the better value: RankMe itself, and for α-ReQ how close α is to 1 (both papers' rule); collapse is the worst."""
    return value if name == "rankme" else -abs(value - 1)


def sample(x: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, evenly spread over the set."""
    return np.asarray(x if len(x) <= most else x[datas.evenly(len(x), most)])


def _of_images(context, layer, images, pairs):
    all_of_it = context.features("train", layer).x
    x, few = sample(all_of_it, images), sample(all_of_it, pairs)
    setting = {"images": len(x), "set": "train", "view": "test-time"}
    sigma = _normalised(spectrum.singular_values(x, centre=True))
    measures = {"rankme": (x, rank.rankme, {}), "alphareq": (x, spectrum.alpha_req, {}), "stable rank": (x, spectrum.stable_rank, {}),
                "mean cosine": (x, spectrum.mean_cosine, {}), "uniformity": (few, spectrum.uniformity, {"images": len(few), "t": 2}),
                "dimensions": (x, spectrum.dimensions, {"share": .9, "singular_values": [float(f"{v:.4g}") for v in sigma[:_WIDTH]]})}
    rows = []
    for name, (rows_of, function, own) in measures.items():
        start = time.monotonic()
        value = float(function(rows_of))
        if not np.isfinite(value):
            context.log(f"labelfree: no {name} at {layer}: fewer than three directions hold any variance, so the features have collapsed")
            continue
        rows.append(_row(layer, name, value, len(rows_of), min(x.shape), {**setting, **own}, start))
    return rows


def _of_views(context, layer):
    start, (images, views) = time.monotonic(), VIEWS[context.budget]
    z = augmented(context, layer, images, views)                                    # [n, q, D]
    unsaid = _unsaid(context.encoder.config["augment"])
    setting = {"images": len(z), "views": views, "set": "train", "view": "SimCLR's default augmentation" if unsaid else "augmented as in training", "seed": context.seed}
    setting |= {"augmentation": unsaid} if unsaid else {}
    bound = min(len(z) - 1, z.shape[-1])
    note = "; ".join(filter(None, ["SimCLR's default augmentation, as these weights do not say theirs" if unsaid else "",
                                   "" if context.budget == "published" else f"short budget: {len(z)} images × {views} views, the paper has 1000 × 50"]))
    spent, made = time.monotonic() - start, []
    for name, function in (("lidar", spectrum.lidar), ("alignment", spectrum.alignment)):
        start = time.monotonic() - spent / 2
        made.append(_row(layer, name, function(z), len(z), bound, setting, start, note))
    return made


def augmented(context: Context, layer: str, images: int, views: int) -> np.ndarray:
    """Features f32 [n, q, D] of q augmented views of n training images, n at most `images`, evenly spread over the set; a function of the seed."""
    encoder, make = context.encoder, augment.make(**_recipe(context.encoder.config["augment"], views))
    place = datas.evenly(len(context.data.train), images)
    canvases = context.canvases("train", place)
    at_once = max(1, 500 // views)

    @jax.jit
    def embed(variables, key, batch):
        x = make(key, batch)["views"]                                               # [b, q, size, size, 3]
        return encoder.forward(variables, x.reshape(-1, *x.shape[2:]), layer=layer)[0].reshape(*x.shape[:2], -1)
    parts, n = [], len(place)
    for at in range(0, n, at_once):
        rows = np.minimum(np.arange(at, at + at_once), n - 1)                       # the last batch is filled up, so that one size compiles
        part = embed(encoder.variables, jax.random.fold_in(jax.random.key(context.seed), at), {k: v[rows] for k, v in canvases.items()})
        parts.append(np.asarray(part)[:n - at])
    return np.concatenate(parts)


def _recipe(config, views):
    """The arguments of `augment.make` for so many views; probabilities given one a view are repeated in turn."""
    wanted = inspect.signature(augment.make).parameters
    own = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in config.items() if k in wanted}
    for name in _PROBABILITIES & own.keys():
        if isinstance(own[name], tuple):
            own[name] = tuple(itertools.islice(itertools.cycle(own[name]), views))
    return {**own, "views": views}


def _unsaid(config):
    """The values that `augment.make` draws by where the config of weights from elsewhere says nothing of it; empty for a config that does."""
    return {} if _DRAWN & config.keys() else {name: p.default for name, p in inspect.signature(augment.make).parameters.items() if name in _DRAWN}


def _normalised(values):
    return values / values.sum() if values.sum() > 0 else values


def _row(layer, name, value, n, bound, setting, start, note=""):
    sentence = "; ".join(filter(None, [spectrum.reading(name, value, bound), note]))
    return Row("labelfree", setting["view"], layer, name, value, n, None, {**setting, "bound": bound}, sentence, time.monotonic() - start, "fixed", UNITS[name])
