"""Training on top of an encoder: the frozen one is not touched and not differentiated, the whole one follows its rules, the few labels are the same ones."""
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import data as datas, encoder as encoders, models, optim, tree
from jaxssl.parallel import mesh as sharding
from jaxssl.errors import NonFiniteError, UserError
from jaxssl.models import heads, resnet
from jaxssl.evaluation.tuning import frozen, loop, subsets, whole
from tests import tiny


@functools.cache
def small():
    """A tiny encoder with its projector, drawn by numpy, for digits of 16 pixels."""
    config = json.loads(tiny.config_of("simclr", **{"model.depths": "(1, 1, 1, 1)", "model.stem": "cifar"}).to_json_best_effort())
    module = models.make(**config["model"], precision="f32")
    hollow = encoders.Encoder("tiny", config, "student", None, module, {"projector": (heads.Projector((config["method"]["hidden"], config["method"]["dim"])), "encoder")}, {})
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.standard_normal(leaf.shape).astype(np.float32) * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        return np.full(leaf.shape, name in ("scale", "var"), np.float32)
    return encoders.build(config, jax.tree_util.tree_map_with_path(draw, encoders.shapes(hollow)), name="tiny")


def images(rows=None, devices=1, resident=True):
    data, store = tiny.digits()
    rows = np.arange(96) if rows is None else rows
    return loop.Images(dataclasses.replace(data, workers=0), rows, store if resident else None, sharding.make_mesh(devices=jax.devices()[:devices]))


def quiet(_):
    pass


def canvases(n=24):
    _, store = tiny.digits()
    return {name: jnp.asarray(store[name][:n]) for name in ("image", "size")}


def unaugmented(monkeypatch):
    monkeypatch.setattr(loop, "train_view", lambda encoder: lambda key, batch: encoder.view(batch))


# -- the frozen encoder ------------------------------------------------------------------------------------------------------

@jax.custom_vjp
def sealed(h):
    return h


def _refuse(*_):
    raise AssertionError("a gradient reached the frozen encoder")


sealed.defvjp(lambda h: (h, None), _refuse)


class Sealed(encoders.Encoder):
    """An encoder whose features cannot be differentiated, and which must be asked for its inference mode."""

    def forward(self, variables, x, *, layer="backbone", train=False, key=None):
        assert not train and key is None
        h, stats = super().forward(variables, x, layer=layer, train=train)
        return sealed(h), stats


def test_frozen_encoder_is_neither_changed_nor_differentiated():
    encoder = Sealed(**{f.name: getattr(small(), f.name) for f in dataclasses.fields(encoders.Encoder)})
    before = tree.digest(encoder.variables)
    trained = frozen.train(encoder, images(), loop.Length(2, 16, 1.), lrs=(.1, 1.), layer="projector.1", log=quiet)
    assert tree.digest(encoder.variables) == before == small().digest and trained.digest == tree.digest(frozen.used(encoder, "projector.1"))
    assert trained.logits(canvases()).shape == (24, 2, 10)
    with pytest.raises(AssertionError, match="gradient reached"):      # the seal holds: differentiated, it speaks
        jax.grad(lambda v: encoder.forward(v, jnp.zeros((1, 16, 16, 3)))[0].sum())(encoder.variables)


def test_a_changed_encoder_is_noticed(monkeypatch):
    digests = iter(["one", "another"])
    monkeypatch.setattr(frozen.tree, "digest", lambda variables: next(digests))
    with pytest.raises(RuntimeError, match="changed"):
        frozen.train(small(), images(), loop.Length(1, 16, 1.), log=quiet)


@pytest.mark.parametrize("devices, resident", [(1, True), (8, False)])
def test_frozen_heads_are_the_loop_of_each_alone(monkeypatch, devices, resident):
    """Nesterov as PyTorch's: v = .9 v + g, W -= lr (g + .9 v); cosine; two rates at once. Resident on one device, streamed over eight."""
    unaugmented(monkeypatch)
    encoder, given, plan, lrs = small(), images(np.arange(10, 58), devices, resident), loop.Length(5, 16, 5 / 3), (.5, 8.)
    trained = frozen.train(encoder, given, plan, lrs=lrs, weight_decay=1e-2, seed=4, log=quiet)
    data, store = tiny.digits()
    h = np.asarray(encoder(store["image"][:58]), np.float64)
    expected = []
    for lr in lrs:
        w, b, wv, bv = np.zeros((h.shape[1], 10)), np.zeros(10), 0, 0
        for t in range(5):
            i = np.arange(10, 58)[datas.ids(4, t, 16, 48)]
            p = np.exp(h[i] @ w + b)
            wrong = (p / p.sum(1, keepdims=True) - np.eye(10)[store["label"][i]]) / 16
            gw, gb = h[i].T @ wrong + 1e-2 * w, wrong.sum(0)
            wv, bv, rate = .9 * wv + gw, .9 * bv + gb, lr * 16 / 256 * (1 + np.cos(np.pi * t / 5)) / 2
            w, b = w - rate * (gw + .9 * wv), b - rate * (gb + .9 * bv)
        expected.append(h @ w + b)
    got = np.asarray(trained.logits(canvases(24)))
    np.testing.assert_allclose(got, np.stack(expected, 1)[:24], rtol=1e-3, atol=1e-3 * np.abs(expected).max())


