"""Convolutions and their gradients against JAX's own."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.models.convolution import convolve


def plain(x, kernel, stride, groups):
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


PLAIN = [(1, 1, 5), (1, 2, 5), (1, 2, 6), (3, 1, 5), (3, 2, 6), (3, 2, 7), (7, 2, 9), (7, 2, 10), (2, 2, 5), (2, 3, 7), (3, 2, 1)]


@pytest.mark.parametrize("size, stride, side, groups", [*((*case, 1) for case in PLAIN), (3, 1, 4, 2), (3, 2, 5, 3)])
def test_value_and_gradients_are_jaxs(size, stride, side, groups):
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        x, kernel = draw.normal(size=(2, side, side + 1, 3 * groups)), draw.normal(size=(size, size, 3, 4 * groups))
        weights = draw.normal(size=jax.eval_shape(lambda: plain(x, kernel, stride, groups)).shape)
        both = [jax.jit(jax.value_and_grad(lambda x, k, f=f: jnp.sum(weights * f(x, k, stride, groups)), (0, 1)))(x, kernel) for f in (convolve, plain)]
        jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12), *both)


def test_images_want_no_gradient():
    x, kernel = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
    count = str(jax.make_jaxpr(jax.grad(lambda k: convolve(x, k, 1).sum()))(kernel)).count("conv_general_dilated[")
    assert count == 3                                                                # forward, and the kernel's gradient on CPUs and elsewhere
