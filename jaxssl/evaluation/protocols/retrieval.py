"""Retrieval and clustering of the test images: every one is a query against all others, or against the training images (the protocol of
Musgrave et al., arXiv 2003.08505, section 3.2; the definitions stand in `jaxssl.evaluation.measures.retrieval`).

An image is never its own neighbour, by its id. Images whose class has no other image are left out as queries and stay as references.
"""
import time

import numpy as np

from jaxssl.errors import UserError
from jaxssl.evaluation.measures import retrieval
from jaxssl.evaluation.protocols import Context, Row

LABELS = ("test",)      # read by this protocol; against="train" reads those of the training images too


def run(context: Context, *, against: str = "test", recall: tuple = (1, 2, 4, 8), clusters: bool = True, layer: str = "backbone") -> list[Row]:
    """precision@1, recall@k, R-precision, MAP@R and MRR; with `clusters` NMI and AMI of k-means.

    against: "test" (query = reference, self excluded) or "train" (separate sets).
    """
    if against not in ("test", "train"):
        raise UserError(f"retrieval.against is {against!r}; choose test (every test image against all others) or train (against the training images)")
    if not recall or min(recall) < 1:
        raise UserError(f"retrieval.recall is {', '.join(map(str, recall)) or 'empty'}; give whole numbers from 1 on")
    start, test = time.monotonic(), context.labelled("test", layer)
    reference = test if against == "test" else context.labelled("train", layer)
    ids = dict(query_ids=test.ids, reference_ids=test.ids) if against == "test" else {}
    try:
        found = retrieval.evaluate(test.x, test.labels, reference.x, reference.labels, recall=recall, mesh=context.mesh, **ids)
    except ValueError as error:
        raise UserError(f"retrieval on {context.data.train.name}: {error}; give data with several images a class") from error
    setting = {"against": against, "self": "excluded by id" if ids else "separate sets", "reference": len(reference.labels), "R_max": found.most, "lone": found.lone}
    note = f"{found.lone} images without another of their class are no queries" if found.lone else ""
    own = test.labels[found.queries]
    seconds = (time.monotonic() - start) / len(found.outcomes)
    rows = [Row("retrieval", f"against {against}", layer, name, float(values.mean()), len(values), context.interval(values, own, test.ids[found.queries]), setting, note, seconds,
                "fixed", "share") for name, values in found.outcomes.items()]
    if not clusters:
        return rows
    start = time.monotonic()
    scores = retrieval.clustering(test.x, test.labels, seed=context.seed)
    setting = {"clusters": len(np.unique(test.labels)), "algorithm": "k-means, one start", "seed": context.seed}
    seconds = (time.monotonic() - start) / len(scores)
    return rows + [Row("retrieval", "k-means", layer, name, value, len(test.labels), None, setting, "", seconds, "fixed", "share") for name, value in scores.items()]
