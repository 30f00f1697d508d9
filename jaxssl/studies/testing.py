"""The only part of a study that sees test images: the scores of runs whose setting was chosen, and said to be, before."""
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxssl.errors import UserError, listed
from jaxssl.studies import trials as kinds
from jaxssl.workdir import folder as folders, lease

MEASURES = ("precision@1", "R-precision", "MAP@R")
FILE = "test.json"


class Test(NamedTuple):
    """The test scores of one training of all folds. folder: where they go. selected: the file that says what was chosen, which must be there before."""
    folder: Any
    trials: tuple[kinds.Trial, ...]
    objective: str
    selected: Any

    @property
    def done(self) -> bool:
        return (self.folder / FILE).exists()

    def run(self) -> dict:
        """Raises: UserError."""
        if not self.selected.exists():
            raise UserError(f"{self.selected} is not there, so nothing was chosen yet, and no test image is looked at before")
        apart(self.trials)
        found = [kinds.measured(trial, self.objective, best=True) for trial in self.trials]
        if failed := [trial.folder.name for trial, own in zip(self.trials, found) if own.step is None]:
            scores = {how: dict.fromkeys(MEASURES, 0.) for how in ("separated", "concatenated")}      # as in the search
            return _keep(self.folder, {"scores": scores, "failed": failed, "validation": [own.value for own in found]})
        return _keep(self.folder, lambda: {"scores": together([(str(trial.folder), own.step) for trial, own in zip(self.trials, found)]),
                                           "workdirs": [trial.folder.name for trial in self.trials], "steps": [own.step for own in found],
                                           "validation": [own.value for own in found]})


class Baselines(NamedTuple):
    """The same test scores of the untrained network, and of the weights that the runs began with, where they began with some."""
    folder: Any
    trial: kinds.Trial

    @property
    def done(self) -> bool:
        return (self.folder / FILE).exists()

    def run(self) -> dict:
        return _keep(self.folder, lambda: {"scores": alone(str(self.trial.folder))})


def _keep(folder, found):
    own = lease.take(str(folder))
    try:
        if not (folder / FILE).exists():             # another worker, a moment ago
            found = found() if callable(found) else found
            folders.write(folder / FILE, json.dumps({**found, "time": time.strftime("%Y-%m-%d %H:%M:%S %z")}, indent=1))
        found = folders.read_object(folder / FILE)
    finally:
        own.release()
    return {"test MAP@R": found["scores"].get("concatenated", {}).get("MAP@R")}


def apart(trials: Sequence[kinds.Trial]) -> None:
    """Raises: UserError where a class of the test was trained on or validated on in one of the runs, a run was validated on test images, or their tests differ."""
    tested = None
    for trial in trials:
        split = folders.read_object(trial.folder / "split.json")
        train, val, test = (set(split.get(part, ())) for part in ("train", "val", "test"))
        if not test or "test" in split.get("images", {}):
            raise UserError(f"{trial.folder} was validated on the classes of the test, or keeps none for it; move it away, and the same command trains it again")
        for what, names in (("trained on", train), ("validated on", val)):
            if shared := sorted(names & test):
                raise UserError(f"{trial.folder}: {len(shared)} classes of the test were {what} ({listed(shared)}), so its scores would mean nothing; move the study away, "
                                "and mend data.val_classes and data.test_classes")
        if shared := sorted(train & val):
            raise UserError(f"{trial.folder}: {len(shared)} classes were trained on and validated on ({listed(shared)}); move the study away, and mend data.val_classes")
        if tested not in (None, test):
            raise UserError(f"{trial.folder} keeps other classes for the test than the other folds; they must be the same")
        tested = test


def together(runs: Sequence[tuple[str, int]]) -> dict:
    """{"separated", "concatenated": {measure: value}} on test images, of runs (workdir, step), a fold each."""
    from jaxssl.evaluation import ensemble
    subjects = [subject for path, step in runs for subject in _subjects(path, step)]
    if len(subjects) == 1:
        raise UserError("test scores of folds need two folds or more")
    found: dict = {"separated": {}, "concatenated": {}}
    for row in ensemble.rows(subjects, {"recall": (1,)}):
        if row.metric in MEASURES:
            found[row.variant.partition(",")[0]][row.metric] = row.value
    return found


def alone(path: str) -> dict:
    """{"untrained", "pretrained": {measure: value}} on test images, of the network of a run."""
    from jaxssl.evaluation.protocols import retrieval
    subject, = _subjects(path, None)
    beside = ("untrained", *(["pretrained"] if subject.encoder.config.get("init_from") else []))
    found: dict = {which: {} for which in beside}
    for row in retrieval.run(subject.contexts[0], recall=(1,), clusters=False, beside=beside):
        which = row.variant.rpartition(", ")[2]
        if which in found and row.metric in MEASURES:
            found[which][row.metric] = row.value
    return found


def _subjects(path, step):
    from jaxssl.evaluation import subjects
    from jaxssl.evaluation.request import Request
    return subjects.load(Request(workdirs=(path,), step=step, protocols=("retrieval",), data_keys={"test_split": "test"}), log=lambda sentence: None)
