"""Convolutions and their gradients against JAX's own; what XLA for GPUs can not compile."""
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import models
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


@pytest.mark.parametrize("own", [{"name": "resnet10", "width": .125}, {"name": "resnet50", "width": .0625, "depths": (1, 1)},
                                 {"name": "vit_tiny", "width": 32, "heads": 2, "depth": 1, "image": 32},
                                 {"name": "convnext_tiny", "width": 16, "depths": (1, 1)}, {"name": "convnextv2_atto", "width": 16, "depths": (1, 1)}], ids=lambda own: own["name"])
def test_no_strided_slice_where_a_network_does_not_train(own):
    """XLA for NVIDIA GPUs ended the process at the product of one (openxla/xla issue 47381), in jaxlib 0.10.2 and 0.11.2."""
    encoder, x = models.make(**own, precision="f32"), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, False), x)
    assert not strided(jax.make_jaxpr(lambda variables, x: encoder.apply(variables, x, False))(variables, x).jaxpr)
    assert strided(jax.make_jaxpr(jax.jit(lambda x: x[:, ::2].sum()))(x).jaxpr)        # one is found


def strided(jaxpr):
    """The strided slices of a program and of those that it calls."""
    within = [each for eqn in jaxpr.eqns for inner in jax.extend.core.jaxprs_in_params(eqn.params) for each in strided(inner)]
    return [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "slice" and any(step > 1 for step in eqn.params["strides"] or ())] + within
