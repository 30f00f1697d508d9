"""Layer by layer: kNN and a linear classifier at the backbone and behind every projector layer ("guillotine regularization", arXiv 2206.13378).

What the projector throws away shows as the fall from one row to the next; the loss sees the last layer, transfer wants the best one.
"""
import time

import numpy as np

from jaxssl.evaluation.measures import knn, linear
from jaxssl.evaluation.protocols import Context, Row, fewshot

_SHORT = 10_000     # training images of the linear classifier on the short budget


def run(context: Context, *, k: int = 20, temperature: float = .07, with_linear: bool = True) -> list[Row]:
    """A kNN row and, `with_linear`, a row of L-BFGS logistic regression (penalty chosen on a held-out fifth of train, or as `context.select` says) for every layer."""
    rows = []
    for layer in context.encoder.layers:
        start = time.monotonic()
        train, test = context.labelled("train", layer), context.labelled("test", layer)
        result, = knn.evaluate(test.x, test.labels, train.x, train.labels, settings=((k, temperature),), mesh=context.mesh)
        rows.append(Row("layers", f"kNN k={k} T={temperature:g}", layer, "accuracy", result.accuracy, len(test.labels),
                        context.interval(result.predictions == test.labels, test.labels, test.ids),
                        {"k": k, "vote": "weighted", "temperature": temperature, "reference": len(train.labels), "width": train.x.shape[1]},
                        f"k is {len(train.labels)}, the number of training images" if len(train.labels) < k else "", time.monotonic() - start, "fixed", "share"))
        if with_linear:
            rows.append(_linear(context, layer, train, test))
        context.log(f"layer {layer}: " + ", ".join(f"{row.variant.split()[0]} {100 * row.value:.1f} %" for row in rows if row.layer == layer))
    return rows


def _linear(context, layer, train, test):
    start, chosen, note = time.monotonic(), np.arange(len(train.labels)), ""
    classes = int(train.labels.max()) + 1
    if context.budget == "short" and len(chosen) > _SHORT:
        chosen = fewshot.draw(train.labels, max(linear.HELD_OUT, _SHORT // classes), np.random.default_rng(context.seed))
        note = f"short budget: {len(chosen)} of {len(train.labels)} training images"
    result = linear.evaluate(train.x[chosen], train.labels[chosen], test.x, test.labels, select=context.select)
    return Row("layers", "linear (L-BFGS)", layer, "accuracy", result.accuracy, len(test.labels), context.interval(result.predictions == test.labels, test.labels, test.ids),
               {"l2": result.l2, "grid": list(linear.GRID), "train": len(chosen), "width": train.x.shape[1]}, note, time.monotonic() - start, context.select, "share")
