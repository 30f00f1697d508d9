"""A worker: takes what is to be done, one thing after another, and leaves alone what another worker has. Each is started with the same command."""
import gc
import time
from collections.abc import Callable, Iterable
from typing import Any

from jaxssl.errors import UserError
from jaxssl.studies.trials import Stopped
from jaxssl.workdir import lease

POLL = 5.0      # seconds between two looks at what others do


def until_done(tasks: Callable[[], Iterable[Any]], log: Callable[[str], None], most: int = 0) -> int:
    """Works on `tasks()`, whose members have a `folder`, `done` and `run()`, until there are none that are not done; returns how many were done here.

    A task that another process works on is left to it, and taken up if that process dies: at once on the same machine, after a minute from another.
    most: stop after so many; 0 is all. Raises: Stopped, when a task was asked to stop; UserError.
    """
    count, waited = 0, False
    while True:
        busy = ran = False
        for task in tasks():
            if task.done:
                continue
            if lease.owner(str(task.folder)):
                busy = True
                continue
            began = time.monotonic()
            try:
                found = task.run()
            except lease.InUse:
                busy = True
                continue
            except Stopped:
                raise
            except UserError as error:
                raise type(error)(f"{task.folder}: {error}") from error
            log(f"{task.folder.name}: {_told(found)} ({time.monotonic() - began:.0f} s)")
            count, ran, waited = count + 1, True, False
            if count == 1:
                gc.freeze()                          # what the first task imported and traced stays: each end of a stream of batches collects garbage, a second a trial
            break
        if most and count >= most or not (ran or busy):
            return count
        if not ran:
            if not waited:
                log("the rest is with other workers; waiting for them")
            waited = True
            time.sleep(POLL)


def _told(found):
    if "failed" in found:
        return f"failed, {found['failed']}"
    return ", ".join(f"{key} {found[key]:.4f}" for key in ("knn", "linear", "map_at_r", "test MAP@R") if isinstance(found.get(key), float)) or "done"
