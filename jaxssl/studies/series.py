"""One study of one config: its definition, which a folder keeps and refuses another of, its settings, and their trials over folds and seeds."""
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxssl import config as configs
from jaxssl.errors import UserError, nearest
from jaxssl.studies import settings as drawn, space, trials as runs
from jaxssl.workdir import folder as folders

FILE = "definition.json"
CASE = "case"


class Definition(NamedTuple):
    """What is studied. spec, overrides: the config. axes: what varies; search: they are searched, `most` settings at the most, by `sampler`; else all are tried.
    cases: {name: {key: text}}, settings of several keys at once, which the axis `CASE` names. folds, seeds: of each setting; () leaves the config's.
    objective: what is maximised, of `runs.OBJECTIVES`; best: of all evaluations of a run, not of its last."""
    spec: str
    overrides: Mapping[str, str]
    axes: tuple[space.Axis, ...] = ()
    search: bool = False
    most: int = 0
    sampler: str = "tpe"
    folds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    objective: str = ""
    best: bool = False
    cases: Mapping[str, Mapping[str, str]] = {}


class Series:
    """A `Definition` in a folder. storage: URL of the database of a search, "" for SQLite in the folder."""

    def __init__(self, folder: Any, definition: Definition, storage: str = ""):
        self.folder = folder
        file = configs.opened(definition.spec)
        self.config = configs.load(file, dict(definition.overrides))
        self.definition = definition = definition._replace(objective=definition.objective or ("map_at_r" if self.config.data.split == "class_disjoint" else "knn"))
        definition = self.definition = definition._replace(axes=(*([space.Axis(CASE, "values", tuple(definition.cases))] if definition.cases else []), *definition.axes))
        self._check(file)
        described = _described(definition, configs.describe(self.config))
        fresh = not (folder / FILE).exists()
        self.name = _kept(folder, described)
        self.settings = self._settings(storage, fresh)
        self._values: dict = {}

    def _settings(self, storage, fresh):
        d = self.definition
        if not d.search:
            return drawn.Grid(d.axes)
        try:
            return drawn.Search(d.axes, storage=storage or f"sqlite:///{self.folder}/study.db", name=self.name, most=d.most, sampler=d.sampler, seed=int(self.config.seed))
        except UserError:
            if fresh:                                # nothing was begun: another command may have the folder
                (self.folder / FILE).unlink(missing_ok=True)
            raise

    def _check(self, file) -> None:
        d = self.definition
        if d.objective not in runs.OBJECTIVES:
            raise UserError(f"--objective is {d.objective!r}; choose one of {', '.join(runs.OBJECTIVES)}{nearest(d.objective, runs.OBJECTIVES)}")
        own = [*(["data.fold"] if d.folds else []), *(["seed"] if d.seeds else [])]
        if both := next((key for key in own if key in d.overrides), None):
            raise UserError(f"--config.{both} is set, and the study varies it by --{'folds' if both == 'data.fold' else 'seeds'}; leave one of them out")
        if d.folds and self.config.data.split != "class_disjoint":
            raise UserError("--folds are of data.split='class_disjoint', which the config does not set; leave them out, or add --config.data.split=class_disjoint")
        listed = [] if d.search else [self.overrides(values) for values in space.grid(d.axes)]
        space.check(file, d.overrides, [axis for axis in d.axes if axis.key != CASE], listed, own)
        for fold in d.folds:
            if not 0 <= fold < 4:
                raise UserError(f"--folds names {fold}; there are 4, numbered from 0")

    def trials(self, setting: drawn.Setting) -> list[runs.Trial]:
        """One for each fold and seed, in order."""
        d, found = self.definition, []
        for fold in d.folds or (None,):
            for seed in d.seeds or (None,):
                name = "-".join([f"{setting.number:04d}", *([f"fold{fold}"] if fold is not None else []), *([f"seed{seed}"] if seed is not None else [])])
                own = {**({} if fold is None else {"data.fold": str(fold)}), **({} if seed is None else {"seed": str(seed)})}
                found.append(self.trial(name, {**self.overrides(setting.values), **own}, fold, seed))
        return found

    def overrides(self, values: Mapping[str, str]) -> dict[str, str]:
        """{key: text} of a setting, with what its case stands for."""
        return {**self.definition.cases.get(values.get(CASE, ""), {}), **{key: text for key, text in values.items() if key != CASE}}

    def trial(self, name: str, own: Mapping[str, str], fold: int | None, seed: int | None) -> runs.Trial:
        d = self.definition
        keep = {"checkpoint.keep_last": "1000", "checkpoint_every": str(self.config.eval_every)} if d.best else {}
        varied = tuple(dict.fromkeys([*(axis.key for axis in d.axes if axis.key != CASE), *(key for case in d.cases.values() for key in case)]))
        return runs.Trial(self.folder / "trials" / name, d.spec, {**runs.QUIET, **keep, **d.overrides, **own}, varied, fold, seed)

    def tasks(self) -> Iterator[runs.Trial]:
        """Trials that are not done, those of a new setting last; what is finished is told on the way."""
        for setting in self.settings.known():
            yield from (trial for trial in self.trials(setting) if not trial.done)
            self._tell(setting)
        while (setting := self.settings.ask()) is not None:
            yield from self.trials(setting)
        for setting in self.settings.known():
            self._tell(setting)

    def _tell(self, setting):
        if self.definition.search and setting.number not in self._values and (found := self.measured(setting)):
            self._values[setting.number] = float(np.mean([own.value for own in found]))
            self.settings.tell(setting, self._values[setting.number])

    def measured(self, setting: drawn.Setting) -> list[runs.Measured]:
        """Of every trial of a setting, in order; [] while one of them is not done."""
        own = self.trials(setting)
        return [runs.measured(trial, self.definition.objective, best=self.definition.best) for trial in own] if all(trial.done for trial in own) else []

    @property
    def complete(self) -> bool:
        known = self.settings.known()
        return len(known) >= (self.definition.most if self.definition.search else len(known)) and all(trial.done for setting in known for trial in self.trials(setting))

    def finished(self) -> list[tuple[drawn.Setting, list[runs.Measured]]]:
        """The settings whose trials are all done, with what they measured."""
        return [(setting, found) for setting in self.settings.known() if (found := self.measured(setting))]

    def best(self) -> tuple[drawn.Setting, list[runs.Measured]]:
        """The finished setting of the highest mean on validation images, the first of equals. Raises: UserError when none is finished."""
        finished = self.finished()
        if not finished:
            raise UserError(f"{self.folder} has no finished setting yet; the same command goes on with it")
        return max(finished, key=lambda pair: (math.fsum(own.value for own in pair[1]), -pair[0].number))


