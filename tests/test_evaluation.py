"""Evaluation while training: every class is in the sample that is measured, unlabelled images count as nothing, broken ones are counted once."""
import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxssl import data as datas
from jaxssl.training import evaluator as evaluation
from jaxssl.parallel import mesh as sharding

CLASSES = ("a", "b", "c", "d")


class Arrays:
    """Images in class order, of which one pixel tells the class."""
    classes = CLASSES

    def __init__(self, name, labels):
        self.name, self.labels = name, labels
        self.shown = np.repeat(np.arange(4), len(labels) // 4)

    def __len__(self):
        return len(self.labels)

    def read(self, index):
        image = np.zeros((4, 4, 3), np.uint8)
        image[0, self.shown[index]] = 255
        return image, *self.entry(index)

    def entry(self, index):
        return int(self.labels[index]), f"{self.name}/{index}"


def evaluator(train_labels, test_labels, **counts):
    data = datas.Data(Arrays("train", train_labels), Arrays("test", test_labels), CLASSES, 4, True, 1, 0.5)
    return evaluation.make(data=data, store=None, mesh=sharding.make_mesh(devices=jax.devices()), batch=16, **counts)


def embed(batch):
    return jnp.asarray(batch["image"]).reshape(len(batch["image"]), -1) / 255.0


ORDERED = np.repeat(np.arange(4), 10)


def test_the_rank_is_measured_on_all_classes():
    """Four orthogonal features, a class each: the first ten rows, all of one class, would have rank 1."""
    assert evaluator(ORDERED, ORDERED, rank_samples=10).quick(embed)["rankme"] == pytest.approx(4, abs=0.1)


def test_alpha_req_is_measured_at_the_end_where_it_is_asked_for():
    from jaxssl.evaluation.measures import spectrum
    made = evaluator(ORDERED, ORDERED, alphareq=True, rank_samples=20)
    features = embed({"image": np.stack([made._data.train.read(i)[0] for i in range(0, 40)])})
    chosen = np.asarray(features)[datas.evenly(40, 20)]
    assert "alphareq" not in made.quick(embed) and "alphareq" not in evaluator(ORDERED, ORDERED).final(embed)
    assert made.final(embed)["alphareq"] == pytest.approx(spectrum.alpha_req(chosen))


def test_unlabelled_images_are_no_wrong_answers():
    half = np.where(np.arange(40) % 2, ORDERED, -1)
    for train, test in ((ORDERED, half), (half, ORDERED)):
        found = evaluator(train, test).final(embed)
        assert found["knn"] == found["knn_k20"] == found["linear"] == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
@pytest.mark.parametrize("side", ["reference", "held-out"])
def test_features_that_are_not_finite_are_no_number_and_one_sentence(value, side, caplog):
    """1e20 is finite, and its square is not. What can be measured is."""
    made = evaluator(ORDERED, ORDERED, raw=True)
    made._extract = functools.partial(spoilt, made._extract, {"reference": "train", "held-out": "test"}[side], value)
    with caplog.at_level(logging.WARNING):
        quick, final = made.quick(embed), made.final(embed)
    assert set(final) == {*quick, "linear"} == {"rankme", "knn", "knn_k20", "linear"}
    assert all(np.isnan(final[name]) for name in final if name != "rankme") and np.isnan(final["rankme"]) == (side == "reference")
    assert [r.message for r in caplog.records] == [f"features of 2 of 40 {side} images are not finite or too large, so nothing is measured on them; "
                                                   "lower optim.lr, lengthen warmup, or set optim.clip"] * 2
    if value is np.inf:                 # pixels stay as they are, and so do features once they are finite again
        del made._extract
        assert made.raw() == {"knn_raw": 1.0, "linear_raw": 1.0} and made.final(embed)["linear"] == 1.0


def spoilt(extract, which, value, embed, asked):
    x, y = extract(embed, asked)
    if asked == which:
        x = x.copy()
        x[[3, 5], 2] = value
    return x, y


@pytest.mark.parametrize("train, test, words", [(ORDERED, ORDERED * 0 - 1, "none of the 40 held-out images has a label"),
                                                (ORDERED * 0 - 1, ORDERED, "none of the 40 reference images")])
def test_without_a_label_on_one_side_only_the_rank_is_measured(train, test, words, caplog):
    made = evaluator(train, test, raw=True)
    with caplog.at_level(logging.WARNING):
        assert made.raw() == {} and set(made.final(embed)) == set(made.quick(embed)) == {"rankme"}
    assert not made.labelled and [words in r.message for r in caplog.records] == [True]


def test_classes_that_no_reference_image_has_are_said_once(caplog):
    made = evaluator(ORDERED, ORDERED, reference=2)
    with caplog.at_level(logging.WARNING):
        assert made.quick(embed)["knn"] == made.quick(embed)["knn_k20"] <= .5
    assert [r.message for r in caplog.records] == ["2 of the held-out images' 4 classes have none of the 2 reference images, so that kNN and linear accuracy are at most 50.0 %; "
                                                   "raise eval.reference"]


def test_broken_images_are_counted_at_each_evaluation_and_named_once(tmp_path, caplog):
    for i in range(80):
        file = tmp_path / CLASSES[i % 4] / f"{i:02d}.png"
        file.parent.mkdir(exist_ok=True)
        if i < 3:
            file.write_bytes(b"broken")
        else:
            Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(file)
    data = datas.make(source="folder", path=str(tmp_path), canvas=4, holdout=0.5, resident="no", workers=0, max_broken=0.2)
    made = evaluation.make(data=data, store=None, mesh=sharding.make_mesh(devices=jax.devices()), batch=16, reference=30)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            made.quick(embed)
            with datas.batches(data, drawn=datas.shuffled(0, 8, len(data.train)), batch_size=8, total_steps=20) as stream:
                list(stream)
        made.final(embed)
    named = [r.message for r in caplog.records if r.message.startswith("broken image ")]
    counted = [r.message for r in caplog.records if "broken images so far" in r.message]
    assert len(named) == len(data.broken) == 3 and {name.split("/")[-1] for _, name in data.broken} == {"00.png", "01.png", "02.png"}
    assert len(counted) == 3 and counted[-1].startswith("3 broken images")
    assert not dataclasses.replace(data, broken=set()).broken and datas.make().broken is not datas.make().broken
