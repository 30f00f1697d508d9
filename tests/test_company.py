"""A process that is lost is named by every survivor in one sentence, and none waits for it."""
import contextlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from jaxssl.errors import UserError
from jaxssl.parallel import processes
from jaxssl.parallel.company import Company
from jaxssl.parallel.rollcall import Peer
from tests.tiny import ROOT

FAST = dict(beat=0.05, silent=0.6, grace=0.3)


class Host:
    """A process as the others see it: its company, and the sentence it ended with."""

    def __init__(self, lines):
        self.lines, self.ended, self.over = lines, [], threading.Event()
        self.company = Company({number: Peer(line, f"host{number}") for number, line in lines.items()}, self.end, **FAST)

    def end(self, sentence):
        self.ended.append(sentence)
        self.vanish()
        self.over.set()

    def vanish(self):
        for line in self.lines.values():
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def sentence(self):
        assert self.over.wait(5)
        return self.ended[0]


def star(count):
    """Process 0 and `count` others that are bare lines or hosts."""
    pairs = {i: socket.socketpair() for i in range(1, count + 1)}
    return {i: ours for i, (ours, _) in pairs.items()}, {i: theirs for i, (_, theirs) in pairs.items()}


def test_who_is_killed_is_named_by_all():
    ours, theirs = star(3)
    first, others = Host(ours), [Host({0: theirs[i]}) for i in (2, 3)]
    theirs[1].close()
    assert first.sentence() == "process 1 on host1 has gone: it was killed, or its machine was; look at its log; the same command goes on from the last checkpoint"
    assert [other.sentence() for other in others] == [first.sentence()] * 2


def test_silence_is_a_loss_and_a_word_now_and_then_is_none():
    ours, theirs = star(1)
    first, began = Host(ours), time.monotonic()
    while time.monotonic() - began < 1.0:
        theirs[1].sendall(b"here\n")
        time.sleep(0.1)
    assert not first.ended
    assert "nothing was heard from process 1 on host1 for 0.6 s: the network is cut" in first.sentence()


def test_process_0_is_missed_as_well():
    ours, theirs = star(1)
    other = Host({0: theirs[1]})
    ours[1].close()
    assert other.sentence().startswith("process 0 on host0 has gone")


@pytest.mark.parametrize("noise", [b"\xff\xfe\x00\n", b"here\nhere\nnonsense\n", b"failed\n\n", b"x" * 50_000], ids=["bytes", "words", "failed", "flood"])
def test_noise_on_a_line_raises_nothing(noise):
    ours, theirs = star(1)
    first = Host(ours)
    theirs[1].sendall(noise)
    theirs[1].close()
    assert "process 1 on host1" in first.sentence()


def test_those_who_part_are_not_missed():
    ours, theirs = star(2)
    first, others = Host(ours), [Host({0: theirs[i]}) for i in (1, 2)]
    hosts = (others[0], first, others[1])
    for each in hosts:
        each.company.part()
        time.sleep(0.3)
    for each in hosts:
        each.company.wait()         # returns, since all have parted
    assert not first.ended + others[0].ended + others[1].ended


def test_an_error_of_ones_own_reaches_those_who_wait():
    ours, theirs = star(2)
    first, second = Host(ours), Host({0: theirs[2]})
    failing = Host({0: theirs[1]})
    failing.company.part("disk \x1b[31mfull")
    failing.vanish()
    assert r"process 1 on host1 ended with an error (disk \x1b[31mfull); the same command" in first.sentence()
    assert second.sentence() == first.sentence()


@pytest.mark.parametrize("company", [True, False], ids=["company knows", "nobody knows"])
def test_an_abort_by_a_library_is_a_sentence(company):
    code = "import ctypes, threading\nfrom jaxssl.parallel import processes\nprocesses.speak_before_abort()\n"
    code += "threading.Timer(.3, processes._lost, ('process 0 has gone',)).start()\n" if company else ""
    done = subprocess.run([sys.executable, "-c", code + "ctypes.CDLL(None).abort()"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 75 and done.stderr.startswith("error: process 0 has gone" if company else "error: a library aborted this process"), done.stderr


class Told:
    def __init__(self):
        self.said = []

    def part(self, why=""):
        self.said.append(why)

    def wait(self):
        self.said.append("waits")


@pytest.mark.parametrize("error, said", [
    (None, [""]), (UserError("no such file"), ["no such file"]), (ValueError("of our own\nmore"), ["ValueError: of our own"]),
    (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), ["waits", "ValueError: UNKNOWN: Gloo AllGather failed: Connection reset by peer"]),
    (KeyboardInterrupt(), ["KeyboardInterrupt: "]), (SystemExit(143), ["SystemExit: 143"])])
def test_the_others_get_a_word_however_a_run_ends(monkeypatch, error, said):
    """And an error that a lost neighbour may have caused waits for the news of it."""
    told = Told()
    monkeypatch.setattr(processes, "_join", lambda **how: ("place", told))
    try:
        with processes.joined() as place:
            assert place == "place"
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    assert told.said == said
