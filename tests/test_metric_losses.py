"""Every metric-learning loss against its loop (tests/metric_loops.py), pytorch-metric-learning, eight devices, and batches that have nothing to teach.

A new loss is a row of CASES. Three programs hold all of them: on one device, of any labels, ids and weights of pairs, with a gradient each; on eight devices the same, with the
gradient of one sum of all; and on eight in bfloat16 with a reference and weights of anchors.
"""
import functools
import inspect
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.losses import contrastive, metric, unified
from jaxssl.losses.metric.pairs import pairs
from tests import metric_loops as loops

B, D, C, K, R = 16, 8, 6, 3, 11
FAMILY = {"infonce": (lambda x: .5 * np.log(1 + x), lambda x: np.exp(x / .5)), "dcl": (lambda x: .5 * np.log(x), lambda x: np.exp(x / .5)),
          "triplet": (lambda x: x, lambda x: np.maximum(x + .2, 0)), "lifted": (lambda x: np.maximum(np.log(x), 0) ** 2, lambda x: np.exp(x + .2))}


class Case(NamedTuple):
    name: str                # of the function, and after a comma how it is called
    loop: object             # (sets, weights if it has some) -> value
    options: dict = {}
    weights: str = ""        # what is learned beside z: proxies [C, D], centres [C, K, D] after the label, beta [C] by keyword

    def __call__(self, z, label, learned, weight, **how):
        function = getattr(metric, self.name.partition(",")[0])
        if self.weights in ("proxies", "centres"):
            how.pop("reference", None)
            return function(z, label, learned, weight=weight if weight is None or weight.ndim == 1 else weight.diagonal(), metrics=True, **self.options, **how)
        return function(z, label, weight=weight, metrics=True, **self.options, **({"beta": learned} if self.weights else {}), **how)

    def sets(self, z, label, id, weight, reference=None, held=None):
        if self.weights in ("proxies", "centres"):
            return loops.sets(z, label, weight=weight if weight is None or weight.ndim == 1 else weight.diagonal())
        return loops.sets(z, label, id, reference, weight, held)


CASES = [
    Case("contrastive", loops.contrastive),
    Case("snr_contrastive", loops.snr, {"pos_margin": .1, "neg_margin": .9, "zero_mean": .3}),
    Case("threshold_consistent_margin", loops.tcm, {"neg_margin": .1, "pos_weight": 2., "neg_weight": 3.}),
    Case("margin", loops.margin),
    Case("margin, by class", lambda s, beta: loops.margin(s, beta, .1), {"nu": .1}, "beta"),
    Case("triplet", loops.triplet),
    Case("triplet, smooth, swapped", lambda s: loops.triplet(s, True, True), {"smooth": True, "swap": True}),
    Case("triplet, swapped", lambda s: loops.triplet(s, swap=True), {"swap": True}),
    *(Case(f"phi_psi, {name}", lambda s, name=name: loops.phi_psi(s, *FAMILY[name]), {"pair": unified.FAMILY[name](.5, .2)}) for name in FAMILY),
    Case("nt_xent_labelled", loops.nt_xent),
    Case("tuplet", loops.tuplet),
    Case("tuplet, of Sohn", lambda s: loops.tuplet(s, 0., 1.), {"margin": 0., "scale": 1.}),
    Case("sup_con", loops.sup_con),
    Case("nca", loops.nca),
    Case("n_pairs", loops.n_pairs),
    Case("n_pairs, of Sohn", lambda s: loops.n_pairs(s, False), {"normalise": False}),
    Case("multi_similarity", loops.multi_similarity),
    Case("circle", loops.circle),
    Case("lifted_structure", loops.lifted),
    Case("fast_ap", loops.fast_ap),
    Case("smooth_ap", lambda s: loops.smooth_ap(s, .1), {"temperature": .1}),
    Case("smooth_ap, own", lambda s: loops.smooth_ap(s, own=True), {"own": True}),
    Case("proxy_nca", loops.softmax(2, lambda s: s), {}, "proxies"),
    Case("proxy_anchor", loops.proxy_anchor, {}, "proxies"),
    Case("normalized_softmax", loops.softmax(20, lambda s: s), {}, "proxies"),
    Case("cosface", loops.softmax(64, lambda s: s - .35), {}, "proxies"),
    Case("arcface", loops.softmax(64, loops.wider), {}, "proxies"),
    Case("sub_center_arcface", loops.sub_center, {}, "centres"),
    Case("soft_triple", loops.soft_triple, {"center_weight": .2}, "centres"),
    Case("cookbook_contrastive", loops.cookbook_contrastive, {"margin": 3.}),
    Case("cookbook_nca", loops.cookbook_nca),
    Case("cookbook_tuplet", loops.cookbook_tuplet, {"beta": .1}),
]
BY_NAME = {case.name: case for case in CASES}
# On eight devices, of programs that differ in a number or a scalar function alone only one.
WIDE = [case for case in CASES if case.name not in ("triplet, swapped", "phi_psi, dcl", "phi_psi, triplet", "tuplet, of Sohn", "smooth_ap, own")]
RAW = {"snr_contrastive", "n_pairs, of Sohn", "cookbook_contrastive", "cookbook_nca", "cookbook_tuplet"}        # what reads the length of z
every_loss, wide = (pytest.mark.parametrize("case", cases, ids=lambda case: case.name.replace(" ", "_")) for cases in (CASES, WIDE))


