"""Checkpoints: the only file that knows orbax.

A checkpoint is the whole train state plus a small JSON (`meta`). It is written asynchronously under a temporary name and counts only
once committed; an older one is deleted only after that.
"""
import logging
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxssl import tree
from jaxssl.errors import UserError


class Manager:
    """Saves, restores and verifies the checkpoints of one workdir; see `open_manager`."""

    def __init__(self, folder: str, keep_last: int | None, keep_every: int, asynchronous: bool, reading: bool = False):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep_last, keep_period=keep_every or None, enable_async_checkpointing=asynchronous,
                                               create=not reading, cleanup_tmp_directories=not reading)
        self._manager = ocp.CheckpointManager(folder, options=options, item_names=("state", "meta"))
        self._folder = folder

    def latest(self) -> int | None:
        """The step of the newest committed checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Starts saving; returns once the arrays are copied. A failed earlier save raises here. A step that is already saved is left alone."""
        if self.latest() != step:
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))

    def wait(self) -> None:
        """Blocks until every save is committed; raises what a failed one raised."""
        self._manager.wait_until_finished()

    def restore(self, step: int, shape: Any, sharding: Any) -> tuple[Any, dict]:
        """The state of `step` placed by `sharding` (any topology), and its meta.

        Args:
          shape, sharding: trees like the state, of ShapeDtypeStructs and of shardings.
        Raises: UserError when the checkpoint holds another tree or other shapes.
        """
        target = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shape, sharding)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"checkpoint {step} in {self._folder} does not fit this config's train state ({str(error).splitlines()[0][:300]}); "
                            "use the config it was written with, or another workdir") from error
        return restored.state, restored.meta

    def weights(self, step: int) -> dict:
        """`params` and `aux` of checkpoint `step` as numpy arrays, whatever topology wrote them; the optimizer's slots are not read.

        Raises: UserError when there is no such checkpoint, or it is damaged.
        """
        if step not in self._manager.all_steps():
            raise UserError(f"{self._folder} has no checkpoint of step {step}; it has {', '.join(map(str, sorted(self._manager.all_steps()))) or 'none'}")
        folder, log = f"{self._folder}/{step}/state", logging.getLogger("absl")
        before = log.level
        log.setLevel(logging.ERROR)                  # orbax warns that an item of a checkpoint is not a checkpoint of its own
        try:
            return _partly(folder)
        except Exception as error:                   # orbax raises whatever its parsers trip over
            raise UserError(f"checkpoint {step} in {self._folder} cannot be read ({type(error).__name__}: {str(error)[:200]}); it is torn or damaged, choose "
                            "another step") from error
        finally:
            log.setLevel(before)

    def verify(self, step: int, shape: Any, sharding: Any, digest: str) -> None:
        """Re-opens checkpoint `step` and compares the digest of every array. Raises: RuntimeError when it differs."""
        state, _ = self.restore(step, shape, sharding)
        found = tree.digest(state)
        if found != digest:
            raise RuntimeError(f"the checkpoint of step {step} was read back with digest {found}, but the train state has {digest}; do not trust {self._folder}")

    def close(self) -> None:
        self._manager.close()


def _partly(folder: str) -> dict:
    """`params` and `aux` of the state in `folder`, as numpy arrays."""
    reader = ocp.PyTreeCheckpointer()
    stored = reader.metadata(folder).item_metadata.tree
    target = {name: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), stored[name]) for name in ("params", "aux")}
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    return reader.restore(folder, args=ocp.args.PyTreeRestore(item=target, restore_args=arguments, partial_restore=True))


def open_manager(*, workdir, keep_last=2, keep_every=0, asynchronous=True) -> Manager:
    """The checkpoints of `workdir`.

    Args:
      keep_last: how many of the newest stay (≥ 1). keep_every: steps divisible by it stay for good; 0 is off.
      asynchronous: write in the background while training goes on.
    """
    check(keep_last=keep_last, keep_every=keep_every)
    return Manager(_folder(workdir), keep_last, keep_every, asynchronous)


def check(*, keep_last: int, keep_every: int, **_: Any) -> None:
    """What `open_manager` would refuse, before a folder is made. Raises: UserError."""
    if keep_last < 1 or keep_every < 0:
        raise UserError(f"checkpoint.keep_last is {keep_last} and keep_every {keep_every}; keep_last must be at least 1, keep_every at least 0")


def open_reader(workdir: str) -> Manager | None:
    """The checkpoints of `workdir` for reading alone, None when there are none: nothing is written, and a run that is saving there meanwhile is left in peace."""
    folder = _folder(workdir)
    return Manager(folder, None, 0, False, reading=True) if epath.Path(folder).is_dir() else None


def _folder(workdir):
    return f"{workdir}/checkpoints" if "://" in str(workdir) else os.fspath(Path(workdir).resolve() / "checkpoints")
