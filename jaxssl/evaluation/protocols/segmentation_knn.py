"""Segmentation without training: each place takes the classes of the nearest places of the training images (as "dense nearest neighbour retrieval" of
Balažević et al., arXiv 2306.01667, section 3: 30 neighbours by cosine, weighted by exp(s / .02)).

A place of the training images carries the share of its pixels that each class has; pixels without class do not count. Published: a memory of 10,240,000 places;
the short budget has 50,000, drawn from all images. Test images' answers are enlarged from places to pixels.
"""
import time

import numpy as np

from jaxssl.errors import UserError
from jaxssl.evaluation.dense import sets, tokens
from jaxssl.evaluation.features import search
from jaxssl.evaluation.measures import segmentation
from jaxssl.evaluation.protocols import Context, Row, check_targets

GROUP, TARGETS, LABELS = "dense", "masks", ()
MEMORY = {"short": 50_000, "published": 10_240_000}


def run(context: Context, *, k: int = 30, temperature: float = .02, memory: int = 0, size: int = 0, overlap: float = 0., blocks: tuple[int, ...] = (-1,),
        untrained: bool = True) -> list[Row]:
    """A row of mIoU, and one of the untrained network with `untrained`.

    memory: places of training images that are searched, 0 = of the budget. size, overlap: of windows, as in `segmentation`.
    """
    if k < 1 or temperature <= 0 or memory < 0:
        raise UserError(f"segmentation_knn.k must be at least 1, temperature above 0 and memory 0 or more, got {k}, {temperature:g} and {memory}")
    check_targets(["segmentation_knn"], context.data)
    rows = []
    for which, encoder in sets.encoders_of(context, untrained):
        start, form = time.monotonic(), tokens.form(encoder, side=size, blocks=blocks, overlap=overlap)
        embed, train = sets.embed(context, encoder, form), sets.training(context, encoder, form)
        count = sets.classes(context, train)
        x, shares = memorised(train, count, memory or MEMORY[context.budget], context.seed)
        near = min(k, len(x))

        def vote(seen):
            flat = np.asarray(seen, np.float32).reshape(-1, seen.shape[-1])
            similarity, index = search.neighbours(flat, x, k=near, mesh=context.mesh)
            return voted(similarity, shares[index], temperature).reshape(*seen.shape[:3], count)
        parts = []
        for whole, target, place in tokens.judged(embed, context.data.test, vote):
            sets.check_target(target, count, context.data.test, place)
            parts.append(segmentation.summary(segmentation.confusion(target, whole.argmax(-1), count)))
        score = segmentation.of_summary(np.sum(parts, 0))
        variant = ", ".join(filter(None, (f"k={k} T={temperature:g}", which)))
        setting = {"k": near, "temperature": temperature, "memory": len(x), "classes": count, "window": form.side, "stride": form.stride,
                   "blocks": list(blocks), "seed": context.seed}
        note = "; ".join(filter(None, (train.note, f"k lowered to the {len(x)} places that are remembered" if near < k else "")))
        context.log(f"segmentation_knn, {variant}: mIoU {100 * score.mean:.1f} %")
        rows.append(Row("segmentation_knn", variant, form.said(), "mIoU", score.mean, len(parts), segmentation.interval(np.array(parts), seed=context.seed), setting, note,
                        time.monotonic() - start, "fixed", "share"))
    return rows


def memorised(train: tokens.Places, count: int, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` places that have a class: vectors f32 [M, D] and the share f32 [M, C] of each class among the pixels of each that have one."""
    side, n = train.targets.shape[1], train.x.shape[1]
    step = side // n
    cells = train.targets[:, :n * step, :n * step].reshape(-1, n, step, n, step).swapaxes(2, 3).reshape(-1, step * step)       # [M, S, S] -> [M·n·n, pixels]
    known = np.flatnonzero((cells >= 0).any(1))
    if len(known) > most:
        known = np.sort(np.random.default_rng(seed).choice(known, most, replace=False))
    own = cells[known]
    shares = np.zeros((len(own), count + 1), np.float32)
    np.add.at(shares, (np.arange(len(own))[:, None], np.where(own < 0, count, own)), 1)
    shares = shares[:, :count]
    return train.x.reshape(-1, train.x.shape[-1])[known].astype(np.float32), shares / shares.sum(1, keepdims=True)


def voted(similarity: np.ndarray, shares: np.ndarray, temperature: float) -> np.ndarray:
    """f32 [N, C]: mean of the neighbours' shares [N, k, C], weighted by the softmax of similarity [N, k] / temperature."""
    weight = np.exp((similarity - similarity.max(1, keepdims=True)) / temperature)
    return np.einsum("nk,nkc->nc", weight / weight.sum(1, keepdims=True), shares)
