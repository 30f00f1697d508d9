"""The arithmetic of a step, for MFU: against counts by hand and the published one, and the same with recomputation, in loops and over devices."""
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from jaxssl import config as configs, tree
from jaxssl.training import job as jobs
from jaxssl.planning import flops
from jaxssl.parallel import mesh as sharding
from jaxssl.training.progress import describe_mfu
from tests.tiny import config_of

BATCH, SIZE = 16, 16


def job_of(devices=1, **changes):
    config = config_of("simclr", **{"model.width": "0.25", "model.depths": "(1, 1, 1, 1)", "model.stem": "cifar", **changes})
    return jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:devices]), jobs.Facts(1437, 10, 16, True))


def counted(f, *shapes):
    return flops.count(jax.make_jaxpr(f)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).jaxpr)


def forward(job):
    """FLOPs of one view by hand: two for each weight of a convolution at each place of its output (stage i halves the side i − 1 times), two for each of a product."""
    total = 0
    for name, weight in tree.names(job.state.params).items():
        if name.endswith("kernel") and not name.startswith("probe"):
            stage = next((int(part[5:]) for part in name.split("/") if part.startswith("stage")), 1)
            total += 2 * weight.size * ((SIZE // 2 ** (stage - 1)) ** 2 if weight.ndim == 4 else 1)
    return total


def test_a_small_resnet_takes_three_times_its_forward_pass():
    job = job_of()
    assert job.flops() == pytest.approx(3 * BATCH * job.views * forward(job), rel=0.05)


def test_resnet50_takes_what_is_published():
    """4.089 G multiply-adds an image of 224 pixels forward; backward twice that, but for the gradient of the pixels, which nobody needs.

    Two products of inputs with inputs more for each norm that is computed from its product's inputs (`models.product_norm`): those of the last
    convolutions of 16 blocks and of the 4 that change the width, 6 % of the whole.
    """
    config = configs.load("configs/imagenet/simclr.py")
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices(), **config.mesh), jobs.Facts(1_281_167, 1000, config.data.canvas, False))
    classifier, projector, stem = 2048 * 1000, 2048 * 2048 + 2048 * 128, 112 ** 2 * 7 ** 2 * 3 * 64
    norms = 16 * (56 * 64) ** 2 + (56 * 64) ** 2 + (28 * 256) ** 2 + (14 * 512) ** 2 + (7 * 1024) ** 2
    expected = 3 * 2 * (4.089e9 - classifier + projector) - 2 * stem + 2 * 2 * norms
    assert job.flops() / (config.batch_size * job.views) == pytest.approx(expected, rel=0.003)


def test_recomputation_and_devices_change_nothing():
    expected = job_of().flops()
    assert job_of(**{"model.remat": "True"}).flops() == expected
    assert job_of(devices=8).flops() == pytest.approx(expected, rel=1e-3)


def test_products_convolutions_loops_and_shards():
    product = 2 * 8 * 16 * 4
    assert counted(lambda a, b: a @ b, (8, 16), (16, 4)) == product
    assert counted(lambda a, b: jax.lax.scan(lambda c, _: (c, a @ b), 0, length=5)[1], (8, 16), (16, 4)) == 5 * product
    assert counted(lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: jnp.zeros((8, 4))), (8, 16), (16, 4)) == product
    mesh = sharding.make_mesh(devices=jax.devices())
    split = P(tuple(mesh.axis_names))
    assert counted(jax.shard_map(lambda a, b: a @ b, mesh=mesh, in_specs=(split, P()), out_specs=split), (8, 16), (16, 4)) == product

    def strided(x, w):
        return jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")).sum()
    shapes = (2, 8, 8, 3), (3, 3, 3, 5)
    assert counted(strided, *shapes) == 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    assert counted(jax.grad(strided, argnums=(0, 1)), *shapes) == 3 * counted(strided, *shapes)


def test_the_formula_is_stated_with_its_numbers():
    assert "1,500 GFLOP a step" in (text := describe_mfu(1.5e12, 8, "TPU v5 lite")) and "× 8 devices × 197 TFLOP/s" in text
    assert "that of cpu is not known, so MFU is n/a" in describe_mfu(1e9, 1, "cpu")
