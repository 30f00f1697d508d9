"""The grid of linear heads against the loop of each head alone, against scikit-learn, and its choice against a planted leak."""
import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jaxssl.parallel import mesh as sharding
from jaxssl.evaluation.features import rows as cached
from jaxssl.evaluation.measures import grid

X, Y = load_digits(return_X_y=True)
X = X.astype(np.float32)


def digits(train=1000):
    return X[:train], Y[:train], X[train:], Y[train:]


def form_of(x, form, reference):
    """φ of rows x, in f64."""
    mean, std = reference.mean(0), reference.std(0)
    z = (x - mean) / np.where(std > 1e-8, std, 1)
    if form == "white":
        r = (reference - mean) / np.where(std > 1e-8, std, 1)
        return z @ np.linalg.cholesky(np.linalg.inv(r.T @ r / len(r) + grid._RIDGE * np.eye(z.shape[1])))
    return {"raw": x, "standard": z, "l2": x / np.linalg.norm(x, axis=1, keepdims=True)}[form]


def alone(x, y, head, *, steps, batch, seed, classes=10):
    """The naive loop of one head: logits of all rows after SGD with momentum and cosine, f64."""
    phi = form_of(x.astype(np.float64), head.form, x.astype(np.float64))
    w, b, wm, bm = np.zeros((phi.shape[1], classes)), np.zeros(classes), 0, 0
    for t in range(steps):
        i = cached.order(seed, t * batch, batch, len(x))
        logits = phi[i] @ w + b
        p = np.exp(logits - logits.max(1, keepdims=True))
        wrong = (p / p.sum(1, keepdims=True) - np.eye(classes)[y[i]]) / batch
        wm, bm = .9 * wm + phi[i].T @ wrong + head.weight_decay * w, .9 * bm + wrong.sum(0)
        rate = head.lr * batch / 256 * (1 + np.cos(np.pi * t / steps)) / 2
        w, b = w - rate * wm, b - rate * bm
    return phi @ w + b


def logits_of(blocks, name, head, x):
    block = blocks[name]
    own = block.of(block.index == head)
    return np.asarray(grid._logits((own.w, own.b, own.raw, own.l2, own.mean, own.scale), x)[0][0]).T


@pytest.mark.parametrize("race", [(), (grid.Cut(.5, 0, 2),)])
def test_each_head_is_that_head_trained_alone(race):
    """All forms, rates, weight decays and two blocks of features at once, on four devices; also those that survive a race."""
    x, y, _, _ = digits(300)
    sets = {"all": x, "half": x[:, ::2]}
    heads = [*grid.make(["all", "half"], lrs=(3e-3, 3e-2), weight_decays=(0., 1e-2), forms=("white", "raw")), grid.Head("half", "standard", .3, 1e-3),
             grid.Head("all", "l2", 10., 1e-4)]
    mesh = sharding.make_mesh(devices=jax.devices()[:4])
    blocks, scores, trained = grid.fit_heads(sets, y, np.arange(300), heads, steps=20, batch_size=64, classes=10, seed=3, judge=({n: v[:100] for n, v in sets.items()}, y[:100]),
                                             race=race, mesh=mesh)
    left = sorted(h for block in blocks.values() for h in block.index)
    assert len(left) == (2 + 2 + 1 + 1 if race else len(heads)) and all(trained[h] == 20 for h in left)
    for h in left:
        expected = alone(sets[heads[h].block], y, heads[h], steps=20, batch=64, seed=3)
        got = logits_of(blocks, heads[h].block, h, sets[heads[h].block])
        np.testing.assert_allclose(got, expected, atol=2e-3 * np.abs(expected).max(), err_msg=str(heads[h]))
        shifted = got[:100].astype(np.float64) - got[:100].max(1, keepdims=True)
        np.testing.assert_allclose(scores[h], np.mean(shifted[range(100), y[:100]] - np.log(np.exp(shifted).sum(1))), rtol=1e-4)
    if race:    # the worst of each form went, as they were judged half way
        assert set(trained) == {10, 20} and scores[trained == 10].max() <= 0
        assert sorted(heads[h].form for h in left) == ["l2", "raw", "raw", "standard", "white", "white"]


def test_a_head_that_diverges_is_never_chosen():
    x, y, u, v = digits(300)
    result = grid.evaluate({"a": x * 1e3}, y, {"a": u * 1e3}, v, heads=[grid.Head("a", "raw", 1e30, 0.), grid.Head("a", "white", .01, 0.)], steps=30, batch_size=64)
    assert result.scores[0] == -np.inf and result.head.form == "white" and result.accuracy > .5


