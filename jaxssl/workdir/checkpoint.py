"""Checkpoints: the only file that knows orbax.

A checkpoint is the whole train state plus a small JSON. It is written asynchronously under a temporary name and counts only once committed; an older one is
deleted only after that. The JSON is sealed with a digest of itself and holds one of every array (`digests`), which is compared whenever an array is read.
"""
import hashlib
import inspect
import itertools
import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxssl import tree
from jaxssl.errors import Temporary, UserError, listed
from jaxssl.workdir import digests
from jaxssl.workdir import folder as folders

ASIDE = "unsound"       # where in a workdir the checkpoints go that are not what was saved
_EARLIER = {"skipped", "clock"}     # all that checkpoints of earlier versions say beside their state
_PASSING = re.compile(r"UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|Too many open files|[Tt]imed out|[Oo]ut of memory")
# What several devices hold alike orbax writes in parts, one by each, and cuts these by a program for every shape: fifty compilations and a second and a half before the first
# checkpoint of a small network. Parts of less than a mebibyte are not worth it. (It has no other way to say so of its own handler; another in its place is warned of.)
ocp.type_handlers.get_type_handler(jax.Array)._min_slice_bytes_for_replica_parallel = 2**20


class Unsound(UserError):
    """A checkpoint that is not what was saved."""


class Misfit(UserError):
    """A checkpoint of another train state than the one asked for."""


class Found(NamedTuple):
    """The newest sound checkpoint, read. bad: step → sentence of the newer ones, which are not sound."""
    step: int
    state: Any
    meta: dict
    bad: dict[int, str]


class Record(NamedTuple):
    """What a checkpoint says of itself. arrays: of `digests.record`; {} in a checkpoint of an earlier version. meta: as given to `save`."""
    arrays: dict[str, dict]
    meta: dict


