"""The mesh, and which array lies where on it.

One mesh `(data, fsdp)`. A batch is split over both axes. Between steps parameters and optimizer slots lie split (ZeRO, arXiv 1910.02054):
gradients are summed and sliced, each device updates its slice, and the loss gathers what it uses (in bf16 where it computes in bf16), replicated
over `data` and, by path rules, still split over `fsdp`. On more than 16 devices each group of 16 neighbours holds one copy.
"""
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxssl import tree as named
from jaxssl.errors import UserError

AXES = ("data", "fsdp")
GROUP = 16  # devices that share one copy of the parameters and slots between steps
SMALLEST_SPLIT = 4096  # elements; below it a collective costs more than the copies it saves


def make_mesh(*, devices, data=0, fsdp=1) -> Mesh:
    """A mesh of `data × fsdp` devices; `data=0` takes what `fsdp` leaves.

    Raises: UserError when the product is not the number of devices.
    """
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        raise UserError(f"mesh.fsdp is {fsdp}, but there are {count} devices; it must divide {count}")
    data = data or count // fsdp
    if data * fsdp != count:
        raise UserError(f"mesh.data × mesh.fsdp is {data} × {fsdp}, but there are {count} devices; set mesh.data=0 to use them all")
    return Mesh(np.asarray(devices).reshape(data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh) -> NamedSharding:
    """The leading axis over every device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def parameters(tree: Any, mesh: Mesh, rules=((r"^classes/weights$", "rows"), (r"kernel$", "fsdp"), (r"", "replicate"))) -> Any:
    """A NamedSharding for every array where the loss uses it: `fsdp` splits its largest divisible axis over that mesh axis, `rows` its first, of classes, over all devices that can
    share it equally. First matching rule wins."""
    places = named.rules(tree, rules, unused_ok=True, what="sharding rule")

    def place(leaf, rule):
        if rule == "rows" and leaf.shape[0] % mesh.size == 0:
            return batch(mesh)
        return _split(leaf, mesh, ("fsdp",)) if rule == "fsdp" else replicated(mesh)
    return jax.tree.map(place, tree, places)


# Where arrays of aux lie, after what the method says: teachers like parameters, one row a sample spread out, the rest on every device.
AUX_PLACES = ((r"^(teacher|frozen)/", "slices"), (r"^bank/", "rows"), (r"", "whole"))


def kinds(aux: Any, places: tuple = ()) -> Any:
    """For every array of aux its kind of place, "slices", "rows" or "whole"; `places` (regex, kind) come before `AUX_PLACES`."""
    return named.rules(aux, (*places, *AUX_PLACES), unused_ok=True, what="place of aux")


def auxiliary(aux: Any, mesh: Mesh, places: tuple = ()) -> Any:
    """A NamedSharding for every array of aux by its kind. Rows that the devices cannot share equally, such as a bank's 1,024 on six of them, lie on each."""
    slices = update_slices(aux, mesh)

    def place(leaf, kind, sliced):
        rows = batch(mesh) if kind == "rows" and leaf.shape[0] % mesh.size == 0 else replicated(mesh)
        return {"slices": sliced, "rows": rows, "whole": replicated(mesh)}[kind]
    return jax.tree.map(place, aux, kinds(aux, places), slices)


def update_slices(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every gradient, optimizer slot and updated parameter: its largest divisible axis over groups of at most `GROUP` neighbours. Weights of classes lie as the
    loss uses them, each device's own and nowhere else: of ten million classes a sixteenth would be more than all the rest of a network.

    Finer slices save little memory, and XLA for TPUs gathers slices of a few rows by writing them into zeros and summing (v5e:16x16: 1.5 GB moved a step).
    """
    group = next(n for n in range(min(GROUP, mesh.size), 0, -1) if mesh.size % n == 0)
    groups, axes = mesh, AXES                               # one mesh in the whole program, which cuDNN's attention asks for
    if group < mesh.size:
        groups, axes = Mesh(mesh.devices.reshape(-1, group), ("replica", "slice"), axis_types=(AxisType.Auto,) * 2), ("slice",)
    places = named.rules(tree, ((r"(^|/)classes/weights$", "rows"), (r"", "slices")), unused_ok=True, what="slicing rule")

    def place(leaf, kind):
        rows = kind == "rows" and leaf.shape[0] % mesh.size == 0 and leaf.size >= SMALLEST_SPLIT
        return batch(mesh) if rows else _split(leaf, groups, axes)
    return jax.tree.map(place, tree, places)


def _split(leaf, mesh, axes):
    count = int(np.prod([mesh.shape[a] for a in axes]))
    if count > 1 and leaf.size >= SMALLEST_SPLIT:
        for axis in np.argsort(leaf.shape)[::-1]:
            if leaf.shape[axis] % count == 0:
                return NamedSharding(mesh, PartitionSpec(*[None] * int(axis), axes))
    return replicated(mesh)


def share(mesh: Mesh) -> tuple[int, int]:
    """This process's place among those whose devices make up `mesh`, and how many they are."""
    owners = sorted({device.process_index for device in mesh.devices.flat})
    return owners.index(jax.process_index()), len(owners)


def put(tree: Any, sharding: Any) -> Any:
    """Host arrays to global device arrays. With a batch sharding, each process gives its own rows; otherwise every process gives the whole."""
    if all(place.is_fully_addressable for place in jax.tree.leaves(sharding)):
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x, s: jax.make_array_from_process_local_data(s, x), tree, _broadcast(sharding, tree))


def _broadcast(sharding, tree):
    return jax.tree.map(lambda _: sharding, tree) if isinstance(sharding, NamedSharding) else sharding
