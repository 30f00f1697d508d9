"""Every protocol through its own code, with a tiny budget: its rows, an encoder that stays as it was, choices that never see the test labels."""
import ast
import dataclasses
import inspect
import json

import numpy as np
import pytest

from jaxssl import tree
from jaxssl.evaluation import protocols
from jaxssl.evaluation.measures import grid, knn, linear, mlp
from jaxssl.evaluation.protocols import augmented, finetune, labelfree
from jaxssl.evaluation.tuning import frozen
from tests.probed import TINY, context, run
from tests.test_tuning import small

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
FIXED = sorted(set(protocols.names("all")) - set(CHOICE))


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """make(test labels or None, …) -> a context; all share the cached features."""
    folder = tmp_path_factory.mktemp("features")
    return lambda labels=None, **changes: context(**{"folder": folder, "labels": labels, **changes})


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


# -- rows, and the encoder under them ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", protocols.names("all"))
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
            assert row.n == len(truth) == len(row.interval.outcomes)
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


def test_views_are_as_in_training_only_where_the_weights_say_how(make, seen):
    """The config of weights from elsewhere states the test-time view alone."""
    encoder = small()
    theirs = {key: value for key, value in encoder.config["augment"].items() if key in ("size", "interpolation", "mean", "std")}
    for config, view in ((encoder.config, "augmented as in training"), ({"model": encoder.config["model"], "augment": theirs}, "SimCLR's default augmentation")):
        rows = run("labelfree", make(encoder=dataclasses.replace(encoder, config=config)))
        lidar, = (row for row in rows if row.metric == "lidar")
        assert lidar.variant == lidar.setting["view"] == view
        assert ("these weights do not say theirs" in lidar.note) == ("augmentation" in lidar.setting) == (config is not encoder.config)
    assert lidar.setting["augmentation"].keys() > {"crop_scale", "blur_sigma"} and lidar.setting["augmentation"]["jitter"] == .8


# -- choices and test labels ---------------------------------------------------------------------------------------------------------

def test_every_protocol_that_reads_select_is_checked():
    def reads(name):
        return any(isinstance(node, ast.Attribute) and node.attr == "select" for node in ast.walk(ast.parse(inspect.getsource(protocols.find(name)))))
    assert {name for name in protocols.names("all") if reads(name)} == set(CHOICE)


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