@functools.cache
def goldens():
    """tests/goldens/make_metric.py made them."""
    with np.load(Path(__file__).parent / "goldens" / "metric.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def learned(case):
    return np.float32(goldens()[case.weights]) if case.weights else np.zeros(0, np.float32)


LEARNED = {case.name: learned(case) for case in CASES}
Z, (SQUARE, RAGGED) = np.float32(goldens()["z"]), goldens()["labels"].astype(np.int32)
IDS, ONES = np.arange(B, dtype=np.int32), np.ones((B, B), np.float32)
TWICE = np.int32(np.where(IDS == 3, 0, np.where(IDS == 11, 8, IDS)) * 7 % 101)                     # rows 0 and 3 are one image, 8 and 11 too, and ids do not ascend
ORDER = np.random.default_rng(2).permutation(B)
MINED = np.random.default_rng(3).integers(0, 3, (B, B)).astype(np.float32)


@functools.cache
def on_one():
    """(z, label, id, weight, learned) -> name -> ((loss, metrics), gradients of z and of what is learned beside it)."""
    def all_of_them(z, label, id, weight, learned):
        return {case.name: jax.value_and_grad(lambda z, w: case(z, label, w, weight, id=id), (0, 1), has_aux=True)(z, learned[case.name]) for case in CASES}
    return jax.jit(all_of_them)


@functools.cache
def found(batch):
    return jax.tree.map(np.asarray, on_one()(*BATCHES[batch], LEARNED))


CLOSE = Z * np.float32(.02) + np.eye(D, dtype=np.float32)[np.arange(B) // 2 % 8] * 3
BATCHES = {
    "square": (Z, SQUARE, IDS, ONES), "ragged": (Z, RAGGED, IDS, ONES), "ids": (Z, RAGGED, TWICE, ONES), "mined": (Z, RAGGED, TWICE, MINED),
    "one class": (Z, np.full(B, 2, np.int32), IDS, ONES), "no positive": (Z[:6].repeat(3, 0)[:B] + Z, np.where(IDS < C, IDS, -1), IDS, ONES),
    "unlabelled": (Z, np.full(B, -1, np.int32), IDS, ONES), "nothing mined": (Z, RAGGED, IDS, 0 * ONES), "pairs": (Z, IDS // 2 % C, IDS, ONES), "two": (Z, IDS // 2, IDS, ONES),
    "equal points": (np.ones_like(Z), SQUARE, IDS, ONES), "opposite points": (Z[:1] * np.where(IDS % 2, 1, -1)[:, None].astype(np.float32), SQUARE, IDS, ONES),
    "zeros": (0 * Z, SQUARE, IDS, ONES), "apart": (CLOSE, IDS // 2, IDS, ONES), "huge": (1e4 * Z, RAGGED, IDS, ONES),
}


def double(x):
    return None if x is None else np.float64(x) if x.dtype == np.float32 else x


def slope(case, x, name, direction, step=1e-6):
    """Of the loop, along a direction of z, of the reference's rows or of what is learned."""
    z, label, id, weight, reference = x
    at = {"z": double(z), "learned": double(LEARNED[case.name]), "others": reference and double(reference[0])}
    held = loops.sets(at["z"], label, id, reference and (at["others"], *reference[1:]), weight).cos
    ends = []
    for sign in (-1, 1):
        now = {**at, name: at[name] + sign * step * direction}
        s = case.sets(now["z"], label, id, weight, reference and (now["others"], *reference[1:]), held)
        ends.append(case.loop(s, now["learned"]) if case.weights else case.loop(s))
    return (ends[1] - ends[0]) / (2 * step)


def loop(case, z, label, id, weight, reference=None):
    s = case.sets(double(z), label, id, weight, reference and (double(reference[0]), *reference[1:]))
    return case.loop(s, double(LEARNED[case.name])) if case.weights else case.loop(s)


def assert_near(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.max(np.abs(want), initial=0) * (np.ndim(want) > 0) + 3e-7)


def test_every_loss_has_a_case():
    assert {case.name.partition(",")[0] for case in CASES} == set(metric.__all__)
    for name in metric.__all__:
        function = getattr(metric, name)
        parameters = list(inspect.signature(function).parameters)
        assert parameters[:2] == ["z", "label"] and {"id", "reference", "weight", "metrics"} <= set(parameters) and "PML" in function.__doc__


@pytest.mark.parametrize("batch", ["square", "ragged", "ids", "mined", "one class", "no positive"])
@every_loss
def test_equals_the_loop(case, batch):
    (value, _), grads = found(batch)[case.name]
    x, rng = BATCHES[batch], np.random.default_rng(1)
    assert_near(value, loop(case, *x), 2e-5)
    if batch in ("ragged", "mined"):
        for name, grad in zip(("z", "learned"), grads):
            if grad.size:
                d = rng.normal(size=grad.shape)
                np.testing.assert_allclose(np.sum(grad * d), slope(case, (*x, None), name, d), rtol=1e-4, atol=2e-5 * np.linalg.norm(grad))


@pytest.mark.parametrize("batch", BATCHES)
def test_nothing_is_ever_nan(batch):
    for name, ((value, metrics), grads) in found(batch).items():
        if not BY_NAME[name].weights or BATCHES[batch][1].max() < C:
            assert all(np.isfinite(x).all() for x in (value, *metrics.values(), *grads)), name


@pytest.mark.parametrize("batch", ["unlabelled", "nothing mined"])
def test_a_batch_without_a_term_is_zero(batch):
    """Also for losses with weights of classes: an empty choice of a miner is no choice of all rows."""
    for name, ((value, metrics), grads) in found(batch).items():
        if batch == "nothing mined" and name in ("multi_similarity", "snr_contrastive", "cookbook_nca", "cookbook_tuplet") or name == "soft_triple":
            continue                                     # the mean over anchors that have no pair, what is paid for z's mean and length, and for centres that are apart
        assert value == 0 and not any(np.any(g) for g in grads), name
        assert metrics["active"] == metrics["active_share"] == metrics["positive_pairs"] == 0 or name == "proxy_anchor", name


def test_one_image_a_class_says_so():
    """Pair losses then only push, or are 0 without an error; what the metrics are for."""
    for case in CASES:
        (value, metrics), _ = found("no positive")[case.name]
        assert case.weights in ("proxies", "centres") or metrics["positive_pairs"] == metrics["positive_similarity"] == 0
        if case.name.partition(",")[0] in ("triplet", "phi_psi", "nt_xent_labelled", "tuplet", "sup_con", "nca", "n_pairs", "circle", "fast_ap", "smooth_ap", "lifted_structure",
                                           "margin"):
            assert value == 0, case.name


def test_without_a_negative_nothing_is_pushed():
    zero = ("triplet", "phi_psi", "nt_xent_labelled", "tuplet", "nca", "n_pairs", "circle", "lifted_structure", "margin", "fast_ap", "smooth_ap")
    for case in CASES:
        (value, metrics), grads = found("one class")[case.name]
        if case.name.partition(",")[0] in zero:
            assert abs(value) < 1e-6 and max(np.abs(grads[0]).max(), 0) < 1e-6, case.name


@every_loss
def test_order_of_images_does_not_matter(case):
    moved = shuffled()[case.name]
    (value, metrics), (grad, other) = found("mined")[case.name]
    assert_near(moved[0][0], value, 5e-6)
    assert_near(moved[1][0], grad[ORDER], 1e-5)
    assert_near(moved[1][1], other, 1e-5)
    for name, x in metrics.items():
        assert_near(moved[0][1][name], x, 1e-4)


@functools.cache
def shuffled():
    z, label, id, weight = BATCHES["mined"]
    return jax.tree.map(np.asarray, on_one()(z[ORDER], label[ORDER], id[ORDER], weight[np.ix_(ORDER, ORDER)], LEARNED))


@every_loss
def test_length_of_rows_does_not_matter(case):
    if case.name in RAW:
        pytest.skip("reads z as it comes")
    assert_near(found("huge")[case.name][0][0], found("ragged")[case.name][0][0])


# ---------------------------------------------------------------- eight devices

RNG = np.random.default_rng(8)
REFERENCE = (RNG.normal(size=(R, D)).astype(np.float32), np.array([0, 1, 2, 5, -1, 2, 0, 3, 1, 5, 0], np.int32), np.array([0, 7, 99, 100, 4, 98, -1, -1, 21, 42, 0], np.int32))
STANDS = RNG.integers(0, 3, B).astype(np.float32)


AGAINST = (np.float32(Z.astype(jnp.bfloat16)), RAGGED, TWICE, STANDS, REFERENCE)
MESH = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def put(x, spec=P(("data", "fsdp"))):
    return jax.device_put(x, NamedSharding(MESH, spec))


@functools.cache
def scales():
    """So that each loss has its share in the gradient of their sum."""
    return {case.name: np.float32(1 / max(1e-3, np.abs(found("ragged")[case.name][1][0]).max())) for case in CASES}


def on_slices():
    return {name: put(x, P("fsdp") if x.size else P()) for name, x in LEARNED.items()}          # classes in slices


@functools.cache
def on_eight():
    """Losses and the gradients of Σ scale · loss to z and to what is learned beside it; batch "mined"."""
    def total(z, learned, label, id, weight):
        values = {case.name: case(z, label, learned[case.name], weight, id=id)[0] for case in WIDE}
        return sum(scales()[name] * value for name, value in values.items()), values
    return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(put(Z), on_slices(), put(RAGGED), put(TWICE), put(MINED))


@functools.cache
def against_a_reference():
    """The same of z in bfloat16 against a reference, with the gradient to that; each loss's gradient to z is rounded, and not their sum."""
    def total(z, others, learned, label, id, weight, rest):
        values = {case.name: case(z.astype(jnp.bfloat16), label, learned[case.name], weight, id=id, reference=(others, *rest))[0] for case in WIDE}
        return sum(scales()[name] * value for name, value in values.items()), values
    return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(
        put(AGAINST[0]), put(REFERENCE[0], P()), on_slices(), put(RAGGED), put(TWICE), put(STANDS), REFERENCE[1:])


@wide
def test_eight_devices_equal_one(case):
    """Rows in slices of the batch, class weights in slices of classes."""
    (_, values), (_, learned) = on_eight()
    (value, _), (_, grad) = found("mined")[case.name]
    assert_near(values[case.name], value)
    assert_near(learned[case.name] / scales()[case.name], grad)


def test_the_gradient_of_z_on_eight_devices_equals_that_on_one():
    (_, _), (rows, _) = on_eight()
    assert rows.sharding.spec == P(("data", "fsdp"))
    assert_near(rows, sum(scales()[name] * grads[0] for name, (_, grads) in found("mined").items() if BY_NAME[name] in WIDE))


@wide
def test_a_reference_on_eight_devices_in_bfloat16(case):
    """Ids tell which of the reference's rows an anchor is itself, weights how often it stands; what comes in bfloat16 is computed in float32."""
    value = against_a_reference()[0][1][case.name]
    assert value.dtype == np.float32
    assert_near(value, loop(case, *AGAINST), 2e-5)


@pytest.mark.parametrize("name, tolerance", [("z", 2**-8), ("others", 1e-4)])
def test_gradients_with_a_reference_are_the_slopes_of_the_loops(name, tolerance):
    grad = np.asarray(dict(zip(("z", "others"), against_a_reference()[1]))[name])
    d = np.random.default_rng(5).normal(size=grad.shape)
    cases = [case for case in WIDE if name == "z" or case.weights not in ("proxies", "centres")]
    want = sum(scales()[case.name] * slope(case, AGAINST, name, d) for case in cases)
    np.testing.assert_allclose(np.sum(grad * d), want, rtol=tolerance, atol=tolerance / 10 * np.linalg.norm(grad))


# ---------------------------------------------------------------- pytorch-metric-learning

COMPARED = sorted({name.split("/")[0] for name in goldens() if "/" in name})


@pytest.mark.parametrize("name", COMPARED)
def test_golden_of_pytorch_metric_learning(name):
    for number, batch in enumerate(("square", "ragged")):
        if f"{name}/{number}" not in goldens():
            assert name == "smooth_ap, own" and batch == "ragged"
            continue
        (value, _), (grad, other) = found(batch)[name]
        assert_near(value, goldens()[f"{name}/{number}"])
        here = BATCHES[batch][1] >= 0
        want = goldens()[f"{name}/{number}/z"]
        assert_near(grad, want if len(want) == here.sum() == B else np.where(here[:, None], want, 0.), 2e-5)
        if f"{name}/{number}/weights" in goldens():
            assert_near(other, goldens()[f"{name}/{number}/weights"], 2e-5)


def test_all_of_pml_s_are_compared():
    own = {"triplet, swapped", "smooth_ap", "tuplet, of Sohn", "n_pairs, of Sohn", *(name for name in BY_NAME if name.startswith(("phi_psi", "cookbook")))}
    assert set(COMPARED) == set(BY_NAME) - own


# ---------------------------------------------------------------- where that one is wrong

def test_nt_xent_does_not_saturate():
    """At the temperature that tuning found for SOP; -log(share + 1e-38) is 87.3 there, with no gradient."""
    value, grad = jax.jit(jax.value_and_grad(functools.partial(metric.nt_xent_labelled, label=RAGGED, temperature=.0002)))(Z)
    s = loops.sets(double(Z), RAGGED)
    want = loops.nt_xent(s, .0002)
    assert want > 1000 and np.abs(grad).max() > 100
    assert_near(value, want)


@pytest.mark.parametrize("sign", [1, -1])
def test_margins_of_angles_at_the_poles(sign):
    """Each row is its class's direction, or its opposite: bounded slopes, and the value that a small step away has."""
    z = sign * LEARNED["arcface"][np.arange(B) % C]
    (value, _), grads = found_at_poles(sign)["arcface"]
    assert np.isfinite(value) and all(np.abs(g).max() < 100 for g in grads)          # scale 64, an angle's slope is 1
    off = loops.sets(double(z) + 1e-3 * np.random.default_rng(0).normal(size=z.shape), np.arange(B) % C)
    near = BY_NAME["arcface"].loop(off, double(LEARNED["arcface"]))
    np.testing.assert_allclose(value, near, rtol=1e-2, atol=1e-2)


@functools.cache
def found_at_poles(sign):
    return jax.tree.map(np.asarray, on_one()(sign * LEARNED["arcface"][np.arange(B) % C], (np.arange(B) % C).astype(np.int32), IDS, ONES, LEARNED))


def test_a_copy_of_the_batch_is_the_batch():
    """By ids, where the identity of objects fails as soon as something is gathered."""
    copy = (jnp.asarray(Z.copy()), RAGGED.copy(), IDS.copy())

    @jax.jit
    def both(z):
        return [(f(z, RAGGED, id=IDS), f(z, RAGGED, id=IDS, reference=copy)) for f in (metric.nca, metric.threshold_consistent_margin, metric.triplet)]
    for alone, against in both(Z):
        assert_near(against, alone, 1e-6)


def test_threshold_consistent_margin_reads_the_reference():
    s = loops.sets(double(Z), RAGGED, None, (double(REFERENCE[0]), REFERENCE[1], None))
    got = jax.jit(lambda z: metric.threshold_consistent_margin(z, RAGGED, reference=(*REFERENCE[:2], None), neg_margin=.1, pos_weight=2., neg_weight=3.))(Z)
    assert_near(got, loops.tcm(s))
    assert abs(got - found("ragged")["threshold_consistent_margin"][0][0]) > .01


def test_smooth_ap_of_a_list_in_order_is_zero():
    """Eight classes of two, far apart: PML's takes two for the number of classes."""
    assert abs(found("apart")["smooth_ap"][0][0]) < 1e-3 and abs(found("apart")["smooth_ap, own"][0][0]) < 1e-5
    assert abs(found("apart")["fast_ap"][0][0]) < 1e-5


def test_labels_beyond_what_floats_tell_apart():
    label = np.array([2**24, 2**24 + 1] * 4, np.int32)
    assert pairs(Z[:8], label).positive.sum() == 8 * 3
    with pytest.raises(ValueError, match="whole numbers"):
        pairs(Z[:8], np.float32(label))


def test_a_label_without_a_class_is_nan():
    """Labels of another numbering, as a class-disjoint split leaves them."""
    label = np.where(np.isin(np.arange(B), (3, 10)), C, RAGGED).astype(np.int32)
    values = on_one()(Z, label, IDS, ONES, LEARNED)
    for case in CASES:
        assert np.isnan(values[case.name][0][0]) == bool(case.weights), case.name


def test_metrics_count_what_is_active():
    """The mean over what is active stays while that shrinks; counted here one after another."""
    s = loops.sets(double(Z), RAGGED)
    metrics = found("ragged")["triplet"][0][1]
    count = sum(s.d[i, j] - s.d[i, k] + .05 > 0 for i, j, k in s.triplets())
    assert metrics["active"] == count and 0 < count < len(s.triplets())
    assert_near(metrics["active_share"], count / len(s.triplets()))
    assert metrics["positive_pairs"] == len(s.pairs())
    assert_near(metrics["positive_similarity"], np.mean([s.cos[p] for p in s.pairs()]))
    assert_near(metrics["negative_similarity"], np.mean([s.cos[p] for p in s.against()]))
    assert found("ragged")["contrastive"][0][1]["active"] == sum(s.d[p] > 0 for p in s.pairs()) + sum(s.d[p] < 1 for p in s.against())


def test_the_two_forms_of_a_loss_agree():
    """On two images a class, with what takes them as two views."""
    @jax.jit
    def views(z):
        return {"sup_con": contrastive.nt_xent(z, temperature=.1), **{f"phi_psi, {name}": unified.phi_psi(z, unified.FAMILY[name](.5, .2)) for name in FAMILY}}
    for name, want in views(Z.reshape(8, 2, D)).items():
        assert_near(found("two")[name][0][0], want)


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
        for x in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(x, "jaxpr", x)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


@pytest.mark.parametrize("name", ["triplet, swapped", "phi_psi, infonce", "smooth_ap", "fast_ap", "snr_contrastive", "sub_center_arcface", "soft_triple"])
def test_no_array_is_larger_than_that_of_all_pairs(name):
    """Forward and backward, for 96 rows or classes: no triplet is listed, no bin or centre has a matrix of its own that is kept."""
    case, n = BY_NAME[name], 96
    weights = {"centres": jnp.ones((n, 5, 4))}.get(case.weights, jnp.zeros(0))
    program = jax.make_jaxpr(jax.grad(lambda z, w: case(z, jnp.arange(n) // 4, w, None)[0], (0, 1)))(jnp.ones((n, 4)), weights)
    assert max(sizes(program.jaxpr)) <= n * n


def test_margins_and_temperatures_may_be_traced():
    """A schedule's numbers, and learned ones."""
    for name in metric.__all__:
        case, function = BY_NAME.get(name) or BY_NAME[f"{name}, infonce"], getattr(metric, name)
        numbers = {key: p.default for key, p in inspect.signature(function).parameters.items() if type(p.default) is float}
        numbers = {key: jnp.float32(value) for key, value in numbers.items()}

        def loss(numbers):
            return Case(name, None, {**case.options, **numbers}, case.weights)(Z, RAGGED, learned(case), None)[0]
        jax.eval_shape(jax.grad(loss) if name in ("triplet", "smooth_ap") else loss, numbers)


@pytest.mark.parametrize("change, words", [
    ({"z": Z[None]}, "expected \\[B, D\\]"), ({"label": RAGGED[:3]}, "label has shape"), ({"id": np.float32(IDS)}, "id has shape"), ({"weight": ONES[:3]}, "weight has shape"),
    ({"reference": (Z[:, :3], RAGGED, None)}, "wide"), ({"reference": (Z, RAGGED, IDS)}, "only one has ids"), ({"reference": (Z, RAGGED[:2], None)}, "reference's z"),
])
def test_refuses_what_does_not_fit(change, words):
    with pytest.raises(ValueError, match=words):
        metric.contrastive(**{"z": Z, "label": RAGGED, **change})


def test_losses_with_class_weights_refuse_what_they_cannot_read():
    proxies = LEARNED["arcface"]
    wrong = ({"reference": (Z, RAGGED, None)}, "reference"), ({"weight": ONES}, "no pairs"), ({"weights": proxies[:, :3]}, "C, D"), ({"weights": proxies[None]}, "C, D")
    for change, words in wrong:
        with pytest.raises(ValueError, match=words):
            metric.arcface(**{"z": Z, "label": RAGGED, "weights": proxies, **change})
    with pytest.raises(ValueError, match="beta"):
        metric.margin(Z, RAGGED, beta=ONES)
