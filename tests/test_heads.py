"""Every method's heads can be opened behind each of their layers, as reports, probes of layers and fine-tuning from within a projector do."""
import jax
import jax.numpy as jnp
import pytest

from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs
from tests.tiny import METHODS, config_of


@pytest.mark.parametrize("method", METHODS)
def test_heads_open_behind_every_layer(method):
    config, mesh, facts = config_of(method), sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True)
    seen = jobs.seen_shapes(jobs.views(config)[0], jobs.batch_shapes(config.batch_size, facts, mesh)[0])
    encoder, made = jobs.method_of(config, mesh, facts, 30)
    params, aux = jobs.initial_shapes(made, config, seen)
    widths = {"encoder": encoder.features}
    for name, (module, below) in made.heads.items():
        if not hasattr(module, "dims"):
            continue
        for depth in range(len(module.dims) + 1):
            variables = {"params": params[name], "batch_stats": aux["batch_stats"][name]}
            out = jax.eval_shape(lambda v, x: module.clone(depth=depth).apply(v, x, train=False), variables, jnp.zeros((2, widths[below])))
            assert out.shape == (2, module.dims[depth - 1])
        widths[name] = module.dims[-1]