def _described(d: Definition, config: str) -> dict:
    return {"config": json.loads(config), "spec": d.spec, "axes": [axis.told for axis in d.axes], "cases": {name: dict(case) for name, case in d.cases.items()},
            "kind": d.sampler if d.search else "grid", "settings": d.most if d.search else None,
            "folds": list(d.folds), "seeds": list(d.seeds), "objective": d.objective, "of": "the best evaluation" if d.best else "the last evaluation"}


def _kept(folder: Any, described: dict) -> str:
    """Writes what the study is, and returns the name by which a database knows it; a study that goes on may ask for more settings. Raises: UserError for another one."""
    place = folder / FILE
    if (former := folders.read_json(place)) is None:
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise UserError(f"{folder} is not empty and has no {FILE}, so it is no study; choose a new folder with --workdir")
        folders.make(str(folder))
        name = f"jaxssl-{uuid.uuid4().hex}"
        mine = folder / f".{FILE}.{name}"
        folders.write(mine, json.dumps({**described, "name": name}, indent=1))
        _first(mine, place)
        former = folders.read_object(place)
    compared = [key for key in described if key not in ("config", "settings", "spec")]
    changed = [f"{key}: {_short(former.get(key))} → {_short(described[key])}" for key in compared if former.get(key) != described[key]]
    changed += configs.differences(json.dumps(former.get("config", {})), json.dumps(described["config"]))
    if changed:
        raise UserError(f"{folder} holds another study ({'; '.join(changed[:8])}{f'; and {len(changed) - 8} more' if len(changed) > 8 else ''}); give that command again, "
                        "or another --workdir")
    if described["settings"] is not None and described["settings"] > (former.get("settings") or 0):
        folders.write(place, json.dumps({**former, "settings": described["settings"]}, indent=1))
    return former["name"]


def _first(mine, place):
    """`mine` as `place`, unless another worker was faster."""
    try:
        os.link(mine, place)
    except FileExistsError:
        pass
    except OSError:                                  # a file system without hard links
        if not place.exists():
            folders.write(place, mine.read_text(encoding="utf-8"))
    finally:
        mine.unlink(missing_ok=True)


def _short(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 160 else f"{text[:160]}…"
