"""What a method says that it reads of an image's views is what its loss reads; what it would leave unread is refused (`training.checks`)."""
import jax
import pytest

from jaxssl import config as configs
from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs
from tests.tiny import METHODS, config_of


@pytest.mark.parametrize("name", METHODS)
def test_all_views_are_read(name):
    """Of three views and two local ones, by the shapes of what is seen and by what the traced loss uses."""
    config = config_of(name)
    config = config.copy_and_resolve_references().unlock()
    with config.augment.ignore_type():
        config.augment.update({key: value[0] for key, value in config.augment.items() if f"augment.{key}" in configs.A_VIEW and isinstance(value, tuple)})    # the same for all
    config.augment.views, config.local = 3, config.augment.copy_and_resolve_references()
    config.local.views, config.local.size = 2, 8
    facts, mesh = jobs.Facts(1000, 10, 16, True), sharding.make_mesh(devices=jax.devices()[:1])
    method = jobs.method_of(config, mesh, facts, 30)[1]
    seen = jobs.seen_shapes(jobs.views(config, method.needs.drawn)[0], jobs.batch_shapes(config.batch_size, facts, mesh)[0])
    given = (*jobs.initial_shapes(method, config, seen), seen, jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((), int))
    traced, (_, (_, _, shapes)) = jax.make_jaxpr(method.loss, return_shape=True)(*given)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(given)[0]]
    used = {id(var) for equation in traced.jaxpr.eqns for var in equation.invars}
    read = {name for name, var in zip(names, traced.jaxpr.invars, strict=True) if id(var) in used}
    assert ("[2]['local']" in read) == (method.needs.local is not None)
    assert (shapes["features"].shape[1] < 3) == (0 < method.needs.most < 3 or name in ("msn", "pmsn"))       # whose first view the teacher alone sees