class Manager:
    """Saves, restores and verifies the checkpoints of one workdir; see `open_manager`."""

    def __init__(self, folder: Any, keep_last: int | None, keep_every: int, asynchronous: bool, reading: bool = False):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep_last, keep_period=keep_every or None, enable_async_checkpointing=asynchronous,
                                               create=not reading, cleanup_tmp_directories=not reading)
        self._manager = ocp.CheckpointManager(str(folder), options=options, item_names=("state", "meta"))
        self._folder = folder

    def latest(self) -> int | None:
        """The step of the newest committed checkpoint, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Of the committed checkpoints, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Starts saving; returns once the arrays are copied. A failed earlier save raises here. A step that is already saved is left alone."""
        if self.latest() != step:
            sealed = _sealed({"step": step, "meta": meta, "arrays": digests.record(state)})
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(sealed)))

    def wait(self) -> None:
        """Blocks until every save is committed; raises what a failed one raised."""
        self._manager.wait_until_finished()

    def record(self, step: int) -> Record:
        """What checkpoint `step` says of itself; no array is read. Raises: Unsound."""
        try:
            content = folders.read_object(self._folder / str(step) / "meta" / "metadata")
        except UserError as error:
            raise self._damaged(step, str(error)) from error
        if content.keys() <= _EARLIER:
            return Record({}, content)
        plain = {name: value for name, value in content.items() if name != "sha256"}
        if plain.keys() != {"step", "meta", "arrays"} or content != _sealed(plain):
            raise self._unsound(step, "is damaged: what it says of itself differs from its digest")
        if plain["step"] != step:
            raise self._unsound(step, f"is that of step {plain['step']} under another name")
        return Record(plain["arrays"], plain["meta"])

    def restore(self, step: int, shape: Any, sharding: Any) -> tuple[Any, dict]:
        """The state of `step` placed by `sharding` (any topology), and its meta; every array is what was saved. With several processes all of them call this.

        Args:
          shape, sharding: trees like the state, of ShapeDtypeStructs and of shardings.
        Raises: Unsound; Misfit when the checkpoint holds another tree or other shapes.
        """
        record = self._sound(step, lambda: self._checked(step, shape))
        return self._read(step, record, shape, sharding), record.meta

    def _read(self, step: int, record: Record, shape: Any, sharding: Any) -> Any:
        """The state of a checkpoint that says `record` of itself, every array compared with it."""
        target = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shape, sharding)
        # Not by the manager, which makes processes wait for one another: whatever one of them trips over, the others have to hear of it.
        state = self._sound(step, lambda: jax.block_until_ready(ocp.StandardCheckpointHandler().restore(self._state(step), args=ocp.args.StandardRestore(target))))
        self._compare(step, state, record.arrays)
        return state

    def newest(self, shape: Any, sharding: Any, *, total: int, run: str | None = None) -> Found | None:
        """The newest sound checkpoint, or None when there is none at all; nothing on disk is changed. With several processes all of them call this.

        run: what `meta["run"]` of this run's checkpoints is, as far as that is known.
        Raises: UserError when none of them is sound or fits, or the newest that is lies beyond step `total`.
        """
        bad: dict[int, UserError] = {}
        for step in self.steps():
            try:
                record = self._sound(step, lambda: self._checked(step, shape))
                if run and record.meta.get("run", run) != run:
                    raise self._unsound(step, "belongs to another run")
                if step > total:
                    raise UserError(f"checkpoint {step} in {self._folder} is beyond the {total} steps of this run; give a total of at least {step} steps, or another workdir")
                return Found(step, self._read(step, record, shape, sharding), record.meta, {step: str(error) for step, error in bad.items()})
            except (Unsound, Misfit) as error:
                bad[step] = error
        if bad:                                      # when one holds another state and none this one's, it is the config that is wrong
            raise next((error for error in bad.values() if isinstance(error, Misfit)), None) or UserError(
                f"no checkpoint in {self._folder} is sound: {'; '.join(str(error).partition(';')[0] for error in bad.values())}; restore one from a copy, or use another workdir")
        return None

    def weights(self, step: int) -> dict:
        """`params` and `aux` of checkpoint `step` as numpy arrays, whatever topology wrote them; the optimizer's slots are not read. Each process reads for itself.

        Raises: UserError when there is no such checkpoint; Unsound.
        """
        if step not in self.steps():
            raise UserError(f"{self._folder} has no checkpoint of step {step}; it has {', '.join(map(str, reversed(self.steps()))) or 'none'}")
        record, parts = self.record(step), ("params", "aux")
        found = self._sound(step, lambda: _partly(self._state(step), parts), tell=_alone)
        self._compare(step, found, {name: said for name, said in record.arrays.items() if name.split("/")[0] in parts}, tell=_alone)
        return found

    def verify(self, step: int, shape: Any, sharding: Any, digest: str) -> None:
        """Re-opens checkpoint `step` and compares the digest of every array, and of all. Raises: Unsound when one differs."""
        state, _ = self.restore(step, shape, sharding)
        if (found := tree.digest(state)) != digest:
            raise Unsound(f"the checkpoint of step {step} was read back with digest {found}, but the train state has {digest}; do not trust {self._folder}")

    def close(self) -> None:
        self._manager.close()

    def set_aside(self, bad: dict[int, str]) -> list[str]:
        """Moves the checkpoints `bad` out of the way, and says of each where it is kept. With several processes all call this. Raises: UserError when one cannot be
        moved."""
        said, why = [], ""
        for step, fault in bad.items() if jax.process_index() == 0 else ():
            place = next(place for n in itertools.count(1) if not (place := self._folder.parent / ASIDE / (f"{step}" if n == 1 else f"{step}-{n}")).exists())
            try:
                folders.move(self._folder / str(step), place)
            except Exception as error:               # a bucket raises its own kinds
                why = f"{fault}; and it cannot be moved to {place} ({getattr(error, 'strerror', None) or error}): move it out of {self._folder} yourself"
                break
            said.append(f"warning: {fault.partition(';')[0]}; it is kept in {place}")
        if why := next((each["why"] for each in digests.told({"why": why}) if each["why"]), ""):
            raise UserError(why)
        self._manager.reload()
        return said

    def _state(self, step: int) -> Any:
        return epath.Path(str(self._folder)) / str(step) / "state"

    def _sound(self, step: int, body: Callable[[], Any], tell: Callable = digests.told) -> Any:
        """What `body` returns. Raises: in every process what it raised in one of them, as Unsound or Misfit, or as Temporary where a later try may go well.

        tell: how processes hear of one another; `_alone` when each reads for itself.
        """
        found, fault, hook = None, None, sys.unraisablehook
        sys.unraisablehook = lambda met: _late(met) or hook(met)
        try:
            found = body()
            sys.unraisablehook = hook
        except (Unsound, Misfit, Temporary) as error:
            fault = error
        except Exception as error:                   # orbax raises whatever its parsers trip over
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)      # which would show the other arrays that cannot be read, each with a traceback
            fault = self._damaged(step, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        for each in tell({"kind": type(fault).__name__, "why": str(fault)}):
            if each["kind"] != "NoneType":
                raise {"Unsound": Unsound, "Misfit": Misfit, "Temporary": Temporary}[each["kind"]](each["why"])
        return found

    def _damaged(self, step: int, why: str) -> UserError:
        if _PASSING.search(why):
            return Temporary(f"checkpoint {step} in {self._folder} could not be read now ({why}); try again")
        told = re.split(r";|\. See full", why)[0]        # orbax goes on with the name of a method that would say more
        return self._unsound(step, f"cannot be read, it is torn or damaged ({told})")

    def _unsound(self, step: int, what: str) -> Unsound:
        others = [str(other) for other in reversed(self.steps()) if other != step]
        advice = f"choose another step (there {'is' if len(others) == 1 else 'are'} {', '.join(others)})" if others else "there is no other: restore it from a copy"
        return Unsound(f"checkpoint {step} in {self._folder} {what}; {advice}")

    def _compare(self, step: int, state: Any, recorded: dict, tell: Callable = digests.told) -> None:
        """Raises: Unsound, in every process, when an array differs from what is recorded. tell: as for `_sound`."""
        if not recorded:
            if jax.process_index() == 0:
                print(f"note: checkpoint {step} in {self._folder} is of an earlier version and has no digests, so its arrays are taken as they are", flush=True)
            return
        changed = sorted(set().union(*(each["changed"] for each in tell({"changed": digests.changed(state, recorded)}))))
        if changed:
            raise self._unsound(step, f"is not what was saved: {len(changed)} of its {len(recorded)} arrays {'differs' if len(changed) == 1 else 'differ'} from what was "
                                      f"recorded ({listed(changed, 3)})")

    def _checked(self, step: int, shape: Any) -> Record:
        """The record of a checkpoint that holds a train state of this `shape`. Raises: Unsound; Misfit."""
        record = self.record(step)
        there = {name: (tuple(said["shape"]), said["dtype"]) for name, said in record.arrays.items()} or _shapes(self._state(step))
        here = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in tree.names(shape).items()}
        faults = [f"{name} is {_said(there.get(name))} there and {_said(here.get(name))} here" for name in sorted(there | here) if there.get(name) != here.get(name)]
        if faults:
            raise Misfit(f"checkpoint {step} in {self._folder} does not fit this config's train state ({listed(faults, 3)}); use the config it was written with, or "
                         "another workdir")
        return record


