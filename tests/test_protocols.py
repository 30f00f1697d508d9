"""Every protocol through its own code, with a tiny budget: its rows, an encoder that stays as it was, choices that never see the test labels."""
import ast
import dataclasses
import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import data as datas, protocols, sharding, tree
from jaxssl.data.sources import Subset
from jaxssl.eval import grid, knn, linear, mlp
from jaxssl.protocols import augmented, finetune, labelfree
from jaxssl.tuning import frozen, whole
from tests.test_tuning import small

TINY = {
    "augmented": dict(layer="projector.1", lrs=(1e-3, 10.), batch_size=64, images=128), "fewshot": dict(n=(1, 2), tries=3), "finetune": dict(batch_size=32, images=64, lr=.1),
    "knn": dict(k=(1, 50), temperature=(.07,), majority=False), "labelfree": dict(layers=("backbone",)), "layers": dict(k=5),
    "lbfgs": dict(costs=(1e-6, 1e3), mean_per_class=True, steps=30), "linear": dict(lrs=(1e-3, 3.), forms=("raw",), steps=4, batch_size=64),
    "mlp": dict(hidden=16, epochs=2, batch_size=32, lr=1e-2), "retrieval": dict(recall=(1, 2)), "semi": dict(shares=(), per_class=(1,), batch_size=10, images=20)}
# What the setting of a protocol's last row must say of such a run; 190 training images are labelled.
USED = {
    "augmented": {"epochs": 128 / 171, "steps": 2, "batch_size": 64, "train": 171, "frozen": True, "weight_decay": 0.},
    "fewshot": {"n": 2, "k": 2, "tries": 3, "seed": 0}, "knn": {"reference": 190, "vote": "weighted"},
    "finetune": {"steps": 2, "batch_size": 32, "train": 190, "optimizer": "sgd", "lr": .1, "scaling": "linear", "drop_path": 0.},
    "labelfree": {"images": 20, "views": 3, "set": "train"}, "layers": {"train": 190, "grid": list(linear.GRID)},
    "lbfgs": {"costs": [1e-6, 1e3], "steps": 30, "train": 190, "chosen_by": "mean per class"}, "linear": {"steps": 4, "batch_size": 64, "train": 190, "preset": "default"},
    "mlp": {"layers": 2, "hidden": 16, "epochs": 2, "batch_size": 32, "lr": 1e-2}, "retrieval": {"clusters": 10, "seed": 0},
    "semi": {"steps": 2, "batch_size": 10, "train": 10, "per_class": 1, "seed": 0}}
# How a protocol that selects names its choice.
CHOICE = {"augmented": ("lr",), "knn": ("k", "temperature"), "layers": ("l2",), "lbfgs": ("C",), "linear": ("head",), "mlp": ("best_epoch",)}
FIXED = sorted(set(protocols.names()) - set(CHOICE))


class Labelled:
    """A source with labels of one's own."""

    def __init__(self, source, labels):
        self.source, self.labels, self.name, self.classes = source, np.asarray(labels), source.name, source.classes

    def __len__(self):
        return len(self.source)

    def entry(self, index):
        return int(self.labels[index]), self.source.entry(index)[1]

    def read(self, index):
        return self.source.read(index)[0], *self.entry(index)


@pytest.fixture(scope="module")
def data():
    """200 training and 84 test images, the first ten and the first four of them unlabelled."""
    whole_set = datas.make(source="digits", variant="clean", canvas=16, workers=0)

    def part(source, rows, unlabelled):
        source = Subset(source, rows)
        labels = np.array([source.entry(i)[0] for i in range(len(source))])
        labels[:unlabelled] = -1
        return Labelled(source, labels)
    return dataclasses.replace(whole_set, train=part(whole_set.train, range(0, 1400, 7), 10), test=part(whole_set.test, range(84), 4))


@pytest.fixture(scope="module")
def make(data, tmp_path_factory):
    """make(test labels of the 80 labelled images or None, …) -> a context; all share the cached features."""
    folder, mesh = str(tmp_path_factory.mktemp("features")), sharding.make_mesh(devices=jax.devices()[:2])

    def context(labels=None, **changes):
        own = data if labels is None else dataclasses.replace(data, test=Labelled(data.test, np.concatenate([data.test.labels[:4], labels])))
        return protocols.Context(small(), own, mesh, **{"folder": folder, "log": lambda _: None, **changes})
    return context


