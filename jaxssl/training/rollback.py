"""What becomes of a step whose loss, gradient or new state is not finite: it is written down, and the run stops, or goes back and leaves its batch out."""
import json
from typing import Any

from jaxssl.errors import NonFiniteError, UserError
from jaxssl.workdir import folder as folders

FILE = "rollbacks.json"


def known(folder: Any) -> dict:
    """What rollbacks.json of a workdir says: {"count": how many there were, "skipped": numbers of the batches left out}. Raises: UserError."""
    found = folders.read_json(folder / FILE)
    if found is None:
        return {"count": 0, "skipped": []}
    skipped = found.get("skipped")
    if not (isinstance(found.get("count"), int) and isinstance(skipped, list) and all(isinstance(number, int) and number >= 0 for number in skipped)):
        raise UserError(f"{folder / FILE} does not say how often this run went back and what it left out; restore it from a copy")
    return found


class Rollbacks:
    """Those of the whole run, earlier lives included: checkpoints do not know the newest. allowed: how many there may be. leader: whether this process writes."""

    def __init__(self, folder: Any, allowed: int, leader: bool):
        self._folder, self._allowed, self._leader, self._known = folder, allowed, leader, known(folder)

    @property
    def skipped(self) -> list[int]:
        """Numbers of the batches left out."""
        return self._known["skipped"]

    def met(self, step: int, batch: int, metrics: dict[str, float], overflown: list[str], samples: dict[str, list]) -> str:
        """Writes down step `step` with the samples of its batch, and says what happened. overflown: arrays of the state that are not finite; none where loss or gradient is not."""
        file = self._folder / f"nonfinite_step_{step}.json"
        if self._leader:
            folders.write(file, json.dumps({"step": step, "batch": batch, "metrics": {k: str(v) for k, v in metrics.items()}, "overflown": overflown, **samples}, indent=1))
        named = ", ".join(overflown[:3]) + (", …" if len(overflown) > 3 else "")
        which = f"of the train state {len(overflown)} arrays are not finite ({named}) after" if overflown else "loss or gradient is not finite at"
        return f"{which} step {step} (loss {metrics['loss']}, gradient norm {metrics['grad_norm']}); its batch is listed in {file}"

    def spend(self, what: str, latest: int | None, skipped: list[int]) -> str:
        """Counts one more, which leaves out `skipped` in all, and says so. what: of `met`; latest: step of the newest checkpoint. Raises: NonFiniteError when all are spent."""
        if self._known["count"] >= self._allowed:
            spent = f"all {self._allowed} rollbacks of this run are spent; " if self._allowed else ""
            raise NonFiniteError(f"{what}; {spent}the last checkpoint ({'none yet' if latest is None else f'step {latest}'}) is finite and untouched. "
                                 "Lower optim.lr, lengthen warmup, set optim.clip, or use --config.on_nonfinite=rollback:3")
        self._known = {"count": self._known["count"] + 1, "skipped": sorted(skipped)}
        if self._leader:
            folders.write(self._folder / FILE, json.dumps(self._known))
        return f"warning: {what}; going back to step {latest or 0} and leaving that batch out ({self._allowed - self._known['count']} more rollbacks allowed)"