# -- the whole network ---------------------------------------------------------------------------------------------------------

def test_layer_decay_by_name():
    names = ["encoder/stem/conv/kernel", "encoder/stem/norm/scale", "encoder/stage1/block0/conv1/kernel", "encoder/stage1/block1/norm2/bias",
             "encoder/stage2/block0/shortcut/conv/kernel",
             "encoder/stage10/block0/conv1/kernel", "projector/linear1/kernel", "projector/norm1/scale", "projector/linear2/kernel", "classifier/kernel", "classifier/bias"]
    heights = [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 7]
    assert optim.layer_factors(dict.fromkeys(names, ()), .5, ("encoder", "projector")) == {name: .5 ** (7 - height) for name, height in zip(names, heights)}


def change(monkeypatch, **options):
    """Parameters after two steps less those before: the first step moves the classifier alone, since it starts at zero."""
    unaugmented(monkeypatch)
    trained = whole.train(small(), images(), loop.Length(2, 16, 1.), optimizer="sgd", lr=10., scaling="none", log=quiet, **options)
    start = tree.names(small().variables["params"])
    return {name: np.asarray(leaf) - start.get(name, 0) for name, leaf in tree.names(trained.variables["params"]).items()}


def test_layer_decay_scales_what_a_layer_moves(monkeypatch):
    plain, decayed = change(monkeypatch), change(monkeypatch, layer_decay=.5)
    factors = optim.layer_factors({name: moved.shape for name, moved in plain.items()}, .5)
    assert factors["encoder/stem/conv/kernel"] == .5 ** 5 and factors["encoder/stage4/block0/conv1/kernel"] == .5
    for name, moved in plain.items():
        assert np.abs(moved).max() > 0, name
        np.testing.assert_allclose(decayed[name], factors[name] * moved, rtol=2e-2, atol=1e-3 * np.abs(factors[name] * moved).max(), err_msg=name)


def test_from_the_middle_of_the_projector(monkeypatch):
    """layer=projector.1 trains the first layer of the projector and drops the second."""
    before = tree.digest(small().variables)
    moved = change(monkeypatch, layer="projector.1")
    assert np.abs(moved["projector/linear1/kernel"]).max() > 0 and not any("linear2" in name or "norm2" in name and "projector" in name for name in moved)
    assert moved["classifier/kernel"].shape == (small().config["method"]["hidden"], 10)
    assert tree.digest(small().variables) == before     # the caller's encoder is its own
    with pytest.raises(UserError, match="projector.1"):
        whole.train(small(), images(), loop.Length(1, 16, 1.), layer="projektor.1")


def test_one_device_and_eight_agree_and_seeds_repeat():
    """Streamed over eight devices as resident on one, with augmentation, smoothing and drop path: the draws depend on the seed alone."""
    def logits(devices, resident, seed):
        return np.asarray(whole.train(small(), images(None, devices, resident), loop.Length(3, 16, 1.), optimizer="lars", drop_path=.5, label_smoothing=.1, seed=seed,
                                      log=quiet).logits(canvases()))
    one = logits(1, True, 0)
    np.testing.assert_allclose(logits(8, False, 0), one, rtol=1e-2, atol=1e-3)
    assert np.abs(logits(1, True, 1) - one).max() > .01


def test_smoothed_cross_entropy_leaves_unlabelled_rows_out():
    logits, labels = np.random.default_rng(0).standard_normal((2, 5, 4)), np.array([1, -1, 0, 3, -1])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [np.mean([-(.9 * row[k] + .1 * row.mean()) for row, k in zip(head, labels) if k >= 0]) for head in log_p]
    np.testing.assert_allclose(loop.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), .1), expected, rtol=1e-5)


@pytest.mark.parametrize("kind, remat", [("basic", False), ("bottleneck", True)])
def test_drop_path_drops_or_doubles_the_branch(kind, remat):
    """At a half, each image's last branch is either left out or counted twice; the first block, whose chance is 0, is untouched."""
    net = resnet.ResNet(kind, (1, 1), 4, "cifar", zero_init=False, remat=remat)
    x = jax.random.normal(jax.random.key(0), (64, 8, 8, 3))
    variables = net.init(jax.random.key(1), x, train=True)

    def run(variables, net=net, **drawn):
        return np.asarray(net.apply(variables, x, train=True, mutable=["batch_stats"], **drawn)[0].pooled)

    def scaled(factor):
        last = f"norm{2 if kind == 'basic' else 3}"
        return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * factor if "stage2" in str(path) and last in str(path) and "batch_stats" not in str(path) else leaf,
                                                variables)
    without, doubled = run(scaled(0.)), run(scaled(2.))
    got = run(variables, net.clone(drop_path=.5), rngs={"drop": jax.random.key(2)})
    dropped = np.isclose(got, without, atol=1e-5).all(1)
    assert .25 < dropped.mean() < .75
    np.testing.assert_allclose(got[~dropped], doubled[~dropped], atol=1e-4)
    np.testing.assert_array_equal(run(variables, net.clone(drop_path=.5)), run(variables))     # without a key nothing is left out


