"""Monocular depth by a linear head on the frozen encoder (DINOv2, arXiv 2304.07193, section 7.4): images/ beside depth/, 16-bit PNG.

Each place's vector, with the class token beside it where there is one, goes into 256 bins between .001 and the largest depth; their scores, made positive (ReLU and .1)
and of sum 1, weigh the bins' depths. lin. 1 sees the last block, lin. 4 four that are spread over the network (of 24 the released 4, 11, 17, 23), none behind the final norm.
The loss is that of Eigen et al. (arXiv 1406.2283) as AdaBins has it, √(var g + .15 mean² g) with g the logarithm of the ratio; in the first 100 steps of its mean
alone. DINOv2's further gradient loss and its crops (Eigen's, of NYU) are left out.
"""
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.errors import UserError
from jaxssl.evaluation.dense import crops, heads, sets, tokens
from jaxssl.evaluation.measures import depth as measure
from jaxssl.evaluation.protocols import Context, Row, check_targets
from jaxssl.evaluation.protocols.segmentation import embedded
from jaxssl.models import dense

GROUP, TARGETS, LABELS = "depth", "depth", ()
LEAST, BINS, UP = 1e-3, 256, 4          # metres; how often a side of the map is enlarged before the bins
SHORT = dict(steps=500, warmup=50, lr=1e-3)
PUBLISHED = dict(steps=38_400, warmup=12_800, lr=3e-4)              # of NYU, of batches of 16 (DINOv3's, which trains the same heads)
_MEAN_ALONE = 100


def run(context: Context, *, layers: tuple[int, ...] = (1, 4), unit: float = 1000., most: float = 10., size: int = 0, overlap: float = 0., lr: float = 0., steps: int = 0,
        batch_size: int = 16, weight_decay: float = 1e-4, flip: bool = True, untrained: bool = True) -> list[Row]:
    """Rows of RMSE, AbsRel and a1 for one block and for four, of the encoder and of the untrained network.

    unit: steps of the files a metre (1,000: millimetres, as NYU's; KITTI's are 256). most: the largest depth, metres; pixels beyond, and those at 0, do not count.
    layers: 1, 4 or both. lr, steps: 0 = of the budget. size: of windows, pixels, 0 = the encoder's own. flip: mean with the mirror image.
    """
    if not set(layers) <= {1, 4} or not layers or min(unit, most - LEAST, batch_size) <= 0 or min(steps, lr) < 0:
        raise UserError(f"depth.layers are some of 1 and 4, unit, most and batch_size above 0, and lr and steps not below, got {layers}, {unit:g}, {most:g}, {batch_size}, {lr:g} "
                        f"and {steps}")
    check_targets(["depth"], context.data)
    rows = []
    for which, encoder in sets.encoders_of(context, untrained):
        module = encoder.module
        for number in layers:
            if number == 4 and not hasattr(module, "patch"):
                context.log("depth: this network has no blocks, so its last map is all that is measured")
                continue
            blocks = dense.spread(module.depth) if number == 4 else (-1,)
            form = tokens.form(encoder, side=size, blocks=blocks, overlap=overlap, norm=False, cls=bool(getattr(module, "cls", False)))
            variant = ", ".join(filter(None, (f"lin. {number}", which)))
            rows += _rows(context, encoder, form, variant, unit=unit, most=most, lr=lr, steps=steps, batch_size=batch_size, weight_decay=weight_decay, flip=flip)
    return rows


def _rows(context, encoder, form, variant, *, unit, most, lr, steps, batch_size, weight_decay, flip):
    start, embed, train = time.monotonic(), sets.embed(context, encoder, form), sets.training(context, encoder, form)
    published = context.budget == "published"
    budget = PUBLISHED if published else SHORT
    total, lr = steps or budget["steps"], lr or budget["lr"]
    if published:
        batches = embedded(embed, crops.batches(context.data.train, np.unique(train.place), embed.view, ratio=(1., 2.), batch_size=batch_size, seed=context.seed))
    else:
        batches = heads.shuffled(train.x, train.targets, np.arange(len(train.x)), batch_size=batch_size, seed=context.seed)
    metres = ((x, targets / unit) for x, targets in batches)
    mean, scale = heads.standard(train.x)
    bins = jnp.linspace(LEAST, most, BINS)
    found = heads.fit(metres, lambda maps, targets, step: loss(expected(maps, bins), targets, step, most), outputs=BINS, lrs=(lr,), steps=total,
                      warmup=min(budget["warmup"], total // 2), weight_decay=weight_decay, mean=mean, scale=scale, seed=context.seed,
                      log=lambda sentence: context.log(f"depth, {variant}: {sentence}"))
    score, images = jax.jit(lambda x: expected(found(x), bins)[0][..., None]), []
    for whole, target, _ in tokens.judged(embed, context.data.test, score, flip=flip):
        images.append(measure.sums(target / unit, whole[..., 0], most=most, least=LEAST))
    try:
        scores = measure.scores(images)
    except ValueError as error:
        raise UserError(f"depth on {context.data.test.name}: {error} above {LEAST:g} and up to {most:g} metres; set depth.unit, the steps of the files a metre ({unit:g}), and "
                        "depth.most") from error
    setting = {"blocks": list(form.blocks), "cls": form.cls, "bins": BINS, "unit": unit, "most": most, "window": form.side, "stride": form.stride, "flip": flip, "lr": lr,
               "steps": total, "batch_size": batch_size, "weight_decay": weight_decay, "train": len(np.unique(train.place)), "augmented": published, "frozen": True}
    short = "" if total >= PUBLISHED["steps"] else f"short: {total:,} of {PUBLISHED['steps']:,} published steps"
    note = "; ".join(filter(None, (short, train.note)))
    context.log(f"depth, {variant}: RMSE {scores['RMSE']:.3f}")
    units = {"RMSE": "metres", "AbsRel": "relative error", "a1": "share"}
    seconds = (time.monotonic() - start) / len(scores)
    return [Row("depth", variant, form.said(), name, value, len(images), None, setting, note, seconds, "fixed", units[name]) for name, value in scores.items()]


def expected(maps: jax.Array, bins: jax.Array) -> jax.Array:
    """Depth [L, B, m, m] from scores of the bins [L, B, n, n, K], enlarged `UP` times a side first."""
    weights = jax.nn.relu(heads.enlarged(maps, UP * maps.shape[-2])) + .1
    return jnp.einsum("...k,k->...", weights, bins) / weights.sum(-1)


def loss(depths: jax.Array, targets: jax.Array, step: jax.Array, most: float) -> jax.Array:
    """[L]: √(var g + .15 mean² g) over pixels with a depth, g = log(depth + .001) - log(target + .001); of depths [L, B, m, m], enlarged to targets [B, S, S]."""
    predicted = heads.enlarged(depths[..., None], targets.shape[1])[..., 0]
    known = ((targets > LEAST) & (targets <= most)).astype(jnp.float32)
    g = known * (jnp.log(predicted + 1e-3) - jnp.log(targets + 1e-3))
    count = jnp.maximum(known.sum(), 2.)
    mean = g.sum((1, 2, 3)) / count
    var = jnp.sum(known * (g - mean[:, None, None, None])**2, (1, 2, 3)) / (count - 1)
    return jnp.sqrt(jnp.where(step < _MEAN_ALONE, 0., var) + .15 * mean**2 + 1e-12)
