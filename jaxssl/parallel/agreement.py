"""What several processes must agree on before they train: all go on, or all are refused, each with one sentence."""
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxssl import config as configs
from jaxssl.errors import UserError

MOST = 16  # processes, and differences, that a message names


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
