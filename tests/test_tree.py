"""Names, ordered rules, EMA and the digest of trees."""
import hashlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxssl import tree
from jaxssl.errors import UserError
from tests.compiled import QUICK

PARAMS = {"encoder": {"conv": {"kernel": np.ones((3, 3, 2, 4), np.float32)}, "norm": {"bias": np.zeros(4, np.float32)}},
          "probe": {"kernel": np.ones((4, 2), np.float32)}}


def test_names_of_dicts_frozen_dicts_and_optax_states():
    expected = ["encoder/conv/kernel", "encoder/norm/bias", "probe/kernel"]
    assert list(tree.names(PARAMS)) == expected
    assert list(tree.names(FrozenDict(PARAMS))) == expected
    assert tree.names(PARAMS)["encoder/conv/kernel"] is PARAMS["encoder"]["conv"]["kernel"]
    state = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda step: step)).init(PARAMS)
    assert list(tree.names(state)) == [f"0/trace/{path}" for path in expected] + ["1/count"]
    assert list(tree.names({"a": (np.ones(1), [np.ones(2)])})) == ["a/0", "a/1/0"]


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same path"):
        tree.names({"a/b": np.ones(1), "a": {"b": np.ones(1)}})


def test_first_matching_rule_wins():
    got = tree.rules(PARAMS, [("bias$", "b"), ("^probe/", "p"), ("kernel", "k")])
    assert got == {"encoder": {"conv": {"kernel": "k"}, "norm": {"bias": "b"}}, "probe": {"kernel": "p"}}


def test_uncovered_names_and_unused_rules_are_listed_together():
    with pytest.raises(UserError) as caught:
        tree.rules(PARAMS, [("bias", 1), ("norm/bias", 2), ("gamma", 3)])
    message = str(caught.value)
    for part in ("encoder/conv/kernel", "probe/kernel", "'gamma'", "'norm/bias'"):  # norm/bias is always beaten by bias
        assert part in message
    assert tree.rules(PARAMS, [("gamma", 1)], default=0, unused_ok=True) == jax.tree.map(lambda _: 0, PARAMS)
    with pytest.raises(UserError, match="gamma"):
        tree.rules(PARAMS, [("gamma", 1)], default=0)
    with pytest.raises(UserError, match="regular expression"):
        tree.rules(PARAMS, [("(", 1)])


def test_ema_keeps_and_takes_exactly_and_mixes_in_f32():
    old = {"w": jnp.asarray([1.0, 3.0, 1e-8]), "n": jnp.asarray(1), "half": jnp.asarray([1.0, 2.0], jnp.bfloat16)}
    new = {"w": jnp.asarray([2.0, -1.0, 1e8]), "n": jnp.asarray(7), "half": jnp.asarray([2.0, 4.0], jnp.bfloat16)}
    mixed = jax.jit(tree.ema)(old, new, 0.75)
    np.testing.assert_allclose(mixed["w"], 0.75 * np.asarray(old["w"]) + 0.25 * np.asarray(new["w"]), rtol=1e-6)
    assert mixed["n"] == 7 and mixed["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(mixed["half"].astype(np.float32), [1.25, 2.5])
    np.testing.assert_array_equal(tree.ema(old, new, 1.0)["w"], old["w"])
    np.testing.assert_array_equal(tree.ema(old, new, 0.0)["w"], new["w"])
    still = {"w": jnp.linspace(0.1, 0.9, 99)}
    np.testing.assert_array_equal(tree.ema(still, still, 0.3)["w"], still["w"])       # what stands still is its own average, to the bit
    with pytest.raises(ValueError):
        tree.ema({"a": old["w"]}, {"b": new["w"]}, 0.5)


def test_finite_tells_each_array_in_the_order_of_the_names_however_it_is_split():
    split = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)), P("data"))
    values = {"count": jnp.int32(3), "mean": jnp.full(16, 3e38).at[15].set(jnp.inf), "var": jnp.full(16, -3e38), "weight": jnp.zeros((8, 2), jnp.bfloat16).at[3].set(jnp.nan)}
    placed = {name: x if not x.ndim else jax.device_put(x, split) for name, x in values.items()}
    found = jax.jit(tree.finite)(placed)
    assert dict(zip(tree.names(placed), found.tolist())) == {"count": True, "mean": False, "var": True, "weight": False}


def test_digest_is_sha256_over_path_dtype_shape_and_bytes():
    value = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.int32(5)}
    stream = b'["a", "int32", []]\n' + np.int32(5).tobytes() + b'["b", "float32", [2, 3]]\n' + value["b"].tobytes()
    assert tree.digest(value) == hashlib.sha256(stream).hexdigest()
    assert json.loads(b'["a", "int32", []]') == ["a", "int32", []]


def test_digest_sees_every_part_and_not_the_container_or_layout():
    base = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "k": jax.random.key(1)}
    same = [FrozenDict(base), {"k": jax.random.key(1), "a": jnp.arange(6.0).reshape(2, 3)},
            {**base, "a": np.asfortranarray(base["a"])}]
    other = [{**base, "k": jax.random.key(2)}, {**base, "a": base["a"].reshape(3, 2)}, {**base, "a": base["a"].view(np.int32)},
             {"A": base["a"], "k": base["k"]}, {**base, "a": np.nextafter(base["a"], 9)}, {**base, "k": jax.random.key_data(base["k"])},
             {**base, "k": jax.random.key(1, impl="rbg")}]
    assert {tree.digest(value) for value in same} == {tree.digest(base)}
    assert len({tree.digest(value) for value in [base, *other]}) == 1 + len(other)


@pytest.mark.parametrize("spec", [P(), P("data"), P(None, "data")])
def test_digest_does_not_depend_on_sharding(spec):
    x = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    assert tree.digest({"x": jax.device_put(x, NamedSharding(mesh, spec)), "half": jnp.ones(3, jnp.bfloat16)}) == tree.digest(
        {"x": x, "half": jnp.ones(3, jnp.bfloat16)})


_PROCESS = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxssl import tree
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
x = np.arange(12, dtype=np.float32).reshape(4, 3)
def put(spec): return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda i: x[i])
key = jax.jit(lambda: jax.random.key(3), out_shardings=NamedSharding(mesh, P()))()
print("digest", tree.digest({"split": put(P("data")), "whole": put(P()), "key": key}))
"""


def test_digest_of_arrays_that_span_processes(free_port, environment_of_one_device):
    command = [sys.executable, "-c", _PROCESS, f"localhost:{free_port}"]
    running = [subprocess.Popen([*command, str(i)], env=environment_of_one_device, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True) for i in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    expected = "digest " + tree.digest({"split": x, "whole": x, "key": jax.random.key(3)})
    assert [output.strip().splitlines()[-1] for output in outputs] == [expected] * 2, outputs


@pytest.fixture
def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def environment_of_one_device():
    import os
    from pathlib import Path
    return {**os.environ, "XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(tree.__file__).parents[1])}
