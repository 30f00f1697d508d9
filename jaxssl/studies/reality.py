"""A reality check of losses, by the protocol of Musgrave et al. (arXiv 2003.08505): each loss is searched for on folds whose classes are disjoint, by validation images
alone; its best setting is trained again with other seeds; only then are the classes of the test looked at.

Of each run of a fold the best evaluation counts, whose checkpoint is kept. Test scores are those of the folds together: separated, the mean of their scores, and
concatenated, their features beside one another.
"""
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxssl import config as configs, data as datas
from jaxssl.errors import UserError, nearest
from jaxssl.studies import series as kinds
from jaxssl.studies import testing
from jaxssl.studies.asked import Asked, definition_of
from jaxssl.studies.trials import Trial
from jaxssl.workdir import folder as folders

SELECTED = "selected.json"


class Plan(NamedTuple):
    """reproductions: of each loss, with seeds behind the config's. losses: {name: its series}."""
    reproductions: int
    losses: dict[str, kinds.Series]


class RealityCheck:
    """See the file. folder: of the whole, with a folder for every loss."""

    def __init__(self, folder: Any, plan: Plan):
        self.folder, (self.reproductions, self.losses) = folder, plan

    def tasks(self) -> Iterator[Any]:
        """Everything that can be done now, in the order in which it should be."""
        for name, series in self.losses.items():
            yield from series.tasks()
            if not series.complete:                  # other workers are at it
                continue
            chosen = self.select(name)
            for number in range(self.reproductions):
                yield from (trial for trial in self.again(name, chosen, number) if not trial.done)
            for number in (None, *range(self.reproductions)):
                trials = self.tuned(name, chosen) if number is None else self.again(name, chosen, number)
                if all(trial.done for trial in trials):
                    yield self.test(name, number, trials)
        first = next(iter(self.losses))
        if self.losses[first].complete:
            yield testing.Baselines(self.folder / "baselines", self.tuned(first, self.select(first))[0])

    def tuned(self, name: str, chosen: dict) -> list[Trial]:
        """The trials of the search that reached the best setting, a fold each."""
        series = self.losses[name]
        return series.trials(series.settings.known()[chosen["setting"]])

    def again(self, name: str, chosen: dict, number: int) -> list[Trial]:
        """The trials of a reproduction: the best setting with another seed, a fold each."""
        series = self.losses[name]
        seed = int(series.config.seed) + 1 + number
        own = series.overrides(chosen["values"])
        return [series.trial(f"again{number:02d}-fold{fold}", {**own, "data.fold": str(fold), "seed": str(seed)}, fold, seed) for fold in series.definition.folds]

    def test(self, name: str, number: int | None, trials: Sequence[Trial]) -> testing.Test:
        series = self.losses[name]
        return testing.Test(series.folder / "tests" / ("tuned" if number is None else f"again{number:02d}"), tuple(trials), series.definition.objective, series.folder / SELECTED)

    def select(self, name: str) -> dict:
        """The best setting of a loss by its validation images, kept once chosen: no test is looked at before, and none is chosen again after. Raises: UserError."""
        series = self.losses[name]
        setting, found = series.best()
        trials = series.trials(setting)
        testing.apart(trials)
        fresh = {"setting": setting.number, "values": dict(setting.values), "validation": [own.value for own in found], "among": len(series.settings.known()),
                 "by": f"mean {series.definition.objective} of {len(found)} folds on validation classes"}
        place = series.folder / SELECTED
        if (former := folders.read_json(place)) is not None:
            if former != fresh:
                raise UserError(f"{place} says setting {former.get('setting')} of {former.get('among')} was chosen, and now it would be {fresh['setting']} of {fresh['among']}; "
                                "test images may have been looked at since, so choose another --workdir for a larger search")
            return former
        tests = series.folder / "tests"
        if tests.exists() and any(tests.iterdir()):
            raise UserError(f"{tests} holds test scores, but {place} is gone: a choice now could have been made by them; restore it from a copy, or choose another --workdir")
        folders.write(place, json.dumps(fresh, indent=1))
        return fresh


def open_(asked: Asked, table: dict) -> RealityCheck:
    """Raises: UserError."""
    reality, folder = table["reality"], folders.path(asked.workdir)
    if asked.grid or asked.search:
        raise UserError("reality_check has a search of its own for each loss; leave --grid and --search out, or write a preset of your own")
    unknown = next((name for name in asked.losses if name not in reality["losses"]), None)
    if unknown:
        raise UserError(f"--losses names {unknown!r}{nearest(unknown, reality['losses'])}; the preset has {', '.join(reality['losses'])}")
    if asked.reproductions < -1:
        raise UserError(f"--reproductions is {asked.reproductions}; it is the number of runs with other seeds, 0 or more")
    definitions = {}
    for name in asked.losses or reality["losses"]:
        own = reality["losses"][name]
        given = {**table, "set": {**table.get("set", {}), **own.get("set", {})}, "search": own["search"]}
        definition = definition_of(asked, given)._replace(best=True)
        definitions[name] = definition = definition._replace(folds=definition.folds or tuple(range(datas.disjoint.FOLDS)))
        config = configs.load(definition.spec, dict(definition.overrides))
        if config.data.split != datas.CLASS_DISJOINT:
            raise UserError("a reality check needs classes apart: give a config with data.split='class_disjoint'")
        if config.data.test_split:
            raise UserError("data.test_split is set, but a reality check validates on classes of their own and looks at the test by itself, at the end; leave it out")
    losses = {name: kinds.Series(folder / name, definition, asked.storage) for name, definition in definitions.items()}
    reproductions = reality.get("reproductions", 10) if asked.reproductions < 0 else asked.reproductions
    return RealityCheck(folder, Plan(reproductions, losses))

