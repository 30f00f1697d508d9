"""What the encoder of a run makes of some of its images: features, neighbours, kNN predictions, spectra. A sample, so that it takes seconds."""
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxssl import data as datas, encoder as encoders
from jaxssl.encoder import load as loading
from jaxssl.data import decode
from jaxssl.errors import UserError
from jaxssl.evaluation.measures import knn, rank
from jaxssl.report import patches, pictures
from jaxssl.report.markup import isolated
from jaxssl.report.read import Run

K, TEMPERATURE = 20, 0.07      # of the kNN on this page
TILE = 32                      # pixels of a picture on the map
PLACES = 5                     # images whose places are drawn
_BATCH = 125


class Images(NamedTuple):
    """Images that were embedded. places: int64 [N] in their source. labels: int32 [N], -1 = none. features: layer -> f32 [N, D].
    untrained: the same from the network as it began. tiles: uint8 [N, TILE, TILE, 3], of the queries only."""
    places: np.ndarray
    labels: np.ndarray
    features: dict[str, np.ndarray]
    untrained: dict[str, np.ndarray]
    tiles: np.ndarray | None


class Look(NamedTuple):
    """data: `jaxssl.data.Data`. weights, step: of the encoder. source: what the queries come from; `apart` when that is not the training set.
    similarity, index [N, K]: each query's nearest of `reference`. predictions: int64 [N] by weighted kNN, None without labels. of: what the reference images are: "training",
    or "held-out" where these are of other classes: then they are the training set of `data`. trained: the run's own data. places: a few of the queries as the network sees
    each place of them, None where its map is too small to look at."""
    data: Any
    weights: str
    step: int | None
    source: Any
    apart: bool
    reference: Images
    queries: Images
    similarity: np.ndarray
    index: np.ndarray
    predictions: np.ndarray | None
    of: str
    trained: Any
    places: patches.Seen | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(isolated, self.data.classes))

    @property
    def accuracy(self) -> float | None:
        """Of `predictions`, over the labelled queries, in [0, 1]."""
        return None if self.predictions is None else float(np.mean((self.predictions == self.queries.labels)[self.queries.labels >= 0]))


