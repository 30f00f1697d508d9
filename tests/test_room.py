"""What cannot fit is refused with a number, and with that number it fits."""
import re

import jax
import jax.numpy as jnp
import pytest

from jaxssl.errors import UserError
from jaxssl.parallel import mesh as sharding, runtime
from jaxssl.training import job as jobs, room
from tests.tiny import config_of

FACTS = jobs.Facts(1000, 10, 16, True)
KEYS = {"batch_size": "64", "augment.views": "8", "augment.size": "16", "data.canvas": "16", "eval.batch": "64", "data.workers": "4"}


def refused(config, facts, memory):
    with pytest.raises(UserError) as error:
        room.ask(config, facts, memory)
    return str(error.value)


@pytest.mark.parametrize("key", KEYS)
def test_the_number_that_is_said_to_fit_fits(key):
    """A machine that holds all but this key's demand, with its own value made large."""
    large = {"data.workers": 4000, "eval.batch": 10**8, "data.canvas": 16 * 999, "augment.size": 16 * 999}.get(key, int(KEYS[key]) * 999)
    config = config_of("simclr", **KEYS).unlock()

    def put(value):
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
        return FACTS._replace(resident=False, canvas=config.data.canvas)
    memory = (10**9, 10**9)
    room.ask(config, put(int(KEYS[key])), memory)
    said = refused(config, put(large), memory)
    most = int(re.search(rf"\b{re.escape(key)} of at most ([\d,]+)", said)[1].replace(",", ""))
    assert f"{key}={large:,}" in said and int(KEYS[key]) <= most < large
    room.ask(config, put(most), memory)
    refused(config, put(most + 1), memory)


def test_where_nothing_is_known_of_memory_nothing_is_refused():
    room.ask(config_of("simclr"), FACTS._replace(canvas=10**9), (0, 0))
    host, devices = runtime.memory()
    assert host == devices > 2**28                          # of a CPU, and of any machine that runs this


def test_a_set_that_is_to_stay_in_memory_counts():
    said = refused(config_of("simclr"), FACTS._replace(examples=10**9), (10**9, 10**9))
    assert "data.canvas" in said and "1,000,000,000 decoded images" in said and "data.resident=no" in said


@pytest.mark.parametrize("method, key, value", [("simclr", "method.hidden", 10**7), ("dino", "method.prototypes", 10**7), ("simclr", "model.width", 30.)])
def test_parameters_that_do_not_fit_name_the_key_and_a_value_that_does(method, key, value):
    def state(value):
        config = config_of(method, **{key: str(value)})
        return jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), FACTS), config
    memory = 10**9
    with pytest.raises(UserError, match=f"the largest arrays are .*; {key} of at most") as error:
        room.state(*state(value), memory)
    most = float(re.search(r"of at most ([\d,.]+) would fit", str(error.value))[1].replace(",", ""))
    room.state(*state(most if key == "model.width" else int(most)), memory)


def test_a_compiled_step_that_does_not_fit_names_its_largest_buffers():
    executable = jax.jit(lambda x: (x @ x.T).sum(0)).lower(jax.ShapeDtypeStruct((512, 8), jnp.float32)).compile()
    room.compiled([executable], 10**9, 1)
    room.compiled([executable], 0, 1)
    with pytest.raises(UserError, match=r"a step takes .*largest buffers are .*512.*lower micro_batch, batch_size"):
        room.compiled([executable], 1000, 1)
