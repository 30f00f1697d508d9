"""Whose workdir it is: one run trains in a workdir at a time, in a folder or in a bucket.

`.lease.json` names the owner, and only a run that begins ever writes it. The owner shows that it lives by writing another number to a file of its own every `BEAT`
seconds. Whoever finds no new number for `STALE` seconds, or the process gone from its own machine, takes the workdir over; an owner that stood still (a
suspended machine, storage that did not answer) finds another name in the lease when it wakes, and writes nothing more.
"""
import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxssl.errors import UserError
from jaxssl.workdir import folder as folders

BEAT = 5.0       # seconds between two signs of life
STALE = 60.0     # seconds without one after which a run counts as dead
DAY = 86400.0    # no clocks are so far apart that such a sign is a living run's
SETTLE = 2.0     # seconds that a bucket, which knows no exclusive creation, is given to show who wrote last
KEPT = 50        # former owners that a lease names
FILE = ".lease.json"


class InUse(UserError):
    """Another run that lives has the workdir."""


def owner(workdir: str) -> str:
    """Who works in `workdir` now, in words; "" for nobody, or for a process that died."""
    folder = folders.path(workdir)
    found = _read(folder)
    return _named(found) if found and _lives(folder, found) else ""


def take(workdir: str) -> "Lease":
    """Makes this process the owner of `workdir`, which is made where it is not there. Raises: UserError that names the owner, when another run lives there."""
    made = folders.make(workdir)
    folder = folders.path(workdir)
    with suppress(folders.Torn):                     # a torn lease is nobody's; a folder in its place is refused
        folders.read_json(folder / FILE)
    owner = _read(folder)
    if owner and _lives(folder, owner):
        raise InUse(f"workdir {workdir} is in use by {_named(owner)}; wait until that run has ended, or choose another workdir")
    try:
        return Lease(workdir, folder, made, owner)
    except OSError as error:
        raise UserError(f"cannot write in workdir {workdir} ({error.strerror or error}); make room or get the right to write there, or choose another folder") from error


