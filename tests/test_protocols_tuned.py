"""Protocols of few labels and of fine-tuning, through their own code: which images, which options, what is changed and what is not."""
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import tree
from jaxssl.evaluation import protocols
from jaxssl.parallel import mesh as sharding
from jaxssl.errors import UserError
from jaxssl.evaluation.measures import knn
from jaxssl.evaluation.tuning import whole
from tests.probed import Labelled, context, digits, run
from tests.test_tuning import small


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """make(test labels or None, …) -> a context; all share the cached features."""
    folder = tmp_path_factory.mktemp("features")
    return lambda labels=None, **changes: context(**{"folder": folder, "labels": labels, **changes})


# -- few labels ------------------------------------------------------------------------------------------------------------------------

def zeros(batch):
    """The logits of a network that answers 0."""
    return jnp.zeros((len(batch["image"]), 10))


@pytest.fixture
def training(monkeypatch):
    """Fine-tuning that only notes what it was asked for: (rows it would train on, plan, keywords) of every call."""
    calls = []

    def train(encoder, images, plan, **options):
        calls.append((images.data.train.indices, plan, options))
        return whole.Trained(zeros, encoder.variables, [], "")
    monkeypatch.setattr(whole, "train", train)
    return calls


def test_semi_trains_on_the_images_that_it_lists(make, training, tmp_path):
    """Stratified, labelled, the same for the same seed and others for another, nested, and written down under their seed."""
    def chosen(seed):
        training.clear()
        rows = run("semi", make(seed=seed, folder=tmp_path), shares=(.1, .2), per_class=(2,))
        lists = [json.loads((tmp_path / row.setting["images"]).read_text()) for row in rows]
        return rows, [set(images) for images, _, _ in training], lists
    train, (rows, subsets, lists) = make().data.train, chosen(0)
    count = np.bincount(train.labels[train.labels >= 0])
    for row, images, saved, wanted in zip(rows, subsets, lists, ([max(1, round(.1 * n)) for n in count], [round(.2 * n) for n in count], [2] * 10), strict=True):
        labels = train.labels[sorted(images)]
        assert labels.min() >= 0 and list(np.bincount(labels)) == list(wanted) and row.setting["train"] == len(images) == sum(wanted)
        assert {(name, label) for name, label in saved["images"]} == {(train.entry(i)[1], str(train.labels[i])) for i in images} and saved["seed"] == 0
    assert subsets[0] < subsets[1] and [row.variant for row in rows] == ["10 % of the labels", "20 % of the labels", "2 a class"]
    assert chosen(0)[1:] == (subsets, lists)
    assert all(len(a) == len(b) and a != b for a, b in zip(subsets, chosen(1)[1]))
    assert len(list((tmp_path / "evaluations" / "subsets").iterdir())) == 6         # the lists of one seed do not replace those of another


def test_semi_trains_on_what_can_be_trained_on(make, training, tmp_path):
    """A subset that cannot be drawn is refused before the first is trained; one smaller than the devices is left out, and said."""
    with pytest.raises(UserError, match="the subset needs 999"):
        run("semi", make(folder=tmp_path), shares=(.1,), per_class=(999,))
    assert not training
    said = []
    given = make(folder=tmp_path)
    labels = np.array([given.data.train.entry(i)[0] for i in range(len(given.data.train))])
    few = dataclasses.replace(given.data, train=Labelled(given.data.train, np.where(labels < 5, labels, -1)))      # five classes: 1 % of each is one image
    small = dataclasses.replace(given, data=few, log=said.append, mesh=sharding.make_mesh(devices=jax.devices()))
    row, = run("semi", small, shares=(.01, .5))
    assert row.variant == "50 % of the labels" and any("1 % is left out: its 5 images" in line for line in said)
    with pytest.raises(UserError, match="8 devices"):
        run("semi", small, shares=(.01,))


def test_few_shots_are_of_every_class_and_drawn_anew(make, monkeypatch):
    drawn, own = [], knn.evaluate

    def evaluate(x, y, reference, labels, **options):
        drawn.append((labels, reference))
        return own(x, y, reference, labels, **options)
    monkeypatch.setattr(knn, "evaluate", evaluate)

    def references(seed):
        drawn.clear()
        run("fewshot", make(seed=seed), n=(1, 3), tries=2)
        return [(labels, reference.tobytes()) for labels, reference in drawn]
    first = references(0)
    assert [list(np.bincount(labels)) for labels, _ in first] == [[1] * 10] * 2 + [[3] * 10] * 2
    again, other = references(0), references(1)
    assert [x for _, x in first] == [x for _, x in again] and not {x for _, x in first} & {x for _, x in other} and len({x for _, x in first}) == 4