def test_a_race_drops_the_worst():
    x, y, _, _ = digits(300)
    heads = grid.make(["a"], lrs=(1e-6, 1e-1, 1e-5), forms=("standard",))
    judge = ({"a": x}, y)
    _, scores, trained = grid.fit_heads({"a": x}, y, np.arange(300), heads, steps=40, batch_size=64, classes=10, judge=judge, race=(grid.Cut(.25, 0, 2), grid.Cut(.1, 20, 1)))
    _, early, _ = grid.fit_heads({"a": x}, y, np.arange(300), [heads[1]], steps=40, batch_size=64, classes=10, judge=judge)
    assert list(trained) == [10, 40, 20] or list(trained) == [20, 40, 10]
    assert scores[1] == early[0]


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_who_goes_on_is_trained_as_if_alone_however_the_rows_arrive(monkeypatch, chunk):
    """Cuts in the middle of a transfer; and features whose last head drops out are read no further."""
    x, y, _, _ = digits(300)
    sets = {"all": x, "half": x[:, ::2]}
    heads = grid.make(["all", "half"], lrs=(1e-6, 1e-1), forms=("white",))
    read, batches = [], cached.batches
    monkeypatch.setattr(cached, "batches", lambda arrays, *a, **k: read.append((set(arrays), k["start"])) or batches(arrays, *a, **k))
    monkeypatch.setattr(cached, "_CHUNK_BYTES", chunk * 64 * 4 * (64 + 32 + 1))
    race = (grid.Cut(.1, 0, 2), grid.Cut(.3, 0, 1, each_form=False))
    blocks, _, trained = grid.fit_heads(sets, y, np.arange(300), heads, steps=40, batch_size=64, classes=10, judge=({n: v for n, v in sets.items()}, y), race=race)
    (name, block), = blocks.items()
    winner, = block.index
    expected = alone(sets[name], y, heads[winner], steps=40, batch=64, seed=0)
    np.testing.assert_allclose(logits_of(blocks, name, winner, sets[name]), expected, atol=2e-3 * np.abs(expected).max())
    assert sorted(trained) == [4, 4, 12, 40]
    after = {1: 12, 7: 14}.get(chunk)
    assert read == [({"all", "half", ""}, 0)] + [({name, ""}, after)] * (after is not None)


def test_mean_and_deviation_are_numpys():
    x = (np.random.default_rng(0).normal(size=(2500, 7)) * 3 + 1e4).astype(np.float32)
    x[:, 2] = 5
    mean, scale = cached.standard(x)
    np.testing.assert_array_equal(mean, x.mean(0, dtype=np.float64).astype(np.float32))
    std = x.std(0, dtype=np.float64)
    np.testing.assert_allclose(scale, np.where(np.arange(7) == 2, 1, std), rtol=1e-6)
    assert mean.dtype == scale.dtype == np.float32


def test_forms_compete_where_a_cut_says_so():
    x, y, _, _ = digits(300)
    heads = grid.make(["a"], lrs=(1e-6, 1e-1), forms=("standard", "white"))
    race = (grid.Cut(.25, 0, 1), grid.Cut(.5, 0, 1, each_form=False))
    blocks, scores, trained = grid.fit_heads({"a": x}, y, np.arange(300), heads, steps=40, batch_size=64, classes=10, judge=({"a": x}, y), race=race)
    winner, = blocks["a"].index
    other = 4 - winner                       # the same rate in the other form
    assert trained[winner] == 40 and trained[other] == 20 and scores[winner] > scores[other]
    assert heads[winner].lr == heads[other].lr == 1e-1 and list(trained).count(10) == 2


def test_a_head_reaches_scikit_learns_optimum():
    """Weight decay 1 / (C n) on standardised features is scikit-learn's C: the same predictions, accuracy within .2 points."""
    x, y, u, v = digits()
    mean, std = x.mean(0), np.where(x.std(0) > 1e-8, x.std(0), 1)
    theirs = LogisticRegression(C=.1, tol=1e-6, max_iter=2000).fit((x - mean) / std, y).predict((u - mean) / std)
    result = grid.evaluate({"a": x}, y, {"a": u}, v, heads=[grid.Head("a", "standard", .1, 1 / (.1 * len(x)))], steps=1500, batch_size=256)
    assert np.mean(result.predictions == theirs) > .995 and abs(result.accuracy - np.mean(theirs == v)) <= .002
    assert result.accuracy == np.mean(result.predictions == v)


def test_the_chosen_head_is_as_good_as_scikit_learns_choice():
    """26 heads against five values of C, each chosen on its held-out rows: the mean of three splits within .6 points (a split's deviation is 1)."""
    ours, theirs = [], []
    for seed in range(3):
        order = np.random.RandomState(seed).permutation(len(X))
        x, y, u, v = X[order[:1000]], Y[order[:1000]], X[order[1000:]], Y[order[1000:]]
        result = grid.evaluate({"a": x}, y, {"a": u}, v, heads=grid.make(["a"]), steps=300, batch_size=256)
        ours.append(result.accuracy)
        held, z = cached.held_out(y, grid.HELD_OUT), (x - x.mean(0)) / (x.std(0) + 1e-8)
        scores = {c: LogisticRegression(C=c, max_iter=500).fit(z[~held], y[~held]).score(z[held], y[held]) for c in (.001, .01, .1, 1., 10.)}
        theirs.append(LogisticRegression(C=max(scores, key=scores.get), max_iter=500).fit(z, y).score((u - x.mean(0)) / (x.std(0) + 1e-8), v))
        assert len(result.scores) == 26 and result.accuracy == np.mean(result.predictions == v)
    assert np.mean(ours) >= np.mean(theirs) - .006