def look(run: Run, *, images: int, weights: str = "", log: Callable[[str], None] = lambda line: None) -> Look:
    """Embeds at most `images` training images, and half as many held-out ones as queries, evenly spread over their sets.

    Without held-out images the queries are training images, and never their own neighbours.
    Raises: UserError when the data are gone, or there is no checkpoint.
    """
    data, encoder = _open(run, weights)
    of, trained = "training", data
    if data.disjoint:               # a query has none of its class among training images: held-out images are asked about one another
        data, of = dataclasses.replace(data, train=data.test, test=None, classes=data.test.classes), "held-out"
    apart = data.test is not None
    source = data.test if apart else data.train
    places = datas.evenly(len(data.train), images)
    log(f"{run.name}: embedding {len(places):,} {of} images at step {encoder.step}")
    through = _through(encoder, data)
    reference = through(data.train, places, False)
    asked = datas.evenly(len(source), max(images // 2, 1)) if apart else places[datas.evenly(len(places), max(images // 2, 1))]
    queries = through(source, asked, True)
    if min(len(reference.places), len(queries.places)) < 3:
        raise UserError(f"{data.train.name} gives {len(reference.places)} readable training images and {len(queries.places)} to ask about; "
                        "at least 3 of each are needed")
    ids = {} if apart else dict(query_ids=queries.places, reference_ids=reference.places)
    k = min(K, len(reference.places) - (not apart))
    similarity, index = knn.neighbours(queries.features["backbone"], reference.features["backbone"], k=k, **ids)
    labelled = bool(data.classes) and (reference.labels >= 0).any() and (queries.labels >= 0).any()
    predictions = predict(queries.features["backbone"], reference, ids, len(data.classes)) if labelled else None
    return Look(data, encoder.weights, encoder.step, source, apart, reference, queries, similarity, index, predictions, of, trained,
                _places(encoder, data, source, queries.places))


def _places(encoder, data, source, places):
    """A few of these images at the encoder's own size, with the maps of their places."""
    if min(patches.grid(encoder)) < patches.LEAST or (data.pixels.channels, data.pixels.depth) != (3, "uint8"):
        return None
    samples = [decode.sample(source, int(p), data.canvas) for p in places[datas.evenly(len(places), PLACES)]]
    p = encoder.preprocessing
    seen = np.asarray(encoder.view({"image": np.stack([s[0] for s in samples]), "size": np.stack([s[1] for s in samples])}))
    return patches.see(encoder, list(np.rint(255 * np.clip(seen * np.asarray(p["std"]) + np.asarray(p["mean"]), 0, 1)).astype(np.uint8)))


def _open(run, weights):
    """The data and the encoder of a run; whatever is wrong with either is a UserError, since the rest of the page does not need them."""
    try:
        data = datas.make(**run.config["data"])
    except TypeError as error:
        raise UserError(f"the data section of {run.path}/config.json is not one of this version ({error})") from error
    try:
        return data, loading.from_workdir(run.path, weights=weights)
    except UserError:
        raise
    except Exception as error:      # orbax raises whatever a torn file makes it trip over
        raise UserError(f"the checkpoint in {run.path} cannot be read ({(str(error) or repr(error)).splitlines()[0][:200]})") from error


def predict(features: np.ndarray, reference: Images, ids: dict, classes: int, *, layer: str = "backbone", untrained: bool = False) -> np.ndarray:
    """Class int64 [N] of query features [N, D] by weighted kNN among the labelled reference images."""
    known = reference.labels >= 0
    ids = {**ids, "reference_ids": ids["reference_ids"][known]} if ids else {}
    k = min(K, int(known.sum()) - bool(ids))
    near, at = knn.neighbours(features, (reference.untrained if untrained else reference.features)[layer][known], k=k, **ids)
    return knn.vote(near, reference.labels[known][at], temperature=TEMPERATURE, classes=classes)


def layers(seen: Look) -> list[dict]:
    """For each layer, input to output: name, width, rankme and its bound, and with labels knn, of trained and (…_untrained) untrained weights."""
    found = []
    ids = {} if seen.apart else dict(query_ids=seen.queries.places, reference_ids=seen.reference.places)
    known = seen.queries.labels >= 0
    for name, features in seen.reference.features.items():
        row = {"layer": name, "width": features.shape[1], "bound": min(features.shape)}
        for untrained in (False, True):
            end = "_untrained" if untrained else ""
            row[f"rankme{end}"] = rank.rankme((seen.reference.untrained if untrained else seen.reference.features)[name])
            if seen.predictions is not None:
                queries = (seen.queries.untrained if untrained else seen.queries.features)[name]
                guess = predict(queries, seen.reference, ids, len(seen.classes), layer=name, untrained=untrained)
                row[f"knn{end}"] = float(np.mean((guess == seen.queries.labels)[known]))
        found.append(row)
    return found


def spectrum(features: np.ndarray) -> np.ndarray:
    """Singular values of features [N, D] in falling order, neither centred nor normalised: what RankMe is the entropy of."""
    return np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """int64 [C, C]: row the true class, column the predicted one; images without a label (-1) do not count."""
    known = labels >= 0
    return np.bincount(labels[known] * classes + predictions[known], minlength=classes ** 2).reshape(classes, classes)


def _through(encoder, data):
    """f(source, places, with tiles) -> Images, by one compiled function for trained and untrained weights and all layers."""
    def features(variables, batch):
        x = encoder.view(batch)
        return {layer: encoder.forward(variables, x, layer=layer)[0] for layer in encoder.layers}

    call, sets = jax.jit(features), jax.device_put((encoder.variables, encoders.untrained(encoder).variables))

    def through(source, places, pictured):
        kept, labels, tiles = [], [], []
        outputs = ([], [])
        with ThreadPoolExecutor(datas.cores()) as pool:
            for start in range(0, len(places), _BATCH):
                chunk = places[start:start + _BATCH]
                samples = list(pool.map(lambda p: decode.sample(source, int(p), data.canvas), chunk))
                good = [i for i, s in enumerate(samples) if s[3] == chunk[i]]       # a substitute for a broken image is another place's image
                kept += [int(chunk[i]) for i in good]
                labels += [samples[i][2] for i in good]
                tiles += [pictures.square(samples[i][0], samples[i][1], TILE) for i in good] if pictured else []
                filled = samples + samples[-1:] * (_BATCH - len(samples))           # one size compiles
                batch = {"image": np.stack([s[0] for s in filled]), "size": np.stack([s[1] for s in filled])}
                for out, variables in zip(outputs, sets):
                    out.append({layer: np.asarray(h, np.float32)[good] for layer, h in call(variables, batch).items()})
        trained, untrained = ({layer: np.concatenate([part[layer] for part in out]) for layer in encoder.layers} for out in outputs)
        if bad := [layer for layer, h in trained.items() if not np.isfinite(h).all()]:
            raise UserError(f"features of {bad[0]} at step {encoder.step} are not finite, so nothing can be said about them; "
                            "look at the loss, and at an earlier checkpoint")
        return Images(np.array(kept, np.int64), np.array(labels, np.int32), trained, untrained, np.stack(tiles) if pictured and tiles else None)

    return through