def test_few_shots_count_images(make):
    """The value is the mean over the draws; its interval is that of the test images, each with its share of right answers."""
    row, = run("fewshot", make(), n=(2,), tries=4)
    assert row.n == len(row.interval.outcomes) and row.value == pytest.approx(row.interval.outcomes.mean())
    assert set(np.round(row.interval.outcomes * 4, 6)) <= {0, 1, 2, 3, 4} and row.interval.classes is not None and row.setting["std"] > 0


# -- fine-tuning -----------------------------------------------------------------------------------------------------------------------

OPTIONS = {"layer_decay": .3, "drop_path": .6, "label_smoothing": .4, "weight_decay": .5, "warmup": .6}


def test_options_reach_the_training_of_few_and_of_all_labels(make, training, tmp_path):
    wanted = {**OPTIONS, "layer": "projector.1", "optimizer": "adamw", "lr": .3, "scaling": "none"}
    for name in ("finetune", "semi"):
        row = run(name, make(folder=tmp_path, seed=3), **wanted)[-1]
        (_, _, options), setting = training[-1], {**row.setting, "layer": row.layer}
        for key, value in wanted.items():
            assert options[key] == setting[key] == value, (name, key)
        assert options["seed"] == 3


def test_published_budgets_are_the_papers(make, training, tmp_path):
    """SimCLRv2: LARS, .005 √B; 60 epochs on 1 % of the labels, 30 on 10 % and on all."""
    given = make(folder=tmp_path, budget="published")
    given.data = dataclasses.replace(digits(), train=digits().train.source.source)         # all 1,400 digits, of which 1 % is one a class
    protocols.find("semi").run(given)
    protocols.find("finetune").run(given)
    for (rows, plan, options), (count, epochs) in zip(training, ((10, 60), (143, 30), (len(given.data.train), 30)), strict=True):
        assert len(rows) == pytest.approx(count, abs=5) and plan.epochs == pytest.approx(epochs, rel=.05)
        assert (options["optimizer"], options["lr"], options["scaling"], options["weight_decay"], options["warmup"]) == ("lars", .005, "sqrt", 0., 0.)


def test_one_percent_is_the_share_asked_for(make, training, tmp_path):
    """Of some 158 images a class 1 % rounds to two, 1.25 %: it is trained for 60 epochs all the same; as many images a class, asked for as such, are more than 1 %."""
    given, source = make(folder=tmp_path, budget="published"), digits().train.source.source
    given.data = dataclasses.replace(digits(), train=Labelled(source, np.arange(len(source)) // 158))
    protocols.find("semi").run(given, shares=(.01,), per_class=(1, 2))
    assert [len(rows) for rows, _, _ in training] == [18, 9, 18]
    assert [plan.epochs for _, plan, _ in training] == pytest.approx([60, 60, 30], rel=.05)


@pytest.fixture(scope="module")
def tuned(make):
    """tuned(**options) -> (row, change of every parameter) of three steps of fine-tuning."""
    def call(**options):
        kept, own = [], whole.train

        def train(*args, **options):
            kept.append(own(*args, **options))
            return kept[0]._replace(logits=zeros)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(whole, "train", train)
            row, = run("finetune", make(), images=96, lr=1., scaling="none", **options)
        start = tree.names(small().variables)
        return row, {name: np.asarray(leaf) - start.get(name, 0) for name, leaf in tree.names(kept[0].variables).items()}
    return functools.cache(call)


def test_fine_tuning_moves_the_network_and_not_the_encoder_given(tuned):
    before = tree.digest(small().variables)
    row, moved = tuned()
    assert tree.digest(small().variables) == before == small().digest
    assert "params/classifier/kernel" in moved and not any("projector" in name for name in moved)
    for name, change in moved.items():
        assert np.abs(change).max() > 0, name
    assert len(row.setting["losses"]) == 3 and row.setting["losses"][0] == pytest.approx(np.log(10), rel=1e-3)      # a classifier of zeros


@pytest.mark.parametrize("option, value", list(OPTIONS.items())[:3])
def test_an_option_of_fine_tuning_changes_what_is_learned(tuned, option, value):
    (plain, moved), (row, other) = tuned(), tuned(**{option: value})
    assert row.setting[option] == value and plain.setting[option] != value
    assert abs(row.setting["losses"][-1] - plain.setting["losses"][-1]) > .01
    size = {name: np.abs(other[name]).mean() / np.abs(moved[name]).mean() for name in ("params/encoder/stem/conv/kernel", "params/classifier/kernel")}
    if option == "layer_decay":        # the stem lies five layers below the classifier, .3⁵ = .0024
        assert size["params/encoder/stem/conv/kernel"] < .01 and size["params/classifier/kernel"] > .5
    if option == "label_smoothing":    # softer targets pull less
        assert size["params/classifier/kernel"] < .9

