"""SimCLR's linear evaluation: a linear classifier on the frozen encoder, trained on random crops and flips (arXiv 2002.05709, appendix B.6).

Published: SGD with Nesterov momentum .9, rate .1 · B/256, batch 4,096, 90 epochs, no weight decay, no warm-up (CIFAR, encoders with its stem: 100 epochs of
batch 512). The short budget trains on as many views as a laptop can see, with several rates at once, chosen on a tenth of the training images. The encoder's
digest is taken on the devices before and after; batch norm runs in inference mode.
"""
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxssl import data as datas
from jaxssl.data.sources import Subset
from jaxssl.errors import UserError
from jaxssl.evaluation.features import extract as features
from jaxssl.evaluation.protocols import Context, Row
from jaxssl.evaluation.tuning import frozen, loop, subsets

# rates are for a batch of 256
PUBLISHED = {"epochs": 90., "batch_size": 4096, "lrs": (.1,)}          # arXiv 2002.05709, appendix B.6
PUBLISHED_CIFAR = {"epochs": 100., "batch_size": 512, "lrs": (.1,)}    # google-research/simclr README, its CIFAR-10 command
SHORT = {"epochs": 90., "batch_size": 256, "lrs": (.02, .1, .5)}
SHORT_IMAGES = 150_000      # views in all
HELD_OUT = .1


def run(context: Context, *, layer: str = "backbone", epochs: float = 0., batch_size: int = 0, lrs: tuple[float, ...] = (), weight_decay: float = 0., images: int = 0) -> list[Row]:
    """One row: the head, or the best of several.

    epochs, batch_size, lrs (for a batch of 256): 0 or () = of the budget. images: most views to train on in all; 0 = of the budget, which is
    unlimited for the published one and where `epochs` is given.
    """
    start, whole = time.monotonic(), published(context.encoder.config)
    budget = whole if context.budget == "published" else SHORT
    most = images or (0 if epochs or budget is whole else SHORT_IMAGES)
    lrs, epochs, batch_size = lrs or budget["lrs"], epochs or budget["epochs"], batch_size or budget["batch_size"]
    if min(*lrs, batch_size, epochs) <= 0 or images < 0:
        raise UserError("augmented.lrs, batch_size and epochs must be above 0 and images 0 or more, "
                        f"got {', '.join(f'{lr:g}' for lr in lrs)}, {batch_size}, {epochs:g} and {images}")
    labels, names = subsets.entries(context.data.train)
    rows, held = labelled_rows(context, labels), None
    if len(lrs) > 1 and context.select == "validation":
        held = subsets.stratified(labels, names, share=HELD_OUT, seed=context.seed)
        held = held[np.bincount(labels[rows])[labels[held]] > 1]            # the one image of a class is trained on
        if not len(held):
            raise UserError(f"augmented chooses among {len(lrs)} rates on held-out training images, and no class has two; give one rate with --set augmented.lrs=.1")
        rows = np.setdiff1d(rows, held)
    plan = loop.length(len(rows), epochs=epochs, batch_size=batch_size, at_most=most, mesh=context.mesh)
    given = loop.Images(context.data, rows, context.store("train"), context.mesh)
    trained = frozen.train(context.encoder, given, plan, lrs=lrs, weight_decay=weight_decay, layer=layer, seed=context.seed, log=context.log)
    predictions, truth, ids = predicted(context, trained.logits, "test")                               # [M, H], [M], [M]
    judged = predicted(context, trained.logits, "train", held) if held is not None else (predictions, truth, ids)
    scores = np.mean(judged[0] == judged[1][:, None], axis=0)
    best = int(np.argmax(scores))
    correct = predictions[:, best] == truth
    setting = {"lr": lrs[best], "lrs": {f"{lr:g}": float(score) for lr, score in zip(lrs, scores)} if len(lrs) > 1 else {}, "epochs": plan.epochs, "steps": plan.steps,
               "batch_size": plan.batch_size,
               "weight_decay": weight_decay, "momentum": .9, "nesterov": True, "train": len(rows), "frozen": True, "encoder_sha256": trained.digest, "losses": trained.losses}
    note = "; ".join(filter(None, (shortened(plan, whole["epochs"]), f"lr {lrs[best]:g} is the best of {len(lrs)}" if len(lrs) > 1 else "")))
    return [Row("augmented", "frozen, crop and flip", layer, "accuracy", float(np.mean(correct)), len(truth), context.interval(correct, truth, ids), setting, note,
                time.monotonic() - start, context.select if len(lrs) > 1 else "fixed", "share")]


def published(config: Mapping[str, Any]) -> dict:
    """The published epochs, batch_size and lrs for an encoder of the `config` (nested dicts)."""
    return PUBLISHED_CIFAR if config.get("model", {}).get("stem") == "cifar" else PUBLISHED


def shortened(plan: loop.Length, published: float) -> str:
    """Says so when a training is shorter than the published one."""
    return "" if plan.epochs > .99 * published else f"short: {plan.epochs:.3g} of {published:g} published epochs"


def labelled_rows(context: Context, labels: np.ndarray) -> np.ndarray:
    """Places of the labelled training images. Raises: UserError when there is none."""
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise UserError(f"the training images of {context.data.train.name} have no labels, which this evaluation needs; use --protocols labelfree, or another --data")
    return rows


def predicted(context: Context, logits: Callable, which: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes int64 [N, H] by each of the H heads of `logits` (batch -> [B, H, C]), labels int [N], and ids int [N] (places in the set, or in `rows`), of
    the labelled images of a set, or of its `rows`."""
    source, store = (context.data.train if which == "train" else context.data.test), context.store(which, view=True)
    if rows is not None:
        source = Subset(source, rows)
        store = store and {**{name: a[rows] for name, a in store.items()}, "id": np.where(store["id"][rows] == rows, np.arange(len(rows)), -1)}
    batch, ids = -(-context.batch // context.mesh.size) * context.mesh.size, []
    batches = datas.eval_batches(context.data, source, batch_size=batch, store=store, prepare=context.prepare)
    seen = (ids.append(batch["id"][batch["mask"]]) or batch for batch in batches)
    flat, labels = features.extract(lambda b: logits(b).reshape(len(b["image"]), -1), seen, context.mesh)
    known = labels >= 0
    return flat[known].reshape(int(known.sum()), -1, len(context.data.classes)).argmax(-1), labels[known], np.concatenate(ids)[known]
