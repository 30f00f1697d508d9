"""A stalled step shows its stacks; a signal asks the loop to stop."""
import faulthandler
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxssl.workdir import folder as workdirs

CAUSES = (
    "likely causes: another process died or fell behind (look at its log), storage that does not answer (data or checkpoint), "
    "data workers out of memory, or a first step that is still compiling"
)


class Watchdog:
    """Writes every Python thread's stack to stderr and to `workdir`/stall-<process>.txt when no `beat` came for `seconds`; then it keeps waiting.

    The stacks are written once per stall, at each further `seconds` there is a reminder. It never ends the run: a slow step is not a dead one.
    `seconds` 0 turns it off. Use it as a context manager.
    """

    def __init__(self, seconds: float, workdir: str, *, process_index: int = 0):
        self._seconds, self._index = seconds, process_index
        self._file = workdirs.path(str(workdir)) / f"stall-{process_index}.txt"
        self._lock, self._done = threading.Lock(), threading.Event()
        self._last, self._step, self._pauses, self._said = time.monotonic(), None, 0, 0
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True) if seconds > 0 else None

    def beat(self, step: int) -> None:
        """The loop is alive and at `step`."""
        with self._lock:
            self._last, self._step, self._said = time.monotonic(), step, 0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """No alarm in here: compiling, evaluating and saving take as long as they take."""
        with self._lock:
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                self._last, self._said = time.monotonic(), 0

    def __enter__(self) -> "Watchdog":
        if self._thread:
            self._last = time.monotonic()
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._seconds / 5)):
            with self._lock:
                silent, step = time.monotonic() - self._last, self._step
                due = not self._pauses and silent >= self._seconds * (self._said + 1)
                self._said += due
                first = self._said == 1
            if due:
                self._report(silent, step, first)

    def _report(self, silent: float, step: int | None, first: bool) -> None:
        where = "before the first step ended" if step is None else f"after step {step}"
        text = f"process {self._index}: no step for {silent:.0f} s, {where}; still waiting. {CAUSES}"
        print(text + (f". All stacks follow, and are in {self._file}" if first else ""), file=sys.stderr, flush=True)
        if first:
            stacks = _stacks()
            print(stacks, file=sys.stderr, flush=True)
            try:
                self._file.write_text(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n\n{stacks}")
            except (OSError, ImportError) as error:
                print(f"cannot write {self._file}: {error}", file=sys.stderr, flush=True)


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:  # faulthandler writes to a file descriptor only
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


class Stop:
    """True (`if stop:`) once SIGTERM or SIGINT asked for an end; a second signal ends the process at once. Use it as a context manager.

    The former handlers come back at exit. Outside the main thread, where Python allows no handlers, it stays False.
    """

    def __init__(self):
        self.signal = ""  # name of the signal that came, empty until then
        self._event, self._former = threading.Event(), {}

    def __bool__(self) -> bool:
        return self._event.is_set()

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # None: it was set from C, by jax.distributed
        self._former = {}

    def _handle(self, number: int, _frame: Any) -> None:
        self.signal = signal.Signals(number).name
        self._event.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not print: a signal may arrive inside a print, and Python's buffers refuse to be entered twice.
        os.write(2, f"{self.signal}: stopping after this step; a second signal ends at once\n".encode())
