"""Programs that one trial leaves to the next: the same objects where nothing but numbers differ, the same values as a run by itself, and none where they would be others."""
import jax
import numpy as np
import pytest

from jaxssl import config as configs
from jaxssl.errors import UserError
from jaxssl.training import job as jobs, kept
from tests import tiny

OWN = {**tiny.small("metric"), "data.sampler": "m_per_class", "batch_size": "8", "total": "9", "warmup": "0", "model.width": "16", "model.depth": "1",
       "method.loss": "margin", "method.beta_of": "one", "data.per_class": "2"}
VARIED = ("optim.lr", "method.margin", "method.beta")


def given(devices=1, **changes):
    """A tiny config and what `prepare` takes beside it."""
    file, own = tiny.spec("metric")
    config = configs.load(str(tiny.ROOT / file), {**own, **OWN, **changes})
    data, _ = tiny.digits()
    facts = jobs.Facts(len(data.train), len(data.classes), data.canvas, True, order=data.order)
    return config, jobs.sharding.make_mesh(devices=jax.devices()[:devices]), facts, VARIED


def first(job, config):
    return job.init(np.asarray(jax.random.key_data(jax.random.key(config.seed))))


def test_a_run_that_differs_by_numbers_has_the_programs_of_the_one_before():
    keeper = kept.Kept()
    a = keeper.prepare(*given())
    config, mesh, facts, varied = given(**{"optim.lr": "2e-3", "method.margin": "0.4", "seed": "5"})
    b, alone = keeper.prepare(config, mesh, facts, varied), jobs.prepare(config, mesh, facts, varied)
    assert b.step is a.step and b.executables is a.executables and b.embed is a.embed
    assert b.numbers == alone.numbers != a.numbers and b.optim.schedule(3) == alone.optim.schedule(3) and b.optim.describe == alone.optim.describe
    np.testing.assert_array_equal(b.order(7), alone.order(7))
    assert (b.order(7) != a.order(7)).any()


def test_the_first_state_is_traced_anew_where_a_number_reaches_it():
    """beta, which is learned from the config's on."""
    keeper = kept.Kept()
    a = keeper.prepare(*given())
    config, *rest = given(**{"method.beta": "0.7"})
    b = keeper.prepare(config, *rest)
    assert b.step is a.step and b.init is not a.init
    assert float(first(b, config).params["classes"]["beta"]) == np.float32(.7)
    c = kept.Kept()
    plain = [c.prepare(*given(**{"method.beta_of": "given", "method.beta": beta})) for beta in ("0.7", "0.9")]
    assert plain[1].init is plain[0].init


@pytest.mark.parametrize("changes", [{"batch_size": "16"}, {"method.miner": "distance_weighted"}, {"total": "10"}, {"optim.weight_decay_end": "0.5"}, {"augment.blur": "0.5"}])
def test_a_run_that_computes_something_else_has_its_own(changes):
    keeper = kept.Kept()
    assert keeper.prepare(*given()).step is not keeper.prepare(*given(**changes)).step


def test_what_a_run_refuses_it_refuses_with_kept_programs_too():
    keeper = kept.Kept()
    keeper.prepare(*given())
    with pytest.raises(UserError, match="optim.lr is -1.0; it takes a number from 0"):
        keeper.prepare(*given(**{"optim.lr": "-1.0"}))
    with pytest.raises(UserError, match="holds no two of any"):
        keeper.prepare(*given(**{"data.per_class": "1"}))