def _alone(message: dict) -> list[dict]:
    return [message]


def _late(met: Any) -> bool:
    """Whether Python met what is left of reading a damaged checkpoint that orbax has given up on; it would print a traceback."""
    return inspect.iscoroutine(met.object) or isinstance(met.exc_value, RuntimeError) and "Event loop is closed" in str(met.exc_value)


def _said(array: tuple | None) -> str:
    return f"{array[1]} [{', '.join(map(str, array[0]))}]" if array else "absent"


def _sealed(content: dict) -> dict:
    """`content` with the digest of itself."""
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def _shapes(folder: Any) -> dict[str, tuple]:
    """name → (shape, dtype) of every array of the state in `folder`."""
    return {name: (tuple(array.shape), str(array.dtype)) for name, array in tree.names(_stored(folder)).items()}


def _stored(folder: Any) -> dict:
    return ocp.PyTreeCheckpointHandler().metadata(folder).tree


def _partly(folder: Any, parts: tuple[str, ...]) -> dict:
    """The named parts of the state in `folder`, as numpy arrays."""
    stored = _stored(folder)
    target = {name: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), stored[name]) for name in parts}
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    return ocp.PyTreeCheckpointHandler().restore(folder, args=ocp.args.PyTreeRestore(item=target, restore_args=arguments, partial_restore=True))


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
    """The checkpoints of `workdir` for reading alone, None when there are none: nothing is written, and a run that is saving there meanwhile is left in peace.

    Raises: UserError when something else is in their place.
    """
    folder = _folder(workdir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder of checkpoints but a file; move it away")
    return Manager(folder, None, 0, False, reading=True) if folder.is_dir() else None


def _folder(workdir: Any) -> Any:
    folder = folders.path(str(workdir)) / "checkpoints"
    return folder if "://" in str(workdir) else folder.resolve()
