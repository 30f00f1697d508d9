"""Labels from a memory bank: how it is written and gone through, and what DeepCluster v2 and SeLa v2 do at the steps where something changes."""
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import config as configs, durations
from jaxssl.config_file import execute
from jaxssl.errors import UserError
from jaxssl.losses import bank as banks
from jaxssl.losses import clustering, correlation
from jaxssl.losses.unit import normalised
from jaxssl.methods import deepcluster_v2, smog
from jaxssl.models import Net
from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs
from tests.test_methods import Average, encoded, normed, unit
from tests.tiny import CONFIGS, config_of

EXAMPLES, KEYS = 40, dict(prototypes=6, heads=2, hidden=16, dim=3, every="3_steps", fill="2_steps", iterations=4)


def test_rows_are_drawn_once_and_what_they_do_not_fill_stays():
    bank, former = np.eye(3, dtype=np.float32), np.full((5, 3), 7, np.float32)
    drawn = np.asarray(clustering.drawn_rows(jax.random.key(0), bank, jnp.asarray([1., 0., 1.]), former))
    assert sorted(drawn[:2].argmax(1)) == [0, 2] and (drawn[2:] == 7).all()


def test_of_an_id_that_comes_twice_the_last_row_counts():
    bank = jax.jit(banks.write)(jnp.ones((8, 2)), jnp.array([3, 5, 3]), jnp.array([[1., 2.], [3., 4.], [5., 6.]]))
    np.testing.assert_array_equal(bank, np.float32([[1, 1], [1, 1], [1, 1], [5, 6], [1, 1], [3, 4], [1, 1], [1, 1]]))
    np.testing.assert_array_equal(banks.read(bank, jnp.array([5, 3])), [[3, 4], [5, 6]])


def test_a_bank_has_rows_for_any_number_of_devices_and_goes_in_parts():
    assert [banks.rows(n) for n in (1, 1024, 1025, 65536, 65537, 1281167)] == [1024, 1024, 2048, 65536, 131072, 1310720]
    rows, numbers = jax.eval_shape(banks.parts, jnp.zeros((131072, 3)), jnp.zeros(131072))
    assert rows.shape == (2, 65536, 3) and numbers.shape == (2, 65536)


def test_six_devices_each_hold_the_bank_that_they_cannot_share():
    four, six = (jobs.prepare(config_of("npid", batch_size="12"), sharding.make_mesh(devices=jax.devices()[:n]), jobs.Facts(1000, 10, 16, True)).state_sharding.aux["bank"]
                 for n in (4, 6))
    assert not four.is_fully_replicated and six.is_fully_replicated


def test_parts_add_up(monkeypatch):
    rng = np.random.default_rng(0)
    bank, weight, start = rng.normal(size=(64, 4)), rng.random(64) < .8, rng.normal(size=(5, 4))
    whole = [clustering.spherical_kmeans(bank, weight, start, iterations=3), clustering.equal_shares(bank, weight, start, temp=.5, iterations=3)]
    monkeypatch.setattr(banks, "PART", 16)
    parts = [clustering.spherical_kmeans(bank, weight, start, iterations=3), clustering.equal_shares(bank, weight, start, temp=.5, iterations=3)]
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_rows_are_drawn_among_those_that_are_there():
    bank, weight = jnp.arange(10.)[:, None], (jnp.arange(10) % 3 == 0).astype(jnp.float32)
    drawn = clustering.drawn_rows(jax.random.key(0), bank, weight, -jnp.ones((6, 1)))[:, 0]
    assert sorted(drawn.tolist()) == [-1, -1, 0, 3, 6, 9]


@functools.cache
def made():
    rng = np.random.default_rng(0)
    batch = {"views": jnp.float32(rng.normal(size=(4, 2, 4, 4, 3))), "id": jnp.arange(4)}
    method = deepcluster_v2.make(encoder=Net(Average()), net=Net, examples=EXAMPLES, total=100, duration=lambda value, key: int(value.removesuffix("_steps")), **KEYS)
    params, aux = method.init(jax.random.key(0), batch)
    step = jax.jit(jax.value_and_grad(lambda params, aux, step: method.loss(params, aux, batch, jax.random.key(step), step), has_aux=True))
    return method, params, aux, step


def test_while_the_bank_is_filled_nothing_is_learned():
    _, params, aux, step = made()
    (value, (left, metrics, seen)), grads = step(params, aux, 1)
    assert value == 0 and metrics["filling"] == 1 and not any(np.any(g) for g in jax.tree.leaves(grads))
    assert banks.written(left["bank"]["rows"]).tolist() == [True] * 4 + [False] * 1020
    np.testing.assert_array_equal(left["bank"]["rows"][:4], seen["embeddings"])
    np.testing.assert_array_equal(left["clusters"]["centroids"], aux["clusters"]["centroids"])


