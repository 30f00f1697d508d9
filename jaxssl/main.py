"""`python -m jaxssl.main --config configs/<dataset>/<method>.py[:variant] --workdir DIR [--config.any.key=value …]`: train."""
import argparse
import contextlib
import os
import re

from jaxssl import config_file
from jaxssl.command import guarded, jax_can_start, place, process, split_overrides, whole
from jaxssl.errors import UserError


class Listing(argparse.Action):
    """Prints the configs and ends, whatever else is asked or missing."""

    def __init__(self, **own):
        super().__init__(**own, nargs=0)

    def __call__(self, parser, *_):
        parser.exit(guarded(lambda: print("\n".join(config_file.catalogue())), debug=False))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.main", allow_abbrev=False, description="Pre-train an image encoder. The same command with the same workdir resumes.",
                                epilog="Any key of the config: --config.optim.lr=0.5 --config.total=100_epochs. Exit codes: 0 done or stopped by SIGTERM after saving, "
                                       "2 wrong input, 3 loss, gradient or state not finite, 75 the processes did not find or lost one another (try again).")
    p.add_argument("--config", type=place, required=True, help="a config file, with :variant where it has some, for example configs/digits/simclr.py:laptop")
    p.add_argument("--workdir", type=place, required=True, help="where everything of this run goes; an existing one is resumed")
    p.add_argument("--allow_config_change", action="store_true", help="resume a workdir although the config differs from the one it was started with")
    p.add_argument("--profile_steps", default="", metavar="A:B", help="write a profiler trace of steps A to B into the workdir")
    p.add_argument("--compilation_cache", type=place, default=os.path.join("~", ".cache", "jaxssl", "xla"), metavar="DIR",
                   help="persistent compilation cache; 'off' turns it off (default: %(default)s)")
    p.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0, when several processes are started by hand")
    p.add_argument("--processes", type=whole, default=0, help="how many processes there are in all")
    p.add_argument("--process_id", type=whole, default=-1, help="which of them this is, from 0")
    p.add_argument("--join_timeout", type=whole, default=1800, metavar="SECONDS", help="how long to wait for the other processes (default: %(default)s)")
    p.add_argument("--list", action=Listing, help="print every config of configs/, with its variants and what it is, and end")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def parse_profile(text: str) -> tuple[int, int] | None:
    """`"10:20"` as (10, 20); "" as None. Raises: UserError."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise UserError(f"--profile_steps is {text[:40]!r}; write FIRST:LAST in steps, for example 10:20")
    return int(match[1]), int(match[2])


def main(argv: list[str] | None = None) -> int:
    flags, rest = parser().parse_known_args(argv)

    def body():
        if not flags.workdir:
            raise UserError("--workdir is empty; give the folder where everything of this run goes")
        overrides, profile = split_overrides(rest), parse_profile(flags.profile_steps)
        with contextlib.ExitStack() as ends:
            with jax_can_start():                                # jax is imported only once the command line is known to be sound
                from jaxssl.parallel import processes, runtime
                from jaxssl.training import train
                runtime.configure(flags.compilation_cache, processes=flags.processes)
                ends.enter_context(processes.joined(coordinator=flags.coordinator, processes=flags.processes, process_id=flags.process_id,
                                                    run=f"the run in {flags.workdir.rstrip('/')}", timeout=flags.join_timeout))
            train.run(flags.config, overrides, flags.workdir, allow_config_change=flags.allow_config_change, profile_steps=profile)

    return guarded(body, flags.debug)


if __name__ == "__main__":
    process(main)
