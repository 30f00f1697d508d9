"""Logistic regression by L-BFGS: the transfer protocol (SimCLR, arXiv 2002.05709, appendix B.8; DINOv2's log_regression.py).

45 values of C, 10^linspace(-6, 5), on features as they are; the best on a tenth of the training images is fitted again on all of them.
"""
import time

from jaxssl.errors import UserError
from jaxssl.evaluation.measures import linear
from jaxssl.evaluation.protocols import Context, Row

STEPS = {"short": 100, "published": 1000}
EVERY = 10      # one training image in so many chooses C


def run(context: Context, *, layer: str = "backbone", costs: tuple = linear.COSTS, standardise: bool = False, mean_per_class: bool = False, steps: int = 0) -> list[Row]:
    """A row of accuracy, and one of the mean of the classes' accuracies with `mean_per_class`, by which C is then chosen too.

    costs: values of scikit-learn's C. standardise: penalise the weights of standardised features. steps: most iterations of a fit, 0 = of the budget.
    """
    start = time.monotonic()
    train, test = context.labelled("train", layer), context.labelled("test", layer)
    if steps < 0:
        raise UserError(f"lbfgs.steps is {steps}; give at least 1, or 0 for the budget's")
    steps = steps or STEPS[context.budget]
    result = linear.evaluate(train.x, train.labels, test.x, test.labels, costs=costs, raw=not standardise, balanced=mean_per_class, every=EVERY, select=context.select, steps=steps)
    correct, c = result.predictions == test.labels, 1 / (result.l2 * len(train.labels))
    setting = {"C": c, "costs": list(costs), "standardise": standardise, "chosen_by": "mean per class" if mean_per_class else "accuracy", "steps": steps,
               "train": len(train.labels)}
    note = f"C = {c:.3g}, of {len(costs)} values"
    row = Row("lbfgs", "C by " + setting["chosen_by"], layer, "accuracy", result.accuracy, len(correct), context.interval(correct, test.labels, test.ids), setting, note,
              0., context.select, "share")
    rows = [row]
    if mean_per_class:
        rows.append(row._replace(metric="mean per class", value=linear.per_class(result.predictions, test.labels),
                                 interval=context.interval(correct, test.labels, test.ids, balanced=True)))
    return [r._replace(seconds=(time.monotonic() - start) / len(rows)) for r in rows]
