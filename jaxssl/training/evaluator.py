"""Evaluation while training: weighted kNN and label-free rank, and at the end a linear classifier, on held-out images; retrieval where these are of other classes."""
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxssl import data as datas
from jaxssl.data.sources import Subset
from jaxssl.errors import UserError, nearest
from jaxssl.evaluation.features import extract as features
from jaxssl.evaluation.measures import knn, linear, rank, retrieval, spectrum

log = logging.getLogger("jaxssl.training.evaluator")
RETRIEVAL = {"precision_at_1": "precision@1", "map_at_r": "MAP@R"}      # of held-out images among one another
KNN = {"knn": (200, 0.1), "knn_k20": (20, 0.07)}  # name -> k, temperature


class Evaluator:
    """Held-out evaluation of an `embed(batch) -> [B, D]`; see `make`. Without labels on both sides only the rank is measured.

    A score of features that are not finite is not a number, and a warning says so: activations that use running statistics may overflow while the loss is finite.
    """

    def __init__(self, data: Any, store: dict | None, mesh: Any, counts: dict, batch: int):
        self._data, self._mesh, self._counts = data, mesh, counts
        self._batch = -(-batch // mesh.size) * mesh.size
        self.labelled = data.test is not None and bool(data.classes)
        self._train = _spread(data.train, store, counts["reference"])
        self._test = _spread(data.test, None, counts["queries"]) if self.labelled else None
        self._said_what_lacks = False

    def quick(self, embed: Callable) -> dict[str, float]:
        """`rankme`, and with labels `knn` (k 200, T .1) and `knn_k20` (k 20, T .07): accuracies in [0, 1] on held-out images.

        Where held-out images are of other classes than training images: `precision_at_1` and `map_at_r` of retrieval among them instead, here and in `final`.
        """
        found = self._measure(embed)[0]
        self._count_broken()
        return found

    def final(self, embed: Callable, poll: Callable = lambda: None) -> dict[str, float]:
        """What `quick` gives, and `linear`: logistic regression on the features, its penalty chosen on a part of the training images. `poll()` comes before each of its fits."""
        found, sets = self._measure(embed, last=True)
        self._count_broken()
        return {**found, "linear": _linear(*sets, poll) if sets else math.nan} if self.labelled and not self._data.disjoint else found

    def raw(self, poll: Callable = lambda: None) -> dict[str, float]:
        """`knn_raw` and `linear_raw`: the same measures on the pixels themselves; empty unless asked for."""
        if not (self._counts["raw"] and self.labelled):
            return {}
        found, sets = self._measure(_pixels)
        if not self.labelled:
            return {}
        if self._data.disjoint:
            return {f"{name}_raw": found[name] for name in RETRIEVAL}
        x, y, u, v = sets
        if self._data.pixels.channels == 3 and all(np.array_equal(pixels[:, channel::3], pixels[:, ::3]) for pixels in (x, u) for channel in (1, 2)):
            x, u = x[:, ::3], u[:, ::3]  # grey: the other two channels say the same, at three times the cost of the fit
        return {"knn_raw": found["knn"], "linear_raw": _linear(x, y, u, v, poll)}

    def _measure(self, embed, last=False):
        x, y = self._extract(embed, "train")
        sound, few = _sound(x, "reference"), x[datas.evenly(len(x), self._counts["rank_samples"])]
        found = {"rankme": rank.rankme(few) if sound else math.nan}
        if last and self._counts["alphareq"]:
            found["alphareq"] = spectrum.alpha_req(few) if sound else math.nan
        if not self.labelled:
            return found, None
        u, v = self._extract(embed, "test")
        if not ((y >= 0).any() and (v >= 0).any()):
            self.labelled = False
            if jax.process_index() == 0:
                log.warning("none of the %d %s images has a label, so kNN and linear accuracy are not measured; give a held-out set with labels "
                            "(data.test_path or data.test_split), or let data.holdout take one", *((len(v), "held-out") if (y >= 0).any() else (len(y), "reference")))
            return found, None
        if self._data.disjoint:
            return {**found, **(_retrieved(u, v) if _sound(u, "held-out") else dict.fromkeys(RETRIEVAL, math.nan))}, None
        if not (_sound(u, "held-out") and sound):
            return {**found, **dict.fromkeys(KNN, math.nan)}, None
        x, y, u, v = x[y >= 0], y[y >= 0], u[v >= 0], v[v >= 0]  # an unlabelled query is no wrong answer
        self._say_what_lacks(y, v)
        results = knn.evaluate(u, v, x, y, settings=tuple(KNN.values()))
        return {**found, **{name: result.accuracy for name, result in zip(KNN, results)}}, (x, y, u, v)

    def _say_what_lacks(self, reference, held_out):
        """A line, once, where no reference image is of the class of some held-out images, which no classifier can then be right about."""
        known = np.isin(held_out, reference)
        if not (known.all() or self._said_what_lacks) and jax.process_index() == 0:
            log.warning("%d of the held-out images' %d classes have none of the %d reference images, so that kNN and linear accuracy are at most %.1f %%; raise eval.reference",
                        len(np.unique(held_out[~known])), len(np.unique(held_out)), len(reference), 100 * known.mean())
            self._said_what_lacks = True

    def _count_broken(self):
        """A line with the broken images that this process has met so far, if there are any."""
        if self._data.broken:
            log.warning("%d broken images so far: another one takes the place of each in training, and evaluation leaves them out", len(self._data.broken))

    def _extract(self, embed, which):
        source, store = self._train if which == "train" else self._test
        if store is None and self._data.resident:  # decode a small set once, not at every evaluation
            store = datas.store(self._data, source)
            self._train, self._test = (self._train, (source, store)) if which == "test" else ((source, store), self._test)
        batches = datas.eval_batches(self._data, source, batch_size=self._batch, store=store, process_index=jax.process_index(), process_count=jax.process_count())
        return features.extract(embed, batches, self._mesh)


def make(*, data, store, mesh, reference=50_000, queries=10_000, rank_samples=10_000, batch=500, raw=False, alphareq=False, patience=0, watch="") -> Evaluator:
    """The evaluator of a run.

    Args:
      data: `jaxssl.data.Data`. store: its decoded training set on the host, or None when it is streamed. mesh: of the run.
      reference, queries: at most so many training and held-out images, evenly spread over the set; 0 takes all.
      rank_samples: of those training images, evenly spread, RankMe is measured on at most so many. batch: images in a forward pass, rounded up to the number of devices.
      raw: also measure the pixels themselves. alphareq: at the end also α-ReQ, of the images that RankMe is of.
      patience: end the run after so many evaluations in a row without a better score (`training.patience`); 0 is never. watch: which, precision_at_1 (the default where held-out
        images are of other classes), map_at_r, knn (the default else), knn_k20 or rankme.
    Raises: UserError.
    """
    check(reference=reference, queries=queries, rank_samples=rank_samples, batch=batch, patience=patience, watch=watch)
    return Evaluator(data, store, mesh, dict(reference=reference, queries=queries, rank_samples=rank_samples, raw=raw, alphareq=alphareq), batch)


def check(*, reference, queries, rank_samples, batch, patience, watch, **_) -> None:
    """What can be wrong in the section `eval` whatever the data are; see `make`. Raises: UserError."""
    if patience < 0:
        raise UserError(f"eval.patience is {patience}; it is a number of evaluations, 0 or more")
    if watch and watch not in (scores := (*RETRIEVAL, *KNN, "rankme")):
        raise UserError(f"eval.watch is {watch!r}{nearest(watch, scores)}; choose one of {', '.join(scores)}")
    if watch and not patience:
        raise UserError(f"eval.watch is {watch}, but eval.patience is 0, so that nothing is watched; set eval.patience, or leave eval.watch out")
    if batch < 1 or reference < 0 or queries < 0 or rank_samples < 2:
        raise UserError(f"eval.batch, reference, queries and rank_samples are {batch}, {reference}, {queries} and {rank_samples}; "
                        "batch must be at least 1, rank_samples at least 2, and a count of 0 takes all images")


def _spread(source, store, most):
    """(source, store) of at most `most` samples, evenly spaced; 0 takes all."""
    n = len(source)
    if not most or n <= most:
        return source, store
    chosen = datas.evenly(n, most)
    part = None if store is None else {**{k: v[chosen] for k, v in store.items()}, "id": np.where(store["id"][chosen] == chosen, np.arange(most), -1)}
    return Subset(source, chosen), part


def _pixels(batch):
    return batch["image"].reshape(len(batch["image"]), -1) / np.float32(255)


def _sound(x, what):
    """Whether the squared lengths of features f32 [N, D] are finite, as their cosines need; otherwise process 0 says of how many they are not."""
    bad = np.count_nonzero(~np.isfinite(np.einsum("nd,nd->n", x, x)))
    if bad and jax.process_index() == 0:
        log.warning("features of %d of %d %s images are not finite or too large, so nothing is measured on them; lower optim.lr, lengthen warmup, or set optim.clip", bad, len(x),
                    what)
    return not bad


def _retrieved(u, v):
    """`RETRIEVAL` of labelled images u [N, D], v [N], each a query against all others."""
    u, v = u[v >= 0], v[v >= 0]
    places = np.arange(len(v))
    try:
        means = retrieval.evaluate(u, v, u, v, query_ids=places, reference_ids=places, recall=()).means
    except ValueError:              # no class has two of these images
        return dict.fromkeys(RETRIEVAL, math.nan)
    return {name: means[measure] for name, measure in RETRIEVAL.items()}


def _linear(x, y, u, v, poll):
    return linear.evaluate(x, y, u, v, poll=poll).accuracy
