"""`python -m jaxssl.table --workdir DIR`: what a finished run learned, against raw pixels and the untrained encoder."""
import argparse

from jaxssl.workdir import folder as workdirs
from jaxssl.errors import UserError
from jaxssl.command import guarded, place, process

ROWS = (("raw pixels", "_raw"), ("untrained encoder", "_untrained"), ("trained encoder", ""))
COLUMNS = (("kNN", "knn"), ("linear", "linear"))


def show(workdir: str) -> None:
    """Prints the table and the workdir's name. Raises: UserError when the run has not finished."""
    from rich.console import Console
    from rich.table import Table
    run = workdirs.read_json(workdirs.path(workdir) / "run.json")
    if run is None:
        raise UserError(f"workdir {workdir} has no run.json, so its run has not finished; the command that started it goes on with it")
    table = Table("accuracy on held-out images, %", *(title for title, _ in COLUMNS))
    for label, suffix in ROWS:
        values = [run.get(key + suffix, "not run") for _, key in COLUMNS]
        table.add_row(label, *("not finite" if value is None else value if isinstance(value, str) else f"{100 * value:.1f}" for value in values))
    console = Console(markup=False, highlight=False)
    console.print(table)
    console.print(f"workdir: {workdir}", soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxssl.table", allow_abbrev=False, description="Print what a finished run learned. Exit code 2: it has not finished.")
    parser.add_argument("--workdir", type=place, required=True)
    flags = parser.parse_args(argv)
    return guarded(lambda: show(flags.workdir), debug=False)


if __name__ == "__main__":
    process(main)
