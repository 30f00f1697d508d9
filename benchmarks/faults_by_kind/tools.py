"""What attempts are made with, and how they are judged; a kind is a function of a file beside this one that yields faults, found by its decorator."""
import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CODES = (2, 3, 75)              # of refusals; a run that goes on ends with 0, and one that was interrupted with what shells say
SECONDS = 120                   # that an attempt in this process may take
DIGITS = "configs/digits/simclr.py"
CONFIGS = (DIGITS, "configs/digits/dino.py", "configs/digits/mae.py")
TINY = {"batch_size": "16", "total": "4", "warmup": "0", "log_every": "1", "eval_every": "0", "checkpoint_every": "2", "augment.size": "16", "data.canvas": "16",
        "data.variant": "clean",
        "model.width": "0.0625", "model.stem": "cifar", "method.hidden": "16", "method.dim": "8", "eval.reference": "50", "eval.queries": "20", "eval.raw": "false",
        "report": "false", "log.tensorboard": "true"}
KINDS: dict[str, Callable[[Path], Iterator["Fault"]]] = {}


class Fault(NamedTuple):
    """attempt() -> (exit code, what was printed). works: whether the program has to go on; None where either is right."""
    what: str
    attempt: Callable[[], tuple[int, str]]
    works: bool | None = False
    codes: tuple[int, ...] = CODES


class Reached(BaseException):
    """A run came as far as claiming its workdir: nothing was refused."""


class Hang(BaseException):
    pass


def kind(function: Callable) -> Callable:
    KINDS[function.__name__] = function
    return function


def begins(*flags: str, config: str = DIGITS, workdir: str | None = None, claims: bool = False, **env: str | None) -> Callable[[], tuple[int, str]]:
    """A run with these flags in this process, stopped before it would claim its workdir, or once it has (`claims`); -1 is its code then.

    env: variables of the environment, None takes one away.
    """
    def attempt():
        from jaxssl import main
        from jaxssl.training import train
        from jaxssl.workdir import folder

        def reached(*_, **__):
            raise Reached
        with environment(env), tempfile.TemporaryDirectory() as free, replaced(*((train, "Session") if claims else (folder, "claim")), reached):
            return called(main.main, ["--config", config, "--workdir", f"{free}/run" if workdir is None else workdir, "--compilation_cache=off", *flags])
    return attempt


def calls(function: Callable, *arguments: Any) -> Callable[[], tuple[int, str]]:
    """A function of the program, whose UserError counts as the command's sentence, since every command says it so."""
    def attempt():
        from jaxssl.command import guarded
        return called(lambda: guarded(lambda: function(*arguments), False))
    return attempt


def called(function: Callable, *arguments: Any) -> tuple[int, str]:
    """(what it returns, what it printed), within `SECONDS`; -1 where it got as far as `Reached`."""
    def late(*_):
        raise Hang
    said, before = io.StringIO(), signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = function(*arguments)
            except Reached:
                code = -1
            except SystemExit as error:
                code = error.code
            except Hang:
                code = "hang"
            except BaseException:
                traceback.print_exc()
                code = 1
        return 0 if code is None else code, said.getvalue()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def process(*command: str, seconds: float = 900, during: Callable | None = None, after: Callable | None = None, shell: str = "",
            **env: str | None) -> Callable[[], tuple[int, str]]:
    """`python -m command…` in a process of its own.

    during(process, read): what happens to it meanwhile; read(words) waits for a line that holds them. after(code, said) -> what is wrong then, or "".
    shell: a line that runs "$@", such as `"$@" >&-`.
    """
    def attempt():
        given = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env}
        call = [sys.executable, "-m", *command]
        call = ["bash", "-c", shell, "bash", *call] if shell else call
        running = subprocess.Popen(call, cwd=ROOT, env={k: v for k, v in given.items() if v is not None}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL,
                                   start_new_session=True)
        said, timer = [], threading.Timer(seconds, lambda: os.killpg(running.pid, signal.SIGKILL))
        timer.start()

        def read(words: str) -> None:
            for line in running.stdout:
                said.append(line)
                if words.encode() in line:
                    return
        if during:
            during(running, read)
        said += list(running.stdout)
        code = "hang" if running.wait() == -signal.SIGKILL and not timer.is_alive() else running.returncode
        timer.cancel()
        text = b"".join(said).decode("utf-8", "replace")
        wrong = after(code, text) if after else ""
        return (wrong or code), text
    return attempt


@contextlib.contextmanager
def environment(values: dict[str, str | None]) -> Iterator[None]:
    before = dict(os.environ)
    for name, value in values.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def judged(fault: Fault, code: Any, said: str) -> str:
    """`sentence`, `worked`, or what falls short."""
    if code == "hang":
        return "HANGS"
    if "Traceback (most recent call last)" in said or code == 1:
        return "TRACEBACK"
    if code in (0, -1):
        return "worked" if fault.works is not False else "ACCEPTED"
    if isinstance(code, str):
        return code
    if fault.works:
        return "REFUSED"
    if code in fault.codes and code not in (*CODES, 1):
        return "ended"
    if code not in fault.codes:
        return f"EXIT {code}"
    sentences = [line for line in said.splitlines() if re.match(r"(\S.*: )?error: |interrupted", line)]
    return "sentence" if len(sentences) == 1 else f"{len(sentences)} SENTENCES"


def attempted(name: str, fault: Fault) -> dict:
    start = time.monotonic()
    code, said = fault.attempt()
    outcome = judged(fault, code, said)
    lines = [line for line in said.splitlines() if line.strip()]
    words = next((line for line in lines if "error: " in line), lines[-1] if lines else "")
    row = {"kind": name, "what": fault.what, "outcome": outcome, "code": code, "said": clean(words)[:200], "seconds": round(time.monotonic() - start, 1)}
    if not outcome.islower():
        row["printed"] = clean(said)[:3000] + "\n…\n" + clean(said)[-1500:]
    return row


def clean(text: str) -> str:
    """Without places and numbers of this machine."""
    text = text.encode("utf-8", "backslashreplace").decode()
    for place, name in ((str(ROOT), "."), (sys.prefix, "PYTHON"), (str(Path.home()), "~"), (f" on {socket.gethostname()}", " on HOST")):
        text = text.replace(place, name)
    return re.sub(re.escape(tempfile.gettempdir()) + r"/[\w.-]+", "TMP", text)


def flags(values: dict[str, str]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in values.items()]


def tiny(workdir: Path | str, *more: str, config: str = DIGITS) -> list[str]:
    """The command of a run of four steps that saves after two."""
    return ["jaxssl.main", "--config", config, "--workdir", str(workdir), f"--compilation_cache={tempfile.gettempdir()}/jaxssl-faults", *flags(TINY), *more]


def harmless(attempt: Callable, *arguments: Any) -> Callable[[], tuple[int, str]]:
    """The attempt; a character that acts on a terminal in what it prints counts as a traceback does."""
    def watched():
        code, said = attempt(*arguments)
        bad = re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", said)
        told = [line for line in said.splitlines() if line.startswith("error: all is lost")]
        return ("ACTS", said) if bad or told else (code, said)
    return watched


def picture(file: Path, value: int = 90) -> None:
    from PIL import Image
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (value, 60, 30)).save(file, "PNG")
