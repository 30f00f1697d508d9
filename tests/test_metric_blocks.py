"""Losses with `block=`: the same numbers, a block of anchors at a time, on eight devices, and nothing of the size of all pairs."""
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.losses import metric
from tests.test_metric_losses import AGAINST, CASES, LEARNED, MINED, RAGGED, REFERENCE, TWICE, Z, assert_near, found, put, sizes

BLOCKED = [case for case in CASES if "block" in inspect.signature(getattr(metric, case.name.partition(",")[0])).parameters
           and case.name not in ("triplet, swapped", "phi_psi, dcl", "phi_psi, triplet", "tuplet, of Sohn", "smooth_ap, own")]


@functools.cache
def in_blocks():
    """name -> ((loss, metrics), gradients of z and of what is learned): blocks of five of sixteen rows, so that the last one is short, on eight devices."""
    def all_of_them(z, label, id, weight, learned):
        return {case.name: jax.value_and_grad(lambda z, w: case(z, label, w, weight, id=id, block=5), (0, 1), has_aux=True)(z, learned[case.name]) for case in BLOCKED}
    return jax.tree.map(np.asarray, jax.jit(all_of_them)(put(Z), put(RAGGED), put(TWICE), put(MINED), {case.name: LEARNED[case.name] for case in BLOCKED}))


def test_which_losses_decompose():
    """All that have a term an anchor: the others need the whole batch, or have weights of classes."""
    whole = {"lifted_structure", "n_pairs", "cookbook_contrastive", "cookbook_nca", "cookbook_tuplet"}
    weighed = {"arcface", "cosface", "normalized_softmax", "proxy_anchor", "proxy_nca", "soft_triple", "sub_center_arcface"}
    assert {case.name.partition(",")[0] for case in BLOCKED} == set(metric.__all__) - whole - weighed


@pytest.mark.parametrize("case", BLOCKED, ids=lambda case: case.name.replace(" ", "_"))
def test_blocks_equal_the_whole(case):
    ((value, metrics), grads), ((want, said), slopes) = in_blocks()[case.name], found("mined")[case.name]
    assert_near(value, want)
    for got, whole in zip(grads, slopes):
        assert_near(got, whole, 2e-5)
    for name in said:
        assert_near(metrics[name], said[name], 1e-4)


def test_blocks_against_a_reference_and_weights_of_anchors():
    z, label, id, stands, reference = AGAINST
    for name in ("contrastive", "multi_similarity", "triplet, smooth, swapped"):
        case = next(case for case in BLOCKED if case.name == name)
        loss = jax.jit(lambda z, block: case(z, label, LEARNED[name], stands, id=id, reference=reference, block=block)[0], static_argnums=1)
        assert_near(loss(z, 7), loss(z, 0))
    with pytest.raises(ValueError, match="wide"):
        metric.contrastive(z[:, :3], label, id=id, reference=REFERENCE, block=4)


@pytest.mark.parametrize("case", BLOCKED, ids=lambda case: case.name.replace(" ", "_"))
def test_nothing_has_the_size_of_all_pairs(case):
    """Forward and backward, of 256 rows in blocks of 16; a swap alone compares all candidates with one another."""
    n = 256
    learned = jnp.ones(n) if case.weights else jnp.zeros(0)
    program = jax.make_jaxpr(jax.grad(lambda z: case(z, jnp.arange(n) // 4, learned, None, block=16)[0]))(jnp.ones((n, 4)))
    assert max(sizes(program.jaxpr)) <= n * n // (1 if "swap" in case.name else 4)
