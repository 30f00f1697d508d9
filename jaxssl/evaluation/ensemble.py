"""Retrieval by several encoders on the same test images, such as the four folds of one recipe: separated and concatenated, as Musgrave et al. report them.

Separated: the mean of the encoders' scores, each with its own features. Concatenated: their features, each normalised, beside one another and searched as one.
"""
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxssl.errors import UserError
from jaxssl.evaluation.features import cache
from jaxssl.evaluation.measures import retrieval
from jaxssl.evaluation.protocols import Row


def rows(subjects: Sequence[Any], options: dict) -> list[Row]:
    """The rows of both ensembles of `subjects` (`subjects.Subject`), with the options of the retrieval protocol that fit. Raises: UserError."""
    if len(subjects) < 2:
        raise UserError("--ensemble puts several encoders together; give several --workdir, such as one of each fold")
    images = [cache.identity(cache.find(subject.data, "test"), here=False) for subject in subjects]
    if other := next((subject for subject, own in zip(subjects, images) if own != images[0]), None):
        raise UserError(f"--ensemble: the test images of {other.path} are not those of {subjects[0].path}; of folds give --data.test_split=test, "
                        "else --data, so that all have the same")
    if options.get("against", "test") != "test":
        raise UserError("--ensemble measures test images against one another; leave retrieval.against out")
    context, layer, recall = subjects[0].contexts[0], options.get("layer", "backbone"), options.get("recall", (1, 2, 4, 8))
    sets = [subject.contexts[0].labelled("test", layer) for subject in subjects]
    if any(not np.array_equal(own.ids, sets[0].ids) for own in sets):
        raise UserError("--ensemble: some test images could be decoded for one encoder and not for another; mend them (`python -m jaxssl.data inspect`)")
    ids, labels = sets[0].ids, sets[0].labels

    def search(x):
        try:
            return retrieval.evaluate(x, labels, x, labels, query_ids=ids, reference_ids=ids, recall=recall, mesh=context.mesh)
        except ValueError as error:
            raise UserError(f"--ensemble on {context.data.train.name}: {error}; give data with several images a class") from error
    start = time.monotonic()
    alone = [search(own.x) for own in sets]
    together = search(np.concatenate([own.x / np.maximum(np.linalg.norm(own.x, axis=1, keepdims=True), 1e-12) for own in sets], axis=1))
    outcomes = {"separated": {name: np.mean([own.outcomes[name] for own in alone], axis=0) for name in together.outcomes}, "concatenated": together.outcomes}
    asked, seconds = together.queries, (time.monotonic() - start) / (2 * len(together.outcomes))
    found = []
    for how, measures in outcomes.items():
        for name, values in measures.items():
            each = [own.means[name] for own in alone] if how == "separated" else None
            setting = {"encoders": [subject.path for subject in subjects], "width": sum(own.x.shape[1] for own in sets) if how == "concatenated" else sets[0].x.shape[1],
                       **({"each": each, "std": float(np.std(each, ddof=1))} if each else {}), "reference": len(labels), "lone": together.lone}
            note = "the interval is over images; how much another training would differ is in the spread of the encoders" if each else ""
            found.append(Row("retrieval", f"{how}, {len(subjects)} encoders", layer, name, float(values.mean()), len(values), context.interval(values, labels[asked], ids[asked]),
                             setting, note, seconds, "fixed", "share"))
    return found
