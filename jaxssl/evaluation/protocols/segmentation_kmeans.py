"""Unsupervised segmentation: k-means of the places of the test images, and the class that each cluster stands for.

Two ways of the literature: as many clusters as classes, matched one to one so that most pixels are right (the Hungarian method; Cho et al., arXiv 2103.17070, section 4,
Hamilton et al., arXiv 2203.08414), and over-clustering, where each of many clusters is the class of most of its pixels (Ziegler and Asano, arXiv 2204.13101, section 4.1, has
500). As published, both cluster the test images and look at their masks, which is a choice on the test images: --select=test. Otherwise clusters and what they stand for
come from the training images.
"""
import time

import numpy as np

from jaxssl.errors import UserError
from jaxssl.evaluation.dense import sets, tokens, windows
from jaxssl.evaluation.measures import segmentation
from jaxssl.evaluation.protocols import Context, Row, check_targets

GROUP, TARGETS, LABELS = "dense", "masks", ()
OVER = {"short": 100, "published": 500}         # clusters of over-clustering
PLACES = 100_000                                # that k-means sees


def run(context: Context, *, clusters: int = 0, size: int = 0, blocks: tuple[int, ...] = (-1,), places: int = PLACES, untrained: bool = True) -> list[Row]:
    """Rows of mIoU: Hungarian with a cluster a class, majority with `clusters` (0 = of the budget); of the untrained network too with `untrained`.

    places: most vectors that k-means is computed from.
    """
    if clusters < 0 or places < 1:
        raise UserError(f"segmentation_kmeans.clusters is {clusters} and places is {places}; give 0 clusters (of the budget) or more, and at least one place")
    on_test = context.select == "test"
    check_targets(["segmentation_kmeans"], context.data)
    rows = []
    for which, encoder in sets.encoders_of(context, untrained):
        form = tokens.form(encoder, side=size, blocks=blocks)
        embed, train = sets.embed(context, encoder, form), sets.training(context, encoder, form)
        count = sets.classes(context, train)
        test = context.keep(("test tokens", encoder.step, encoder.name, form), lambda: tokens.collect(embed, context.data.test, np.arange(len(context.data.test))))
        for kind, number, assign in (("Hungarian", count, segmentation.hungarian), ("majority", clusters or OVER[context.budget], segmentation.majority)):
            start, given = time.monotonic(), test if on_test else train
            centres = k_means(given.x, number, places, context.seed)
            own = counted(context.data.test, test, form, encoder, centres, count)                                    # [N, C, K]
            learned = own.sum(0) if on_test else counted(context.data.train, train, form, encoder, centres, count).sum(0)
            stands = assign(learned)
            parts = np.array([segmentation.summary(segmentation.merged(matrix, stands)) for matrix in own])
            score = segmentation.of_summary(parts.sum(0))
            variant = ", ".join(filter(None, (f"{number} clusters, {kind}", which)))
            setting = {"clusters": len(centres), "match": kind, "masks": "test" if on_test else "train", "classes": count, "window": form.side,
                       "blocks": list(blocks), "places": min(places, given.x[..., 0].size), "seed": context.seed, "algorithm": "k-means of unit vectors, k-means++, one start"}
            how = f"{'as published, ' if on_test else ''}clusters are of the {'test' if on_test else 'training'} images and named by their masks"
            note = "; ".join(filter(None, (how, test.note)))
            context.log(f"segmentation_kmeans, {variant}: mIoU {100 * score.mean:.1f} %")
            rows.append(Row("segmentation_kmeans", variant, form.said(), "mIoU", score.mean, len(parts), segmentation.interval(parts, seed=context.seed), setting, note,
                            time.monotonic() - start, "test" if on_test else "fixed", "share"))
    return rows


def k_means(x: np.ndarray, clusters: int, most: int, seed: int) -> np.ndarray:
    """Centres f32 [K, D] of unit vectors of at most `most` of the places of x [M, n, n, D]; K is lowered to their number."""
    from sklearn.cluster import KMeans
    flat = x.reshape(-1, x.shape[-1])
    if len(flat) > most:
        flat = flat[np.sort(np.random.default_rng(seed).choice(len(flat), most, replace=False))]
    flat = _unit(flat.astype(np.float32))
    return KMeans(min(clusters, len(flat)), init="k-means++", n_init=1, max_iter=100, random_state=seed).fit(flat).cluster_centers_.astype(np.float32)


def counted(source, found: tokens.Places, form: tokens.Form, encoder, centres: np.ndarray, count: int) -> np.ndarray:
    """int64 [N, C, K]: pixels of each class in each cluster, image by image; the cluster of a pixel is that of the place it lies in, of the last window that shows it."""
    view, rows = windows.View(form.side, form.stride, encoder.preprocessing["interpolation"]), np.unique(found.place)
    n, at, matrices = found.x.shape[1], 0, []
    half = (centres**2).sum(1) / 2
    for picture in windows.pictures(source, rows, []):
        height, width = picture.pixels.shape[:2]
        size = tuple(max(round(extent * view.side / min(height, width)), view.side) for extent in (height, width))
        labels = np.zeros(size, np.int32)
        for y in windows.places(size[0], view):
            for x in windows.places(size[1], view):
                flat = _unit(found.x[at].reshape(n * n, -1).astype(np.float32))
                labels[y:y + view.side, x:x + view.side] = windows.nearest((flat @ centres.T - half).argmax(1).reshape(n, n), (view.side, view.side))
                at += 1
        sets.check_target(picture.target, count, source, picture.place)
        matrices.append(segmentation.confusion(picture.target, windows.nearest(labels, picture.target.shape), count, len(centres)))
    return np.array(matrices)


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
