"""kNN on frozen features: weighted by exp(s/T) as in NPID (arXiv 1805.01978) and DINO's eval_knn.py (k 10, 20, 100, 200, T .07), and by majority.

All settings come from one exact search and are all in the table. One more row has its setting chosen on every fifth training image of a class,
searched among the others: taking the best of the table instead is a choice on the test images, which is what --select=test does and says.
"""
import time

from jaxssl.errors import UserError
from jaxssl.evaluation.features import rows as cached
from jaxssl.evaluation.measures import knn, linear
from jaxssl.evaluation.protocols import Context, Row


def run(context: Context, *, k: tuple = (10, 20, 100, 200), temperature: tuple = (.07, .1), majority: bool = True, layer: str = "backbone") -> list[Row]:
    """A row for every k × ({T} and majority), and one for the chosen setting.

    A k above the number of reference images is lowered to it, which its row says.
    """
    if not k or min(k) < 1 or min(temperature, default=1) <= 0 or not (temperature or majority):
        raise UserError(f"knn.k is {', '.join(map(str, k)) or 'empty'} and knn.temperature is {', '.join(map(str, temperature)) or 'empty'}; "
                        "k must be whole numbers from 1 on, and temperatures above 0")
    start = time.monotonic()
    train, test = context.labelled("train", layer), context.labelled("test", layer)
    settings = [(n, t) for n in k for t in (*temperature, *((None,) if majority else ()))]
    results = knn.evaluate(test.x, test.labels, train.x, train.labels, settings=settings, mesh=context.mesh)
    rows = [_row(context, layer, setting, result, test, len(train.x), (time.monotonic() - start) / len(settings)) for setting, result in zip(settings, results)]
    if len(settings) == 1:
        return rows
    start, scores = time.monotonic(), results
    if context.select == "validation":
        held = cached.held_out(train.labels, linear.HELD_OUT)
        scores = knn.evaluate(train.x[held], train.labels[held], train.x[~held], train.labels[~held], settings=settings, mesh=context.mesh)
    best = max(range(len(settings)), key=lambda i: scores[i].accuracy)              # the first among equals
    chosen = rows[best]
    how = f"k and T chosen on {'the test images' if context.select == 'test' else 'a held-out fifth of the training images'}"
    return [*rows, chosen._replace(variant=f"chosen: {chosen.variant}", note=f"{how}{'; ' if chosen.note else ''}{chosen.note}",
                                   seconds=time.monotonic() - start, selected=context.select)]


def _row(context, layer, setting, result, test, reference, seconds):
    k, temperature = setting
    correct = result.predictions == test.labels
    vote = "majority" if temperature is None else f"T={temperature:g}"
    note = f"k lowered to the {reference} reference images" if k > reference else ""
    return Row("knn", f"k={k} {vote}", layer, "accuracy", result.accuracy, len(correct), context.interval(correct, test.labels, test.ids),
               {"k": k, "vote": "majority" if temperature is None else "weighted", "temperature": temperature, "reference": reference}, note, seconds, "fixed", "share")
