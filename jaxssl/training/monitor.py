"""What the encoder can do while it trains: scores before the first step, in between and at the end. A stop is honoured between two batches or two linear fits."""
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.workdir import folder as folders
from jaxssl.parallel import mesh as sharding
from jaxssl.errors import Interrupted
from jaxssl.evaluation.measures import collapse, signs


FILE = "evaluations/untrained.json"


def known(folder: Any) -> dict[str, float | None]:
    """What an earlier life of the run in `folder` found; {} where that is not there or torn: a fresh state is a pure function of the seed. Raises: UserError."""
    try:
        found = folders.read_json(folder / FILE) or {}
    except folders.Torn:
        return {}
    return found if all(value is None or isinstance(value, float | int) for value in found.values()) else {}


def warnings(metrics: dict[str, float], scores: dict[str, float], job: Any) -> list[str]:
    """A sentence for each sign of collapse, of embeddings and of the method's own in a step's metrics, and of features in an evaluation's scores."""
    width = job.embedding()
    found = collapse.warnings({k: v for k, v in metrics.items() if k.startswith("collapse")}, width) if width else []
    found += signs.warnings(metrics, width, job.seen["views"].shape[0])
    return found + collapse.warnings({"rankme": scores["rankme"]}, job.width)


class Monitor:
    """Evaluations of one run.

    evaluator: an `evaluation.Evaluator`. embed(state, batch) -> [B, D]. mesh: of the run. folder: the workdir. stop: true once this process was asked to stop.
    Every method that evaluates raises Interrupted after that, on all processes at the same batch or fit.
    """

    def __init__(self, evaluator: Any, embed: Callable, mesh: Any, folder: Any, stop: Any):
        self._evaluator, self._embed, self._mesh, self._stop = evaluator, embed, mesh, stop
        self._file = folder / FILE
        self._agree = jax.jit(jnp.max, out_shardings=sharding.replicated(mesh))
        self._asked = None                           # the flag of the batch before, still on the device
        self._before = known(folder)
        self._norms: list[float] = []                # of the gradients of the newest steps of this life of the run

    def saw(self, steps: list[dict]) -> None:
        """Remembers the gradient norms of steps, one after another."""
        self._norms = [*self._norms, *(float(metrics["grad_norm"]) for metrics in steps)][-signs.WINDOW:]

    def warnings(self, metrics: dict[str, float], scores: dict[str, float], job: Any) -> list[str]:
        """`warnings` of the newest step's metrics and an evaluation's scores, and of leaps of the gradient norm on the way there."""
        return warnings({**metrics, "gradient_spikes": signs.spikes(self._norms)}, scores, job)

    def untrained(self) -> dict[str, float | None]:
        """What `first` found, in this life of the run or an earlier one, None where that is no number; empty before that."""
        return self._before

    def quick(self, state: Any) -> dict[str, float]:
        return self._evaluator.quick(self._polled(state))

    def final(self, state: Any) -> dict[str, float]:
        return self._evaluator.final(self._polled(state), self._poll)

    def first(self, fresh: Any, start: Any = None) -> dict[str, float]:
        """Scores of the untrained encoder (state `fresh`), of the pixels, and of the weights it began with (state `start`) where they are others; kept in a file."""
        found = {f"{name}_untrained": value for name, value in self.final(fresh).items()}
        self._poll()
        found |= self._evaluator.raw(self._poll)
        if start is not None:
            found |= {f"{name}_start": value for name, value in self.final(start).items()}
        self._before = folders.nulled(found)
        if jax.process_index() == 0:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            folders.write(self._file, json.dumps(self._before, indent=1))
        return found

    def _polled(self, state):
        def embed(batch):
            self._poll()
            return self._embed(state, batch)
        return embed

    def _poll(self):
        """Raises Interrupted when a process was asked to stop. Of several, all read what they agreed on a batch ago: nobody waits for the newest batch."""
        if jax.process_count() == 1:
            asked = bool(self._stop)
        else:
            flags = np.full(jax.local_device_count(), bool(self._stop), np.int32)
            before, self._asked = self._asked, self._agree(sharding.put(flags, sharding.batch(self._mesh)))
            asked = before is not None and bool(before)
        if asked:
            self._asked = None
            raise Interrupted
