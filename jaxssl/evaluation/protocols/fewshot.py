"""Few labelled images a class: kNN whose references are n training images of every class, drawn several times (as DINOv2's kNN with n_per_class, n_tries).

The value is the mean over the draws, its interval is over the test images; `std` in the setting says how far one draw may lie from the mean.
"""
import time

import numpy as np

from jaxssl.errors import UserError
from jaxssl.evaluation.measures import knn
from jaxssl.evaluation.protocols import Context, Row


def run(context: Context, *, n: tuple = (1, 5, 10), tries: int = 10, temperature: float = .07, layer: str = "backbone") -> list[Row]:
    """A row for every n. k is n: a class has no more references than that to vote with.

    A class with fewer than n training images gives all it has, which the row says.
    """
    if tries < 1 or not n or min(n) < 1:
        raise UserError(f"fewshot.tries is {tries} and fewshot.n is {', '.join(map(str, n)) or 'empty'}; both are whole numbers from 1 on")
    train, test = context.labelled("train", layer), context.labelled("test", layer)
    rows = []
    for count in n:
        start, correct = time.monotonic(), []
        for attempt in range(tries):
            chosen = draw(train.labels, count, np.random.default_rng((context.seed, count, attempt)))
            result, = knn.evaluate(test.x, test.labels, train.x[chosen], train.labels[chosen], settings=((count, temperature),), mesh=context.mesh)
            correct.append(result.predictions == test.labels)
        scores, correct = [float(c.mean()) for c in correct], np.mean(correct, axis=0)             # a try each, an image each
        fewest = int(np.unique(train.labels, return_counts=True)[1].min())
        note = f"mean of {tries} draws, std {np.std(scores, ddof=1) if tries > 1 else 0:.4f}" + (f"; the smallest class has {fewest} images" if fewest < count else "")
        setting = {"n": count, "k": count, "vote": "weighted", "temperature": temperature, "tries": tries, "seed": context.seed,
                   "std": float(np.std(scores, ddof=1)) if tries > 1 else 0., "test_images": len(test.labels)}
        rows.append(Row("fewshot", f"{count} a class, k={count} T={temperature:g}", layer, "accuracy", float(correct.mean()), len(test.labels),
                        context.interval(correct, test.labels, test.ids), setting, note, time.monotonic() - start, "fixed", "share"))
    return rows


def draw(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows int64, sorted: n of every class of labels int [N], or all where a class has fewer."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]                         # by class, shuffled inside
    of, first = np.unique(labels[order], return_index=True)
    place = np.arange(len(order)) - np.repeat(first, np.diff([*first, len(order)]))
    return np.sort(order[place < n])
