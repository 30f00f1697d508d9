"""`python -m jaxssl.study --config FILE --workdir DIR --grid KEY=a,b … | --search KEY=log:1e-5:1e-1 … [--folds 0,1,2,3] [--seeds 0,1,2]`, or `--preset NAME`: runs compared.

The same command goes on where it was stopped, and more workers are started with it, on this machine or on others that share the folder. Each trial is a workdir of its own.
"""
import argparse
import os
import shlex
import sys

from jaxssl.command import guarded, jax_can_start, place, process, split_overrides, whole
from jaxssl.errors import UserError


class Listing(argparse.Action):
    """Prints the presets and ends."""

    def __init__(self, **own):
        super().__init__(**own, nargs=0)

    def __call__(self, parser, *_):
        from jaxssl.studies import presets
        parser.exit(guarded(lambda: print("\n".join(presets.listed())), debug=False))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.study", allow_abbrev=False,
                                description="Compare settings of a config, with intervals over folds and seeds. The same command resumes, and adds a worker.",
                                epilog="Any key of the config: --config.total=20_epochs. Exit codes: 0 done or stopped after saving, 2 wrong input, 75 a database does not answer.")
    p.add_argument("--config", type=place, default="", help="a config file, with :variant where it has some")
    p.add_argument("--preset", type=place, default="", help="a study of configs/studies by its name, or its file; flags and --config.key=value change it")
    p.add_argument("--workdir", type=place, required=True, help="where the study goes, with a workdir for every trial; an existing one is gone on with")
    p.add_argument("--grid", nargs="+", action="extend", default=[], metavar="KEY=a,b,c", help="try every combination of these values")
    p.add_argument("--search", nargs="+", action="extend", default=[], metavar="KEY=log:1e-5:1e-1",
                   help="search for the best, with Optuna: log:low:high, lin:low:high, int:low:high or values with commas")
    p.add_argument("--trials", type=whole, default=0, help="settings of a search (default: 50, as Musgrave et al., or the preset's)")
    p.add_argument("--sampler", default="", metavar="tpe|gp|random", help="of a search (default: tpe)")
    p.add_argument("--folds", default="", metavar="0,1,2,3", help="folds of a class-disjoint split that each setting is run with")
    p.add_argument("--seeds", default="", metavar="0,1,…", help="seeds that each setting is run with")
    p.add_argument("--objective", default="", help="what is maximised on validation images (default: map_at_r of class-disjoint splits, else knn)")
    p.add_argument("--best", action="store_true", help="count the best evaluation of each run, whose checkpoint is kept, instead of the last")
    p.add_argument("--storage", default="", metavar="URL", help="of a search, such as postgresql://user@host/database (default: SQLite in the workdir)")
    p.add_argument("--losses", default="", metavar="NAMES", help="of reality_check: only these, with commas")
    p.add_argument("--reproductions", type=whole, default=-1, help="of reality_check: runs of the best setting with other seeds (default: the preset's)")
    p.add_argument("--page", action="store_true", help="only write study.json and study.html of what is finished so far")
    p.add_argument("--compilation_cache", type=place, default=os.path.join("~", ".cache", "jaxssl", "xla"), metavar="DIR",
                   help="persistent, shared by all trials and workers; 'off' turns it off (default: %(default)s)")
    p.add_argument("--list", action=Listing, help="print the presets, with what each is, and end")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def numbers(text: str, flag: str) -> tuple[int, ...]:
    """`0,1,2`. Raises: UserError."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdigit() and len(part) < 10 for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"{flag} is {text[:60]!r}; write different whole numbers with commas: 0,1,2")
    return tuple(map(int, parts))


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    flags, rest = parser().parse_known_args(argv)

    def body():
        if not flags.workdir:
            raise UserError("--workdir is empty; give the folder where the study goes")
        overrides = split_overrides(rest)
        folds, seeds = numbers(flags.folds, "--folds"), numbers(flags.seeds, "--seeds")
        with jax_can_start():
            from jaxssl.parallel import runtime
            from jaxssl.studies import run
            runtime.configure(flags.compilation_cache)
        asked = run.Asked(workdir=flags.workdir, config=flags.config, preset=flags.preset, overrides=overrides, grid=tuple(flags.grid), search=tuple(flags.search),
                          trials=flags.trials, sampler=flags.sampler, folds=folds, seeds=seeds, objective=flags.objective, best=flags.best, storage=flags.storage,
                          losses=tuple(filter(None, flags.losses.split(","))), reproductions=flags.reproductions,
                          command=shlex.join(["python", "-m", "jaxssl.study", *argv]))
        run.run(asked, only_page=flags.page, log=lambda sentence: print(sentence, flush=True))

    return guarded(body, flags.debug)


if __name__ == "__main__":
    process(main)
