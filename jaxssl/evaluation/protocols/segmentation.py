"""Linear segmentation: each place's vector into a class, the encoder frozen (DINOv2, arXiv 2304.07193, section 7.4), and that of the untrained network beside it.

Published: windows of 512 pixels in random scales, AdamW 1e-3, weight decay 1e-4, 40,000 steps of 16, sliding test with windows 341 apart; "+ms": the last four
blocks side by side, windows of 640, tested at five scales and mirrored. The short budget trains on tokens that are computed once, of windows as they are tested,
with several rates, chosen on a fifth of the training images. mIoU counts pixels over all test images, each mask at its own size.
"""
import time
from collections.abc import Iterator

import jax
import numpy as np

from jaxssl.errors import UserError, nearest
from jaxssl.evaluation.dense import crops, heads, sets, tokens
from jaxssl.evaluation.measures import segmentation
from jaxssl.evaluation.protocols import Context, Row, check_targets

GROUP, TARGETS, LABELS = "dense", "masks", ()
PRESETS = {"linear": dict(blocks=(-1,), overlap=1 / 3, scales=(1.,), flip=False), "ms": dict(blocks=(-4, -3, -2, -1), overlap=.5, scales=(1., 1.32, 1.73, 2.28, 3.), flip=True)}
SIZES = {"linear": 512, "ms": 640}                              # published windows, and the range of the random scale of their training
RATIOS = {"linear": (.5, 2.), "ms": (1., 3.)}
SHORT = dict(lrs=(3e-4, 1e-3, 3e-3, 1e-2), steps=1000, warmup=50)
PUBLISHED = dict(lrs=(1e-3,), steps=40_000, warmup=1500)
HELD_OUT = 5        # one training image in so many chooses the rate
_JUDGED = 64        # windows at a time


def run(context: Context, *, preset: str = "linear", size: int = 0, blocks: tuple[int, ...] = (), overlap: float = -1., scales: tuple[float, ...] = (), flip: bool = False,
        lrs: tuple[float, ...] = (), steps: int = 0, batch_size: int = 16, weight_decay: float = 1e-4, untrained: bool = True) -> list[Row]:
    """Rows of mIoU and of the share of right pixels, of the encoder and, with `untrained`, of the network as its run began.

    preset: "linear" or "ms" (above); blocks, overlap (of windows) and scales replace its own; flip adds mirror images. size: of a window in pixels, rounded up to
    whole patches; 0 is the encoder's own, and 512 or 640 on the published budget. lrs: learning rates; steps: of batch_size windows; () and 0 are of the budget.
    """
    if preset not in PRESETS:
        raise UserError(f"segmentation.preset is {preset!r}; choose one of {', '.join(PRESETS)}{nearest(preset, PRESETS)}")
    if min(lrs, default=1) <= 0 or steps < 0 or batch_size < 1 or min(scales, default=1) <= 0:
        raise UserError(f"segmentation.lrs, scales and batch_size must be above 0 and steps 0 or more, got {lrs}, {scales}, {batch_size} and {steps}")
    check_targets(["segmentation"], context.data)
    own, published = PRESETS[preset], context.budget == "published"
    budget = PUBLISHED if published else SHORT
    size = size or (SIZES[preset] if published else 0)
    blocks, overlap = blocks or own["blocks"], own["overlap"] if overlap < 0 else overlap
    ways = dict(scales=scales or own["scales"], flip=own["flip"] or flip)
    plan = dict(lrs=lrs or budget["lrs"], steps=steps or budget["steps"], warmup=budget["warmup"], batch_size=batch_size, weight_decay=weight_decay,
                ratio=RATIOS[preset] if published else None)
    rows = []
    for which, encoder in sets.encoders_of(context, untrained):
        form = tokens.form(encoder, side=size, blocks=blocks, overlap=overlap)
        rows += _rows(context, encoder, form, plan, ways, ", ".join(filter(None, (preset, which))))
    return rows


