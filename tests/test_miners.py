"""Every miner against its loop, pytorch-metric-learning's lists, and eight devices."""
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.losses import metric, miners
from tests import metric_loops as loops
from tests.test_metric_losses import IDS, ORDER, RAGGED, REFERENCE, SQUARE, TWICE, Z

WIDE = {"pair_margin": {"far": .9, "near": 1.3}, "angular": {"angle": 40.}}       # of the goldens' rows, which are wide apart
CASES = {"multi_similarity": {}, "batch_hard": {}, "semi_hard": {}, "angular": WIDE["angular"], "distance_weighted": {}, "pair_margin": WIDE["pair_margin"],
         **{f"batch_easy_hard, {p}, {n}": {"positives": p, "negatives": n} for p, n in
            (("easy", "semi_hard"), ("semi_hard", "hard"), ("easy", "easy"), ("all", "hard"), ("hard", "all"))}}


def one(s, among, d, sign, limit=None):
    """The candidate of lowest sign * d, beyond or below a limit."""
    among = [k for k in among if limit is None or (limit[0] * d[k] > limit[0] * limit[1])]
    return min(among, key=lambda k: sign * d[k]) if among else None


def easy_hard(s, positives, negatives):
    out = np.zeros(s.cos.shape)
    for i in range(len(s.z)):
        pos, neg, d = list(s.pos[i]), list(s.neg[i]), s.d[i]
        ways = {"easy": (1, -1), "hard": (-1, 1), "semi_hard": (-1, 1)}
        p = n = None
        if "all" not in (positives, negatives):
            if positives == "semi_hard":
                n = one(s, neg, d, ways[negatives][1])
                p = None if n is None else one(s, pos, d, -1, (-1, d[n]))
            else:
                p = one(s, pos, d, ways[positives][0])
                n = None if p is None else one(s, neg, d, ways[negatives][1], (1, d[p]) if negatives == "semi_hard" else None)
            if p is not None and n is not None:
                out[i, p] = out[i, n] = 1
            continue
        for side, kind, way in ((pos, positives, 0), (neg, negatives, 1)):
            for k in side if kind == "all" else [one(s, side, d, ways[kind][way])] if side else []:
                out[i, k] = 1
    return out


def of_triplets(keep):
    def loop(s):
        out = np.zeros(s.cos.shape)
        between = np.sqrt(np.maximum(2 - 2 * loops.unit(s.others) @ loops.unit(s.others).T, 0))
        for i, j, k in s.triplets():
            if keep(s, i, j, k, between):
                out[i, j] += 1
                out[i, k] += 1
        return out
    return loop


def kept(s, condition):
    out = np.zeros(s.cos.shape)
    for i in range(len(s.z)):
        for j in range(len(s.others)):
            out[i, j] = j in s.pos[i] + s.neg[i] and condition(i, j, j in s.pos[i])
    return out


def weighted(s, D=8):
    out = np.zeros(s.cos.shape)
    for i in range(len(s.z)):
        share = {k: d ** (2 - D) * (1 - d * d / 4) ** ((3 - D) / 2) for k in s.neg[i] if s.d[i, k] < 1.4 for d in [max(s.d[i, k], .5)]}
        for k in share:
            out[i, k] = share[k] / sum(share.values()) * len(s.pos[i])
        for j in s.pos[i] if share else []:
            out[i, j] = 1
    return out


def angle(s, i, j, k, between):
    a, p, n = loops.unit(s.z)[i], loops.unit(s.others)[j], loops.unit(s.others)[k]
    return np.degrees(np.arctan(s.d[i, j] / (2 * np.linalg.norm(n - (a + p) / 2)))) > 40


LOOPS = {
    "multi_similarity": lambda s: kept(s, lambda i, j, same: s.cos[i, j] - .1 < max([s.cos[i, k] for k in s.neg[i]], default=-9) if same
                                       else s.cos[i, j] + .1 > min([s.cos[i, k] for k in s.pos[i]], default=9)),
    "batch_hard": lambda s: easy_hard(s, "hard", "hard"), "batch_easy_hard": easy_hard,
    "semi_hard": of_triplets(lambda s, i, j, k, between: s.d[i, j] < s.d[i, k] < s.d[i, j] + .2), "angular": of_triplets(angle), "distance_weighted": weighted,
    "pair_margin": lambda s: kept(s, lambda i, j, same: s.d[i, j] > .9 if same else s.d[i, j] < 1.3),
}
BATCHES = {"square": (Z, SQUARE, IDS, None), "ragged": (Z, RAGGED, TWICE, None), "reference": (Z, RAGGED, TWICE, REFERENCE), "one class": (Z, np.full(16, 2, np.int32), IDS, None),
           "no positive": (Z, IDS, IDS, None), "unlabelled": (Z, np.full(16, -1, np.int32), IDS, None)}