def test_clusters_are_those_of_the_bank_when_it_is_full_and_once_in_a_while_then():
    _, params, aux, step = made()
    rows = unit(np.random.default_rng(1).normal(size=(EXAMPLES, 2, 3))).astype(np.float32)
    aux = {**aux, "bank": {"rows": jnp.zeros((1024, 2, 3)).at[:EXAMPLES].set(rows)}}
    (value, (left, metrics, _)), grads = step(params, aux, 2)
    assert value > 0 and metrics["filling"] == 0 and any(np.any(g) for g in jax.tree.leaves(grads))
    for head in range(2):
        found = np.asarray(left["clusters"]["centroids"][head])
        own = np.argmax(rows[:, head] @ found.T, 1)
        assert len(set(own)) == 6                                                    # started from six rows, so that none is empty
        moved = np.stack([unit(rows[own == c, head].sum(0)) for c in range(6)])
        assert np.mean(np.sum(rows[:, head] * moved[own], 1)) < np.mean(np.sum(rows[:, head] * found[own], 1)) + .02        # nearly settled
        assert np.mean(np.max(rows[:, head] @ found.T, 1)) > .8
    assert not np.allclose(left["clusters"]["centroids"][0], left["clusters"]["centroids"][1])
    for at, changes in ((3, False), (4, False), (5, True)):
        after = step(params, left, at)[0][1][0]
        assert np.array_equal(after["clusters"]["centroids"], left["clusters"]["centroids"]) != changes


@pytest.mark.parametrize("keys, words", [(dict(prototypes=41), "method.prototypes is 41, and there are 40 training images"),
                                         (dict(prototypes=6, fill=7), "method.fill is 7 steps, in which nothing is trained, and the run has 7")])
def test_what_could_not_train_is_refused(keys, words):
    """In training; an encoder is built again, to be evaluated, where nobody knows how many images and steps there were."""
    method = deepcluster_v2.make(encoder=Net(Average()), net=Net, examples=EXAMPLES, total=7, duration=lambda value, key: 1 if isinstance(value, str) else value, **keys)
    batch = {"views": jnp.zeros((4, 2, 4, 4, 3)), "id": jnp.arange(4)}
    params, aux = jax.eval_shape(method.init, jax.random.key(0), batch)
    with pytest.raises(UserError, match=words):
        jax.eval_shape(method.loss, params, aux, batch, jax.random.key(0), 0)


def test_selas_prototypes_are_no_rows_of_a_batch():
    """Three micro-batches, which 64 dimensions are no multiple of."""
    config = config_of("sela_v2", batch_size="24", micro_batch="8", **{"method.prototypes": "16"})
    assert jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True)).embedding() == 64


@pytest.mark.parametrize("file", [file for file in CONFIGS if Path(file).stem in ("deepcluster_v2", "sela_v2")])
def test_every_variant_clusters_and_trains(file):
    """Also those that are over before an epoch is, and none is frozen beyond the steps that fill the bank; SMoG's groups are found anew in each."""
    for variant in execute(file, ()).variants:
        config = configs.load(f"{file}:{variant}".rstrip(":"))
        examples = config.data.examples or 5676                                      # of the digits
        total = durations.steps(config.total, "total", examples=examples, batch_size=config.batch_size)
        fill = durations.steps(config.method.fill, "method.fill", examples=examples, batch_size=config.batch_size, total=total)
        frozen = dict(config.optim.rules).get("", {}).get("frozen_until", fill)
        assert fill < total and round(frozen * total if frozen < 1 else frozen) == pytest.approx(fill, abs=1), variant
    for file in Path("configs").glob("*/smog.py"):
        for variant in execute(str(file), ()).variants:
            config = configs.load(f"{file}:{variant}".rstrip(":"))
            assert config.method.reset < durations.steps(config.total, "total", examples=config.data.examples or 5676, batch_size=config.batch_size), (file, variant)