@pytest.fixture
def seen(monkeypatch):
    """What the trained heads answer: predictions int [N] or [N, H], in the order in which protocols ask for them."""
    found = []

    def watch(module, name, of):
        own = getattr(module, name)

        def call(*args, **options):
            result = own(*args, **options)
            found.append(np.array(of(result)))
            return result
        monkeypatch.setattr(module, name, call)
    for module in (grid, linear, mlp):
        watch(module, "evaluate", lambda result: result.predictions)
    watch(knn, "evaluate", lambda results: np.stack([result.predictions for result in results], 1))
    for module in (augmented, finetune):
        watch(module, "predicted", lambda result: result[0])
    monkeypatch.setitem(labelfree.VIEWS, "short", (20, 3))
    return found


def run(name, context, **options):
    return protocols.find(name).run(context, **{**TINY[name], **options})


# -- rows, and the encoder under them ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", protocols.names())
def test_rows_say_what_was_done_and_the_encoder_stays(make, seen, name):
    context = make()
    before, truth = tree.digest(context.encoder.variables), context.data.test.labels[4:]
    rows = run(name, context)
    assert tree.digest(context.encoder.variables) == before
    assert rows and all(row.protocol == name and row.layer in context.encoder.layers and np.isfinite(row.value) and row.seconds >= 0 for row in rows)
    assert len({(row.variant, row.layer, row.metric) for row in rows}) == len(rows)
    for row in rows:
        json.dumps(row.setting)
        if row.metric in ("accuracy", "mean per class") or row.interval:
            assert 0 <= row.interval[0] <= row.value <= row.interval[1] <= 1
        if row.metric == "accuracy":
            assert row.value == pytest.approx(row.interval.outcomes.mean())
            assert row.n == (3 if name == "fewshot" else len(truth)) == len(row.interval.outcomes)
            answers = [a[:, None] if a.ndim == 1 else a for a in seen if len(a) == len(truth)]
            assert name == "fewshot" or any(np.array_equal(row.interval.outcomes, a[:, h] == truth) for a in answers for h in range(a.shape[1]))
    setting = rows[-1].setting
    for key, value in USED[name].items():
        assert setting[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    assert {row.selected for row in rows} == ({"fixed"} if name in FIXED else {"fixed", "validation"} if name in ("knn", "layers") else {"validation"})
    if "encoder_sha256" in setting:         # taken on the devices, after training
        assert setting["encoder_sha256"] == tree.digest(frozen.used(small(), "projector.1"))


def test_a_single_rate_leaves_nothing_to_choose(make):
    """Then no image is held out of the training, and the setting is no choice. The digest in the row is of what the features of its layer are made of."""
    row, = run("augmented", make(select="test"), layer="backbone", lrs=(10.,))
    assert row.selected == "fixed" and row.setting["train"] == 190 and row.setting["lrs"] == {} and row.setting["encoder_sha256"] == tree.digest(frozen.used(small(), "backbone"))


# -- choices and test labels ---------------------------------------------------------------------------------------------------------

def test_every_protocol_that_reads_select_is_checked():
    def reads(name):
        return any(isinstance(node, ast.Attribute) and node.attr == "select" for node in ast.walk(ast.parse(inspect.getsource(protocols.find(name)))))
    assert {name for name in protocols.names() if reads(name)} == set(CHOICE)


def planted(make, seen, monkeypatch, name):
    """Two sets of test labels, int [80]: the answers of one candidate and of another, both trained on all training images. A choice that looks there takes its own."""
    context = make(select="test")
    if name in ("linear", "lbfgs"):
        option = {"linear": "lrs", "lbfgs": "costs"}[name]
        for value in TINY[name][option]:
            run(name, context, **{option: (value,)})
        found = seen[-2:]
    elif name == "layers":
        train, test = context.labelled("train"), context.labelled("test")
        found = [linear.evaluate(train.x, train.labels, test.x, test.labels, grid=(l2,), select="test").predictions for l2 in (linear.GRID[0], linear.GRID[-1])]
    elif name == "mlp":
        with monkeypatch.context() as patch:
            own, found = mlp._predictions, []
            patch.setattr(mlp, "_predictions", lambda *args: found.append(own(*args)) or found[-1])
            run(name, context)
    else:
        run(name, context)
        found = list(seen[0].T)
    assert np.mean(found[0] != found[1]) > .1
    return found[0], found[1]


def outcome(make, seen, name, labels, select):
    """(choice, all that the run says of itself less its measurements on test images, answers, row) of the first row that is a choice."""
    seen.clear()
    row = next(row for row in run(name, make(labels, select=select)) if row.selected != "fixed")
    return tuple(row.setting[key] for key in CHOICE[name]), {k: v for k, v in row.setting.items() if k != "last_epoch"}, list(seen), row


def leak(patch, name):
    """Makes the protocol choose on the test images and say that it did not."""
    if name == "augmented":
        own = augmented.predicted
        patch.setattr(augmented, "predicted", lambda context, logits, which, rows=None: own(context, logits, "test"))
    elif name == "knn":         # it searches the test images, then the held-out ones, whose results are now those of the test images
        own, found = knn.evaluate, []
        patch.setattr(knn, "evaluate", lambda *args, **options: found.append(own(*args, **options)) or found[(len(found) - 1) // 2 * 2])
    else:
        module = {"linear": grid, "mlp": mlp}.get(name, linear)
        own = module.evaluate
        patch.setattr(module, "evaluate", lambda *args, **options: own(*args, **{**options, "select": "test"}))


def once(train):
    """Training on the same number of images gives the heads that it gave first."""
    kept = {}
    return lambda encoder, images, plan, **options: kept.get(len(images)) or kept.setdefault(len(images), train(encoder, images, plan, **options))


@pytest.mark.parametrize("name", CHOICE)
def test_choices_follow_the_test_labels_only_where_that_is_asked_for(make, seen, monkeypatch, name):
    """Test labels under which one candidate is perfect, then the other: a validated choice and its head are the same, one on the test images is not,
    and a leak that calls itself validated would be seen here."""
    plants = planted(make, seen, monkeypatch, name)
    (first, setting, answers, row), (second, other, again, _) = (outcome(make, seen, name, labels, "validation") for labels in plants)
    assert row.selected == "validation" and first == second and setting == other
    assert len(answers) == len(again) and all(np.array_equal(a, b) for a, b in zip(answers, again))
    monkeypatch.setattr(frozen, "train", once(frozen.train))        # these heads do not depend on the test labels, as was just seen
    (first, _, _, row), (second, _, _, last) = (outcome(make, seen, name, labels, "test") for labels in plants)
    assert row.selected == last.selected == "test" and first != second and min(row.value, last.value) > .9
    with monkeypatch.context() as patch:
        leak(patch, name)
        (first, _, _, row), (second, _, _, _) = (outcome(make, seen, name, labels, "validation") for labels in plants)
    assert row.selected == "validation" and first != second


@pytest.mark.parametrize("name", ["fewshot", "semi"])
def test_heads_without_a_choice_do_not_see_the_test_labels(make, seen, name):
    """Few-shot references and fine-tuning on few labels: other test labels change the value and nothing that leads to it."""
    truth = make().data.test.labels[4:]
    found = []
    for labels in (truth, (truth + 1) % 10):
        seen.clear()
        found.append(([{**row.setting, "std": 0} for row in run(name, make(labels, select="test"))], np.concatenate([a.ravel() for a in seen])))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


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
        rows = run("semi", make(seed=seed, folder=str(tmp_path)), shares=(.1, .2), per_class=(2,))
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


# -- fine-tuning -----------------------------------------------------------------------------------------------------------------------

OPTIONS = {"layer_decay": .3, "drop_path": .6, "label_smoothing": .4, "weight_decay": .5, "warmup": .6}


def test_options_reach_the_training_of_few_and_of_all_labels(make, training, tmp_path):
    wanted = {**OPTIONS, "layer": "projector.1", "optimizer": "adamw", "lr": .3, "scaling": "none"}
    for name in ("finetune", "semi"):
        row = run(name, make(folder=str(tmp_path), seed=3), **wanted)[-1]
        (_, _, options), setting = training[-1], {**row.setting, "layer": row.layer}
        for key, value in wanted.items():
            assert options[key] == setting[key] == value, (name, key)
        assert options["seed"] == 3


def test_published_budgets_are_the_papers(make, data, training, tmp_path):
    """SimCLRv2: LARS, .005 √B; 60 epochs on 1 % of the labels, 30 on 10 % and on all."""
    context = make(folder=str(tmp_path), budget="published")
    context.data = dataclasses.replace(data, train=data.train.source.source)         # all 1,400 digits, of which 1 % is one a class
    protocols.find("semi").run(context)
    protocols.find("finetune").run(context)
    for (rows, plan, options), (count, epochs) in zip(training, ((10, 60), (143, 30), (len(context.data.train), 30)), strict=True):
        assert len(rows) == pytest.approx(count, abs=5) and plan.epochs == pytest.approx(epochs, rel=.05)
        assert (options["optimizer"], options["lr"], options["scaling"], options["weight_decay"], options["warmup"]) == ("lars", .005, "sqrt", 0., 0.)


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
