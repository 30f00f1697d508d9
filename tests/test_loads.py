"""A method's `loads`: networks in aux that begin with weights from elsewhere, read once, when the run starts."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from jaxssl import tree
from jaxssl.encoder import initial, load as loading
from jaxssl.errors import UserError
from tests.test_encoder import workdir_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return workdir_of(tmp_path_factory.mktemp("loads") / "run")


def state_of(run):
    """A state with a frozen teacher of the run's encoder, all zeros, and nothing else."""
    variables = loading.load(run).variables
    network = {kind: {"encoder": jax.tree.map(lambda a: jnp.zeros(a.shape), variables[kind]["encoder"])} for kind in ("params", "batch_stats")}
    return types.SimpleNamespace(aux={"frozen": {"teacher": network}}), variables


def test_a_network_in_aux_begins_with_the_weights_and_nothing_else_changes(run):
    state, variables = state_of(run)
    start = initial.add(None, "frozen/teacher", run, state=state)
    shapes = {"params": {"encoder": {"w": jnp.ones(3)}}, "aux": state.aux}
    placed = initial.place(shapes, start, jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), shapes))
    got = tree.names(placed["aux"]["frozen"]["teacher"])
    wanted = tree.names({kind: {"encoder": variables[kind]["encoder"]} for kind in ("params", "batch_stats")})
    assert got.keys() == wanted.keys() and all(np.array_equal(got[name], wanted[name]) for name in wanted)
    np.testing.assert_array_equal(placed["params"]["encoder"]["w"], np.ones(3))
    assert f"frozen/teacher: {len(wanted)} tensors from {run}" in start.note


def test_another_architecture_is_one_sentence_that_names_the_tensors(run):
    state, _ = state_of(run)
    network = state.aux["frozen"]["teacher"]["params"]["encoder"]
    name = next(iter(tree.names(network)))
    branch = network
    for part in name.split("/")[:-1]:
        branch = branch[part]
    branch[name.split("/")[-1]] = jnp.zeros((1, 2, 3))
    with pytest.raises(UserError, match=rf"does not hold the network .*frozen/teacher.*{name} is .* there and \(1, 2, 3\) here"):
        initial.add(None, "frozen/teacher", run, state=state)
