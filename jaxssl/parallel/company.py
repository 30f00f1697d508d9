"""Is everybody still here? After the roll call each process keeps its line to process 0 and says "here" on it every few seconds.

Why it exists: the processes that a lost one leaves behind wait for it in a collective, for minutes or for ever, or are aborted by gloo or by JAX's
coordination service with a stack trace. Here a line that closes without a word, or is silent for `SILENT` seconds, is a lost process: process 0 tells
the others who it was, and every survivor prints that one sentence and ends with 75, since the same command goes on from the last checkpoint.

Words, one a line: "here"; "bye" before an ordinary end; "failed <why>" before an end with an error of one's own; "lost <sentence>" from process 0.
"""
import json
import selectors
import threading
import time
from collections.abc import Callable

from jaxssl.parallel.rollcall import LINE, Peer, plain

BEAT = 5.0  # seconds between two "here"
SILENT = 60.0  # seconds without a word after which a process counts as lost; JAX's own service would abort after 100
GRACE = 5.0  # seconds in which the others end by themselves once one has failed: most errors come to all of them
AGAIN = "the same command goes on from the last checkpoint"


class Company:
    """Watches the lines to `peers` (process number → its line and host) in a thread of its own. end(sentence): ends this process, from that thread."""

    def __init__(self, peers: dict[int, Peer], end: Callable[[str], None], *, beat: float = BEAT, silent: float = SILENT, grace: float = GRACE):
        self._peers, self._end, self._beat, self._silent, self._grace = dict(peers), end, beat, silent, grace
        self._lock, self._parted = threading.Lock(), False
        for peer in peers.values():
            peer.connection.settimeout(1.0)         # of a send; a word is a few bytes, and fits where nobody reads
        self._thread = threading.Thread(target=self._watch, name="company", daemon=True)
        self._thread.start()

    def part(self, why: str = "") -> None:
        """Before this process ends: its line will close, and nothing is wrong with that; why: an error of its own."""
        if not self._parted:
            self._parted = True
            self._say("failed " + json.dumps(why[:LINE // 8]) if why else "bye")

    def wait(self) -> None:
        """Until it is known whether a neighbour was lost, which ends this process; returns when none was."""
        self._thread.join(self._silent + 2 * self._beat)

    def _watch(self):
        start, data, failed, said = time.monotonic(), dict.fromkeys(self._peers, b""), {}, 0.0
        heard = dict.fromkeys(self._peers, start)       # of those who have not parted, when it was
        with selectors.DefaultSelector() as events:
            for number, peer in self._peers.items():
                events.register(peer.connection, selectors.EVENT_READ, number)
            while heard or failed or not self._parted:
                if time.monotonic() - said >= self._beat and not self._parted:
                    said = time.monotonic()
                    self._say("here")
                asleep = time.monotonic()
                ready = events.select(min(1.0, self._beat))
                now = time.monotonic()
                if now - asleep > self._silent / 2:     # this process was suspended, or its machine: what it missed is no silence of the others
                    heard = {number: max(then, now - self._silent / 2) for number, then in heard.items()}
                for key, _ in ready:
                    number, peer = key.data, self._peers[key.data]
                    part = _received(peer.connection)
                    *lines, data[number] = (data[number] + part).split(b"\n")
                    for word, _, rest in (line.decode(errors="replace").partition(" ") for line in lines):
                        if word == "lost":
                            return self._lose(_text(rest), teller=number)
                        if word == "failed":
                            failed.setdefault(number, (now, f"process {number} on {peer.host} ended with an error ({_text(rest)})"))
                        if word in ("bye", "failed"):
                            heard.pop(number, None)
                    if number in heard and (not part or len(data[number]) > LINE):
                        return self._lose(f"process {number} on {peer.host} has gone: it was killed, or its machine was; look at its log")
                    if not part:
                        events.unregister(peer.connection)
                    elif number in heard:
                        heard[number] = now
                for number, then in heard.items():
                    if now - then > self._silent:
                        return self._lose(f"nothing was heard from process {number} on {self._peers[number].host} for {self._silent:g} s: the network is cut, "
                                          "or its machine stands still")
                if late := [sentence for since, sentence in failed.values() if now - since > self._grace]:
                    return self._lose(late[0])

    def _lose(self, sentence, teller=None):
        """Tells the others, and ends this process."""
        for number, peer in self._peers.items():
            if number != teller:
                _send(peer, "lost " + json.dumps(sentence))
        self._end(sentence if sentence.endswith(AGAIN) else f"{sentence}; {AGAIN}")

    def _say(self, word):
        with self._lock:
            for peer in self._peers.values():
                _send(peer, word)


def _send(peer, word):
    try:
        peer.connection.sendall(word.encode() + b"\n")
    except OSError:
        return                                      # it has gone; reading from it will tell


def _received(connection):
    """The bytes that are there; b"" at the end of the line, however it ended."""
    try:
        return connection.recv(LINE)
    except OSError:
        return b""


def _text(quoted):
    try:
        return plain(str(json.loads(quoted)), LINE)
    except (ValueError, RecursionError):
        return plain(quoted, LINE)
