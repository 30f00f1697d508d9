"""Hooks of pytest that end a session which stands still outside of tests, and what a lost worker leaves behind. No import of ours: `test_suite.py` plants faults under them.

Inside a test, set-up and teardown included, pytest's own `faulthandler_timeout` does it (pyproject.toml).
"""
import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
from pathlib import Path

import pytest

STDERR = pytest.StashKey[int]()
CHILD_SUBREAPER = 36        # of prctl(2)


def pytest_configure(config):
    config.stash[STDERR] = os.dup(2)        # the real one: tests' output is captured
    limit(config)                           # of collection
    if distributes(config):
        ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)    # processes that a lost worker started become children of this one


def pytest_collection_finish():
    faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    limit(session.config)                   # of the way out
    if distributes(session.config):
        for pid in children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def limit(config):
    """Ends the process in `faulthandler_timeout` seconds, with stacks, by a thread of C that needs no lock of Python's. Not where others run the tests."""
    seconds = float(config.getini("faulthandler_timeout") or 0)
    if seconds and (hasattr(config, "workerinput") or config.getoption("dist", "no") == "no"):
        faulthandler.dump_traceback_later(seconds, exit=True, file=config.stash[STDERR])


def distributes(config):
    return sys.platform == "linux" and config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")


def children():
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                yield int(folder.name)