def test_test_labels_do_not_reach_the_choice_unless_asked():
    """A planted leak: test labels that fit one bad head. Selection on held-out training rows ignores them, select="test" follows them."""
    x, y, u, v = digits()
    heads = grid.make(["a"], lrs=(1e-5, 1e-1), forms=("standard",))
    options = dict(heads=heads, steps=60, batch_size=256, seed=1)
    weak = grid.evaluate({"a": x}, y, {"a": u}, v, **{**options, "heads": [heads[0]]}, select="test").predictions
    honest = [grid.evaluate({"a": x}, y, {"a": u}, labels, **options) for labels in (v, weak, np.random.default_rng(0).permutation(v))]
    assert {r.head for r in honest} == {heads[1]}
    np.testing.assert_array_equal(honest[0].scores, honest[1].scores)
    np.testing.assert_array_equal(honest[0].predictions, honest[1].predictions)
    leaking = grid.evaluate({"a": x}, y, {"a": u}, weak, **options, select="test")
    assert leaking.head == heads[0] and leaking.accuracy == 1.


def test_held_out_rows_are_not_trained_on():
    """Held-out rows of another class order: their labels changed, the heads do not change."""
    x, y, _, _ = digits(400)
    held = cached.held_out(y, 10)
    fit, changed = np.flatnonzero(~held), np.where(held, 9 - y, y)
    found = [grid.fit_heads({"a": x}, labels, fit, grid.make(["a"], lrs=(.1,), forms=("white",)), steps=10, batch_size=64, classes=10)[0]["a"].w for labels in (y, changed)]
    np.testing.assert_array_equal(*found)
    assert all(abs(np.mean(held[y == c]) - .1) < .03 for c in range(10))


@pytest.mark.parametrize("mapped", [False, True])
def test_batches_are_every_row_once_an_epoch_for_any_start_and_number_of_devices(mapped, tmp_path, monkeypatch):
    n, size = 50, 8
    x = np.arange(n, dtype=np.float32)[:, None].repeat(3, 1)
    if mapped:
        x.tofile(tmp_path / "x")
        x = np.memmap(tmp_path / "x", np.float32, "r", shape=(n, 3))
    monkeypatch.setattr(cached, "_CHUNK_BYTES", 3 * size * 16)          # three steps a transfer

    def stream(start, stop, mesh=None):
        for first, count, batch in cached.batches({"x": x, "y": np.arange(n)}, np.arange(0, n, 2), start=start, stop=stop, batch_size=size, seed=5, mesh=mesh):
            np.testing.assert_array_equal(batch["x"][:count, :, 0], batch["y"][:count])
            yield from zip(range(first, first + count), np.asarray(batch["y"][:count]))
    whole = dict(stream(0, 25))
    assert sorted(whole) == list(range(25))
    flat = np.concatenate([whole[t] for t in range(25)])                # 200 positions: eight epochs of 25 rows
    epochs = flat.reshape(8, 25)
    assert all(sorted(e) == list(range(0, n, 2)) for e in epochs) and len({tuple(e) for e in epochs}) == 8
    for part in (dict(stream(7, 13)), dict(stream(7, 13, sharding.make_mesh(devices=jax.devices())))):
        for t, rows in part.items():
            np.testing.assert_array_equal(rows, whole[t])


def test_what_cannot_be_read_is_refused():
    x, y, u, v = digits(100)
    head = grid.Head("a", "raw", .1, 0.)

    def call(**changes):
        return grid.evaluate(**{**dict(train={"a": x}, train_y=y, test={"a": u}, test_y=v, heads=[head], steps=1), **changes})
    for changes, words in (({"train_y": y - 1}, "labelled"), ({"heads": [head._replace(block="b")]}, "no features 'b'"), ({"heads": [head._replace(form="norm")]}, "standard"),
                           ({"heads": []}, "at least one"),
                           ({"train": {"a": x * np.nan}}, "finite"), ({"test": {"a": u[:, :5]}}, "expected"), ({"select": "best"}, "validation"),
                           ({"race": (grid.Cut(2, 0, 1),)}, "race"), ({"race": (grid.Cut(.5, 1, 0),)}, "race")):
        with pytest.raises(ValueError, match=words):
            call(**changes)
