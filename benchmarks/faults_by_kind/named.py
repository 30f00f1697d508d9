"""What things are called, and where: names that act, places that are none, the folder of the user."""
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from faults_by_kind.tools import DIGITS, ROOT, Fault, begins, called, environment, harmless, kind, picture


@kind
def names(folder: Path) -> Iterator[Fault]:
    """Names that would act on a terminal or break a line: shown harmless wherever they come out."""
    from jaxssl.data import __main__ as data
    evil = {"an escape": "\x1b[2J\x1b[31mred", "a new line": "cat\nerror: all is lost", "a carriage return": "cat\rdog", "a bell and a backspace": "c\a\b\bt",
            "C1 codes": "c\x9b31mt",
            "a direction override": "c\u202etac", "bytes that are no text": os.fsdecode(b"c\xff\xfet"), "line separators": "c\u2028t\u2029", "a title": "\x1b]0;owned\x07c",
            "markup": "<script>&\"'"}
    for number, (what, name) in enumerate(evil.items()):
        root = folder / f"s{number}"
        for label in (name, "other"):
            for image in range(8):
                picture(root / label / f"{name}{image}.png")
        (root / name / f"broken{name}.png").write_bytes(b"no image")
        yield Fault(f"a class and files named with {what}: inspect", harmless(called, data.main, ["inspect", str(root), "--out", str(folder / f"{number}.png")]), works=True)
        yield Fault(f"a class and files named with {what}: a run of one broken in seventeen", harmless(begins(
            "--config.data.source=folder", f"--config.data.path={root}", "--config.batch_size=8", "--config.data.variant=cluttered", "--config.data.max_broken=0.5")), works=True)
        yield Fault(f"a workdir named with {what}", harmless(begins("--config.seed=-1", workdir=str(folder / name))))
        yield Fault(f"a config file named with {what}", harmless(begins(config=str(folder / f"{name}.py"))))
        yield Fault(f"a set named with {what}", harmless(begins("--config.data.source=folder", f"--config.data.path={folder / name}", "--config.data.variant=cluttered")))
        yield Fault(f"an option named with {what}", harmless(begins(f"--config.{name}=3")))
        yield Fault(f"an argument named with {what}", harmless(begins(f"--{name.strip()}")))


@kind
def paths(folder: Path) -> Iterator[Fault]:
    """Places that are no place: for every path that a command takes."""
    from jaxssl import convert, evaluate, export, table
    from jaxssl.data import __main__ as data
    from jaxssl.report import __main__ as report
    odd = {"a pipe": folder / "pipe", "a device": Path("/dev/full"), "a file": folder / "file", "below a file": folder / "file" / "x", "a link to itself": folder / "loop",
           "a name of 300 letters": folder / ("x" * 300),
           "a path of 5,000 letters": folder / "/".join(["x" * 99] * 50), "a zero byte": f"{folder}/a\0b", "nothing": "", "a socket": folder / "socket",
           "a link to nowhere": folder / "dangling",
           "below /proc": Path("/proc/1/x"), "a URL of an unknown kind": "ftp://host/x"}
    os.mkfifo(folder / "pipe")
    (folder / "file").write_text("text")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("gone/away")
    import socket
    with socket.socket(socket.AF_UNIX) as one, contextlib.chdir(folder):
        one.bind("socket")
    for what, place in odd.items():
        place = str(place)
        yield Fault(f"--workdir is {what}", begins(workdir=place, claims=True), works=None if what == "a link to nowhere" else False)
        for source in ("folder", "zip", "tfds", "array_record"):
            yield Fault(f"data.path ({source}) is {what}", begins(f"--config.data.source={source}", f"--config.data.path={place}", "--config.data.variant=cluttered"))
        yield Fault(f"init_from is {what}", begins(f"--config.init_from={place}") if place else begins("--config.init_allow_missing=x"))
        yield Fault(f"evaluate --workdir is {what}", lambda place=place: called(evaluate.main, ["--workdir", place, "--compilation_cache=off"]))
        yield Fault(f"evaluate --weights is {what}", lambda place=place: called(evaluate.main, ["--weights", place, "--compilation_cache=off"]))
        yield Fault(f"export --workdir is {what}", lambda place=place: called(export.main, ["--workdir", place, "--format=timm", f"--out={folder}/out"]))
        yield Fault(f"export --weights is {what}", lambda place=place: called(export.main, ["--weights", place, "--format=timm", f"--out={folder}/out"]))
        yield Fault(f"convert SRC is {what}", lambda place=place: called(convert.main, [place, f"{folder}/out"]))
        yield Fault(f"report DIR is {what}", lambda place=place: called(report.main, [place]))
        yield Fault(f"table --workdir is {what}", lambda place=place: called(table.main, ["--workdir", place]))
        yield Fault(f"inspect SRC is {what}", lambda place=place: called(data.main, ["inspect", place, "--out="]))
        if what not in ("a link to nowhere", "nothing"):
            yield Fault(f"inspect --out is {what}", lambda place=place: called(data.main, ["inspect", "digits", "--limit=4", f"--out={place}"]))
            yield Fault(f"pack DST is {what}", lambda place=place: called(data.main, ["pack", "digits", place]), works=None if what == "a link to nowhere" else False)


@kind
def homes(folder: Path) -> Iterator[Fault]:
    """`~` is the user's folder wherever a path is taken."""
    from jaxssl import export, table
    from jaxssl.data import __main__ as data
    (folder / "c.py").write_text((ROOT / DIGITS).read_text())
    for label in "ab":
        for image in range(8):
            picture(folder / "images" / label / f"{image}.png", image)
    home = {"HOME": str(folder)}
    yield Fault("--config ~/c.py", begins(config="~/c.py", **home), works=True)
    yield Fault("--workdir ~/run", at_home(begins(workdir="~/run", **home), folder), works=True)
    yield Fault("data.path=~/images", begins("--config.data.source=folder", "--config.data.path=~/images", "--config.data.variant=cluttered", "--config.batch_size=8", **home),
                works=True)
    yield Fault("inspect ~/images --out ~/sheet.png", in_home(folder, lambda: called(data.main, ["inspect", "~/images", "--out=~/sheet.png"]), "sheet.png"), works=True)
    yield Fault("table --workdir ~/none names it", in_home(folder, lambda: called(table.main, ["--workdir", "~/none"]), ""))
    yield Fault("export --out ~/images exists already", in_home(folder, lambda: called(export.main, ["--workdir", "~/none", "--format=timm", "--out=~/images"]), ""))


def at_home(attempt: Callable, folder: Path) -> Callable[[], tuple[int, str]]:
    def watched():
        code, said = attempt()
        return (code, said) if not (ROOT / "~").exists() else ("WROTE ~", said)
    return watched


def in_home(folder: Path, attempt: Callable, made: str) -> Callable[[], tuple[int, str]]:
    def watched():
        with environment({"HOME": str(folder)}):
            code, said = attempt()
        return (code, said) if (folder / made).exists() and not (ROOT / "~").exists() else ("NOT AT HOME", said)
    return watched