def test_smog_is_the_papers_and_resets():
    """Groups, loss and copy at a usual step, and at one where groups are found anew; odd steps ask with the second view."""
    rng = np.random.default_rng(0)
    batch = {"views": jnp.float32(rng.normal(size=(4, 2, 4, 4, 3))), "id": jnp.arange(4)}
    method = smog.make(encoder=Net(Average()), net=Net, batch_size=4, groups=5, queue=20, reset=4, hidden=16, dim=3, momentum=.9, tau=.9)
    params, aux = jax.tree.map(lambda a: np.asarray(a) + .3 * rng.normal(size=a.shape).astype(np.float32), method.init(jax.random.key(0), batch))
    aux["queue"][8:] = 0
    aux = jax.tree.map(jnp.asarray, aux)
    step = jax.jit(lambda step: method.loss(params, aux, batch, jax.random.key(1), step))
    value, (left, _, seen) = step(3)

    def projections(networks, v):
        head, h = networks["projector"], encoded(networks["encoder"], batch["views"][:, v:v + 1])
        x = np.maximum(normed(h @ head["linear1"]["kernel"], head["norm1"]), 0) @ head["linear2"]["kernel"]
        return (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
    z, t = projections(params, 1), unit(projections(aux["teacher"]["params"], 0))[:, 0]
    top = params["predictor"]
    p = unit(np.maximum(normed(z @ top["linear1"]["kernel"], top["norm1"]), 0) @ top["linear2"]["kernel"] + top["linear2"]["bias"])[:, 0]
    z, groups = unit(z)[:, 0], np.array(aux["groups"])
    own, labels = (np.argmax(x @ unit(groups).T, 1) for x in (z, t))
    for c in set(own):
        groups[c] = .9 * groups[c] + .1 * z[own == c].mean(0)
    np.testing.assert_allclose(left["groups"], groups, atol=1e-5)
    logits = p @ unit(groups).T / .1
    assert value == pytest.approx(np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels)]), rel=1e-5)
    np.testing.assert_allclose(left["queue"][12:16], z, atol=1e-5)
    long = 2**29 + 3                                                                 # steps of 4 images, beyond int32
    changed = np.any(np.asarray(step(long)[1][0]["queue"] != aux["queue"]), 1)
    assert np.flatnonzero(changed).tolist() == [x + long % 5 * 4 for x in range(4)]
    anew = step(4)[1][0]["groups"]
    assert not np.allclose(anew, groups, atol=.2)
    kept = method.post(params, aux, jnp.int32(1))[1]["teacher"]["params"]["encoder"]["linear"]["kernel"]
    np.testing.assert_allclose(kept, .9 * aux["teacher"]["params"]["encoder"]["linear"]["kernel"] + .1 * params["encoder"]["linear"]["kernel"], rtol=1e-5)
    again = method.post(params, aux, jnp.int32(3))[1]["teacher"]["params"]["encoder"]["linear"]["kernel"]
    np.testing.assert_array_equal(again, params["encoder"]["linear"]["kernel"])


@functools.cache
def goldens():
    """tests/goldens/make_clustering.py made them; float64."""
    with np.load(Path(__file__).parent / "goldens" / "clustering.npz", allow_pickle=False) as file:
        return {name: jnp.float32(file[name]) for name in file.files}


def test_goldens_of_banks_and_of_the_predictor():
    g = goldens()
    start = normalised(g["groups"])
    shift = clustering.equal_shares(g["bank"], g["written"], start, temp=.3, iterations=4)
    shares = jax.nn.softmax(g["bank"] @ start.T / .3 + shift)[g["written"] > 0]
    np.testing.assert_allclose(shares, g["shares"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(clustering.spherical_kmeans(g["bank"], g["written"], start, iterations=3), g["kmeans"], rtol=1e-5, atol=1e-6)
    predictor, _ = correlation.direct_predictor(g["mix"] @ g["mix"].T, power=.5, epsilon=.1)
    np.testing.assert_allclose(predictor, g["predictor"], rtol=1e-4, atol=1e-5)


def test_golden_of_lightlys_smog():
    g = goldens()
    labels = clustering.nearest(normalised(g["answered"]), normalised(g["groups"]))

    def loss(encoded):
        groups = clustering.momentum_groups(g["groups"], encoded, momentum=.9)
        logits = normalised(encoded @ g["mix"]) @ normalised(groups).T
        return clustering.hard_cross_entropy(logits[:, None, None], labels[:, None], temperature=.1), groups
    (value, groups), grad = jax.value_and_grad(loss, has_aux=True)(g["encoded"])
    np.testing.assert_array_equal(labels, g["labels"])
    np.testing.assert_allclose(groups, g["moved"], atol=1e-6)
    assert value == pytest.approx(float(g["smog"]), rel=1e-5)
    np.testing.assert_allclose(grad, g["grad_smog"], rtol=1e-5, atol=1e-5 * np.abs(g["grad_smog"]).max())
