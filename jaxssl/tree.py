"""Trees of arrays by name: paths, ordered regex rules, exponential moving average, digest. Pure functions."""
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxssl.errors import UserError

_REQUIRED = object()


def _part(key: Any) -> str:
    """One step of a tree path: dict key, attribute name or position."""
    for field in ("key", "name", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def names(tree: Any) -> dict[str, Any]:
    """`{"a/b/c": leaf}` in the order of `jax.tree.leaves`.

    Dicts, FrozenDicts, NamedTuples, dataclass nodes and optax states alike; tuples and lists give positions ("0/trace/dense/kernel").
    Leaves may be anything (arrays, ShapeDtypeStructs, shardings). ValueError when two leaves would share a name.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {"/".join(map(_part, path)): leaf for path, leaf in flat}
    if len(named) != len(flat):
        raise ValueError("two leaves of the tree have the same path: a dict key contains '/'")
    return named


def rules(tree: Any, pairs: Sequence[tuple[str, Any]], *, default: Any = _REQUIRED, unused_ok: bool = False, what: str = "rule") -> Any:
    """A tree like `tree` whose leaves are the values of ordered rules: the first regex found in a leaf's path wins.

    `pairs`: (regex, value); `re.search`, so anchor with ^ and $ where it matters. A path that no rule covers is an error unless
    `default` is given; a rule that decides nothing (no match, or always beaten by an earlier one) is an error unless `unused_ok`.
    Both lists are collected and raised once, as UserError. `what` names the rules in that message.
    """
    try:
        compiled = [(re.compile(pattern), value) for pattern, value in pairs]
    except re.error as error:
        raise UserError(f"{what} {error.pattern!r} is not a regular expression: {error}; escape what is meant literally") from error
    used, uncovered, values = set(), [], []
    for path in names(tree):
        for i, (regex, value) in enumerate(compiled):
            if regex.search(path):
                used.add(i)
                values.append(value)
                break
        else:
            uncovered.append(path)
            values.append(default)
    faults = []
    if uncovered and default is _REQUIRED:
        faults.append(f"no {what} covers {_listed(uncovered)}; add one (a last '.*' covers the rest)")
    unused = [pattern for i, (pattern, _) in enumerate(pairs) if i not in used]
    if unused and not unused_ok:
        faults.append(f"{what} {_listed(unused)} decides no name (first match wins); names are like {_listed(list(names(tree)), 5)}")
    if faults:
        raise UserError("; ".join(faults))
    return jax.tree.unflatten(jax.tree.structure(tree), values)


def _listed(items: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(f"'{item}'" for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def ema(old: Any, new: Any, tau: Any) -> Any:
    """`tau * old + (1 - tau) * new`, leaf by leaf, computed in f32 at least, in the dtype of `old`.

    tau in [0, 1]: 1 keeps `old` and 0 takes `new`, both bit for bit; equal numbers stay as they are, so that the average of what stands still does.
    Leaves that are not floating (counters) are taken from `new`.
    """
    def mix(a, b):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return b
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return jnp.where(a == b, a, (tau * a.astype(wide) + (1 - tau) * b.astype(wide)).astype(a.dtype))
    return jax.tree.map(mix, old, new)


def finite(tree: Any) -> jax.Array:
    """bool [leaves]: which arrays hold finite numbers only, in the order of `names`."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])


def fetched(leaf: Any) -> tuple[str, np.ndarray]:
    """(dtype name, the whole array on the host), whichever devices and processes hold it."""
    if isinstance(leaf, jax.Array):
        dtype = str(leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return dtype, np.asarray(leaf)
    array = np.asarray(leaf)
    return str(array.dtype), array


def digest(tree: Any) -> str:
    """sha256 (hex) over path, dtype, shape and bytes of every array, in the order of the paths.

    Equal for equal values however the arrays are sharded. PRNG key arrays count with their implementation and their data. Where
    arrays span processes, every process must call this at the same point. One array at a time is held on the host.
    """
    total = hashlib.sha256()
    for path, leaf in sorted(names(tree).items()):
        dtype, array = fetched(leaf)
        # JSON with a newline ends the header, so no two trees can give the same stream
        total.update((json.dumps([path, dtype, list(array.shape)]) + "\n").encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return total.hexdigest()