class Lease:
    """This process's ownership of a workdir, from `take` to `release`."""

    def __init__(self, workdir: str, folder: Any, made: list[Path], former: dict | None):
        self._workdir, self._folder, self._made = workdir, folder, made
        self.token = uuid.uuid4().hex
        self._beats, self._sure, self._done = 0, _clock(), threading.Event()
        try:
            self._beat()
            formers = [former["token"], *_formers(former)][:KEPT] if former else []
            _write(folder, {"token": self.token, "time": time.strftime("%Y-%m-%d %H:%M:%S %z"), "formers": formers, **_here()}, former)
            if (owner := _read(folder)) is None or owner["token"] != self.token:
                raise InUse(f"workdir {workdir} is in use by {_named(owner) if owner else 'another run'}, which began at the same time; choose another workdir")
        except BaseException:
            self._clean()
            raise
        for token in formers:                        # a former owner may have been killed before it had tidied up after its own
            _unlink(folder / _pulse(token))
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Looks again whose workdir it is when this process has shown no sign of life for a while. Raises: UserError when another run took it over, or it is gone."""
        if _clock() - self._sure < STALE / 2:
            return
        try:
            owner = folders.read_json(self._folder / FILE)
            if owner is None:                        # for a moment, while another run finds out that it may not have it
                time.sleep(min(1.0, BEAT))
                owner = folders.read_json(self._folder / FILE)
        except UserError:                            # storage that does not answer now: whatever is written next says so
            return
        if owner is None:
            raise UserError(f"workdir {self._workdir} is gone, or its {FILE} is; this run stops without writing anything more")
        if owner.get("token") != self.token:
            raise UserError(f"workdir {self._workdir} was taken over by {_named(owner)} while this run stood still; it stops without writing anything more")
        self._sure = _clock()

    def release(self) -> None:
        """Gives the workdir back; folders that `take` made and nothing was written to go again."""
        self._done.set()
        self._thread.join()
        self._clean()

    def _clean(self) -> None:
        _unlink(self._folder / _pulse(self.token))
        if (owner := _read(self._folder)) and owner["token"] == self.token:
            _unlink(self._folder / FILE)
        for each in self._made:
            with suppress(OSError):
                each.rmdir()

    def _live(self) -> None:
        while not self._done.wait(BEAT):
            owner = _read(self._folder)
            if owner and owner["token"] != self.token:
                self._sure = -STALE                  # `check` looks at once
            elif owner:
                with suppress(OSError):              # a full disk: others may take it for dead, and `check` looks before each write
                    self._beat()
                    self._sure = _clock()

    def _beat(self) -> None:
        self._beats += 1
        folders.write(self._folder / _pulse(self.token), json.dumps({"beats": self._beats, "time": time.time()}))


def _lives(folder: Any, owner: dict) -> bool:
    """Whether the owner of a lease still runs. On its own machine at once; from elsewhere its signs of life are waited for."""
    mine = _here()
    if all(owner.get(key) == mine[key] for key in ("host", "boot", "space")) and _started(owner.get("pid")) != owner.get("started"):
        return False
    first = folders.readable(folder / _pulse(owner["token"]))
    if first is None:
        return False
    age = time.time() - float(first["time"]) if isinstance(first.get("time"), (int, float)) else STALE
    if abs(age) < 2 * BEAT:
        return True
    until = time.monotonic() + STALE
    if age < DAY:
        print(f"{_named(owner)} has this workdir and shows no sign of life; waiting {STALE:.0f} s for one", flush=True)
        while time.monotonic() < until:
            time.sleep(min(1.0, BEAT))
            if folders.readable(folder / _pulse(owner["token"])) not in (None, first):
                return True
    return False


def _write(folder: Any, mine: dict, former: dict | None) -> None:
    """Puts `mine` in the place of the lease `former`, or of none. Whoever loses a race leaves the other's there."""
    file, text = folder / FILE, json.dumps(mine, indent=1)
    if not isinstance(file, Path):
        folders.write(file, text)
        time.sleep(SETTLE)
        return
    own, aside = folder / f".lease-{mine['token']}", folder / f".lease-{mine['token']}.former"
    folders.write(own, text)
    try:
        if former or _read(folder) is None:
            with suppress(FileNotFoundError):
                os.rename(file, aside)               # only one can
        if (moved := _read(folder, aside.name)) and moved["token"] != (former or {}).get("token"):
            _give(aside, file)                       # another one was faster, and lives
        _give(own, file)
    finally:
        _unlink(own)
        _unlink(aside)


def _give(own: Path, file: Path) -> None:
    """`own` also under the name `file`, whole at once, unless there is one."""
    with suppress(FileExistsError):
        try:
            os.link(own, file)
        except FileExistsError:
            raise
        except OSError:                              # a file system without hard links
            with open(file, "xb") as stream:
                stream.write(own.read_bytes())


def _read(folder: Any, name: str = FILE) -> dict | None:
    """What the lease says; None where there is none, or none that makes sense."""
    found = folders.readable(folder / name)
    return found if found and isinstance(found.get("token"), str) else None


def _formers(owner: dict) -> list[str]:
    """The owners before one, the last first, as its lease names them."""
    found = owner.get("formers")
    return [token for token in found if isinstance(token, str)] if isinstance(found, list) else []


def _pulse(token: str) -> str:
    return f".alive-{''.join(c for c in token if c.isalnum())}.json"


def _unlink(file: Any) -> None:
    with suppress(OSError):
        file.unlink()


def _named(owner: dict) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('time')}"


def _here() -> dict:
    """This process, so that others on this machine can tell whether it still runs. boot, space: of the machine and its table of processes."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()), "boot": _text("/proc/sys/kernel/random/boot_id"),
            "space": os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""}


def _started(pid: Any) -> str | None:
    """When process `pid` of this machine began, as the kernel counts it; None when there is none: numbers are given again."""
    if not isinstance(pid, int):
        return None
    if os.path.isdir("/proc/self"):
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return fields[19] if len(fields) > 19 and fields[0] != "Z" else None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "runs"


def _text(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""


def _clock() -> float:
    """Seconds that also pass while the machine is suspended, where there is such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
