"""MoCo's queue: what it holds after some steps, and that an image is never its own negative."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import config as configs
from jaxssl.errors import UserError
from jaxssl.losses.dictionary import enqueue, queue_nce
from jaxssl.losses.unit import normalised
from tests.tiny import Tiny, config_of


def test_keys_go_round():
    queue, ids = jnp.zeros((6, 3)), jnp.full((6,), -1)
    for step in range(4):
        keys = np.arange(1, 7).reshape(2, 3) + 10. * step
        queue, ids = enqueue(queue, normalised(jnp.asarray(keys)), step), enqueue(ids, jnp.array([2 * step, 2 * step + 1]), step)
    assert ids.tolist() == [6, 7, 2, 3, 4, 5]
    np.testing.assert_allclose(queue[:2], keys / np.linalg.norm(keys, axis=1, keepdims=True), rtol=1e-6)
    late = jax.jit(enqueue)(jnp.zeros(6), jnp.ones(2), jnp.int32(2**30 + 1))         # 2 · step is beyond int32
    assert late.tolist() == [0, 0, 0, 0, 1, 1]


def test_an_image_never_repels_itself():
    q = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1, 5)))
    queue = jnp.concatenate([q[:, 0], -q[:, 0]])                                     # each image's own key, and its opposite
    told, untold = (queue_nce(q, q, queue, ids=jnp.arange(4), queue_ids=ids, temperature=.1) for ids in (jnp.array([0, 1, 2, 3, 9, 9, 9, 9]), jnp.full((8,), -1)))
    assert told[0] < untold[0] and told[1] == 1 and untold[1] < 1


def test_the_queue_is_of_the_steps_before():
    """After two steps of a run the queue holds the ids of both batches, twice each with both directions, and the drawn rows behind them."""
    tiny = Tiny(config_of("moco_v2"), devices=1)
    tiny.run(2)
    ids = np.asarray(tiny.state.aux["queue"]["ids"])
    seen = [np.asarray(tiny.job.order(step, range(16))) for step in range(2)]
    np.testing.assert_array_equal(ids[:64], np.repeat(np.concatenate(seen), 2))
    assert (ids[64:] == -1).all()
    np.testing.assert_allclose(np.linalg.norm(tiny.state.aux["queue"]["keys"], axis=1), 1, rtol=1e-5)


def test_swavs_queue_takes_part_once_it_is_full():
    """Two runs are one until the queue of two batches is full, and part then; what it holds are unit vectors, no gradient or weight of which is counted before."""
    plain, queued = (Tiny(config_of("swav", **changes), devices=1) for changes in ({}, {"method.queue": "32"}))
    losses = [[m["loss"] for m in tiny.run(4)] for tiny in (plain, queued)]
    np.testing.assert_allclose(losses[0][:2], losses[1][:2], rtol=1e-6)
    assert abs(losses[0][3] - losses[1][3]) > 1e-4
    for kept in queued.state.aux["queue"]:
        np.testing.assert_allclose(np.linalg.norm(kept, axis=1), 1, rtol=1e-5)


def test_a_queue_that_no_steps_fill_is_refused():
    with pytest.raises(UserError, match="method.queue is 1000; a step adds 32 keys, so choose a multiple of that, as 992"):
        Tiny(config_of("moco_v2", **{"method.queue": "1000"}), devices=1)


def test_configs_say_how_v1_differs():
    v1, v2 = (configs.load(f"configs/imagenet/moco_v2.py{variant}") for variant in (":v1", ""))
    assert (v1.method.layers, v1.method.temperature, v1.optim.schedule) == (1, .07, "step") and (v2.method.layers, v2.method.temperature, v2.optim.schedule) == (2, .2, "cosine")
