"""What every command line shares: overrides of the config, streams and signals of the process, and whatever went wrong as one sentence with its exit code."""
import argparse
import atexit
import contextlib
import math
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn

from jaxssl.errors import NonFiniteError, UserError, shown, system

MOST = 2 ** 31 - 1       # of a number on a command line
INTERRUPTED = 130        # as shells have it, and 128 + its number for a process that another signal ended


def split_overrides(arguments: list[str]) -> dict[str, str]:
    """`--config.a.b=value` or `--config.a.b value` arguments as {"a.b": "value"}. Raises: UserError for anything else."""
    overrides, rest = {}, list(arguments)
    while rest:
        head = rest.pop(0)
        if not head.startswith("--config."):
            raise UserError(f"unknown argument {head!r}; keys of the config are written --config.key=value, and --help lists the flags")
        name, equals, value = head.removeprefix("--config.").partition("=")
        if not re.fullmatch(r"[\w.]+", name):
            raise UserError(f"unknown argument {head[:80]!r}; keys of the config are names, and written --config.key=value")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--config.{name} has no value; write --config.{name}=value")
            value = rest.pop(0)
        overrides[name] = value
    return overrides


def place(text: str) -> str:
    """A path of the command line (`type=` of its argument): `~` is the user's folder, however the shell was given it."""
    if "\0" in text:
        raise argparse.ArgumentTypeError("a path has no zero byte")
    return os.path.expanduser(text)


def local(text: str) -> str:
    """A path of the command line where something is written that must lie on a disk."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is a URL, and this is written to a disk; give a path, and copy what is there afterwards")
    return place(text)


def whole(text: str) -> int:
    """A whole number of the command line."""
    if not re.fullmatch(r"-?[0-9]{1,10}", text) or abs(int(text)) > MOST:
        raise argparse.ArgumentTypeError(f"{shown(text[:40])!r} is no whole number of at most {MOST:,}")
    return int(text)


def number(text: str) -> float:
    """A finite number of the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= MOST:
        raise argparse.ArgumentTypeError(f"{shown(text[:40])!r} is no number of at most {MOST:,}")
    return value


def guarded(body: Callable[[], Any], debug: bool) -> int:
    """Runs `body()`; a user's mistake, or what the system refused wherever it did, becomes one sentence on stderr and its exit code.

    Anything else is a fault of ours, and is raised.
    """
    try:
        body()
        return 0
    except KeyboardInterrupt as asked:
        print(shown(str(asked) or "interrupted"), file=sys.stderr, flush=True)
        return INTERRUPTED
    except Exception as error:
        refusal = error if isinstance(error, UserError | NonFiniteError) else system(error) or _not_started(error)
        if refusal is None:
            raise
        if debug:
            traceback.print_exc()
        print("\n".join(map(shown, f"error: {refusal}".split("\n"))), file=sys.stderr, flush=True)
        return refusal.code


def process(main: Callable[[], int]) -> NoReturn:
    """`main()` as a process of its own: streams that do not fail, signals that let every `finally` clean up, its exit code."""
    _open_streams()
    threading.excepthook, sys.excepthook, sys.unraisablehook = _in_thread, _in_callback, _swallowed
    _count_signals()
    ends = [number for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)) if signal.getsignal(number) == signal.SIG_DFL]     # nohup has one ignored
    for number in ends:
        signal.signal(number, _end)
    code = _left(main)
    sys.stdout.flush(), sys.stderr.flush()
    for number in ends:                                          # all is done: what Python and its libraries do at their end has nothing to clean up for a signal
        signal.signal(number, lambda *_: os._exit(code if isinstance(code, int) else 1))
    if isinstance(code, int) and code > 128:
        _leave_to_a_signal(code)
    sys.exit(code)


def _leave_to_a_signal(code):
    """Ends a process that was asked to, and has cleaned up. Python's own end, and JAX's, would take apart what threads of libraries are in the middle of: seen as a
    segmentation fault in place of the exit code."""
    if jax := sys.modules.get("jax._src.api"):
        atexit.unregister(jax.clean_up)
    try:
        atexit._run_exitfuncs()                                  # temporary folders, processes of ours
    finally:
        os._exit(code)


def _left(main):
    """The exit code of `main()`. A failed process of several leaves at once, since the others may be gone or waiting for it."""
    try:
        code = main()
    except SystemExit as asked:                                  # of --help, or a signal
        code = asked.code or 0
    except Exception:
        traceback.print_exc()
        code = 1
    several = sys.modules.get("jaxssl.parallel.processes")
    if code and several:
        several.leave(code)
    return code


