"""What a command line asks for, and what a preset says where it is silent, as the definition of a study."""
from typing import NamedTuple

from jaxssl.errors import UserError
from jaxssl.studies import presets, series, space

TRIALS = 50      # settings of a search, as in "A metric learning reality check" (arXiv 2003.08505)


class Asked(NamedTuple):
    """What the command line asks for; see `jaxssl.study`. Empty is what a preset or the defaults say."""
    workdir: str
    config: str = ""
    preset: str = ""
    overrides: dict[str, str] = {}
    grid: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    trials: int = 0
    sampler: str = ""
    folds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    objective: str = ""
    best: bool = False
    storage: str = ""
    losses: tuple[str, ...] = ()
    reproductions: int = -1
    command: str = ""


def definition_of(asked: Asked, table: dict) -> series.Definition:
    """What flags ask for, and where they are silent, a preset. Raises: UserError."""
    config = asked.config or table.get("config", "")
    if not config:
        raise UserError("give --config FILE, the config whose keys are varied, or --preset NAME (--list names them)")
    grid, search = asked.grid or presets.axes(table.get("grid", {})), asked.search or presets.axes(table.get("search", {}))
    if asked.grid and not asked.search:
        search = ()
    if asked.search and not asked.grid:
        grid = ()
    if grid and search:
        raise UserError("--grid tries all its values and --search draws some; give one of them (values with commas may stand in --search too)")
    if not search and (asked.trials or asked.sampler or asked.storage):
        raise UserError("--trials, --sampler and --storage are of a search; add --search, or leave them out")
    if asked.trials < 0:
        raise UserError(f"--trials is {asked.trials}; it is the number of settings of a search, at least 1")
    wanting = [key for key, why in table.get("needs", {}).items() if key not in asked.overrides]
    if wanting:
        raise UserError(f"the preset {asked.preset} needs --config.{wanting[0]}={table['needs'][wanting[0]]}")
    axes = space.axes(search or grid, "--search" if search else "--grid", ranges=bool(search))
    given = {key: text for key, text in {**table.get("set", {}), **asked.overrides}.items() if key not in [axis.key for axis in axes] or key in asked.overrides}
    return series.Definition(config, given, axes, bool(search), (asked.trials or table.get("trials", TRIALS)) if search else 0, asked.sampler or table.get("sampler", "tpe"),
                             asked.folds or tuple(table.get("folds", ())), asked.seeds or tuple(table.get("seeds", ())), asked.objective or table.get("objective", ""),
                             asked.best or table.get("best", False), table.get("cases", {}))