def mined(name, z, label, id, reference):
    return getattr(miners, name.partition(",")[0])(z, label, id=id, reference=reference, **CASES[name])


@functools.cache
def program():
    return jax.jit(lambda *x: {name: mined(name, *x) for name in CASES})


@functools.cache
def found(batch):
    return jax.tree.map(np.asarray, program()(*BATCHES[batch]))


@pytest.mark.parametrize("batch", BATCHES)
def test_equals_the_loop(batch):
    z, label, id, reference = BATCHES[batch]
    s = loops.sets(np.float64(z), label, id, reference and (np.float64(reference[0]), *reference[1:]))
    for name, options in CASES.items():
        loop = LOOPS[name.partition(",")[0]]
        want = loop(s, **options) if name.startswith("batch_easy") else loop(s)
        np.testing.assert_allclose(found(batch)[name], want, atol=1e-5, err_msg=name)
    assert batch != "unlabelled" or not any(map(np.any, found(batch).values()))


def test_lists_what_pytorch_metric_learning_lists():
    """tests/goldens/make_miners.py. Its distance-weighted miner draws as many triplets of an anchor as its class has images, here as many as it has positives."""
    with np.load(Path(__file__).parent / "goldens" / "miners.npz", allow_pickle=False) as file:
        goldens = {name: file[name] for name in file.files}
    for batch, label in enumerate((SQUARE, RAGGED)):
        rows = np.flatnonzero(label >= 0)
        weights = jax.tree.map(lambda w: np.asarray(w)[np.ix_(rows, rows)], program()(Z, label, IDS, None))
        for name in CASES:
            want = goldens[f"{name}/{batch}"]
            if name == "distance_weighted":
                positives = (label[rows][:, None] == label[rows]).sum(1, keepdims=True) - 1
                np.testing.assert_allclose(weights[name], want * positives / (positives + 1), atol=.03)
            else:
                np.testing.assert_array_equal(weights[name], want, err_msg=name)
        for name in ("batch_hard", "semi_hard", "angular"):
            how = {"only": miners.TRIPLETS[name](**CASES[name])} if name in miners.TRIPLETS else {"weight": mined(name, Z, label, IDS, None)}
            np.testing.assert_allclose(metric.triplet(Z, label, id=IDS, margin=.3, **how), goldens[f"triplet, {name}/{batch}"], rtol=1e-5, err_msg=name)


def test_eight_devices_and_another_order():
    """The same of the same images, wherever they lie, and nothing has a gradient."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    put = [None if x is None else jax.device_put(x[ORDER], NamedSharding(mesh, P("data"))) for x in BATCHES["ragged"]]
    for name, weight in program()(*put).items():
        np.testing.assert_allclose(weight, found("ragged")[name][np.ix_(ORDER, ORDER)], atol=1e-5, err_msg=name)
    slope = jax.grad(lambda z: sum(mined(name, z, RAGGED, IDS, None).sum() for name in ("multi_similarity", "distance_weighted", "semi_hard")))(jnp.asarray(Z))
    assert not slope.any()


def test_only_the_chosen_triplets_have_a_gradient():
    """The loss of the semi-hard ones is the mean of theirs, against a list of them."""
    label = RAGGED
    s = loops.sets(np.float64(Z), label, IDS)
    terms = [s.d[i, j] - s.d[i, k] + .3 for i, j, k in s.triplets() if s.d[i, j] < s.d[i, k] < s.d[i, j] + .2]
    assert len(terms) > 5
    np.testing.assert_allclose(metric.triplet(Z, label, id=IDS, margin=.3, only=miners.TRIPLETS["semi_hard"](band=.2)), np.mean(terms), rtol=1e-5)
    one_class = jax.grad(lambda z: metric.triplet(z, jnp.zeros_like(label), id=IDS, only=miners.TRIPLETS["angular"](angle=1.)))(Z)
    assert not one_class.any()


@pytest.mark.parametrize("sides", [("hardest", "easy"), ("semi_hard", "semi_hard"), ("all", "semi_hard")])
def test_refuses_strategies_that_there_are_not(sides):
    with pytest.raises(ValueError, match="choose each of hard, semi_hard, easy, all"):
        miners.batch_easy_hard(Z, SQUARE, positives=sides[0], negatives=sides[1])