@contextlib.contextmanager
def jax_can_start() -> Iterator[None]:
    """Around what imports JAX or asks for its devices. Raises: UserError that shows JAX's own variables of the environment, where it does not take one of them."""
    try:
        yield
    except _UNSTARTED as error:
        raise _refused_variables(error) from error


def refused_at_import(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` of a command until it runs, for those that import JAX at their top: where JAX does not start, that sentence and exit code 2."""
    if _not_started(error):
        def again():
            raise error
        raise SystemExit(guarded(again, debug=False))
    sys.__excepthook__(kind, error, trace)


_UNSTARTED = ValueError, RuntimeError, AssertionError            # JAX raises all three, the last where a plugin is missing


def _not_started(error):
    """The sentence for what JAX raised as it read its variables or looked for its devices; None for any other error."""
    raised_in = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)][-1:]
    return _refused_variables(error) if isinstance(error, _UNSTARTED) and raised_in in (["jax._src.config"], ["jax._src.xla_bridge"]) else None


def _refused_variables(error):
    given = ", ".join(f"{name}={value!r}" for name, value in sorted(os.environ.items()) if name.startswith(("JAX_", "XLA_", "CUDA_VISIBLE", "TPU_"))) or "none"
    return UserError(f"jax does not start ({' '.join(str(error).split())[:300] or 'no such platform is installed'}); mend or unset what it reads of the environment: {given}")


class Steady:
    """A standard stream whose reader may go away or whose disk may be full: what it no longer takes is dropped, what it cannot spell is escaped, and nothing is raised."""

    def __init__(self, stream: Any):
        self._stream = stream
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")        # names of files need not be text, and a terminal of ASCII knows no ×

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, action: Callable, *arguments: Any) -> None:
        try:
            action(*arguments)
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):       # its buffer still holds what was refused, and would be refused again at the end of the process
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


def _open_streams() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:                                          # closed by whoever started this: the next file opened would get its number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name) or open(number, "w", encoding="utf-8", closefd=False)
        setattr(sys, name, Steady(stream))


def _count_signals() -> None:
    """Ends the process at the third Ctrl-C or the second SIGTERM, also where the main thread is deep in a compiler and its handlers wait."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)     # gets the number of every signal, whatever the main thread does
    enough = {signal.SIGINT: 3, signal.SIGTERM: 2}

    def watch():
        came = b""
        while True:
            came += os.read(reading, 64)
            for number, most in enough.items():
                if came.count(bytes([number])) >= most:
                    os._exit(128 + number)
    threading.Thread(target=watch, name="signals", daemon=True).start()


def _end(number: int, _frame: Any) -> NoReturn:
    os.write(2, f"{signal.Signals(number).name}: ended; what was not finished is not there\n".encode())
    raise SystemExit(128 + number)


def _swallowed(met: Any) -> None:
    """`sys.unraisablehook`: what was raised where nobody can catch it, in a finaliser or in a library's callback (TensorStore's, for one, once its loop is closed over an
    error that is told anyway). A signal that came then is raised again right after, what its handler raised being lost; anything else is a line, not a stack."""
    if not isinstance(met.exc_value, SystemExit | KeyboardInterrupt) or not hasattr(signal, "setitimer"):
        return _dropped(met.exc_type, met.exc_value)
    asked = type(met.exc_value)(*met.exc_value.args)

    def again(*_):
        raise asked
    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def _in_callback(kind: type, error: BaseException, trace: Any) -> None:
    """`sys.excepthook`: a callback that C++ makes, in any thread, is a line, as in `_swallowed`. What ends the process came through its module, and is shown whole."""
    if trace is None or trace.tb_frame.f_code.co_name == "<module>":
        sys.__excepthook__(kind, error, trace)
    else:
        _dropped(kind, error)


def _dropped(kind, error):
    """Says once that a callback failed. From several threads at once, so the line goes out in one piece."""
    said = f"warning: a library's callback failed ({kind.__name__}: {shown(str(error))[:200]})"
    with _SAYING:
        if said in _SAID:
            return
        _SAID.add(said)
    print(said + "\n", end="", file=sys.stderr, flush=True)


_SAID: set[str] = set()
_SAYING = threading.RLock()      # a finaliser may run in the middle


def _in_thread(failed: Any) -> None:
    """A thread of a library (a writer, an uploader) that the system refused something says so in one sentence; the run hears of it where it next asks."""
    refusal = system(failed.exc_value) if isinstance(failed.exc_value, Exception) else None
    if refusal is None:
        threading.__excepthook__(failed)
    else:
        print(f"warning: {shown(str(refusal))}", file=sys.stderr, flush=True)
