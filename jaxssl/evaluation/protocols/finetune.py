"""Fine-tuning of the whole network on all labels, from the backbone or from the middle of the projector (layer=projector.1, as SimCLRv2 does).

Published: SimCLRv2: LARS, rate .005 · √B, batch 1,024, no warm-up, no weight decay, random crop and flip (the fine-tuning command of
google-research/simclr's README: train_batch_size=1024, learning_rate=.005, sqrt scaling, weight_decay=0), 30 epochs for all labels (arXiv 2006.10029,
section 3; 60 for 1 %, as in the README's command). Other published settings by options: lightly's ResNet-50 (optimizer=sgd lr=.05 scaling=linear, 30
epochs), MAE's ViTs (optimizer=adamw layer_decay=.65 drop_path=.1 label_smoothing=.1 weight_decay=.05, 100 epochs). The short budget is SGD on as many
views as a laptop can see. Nothing is selected: the last weights are measured.
"""
import time
from typing import Any

import numpy as np

from jaxssl.evaluation.protocols import Context, Row
from jaxssl.evaluation.protocols.augmented import labelled_rows, predicted, shortened
from jaxssl.evaluation.tuning import loop, subsets, whole

PUBLISHED = {"epochs": 30., "batch_size": 1024, "optimizer": "lars", "lr": .005, "scaling": "sqrt"}
SHORT = {"epochs": 30., "batch_size": 128, "optimizer": "sgd", "lr": .05, "scaling": "linear"}
SHORT_IMAGES = 60_000       # views in all


def run(context: Context, *, layer: str = "backbone", epochs: float = 0., batch_size: int = 0, optimizer: str = "", lr: float = 0., scaling: str = "", weight_decay: float = 0.,
        warmup: float = 0., layer_decay: float = 1., drop_path: float = 0., label_smoothing: float = 0., images: int = 0) -> list[Row]:
    """One row. epochs, batch_size, optimizer (lars, sgd or adamw), lr and scaling (linear, sqrt or none): 0 or "" = of the budget.

    warmup: share of the steps. layer_decay: factor on the rate from a layer to the one below. drop_path: of the last residual block, growing linearly
    from the first. images: most views to train on in all; 0 = of the budget.
    """
    budget = PUBLISHED if context.budget == "published" else SHORT
    given = {"epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "lr": lr, "scaling": scaling}
    options = {"weight_decay": weight_decay, "warmup": warmup, "layer_decay": layer_decay, "drop_path": drop_path, "label_smoothing": label_smoothing}
    rows = labelled_rows(context, subsets.entries(context.data.train)[0])
    most = images or (0 if epochs or budget is PUBLISHED else SHORT_IMAGES)
    return [tuned(context, rows, "finetune", "whole network, all labels", layer, {**budget, **{k: v for k, v in given.items() if v}}, options, PUBLISHED["epochs"], most, {})]


def tuned(context: Context, rows: np.ndarray, protocol: str, variant: str, layer: str, recipe: dict[str, Any], options: dict[str, Any], published: float, most: int,
          more: dict) -> Row:
    """The row of a network fine-tuned on the training images `rows`.

    recipe: epochs, batch_size, optimizer, lr, scaling; options: further keywords of `whole.train`. published: epochs that the row is held against.
    most: views in all, 0 = as many as the epochs make. more: goes into the row's setting.
    """
    start = time.monotonic()
    plan = loop.length(len(rows), epochs=recipe["epochs"], batch_size=recipe["batch_size"], at_most=most, mesh=context.mesh)
    given = loop.Images(context.data, rows, context.store("train"), context.mesh)
    chosen = {key: recipe[key] for key in ("optimizer", "lr", "scaling")}
    trained = whole.train(context.encoder, given, plan, layer=layer, **chosen, **options, seed=context.seed, log=context.log)
    predictions, truth, ids = predicted(context, lambda batch: trained.logits(batch)[:, None], "test")
    correct = predictions[:, 0] == truth
    setting = {**chosen, **options, "epochs": plan.epochs, "steps": plan.steps, "batch_size": plan.batch_size, "train": len(rows), "losses": trained.losses,
               "describe": trained.describe, **more}
    return Row(protocol, variant, layer, "accuracy", float(np.mean(correct)), len(truth), context.interval(correct, truth, ids), setting, shortened(plan, published),
               time.monotonic() - start, "fixed", "share")