def test_what_is_out_of_range_is_refused():
    with pytest.raises(UserError, match="drop_path is 1.*optimizer|optimizer.*drop_path is 1"):
        whole.train(small(), images(), loop.Length(1, 16, 1.), drop_path=1., optimizer="larz")


def test_a_loss_that_is_not_finite_stops():
    given = images()
    with pytest.raises(NonFiniteError, match="step 1"):
        loop.run(lambda state, batch, number: (state, jnp.nan), None, given, loop.Length(3, 16, 1.), seed=0, log=quiet, name="it")


# -- how long, and on what -------------------------------------------------------------------------------------------------------

def test_length():
    mesh = sharding.make_mesh(devices=jax.devices())
    assert loop.length(1000, epochs=2, batch_size=100, mesh=mesh) == (21, 96, 21 * 96 / 1000)
    assert loop.length(1000, epochs=60, batch_size=4096, at_most=5000, mesh=mesh) == (5, 1000, 5.)
    assert loop.length(57, epochs=1, batch_size=128, mesh=mesh) == (1, 56, 56 / 57)
    for wrong in (dict(epochs=0, batch_size=8), dict(epochs=1, batch_size=0)):
        with pytest.raises(UserError, match="above 0"):
            loop.length(100, **wrong, mesh=mesh)
    with pytest.raises(UserError, match="8 devices"):
        loop.length(5, epochs=1, batch_size=8, mesh=mesh)


class Listed:
    name, classes = "listed", ("a", "b", "c")

    def __init__(self, entries):
        self.entries = entries

    def __len__(self):
        return len(self.entries)

    def entry(self, i):
        return self.entries[i]


def test_subsets_are_stratified_nested_and_of_names_alone(tmp_path):
    source = Listed([(k, f"{k}/{i}.png") for k, n in ((0, 400), (1, 100), (2, 30)) for i in range(n)] + [(-1, "loose.png")])
    labels, names = subsets.entries(source)
    few, more = (subsets.stratified(labels, names, share=s, seed=3) for s in (.01, .1))
    assert list(np.bincount(labels[few])) == [4, 1, 1] and list(np.bincount(labels[more])) == [40, 10, 3]
    assert set(few) < set(more) and list(few) == sorted(few)
    np.testing.assert_array_equal(few, subsets.stratified(labels, names, share=.01, seed=3))
    assert set(few) != set(subsets.stratified(labels, names, share=.01, seed=4))
    turn = np.random.default_rng(0).permutation(len(names))            # another listing of the same images
    again = subsets.stratified(labels[turn], [names[i] for i in turn], share=.1, seed=3)
    assert {names[turn[i]] for i in again} == {names[i] for i in more}
    assert list(np.bincount(labels[subsets.stratified(labels, names, per_class=7)])) == [7, 7, 7]
    subsets.save(tmp_path / "lists" / "few.json", few, source, seed=3, share=.01)
    saved = json.loads((tmp_path / "lists" / "few.json").read_text())
    assert saved == {"version": 1, "source": "listed", "seed": 3, "share": .01, "images": [[names[i], "abc"[labels[i]]] for i in few]}
    for wrong, words in ((dict(share=.1, per_class=1), "either"), (dict(), "either"), (dict(share=1.5), "either"), (dict(per_class=31), "class 2 has 30")):
        with pytest.raises(UserError, match=words):
            subsets.stratified(labels, names, **wrong)
    with pytest.raises(UserError, match="none"):
        subsets.stratified(np.full(4, -1), list("abcd"), share=.1)


def test_training_views_are_crops_and_flips_of_the_encoders_own_ranges(monkeypatch):
    seen = {}
    monkeypatch.setattr(loop.augment, "make", lambda **how: seen.update(how) or (lambda key, batch: {"views": batch["image"][:, None]}))
    config = {**small().config, "augment": {**small().config["augment"], "flip": [.25, .75], "crop_scale": [.3, 1.]}}
    loop.train_view(dataclasses.replace(small(), config=config))
    assert (seen["flip"], seen["crop_scale"], seen["views"], seen["jitter"], seen["gray"], seen["blur"]) == (.25, (.3, 1.), 1, 0., 0., 0.)
