"""What several processes must agree on before they train: all go on, or all are refused, each with one sentence."""
import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxssl import config as configs
from jaxssl.errors import UserError

MOST = 16  # processes, and differences, that a message names
LATE = 10.0  # seconds after which a file that one host has written is seen by all


def reach(body: Callable[[], Any], facts: Callable[[Any], dict] = lambda found: {}) -> Any:
    """What `body()` returns, once it has returned in every process and `facts` of it (JSON) are the same everywhere. With one process it is just `body()`.

    Every process must call this equally often. Raises: UserError in all of them when `body` raised one in any, or when facts differ.
    """
    if jax.process_count() == 1:
        return body()
    found, refusal = None, None
    try:
        found = body()
    except UserError as error:
        refusal = error
    told = exchange({"refusal": str(refusal or ""), "facts": {} if refusal else facts(found)})
    problem = refusal or _problem(told)
    if problem:
        jax.distributed.shutdown()                   # all leave together: process 0 gone first would abort the others, with a stack trace
        raise problem
    return found


def from_first(found: Any) -> Any:
    """What process 0 found (JSON), in every process."""
    return found if jax.process_count() == 1 else exchange({"found": found})[0]["found"]


def shared(folder: Any, make: Callable[[], list]) -> None:
    """Returns once every process has seen a small file that process 0 wrote to `folder` (pathlib-like), which stays as it was. make() makes it where it is not there,
    and returns the folders that it made, the innermost first.

    Where process 0 cannot write, nothing is found out: who claims the folder says why. Raises: UserError in all of them when a process does not see it: a folder of
    each host's own would be noticed at the first save only, where all wait for the others' parts.
    """
    if jax.process_count() == 1:
        return
    mine, made = f".shared-{secrets.token_hex(8)}", []
    if jax.process_index() == 0:
        try:
            made = make()
            for left in folder.glob(".shared-*"):    # by a process that was killed
                left.unlink(missing_ok=True)
            (folder / mine).write_bytes(b"")
        except Exception:                            # each file system has a kind of its own
            mine = ""
    told = exchange({"file": mine, "host": socket.gethostname(), "folder": str(folder) if "://" in str(folder) else os.path.abspath(folder)})
    try:
        reach(lambda: told[0]["file"] and _seen(folder / told[0]["file"], told))
    finally:
        if mine and jax.process_index() == 0:
            (folder / mine).unlink(missing_ok=True)
            for parent in made:
                with contextlib.suppress(OSError):   # somebody has put something there meanwhile
                    parent.rmdir()


def _seen(file: Any, told: list[dict]) -> None:
    end = time.monotonic() + LATE
    while not file.exists():
        if time.monotonic() > end:
            own, first = told[jax.process_index()], told[0]
            raise UserError(f"{own['folder']} on {own['host']} is not the folder that process 0 works in ({first['folder']} on {first['host']}): a workdir must be one folder that "
                            "all hosts share (NFS, Lustre, …), or a bucket (gs://…)")
        time.sleep(0.2)


def exchange(message: dict) -> list[dict]:
    """The message of every process, in their order."""
    text = json.dumps(message).encode()
    longest = int(multihost_utils.process_allgather(np.int32(len(text))).max())
    rows = multihost_utils.process_allgather(np.frombuffer(text.ljust(longest), np.uint8))     # [processes, longest]
    return [json.loads(row.tobytes()) for row in np.asarray(rows)]


def _problem(told: list[dict]) -> UserError | None:
    """The sentence that refuses all, from what the processes told; None when there is nothing to refuse."""
    refused = [i for i, message in enumerate(told) if message["refusal"]]
    if refused:
        return UserError(f"{_names(refused)} cannot start: {told[refused[0]]['refusal']}")
    first, *others = (json.dumps(message["facts"]) for message in told)
    apart = {i: changed for i, other in enumerate(others, 1) if (changed := configs.differences(first, other))}
    if not apart:
        return None
    number, changed = next(iter(apart.items()))
    return UserError(f"{_names(list(apart))} started otherwise than process 0 (0 → {number}: {'; '.join(changed[:MOST])}{'; …' if len(changed) > MOST else ''}); "
                     "start every process with the same flags, the same version of the code and a complete copy of the same images")


def _names(numbers: list[int]) -> str:
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:MOST]))}{', …' if len(numbers) > MOST else ''}"
