"""Linear classifiers on cached features, a whole grid at once: learning rates × weight decays × forms of the features × blocks of features.

SGD with momentum .9 and cosine to 0, as DINOv2 evaluates (arXiv 2304.07193, section 7.1; its code: 13 rates, 12,500 steps of 1,024, the best of all
heads). The best head is chosen on a fifth of the training images and trained again on all of them; the paper's is chosen on the validation set
that it reports, which is --select=test here. Views are not augmented (DINOv2's are cropped at random and mirrored): `augmented` is SimCLR's protocol. Heads start
at zero and not at random, which moves no optimum of a convex loss.
"""
import math
import time

import numpy as np

from jaxssl.errors import UserError, nearest
from jaxssl.evaluation.measures import grid
from jaxssl.evaluation.protocols import Context, Row

PRESETS = ("default", "dinov2")
STEPS = {"short": 2500, "published": 12_500}
EPOCHS = 100       # more of them on a small set only overfit


def run(context: Context, *, layer: str = "backbone", blocks: tuple[str, ...] = (), preset: str = "default", lrs: tuple[float, ...] = (),
        weight_decays: tuple[float, ...] = (0.,), forms: tuple[str, ...] = (), steps: int = 0, batch_size: int = 1024, race: bool = True) -> list[Row]:
    """One row: the best head.

    blocks: further features beside `layer`: names of layers, joined by + where heads see several side by side ("backbone+projector.1").
    preset: "default" is 13 rates × (raw, white), of which the worse drop out early unless `race` is off; "dinov2" is that paper's 13 rates on raw
    features, all trained to the end; of a transformer with a class token its four kinds, 52 heads (`Encoder.blocks`), unless layer or blocks are given.
    lrs (for a batch of 256, scaled linearly) and forms replace the preset's. steps: 0 = of the budget.
    """
    start = time.monotonic()
    if preset not in PRESETS:
        raise UserError(f"linear.preset is {preset!r}; choose one of {', '.join(PRESETS)}{nearest(preset, PRESETS)}")
    if batch_size < 1 or steps < 0:
        raise UserError(f"linear.batch_size is {batch_size} and linear.steps is {steps}; a batch has at least one image, and 0 steps are those of the budget")
    published = preset == "dinov2"
    names = tuple(dict.fromkeys((layer, *blocks)))
    if published and names == ("backbone",) and context.encoder.blocks:
        names = context.encoder.blocks
    heads = grid.make(names, lrs=lrs or (grid.DINOV2_RATES if published else grid.RATES), weight_decays=weight_decays, forms=forms or (("raw",) if published else ("raw", "white")))
    (train, y, _), (test, v, ids) = (_features(context, which, names) for which in ("train", "test"))
    most = max(EPOCHS * len(y) // batch_size, 1)
    steps = steps or (STEPS["published"] if published else min(STEPS[context.budget], most))
    result = grid.evaluate(train, y, test, v, heads=heads, steps=steps, batch_size=batch_size, seed=context.seed, select=context.select,
                           race=grid.RACE if race and not published and len(heads) > grid.RACE[0].heads else (), mesh=context.mesh)
    head = result.head
    setting = {"preset": preset, "head": head._asdict(), "heads": [{**h._asdict(), "log_likelihood": float(score) if math.isfinite(score) else None, "steps": int(trained)}
                                                                   for h, score, trained in zip(heads, result.scores, result.trained)],
               "steps": steps, "batch_size": result.batch_size, "momentum": grid.MOMENTUM, "train": len(y)}
    note = f"best of {len(heads)} heads: {head.form} features{'' if len(names) == 1 else f' of {head.block}'}, lr {head.lr:g}, weight decay {head.weight_decay:g}"
    context.log(f"linear: {note}")
    return [Row("linear", f"{len(heads)} heads", head.block if len(names) == 1 else f"chosen: {head.block}", "accuracy", result.accuracy, len(v),
                context.interval(result.predictions == v, v, ids), setting,
                note, time.monotonic() - start, context.select, "share")]


def _features(context, which, names):
    """{block: features [N, D]}, labels int [N] and ids int [N] of a set."""
    layers = {layer: context.labelled(which, layer) for name in names for layer in name.split("+")}
    joined = {name: layers[name].x if name in layers else np.concatenate([layers[layer].x for layer in name.split("+")], axis=1) for name in names}
    first = next(iter(layers.values()))
    return joined, first.labels, first.ids
