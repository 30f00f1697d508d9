"""The one train step, with a method of a line and views of a line: what it hands to whom."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxssl.methods.base import Method, unchanged
from jaxssl.training.step import init_state, train_step


def drawn(key):
    """Numbers of a key, and of the keys that views and losses make of it: folded with the place of an image, or split (which gives the same)."""
    keys = [key, *(jax.random.fold_in(key, i) for i in range(16)), *jax.random.split(key, 16)]
    return jnp.stack([jax.random.bits(k, ()) for k in keys])


def test_the_loss_meets_no_number_of_the_views_nor_of_another_step():
    """A mask drawn by the key that an image was cropped by would be tied to its crop."""
    def loss(params, aux, batch, key, step):
        return params["w"].sum(), (aux, {"loss_drew": drawn(key), "views_drew": batch["drew"]}, {})

    tx = optax.sgd(0.1)
    method = Method(lambda key, batch: ({"w": jnp.ones(2)}, {}), loss, unchanged, None)
    step = jax.jit(functools.partial(train_step, method=method, tx=tx, augment=lambda key, batch: {"drew": drawn(key)}))
    state = init_state(jnp.array([0, 7], jnp.uint32), {}, method=method, tx=tx)
    found = []
    for _ in range(2):
        state, metrics = step(state, {})
        found += [set(np.asarray(metrics[name]).tolist()) for name in ("views_drew", "loss_drew")]
    assert all(len(numbers) > 16 for numbers in found)
    assert not [(i, j) for j, b in enumerate(found) for i, a in enumerate(found[:j]) if a & b]