def _rows(context, encoder, form, plan, ways, variant):
    start, embed, train = time.monotonic(), sets.embed(context, encoder, form), sets.training(context, encoder, form)
    count = sets.classes(context, train)
    selected = "fixed" if len(plan["lrs"]) == 1 else context.select
    found, losses = _fit(context, embed, train, plan, count), {}
    if selected == "validation":
        held = np.isin(train.place, np.unique(train.place)[::HELD_OUT])              # whole images: their windows overlap
        trial = _fit(context, embed, _part(train, ~held), plan, count)
        losses = dict(zip((f"{lr:g}" for lr in plan["lrs"]), _held_scores(trial, _part(train, held), count)))
        found = found.only(int(np.argmax(list(losses.values()))))
    parts = measured(context, embed, found, count, ways)                                     # [N, L, 3, C]
    scores = [segmentation.of_summary(parts[:, head].sum(0)) for head in range(parts.shape[1])]
    best = int(np.argmax([score.mean for score in scores]))
    lr = plan["lrs"][int(np.argmax(list(losses.values()))) if losses else best]
    setting = {"classes": count, "window": form.side, "stride": form.stride, "blocks": list(form.blocks), **{k: list(v) if isinstance(v, tuple) else v for k, v in ways.items()},
               "lr": lr, "lrs": losses or list(plan["lrs"]), "steps": plan["steps"], "batch_size": plan["batch_size"], "weight_decay": plan["weight_decay"],
               "train": len(np.unique(train.place)), "augmented": plan["ratio"] is not None, "frozen": True,
               "iou": [None if np.isnan(v) else round(float(v), 4) for v in scores[best].iou]}
    short = "" if plan["steps"] >= PUBLISHED["steps"] else f"short: {plan['steps']:,} of {PUBLISHED['steps']:,} published steps"
    note = "; ".join(filter(None, (short, train.note, f"lr {lr:g} is the best of {len(plan['lrs'])}" if selected != "fixed" else "")))
    seconds = (time.monotonic() - start) / 2
    interval = segmentation.interval(parts[:, best], seed=context.seed)
    context.log(f"segmentation, {variant}: mIoU {100 * scores[best].mean:.1f} %")
    row = Row("segmentation", variant, form.said(), "mIoU", scores[best].mean, len(parts), interval, setting, note, seconds, selected, "share")
    return [row, row._replace(metric="pixel accuracy", value=scores[best].pixels, interval=None)]


def _fit(context, embed, train, plan, count):
    """Heads for the rates of the plan, trained on these windows, or on random crops of the same images."""
    mean, scale = heads.standard(train.x)
    if plan["ratio"] is None:
        batches = heads.shuffled(train.x, train.targets, np.arange(len(train.x)), batch_size=plan["batch_size"], seed=context.seed)
    else:
        batches = embedded(embed, crops.batches(context.data.train, np.unique(train.place), embed.view, ratio=plan["ratio"], batch_size=plan["batch_size"], seed=context.seed))
    return heads.fit(batches, heads.cross_entropy, outputs=count, lrs=plan["lrs"], steps=plan["steps"], warmup=min(plan["warmup"], plan["steps"] // 2),
                     weight_decay=plan["weight_decay"], mean=mean, scale=scale, seed=context.seed, log=lambda sentence: context.log(f"segmentation: {sentence}"))


def embedded(embed: tokens.Embed, drawn: Iterator[tuple]) -> Iterator[tuple]:
    """(tokens, targets) of (windows, targets), however many are drawn at a time."""
    for pixels, targets in drawn:
        parts = [np.asarray(embed(pixels[at:at + embed.batch]))[:len(pixels) - at] for at in range(0, len(pixels), embed.batch)]
        yield np.concatenate(parts)[:len(pixels)], targets


def _part(train, rows):
    return train._replace(x=train.x[rows], targets=train.targets[rows], place=train.place[rows])


def _held_scores(found, held, count):
    """mIoU of each head on windows."""
    score = jax.jit(lambda x: heads.enlarged(found(x), held.targets.shape[1]).argmax(-1))
    matrices = 0
    for at in range(0, len(held.x), _JUDGED):
        predictions = np.asarray(score(_full(held.x[at:at + _JUDGED], _JUDGED)))[:, :len(held.x) - at]                              # [L, b, S, S]
        matrices = matrices + np.stack([segmentation.confusion(held.targets[at:at + _JUDGED], predicted, count) for predicted in predictions])
    return [segmentation.scores(matrix).mean for matrix in matrices]


def _full(x, size):
    return x if len(x) == size else np.concatenate([x, np.repeat(x[-1:], size - len(x), 0)])


def measured(context: Context, embed: tokens.Embed, found: heads.Heads, count: int, ways: dict) -> np.ndarray:
    """int64 [N, L, 3, C]: the `segmentation.summary` of every test image by each of L heads."""
    several, source = len(ways["scales"]) * (1 + ways["flip"]) > 1, context.data.test
    number = len(found.w)
    score = jax.jit(lambda x: jax.numpy.moveaxis(found(x), 0, -2).reshape(*x.shape[:3], -1))                  # [B, n, n, L·C]

    def finish(maps):
        maps = maps.reshape(*maps.shape[:2], number, count)
        return _softmax(maps) if several else maps
    parts = []
    for whole, target, place in tokens.judged(embed, source, score, finish=finish, **ways):
        sets.check_target(target, count, source, place)
        predicted = whole.argmax(-1)
        parts.append([segmentation.summary(segmentation.confusion(target, predicted[..., head], count)) for head in range(number)])
    if not parts:
        raise UserError(f"none of the test images of {source.name} can be decoded; see them with `python -m jaxssl.data inspect`")
    return np.array(parts)


def _softmax(maps):
    e = np.exp(maps - maps.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
