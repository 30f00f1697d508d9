"""One run at a time in a workdir, in a folder and in a bucket: the second is refused by the name of the first, a dead owner's place is taken, an owner that slept stops."""
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jaxssl.errors import UserError
from jaxssl.training import session
from jaxssl.workdir import folder as folders
from jaxssl.workdir import lease as leases
from tests.compiled import QUICK
from tests.test_bucket import bucket  # noqa: F401: a fixture
from tests.tiny import ROOT


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path, monkeypatch):
    """A workdir, with quick signs of life."""
    for name, seconds in (("BEAT", 0.05), ("STALE", 0.4), ("SETTLE", 0.02)):
        monkeypatch.setattr(leases, name, seconds)
    if request.param == "folder":
        return str(tmp_path / "deep" / "run")
    request.getfixturevalue("bucket")
    return "gs://bkt/run"


def files(place):
    folder = folders.path(place)
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else None


def stranger(place, **other):
    """A lease of a process on another machine, whose last sign of life is `age` seconds old."""
    owner = {"token": "abc", "host": "elsewhere", "pid": 7, "time": "yesterday", "boot": "", "space": "", "started": "1"} | other
    folders.make(place)
    folders.write(folders.path(place) / leases.FILE, json.dumps(owner))
    folders.write(folders.path(place) / ".alive-abc.json", json.dumps({"beats": 1, "time": time.time() - owner.pop("age", 100)}))


def test_the_second_is_refused_by_name_of_the_first_and_nothing_is_left_after_both(place):
    first = leases.take(place)
    before = files(place)
    with pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on {socket.gethostname()}, since 20.*wait until that run has ended"):
        leases.take(place)
    assert files(place) == before
    time.sleep(3 * leases.STALE)                     # it goes on living
    first.check()
    with pytest.raises(UserError, match="is in use"):
        leases.take(place)
    first.release()
    assert not files(place)
    leases.take(place).release()


def test_folders_that_were_made_for_nothing_go_again(tmp_path):
    leases.take(str(tmp_path / "a" / "b" / "run")).release()
    assert not list(tmp_path.iterdir())
    (tmp_path / "run").mkdir()
    leases.take(str(tmp_path / "run")).release()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_the_place_of_a_dead_process_of_this_machine_is_taken_at_once(place):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    stranger(place, **{**leases._here(), "pid": dead.pid, "started": "1"}, age=0)
    lease = leases.take(place)
    assert json.loads((folders.path(place) / leases.FILE).read_text())["token"] == lease.token and ".alive-abc.json" not in files(place)
    lease.release()


def test_what_a_run_that_was_killed_as_it_took_over_had_yet_to_remove_is_removed(place, monkeypatch):
    """Killed twice between the lease and the removal of the former owner's sign of life, which takes seconds in a bucket; the third run leaves nothing of all three."""
    stranger(place, age=1000)
    unlinked = leases._unlink
    for number in range(2):
        monkeypatch.setattr(leases, "_unlink", lambda file: (_ for _ in ()).throw(KeyboardInterrupt) if ".alive-" in str(file) else unlinked(file))
        with pytest.raises(KeyboardInterrupt):
            leases.take(place)
        assert sum(name.startswith(".alive-") for name in files(place)) == number + 2
        monkeypatch.setattr(leases, "_lives", lambda folder, owner: False)
    monkeypatch.setattr(leases, "_unlink", unlinked)
    leases.take(place).release()
    assert not files(place)


def test_a_number_that_was_given_again_is_another_process():
    assert leases._started(os.getpid()) == leases._started(os.getpid()) != leases._started(1) and leases._started("x") is None


def test_an_owner_elsewhere_is_waited_for(place, capsys):
    """Its clock may be wrong, so only a new sign of life counts."""
    stranger(place, age=-1000)
    alive = threading.Timer(0.15, lambda: folders.write(folders.path(place) / ".alive-abc.json", '{"beats": 2, "time": 0}'))
    alive.start()
    with pytest.raises(UserError, match="is in use by process 7 on elsewhere, since yesterday"):
        leases.take(place)
    alive.join()
    assert "shows no sign of life; waiting" in capsys.readouterr().out
    stranger(place)
    start = time.monotonic()
    leases.take(place).release()
    assert time.monotonic() - start >= leases.STALE
    stranger(place, age=2 * leases.DAY)
    start = time.monotonic()
    leases.take(place).release()
    assert time.monotonic() - start < leases.STALE


def test_an_owner_that_slept_notices_and_stops(place):
    lease = leases.take(place)
    lease._done.set()                                # no sign of life from here on
    lease._thread.join()
    time.sleep(3 * leases.BEAT)
    other = leases.take(place)
    with pytest.raises(UserError, match=f"was taken over by process {os.getpid()} on .* while this run stood still"):
        lease.check()
    lease.release()
    assert leases.FILE in files(place)               # the other's stays
    other.check()
    other.release()
    lease._sure = -1e9
    with pytest.raises(UserError, match="is gone"):
        lease.check()


def test_of_many_that_begin_at_once_one_gets_it(place):
    won, lost = [], []

    def begin():
        barrier.wait()
        try:
            won.append(leases.take(place))
        except UserError as error:
            lost.append(str(error))
    for _ in range(5):
        barrier, before = threading.Barrier(6), len(won)
        threads = [threading.Thread(target=begin) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) <= before + 1 and all("in use" in said for said in lost)
        for lease in won[before:]:
            lease.check()
            lease.release()
    assert won and not files(place)


@pytest.mark.parametrize("text", ["", '{"token": ', "[1]", '{"token": 5}'])
def test_a_torn_lease_is_nobodys(tmp_path, text):
    (tmp_path / leases.FILE).write_text(text)
    leases.take(str(tmp_path)).release()
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")
    monkeypatch.setattr(os, "link", link)
    lease = leases.take(str(tmp_path))
    with pytest.raises(UserError, match="in use"):
        leases.take(str(tmp_path))
    lease.release()
    assert not list(tmp_path.iterdir())


def test_a_lost_workdir_is_not_written_to_again():
    """Neither a checkpoint nor what a bucket's mirror still holds."""
    class Own:
        writers, still_ours, owned = type("W", (), {"abandoned": False, "abandon": lambda self: setattr(self, "abandoned", True)})(), None, session.Session.owned

    def gone():
        raise UserError("taken over")
    own = Own()
    own.still_ours = gone
    with pytest.raises(UserError, match="taken over"):
        session.Session.save(own)
    assert own.writers.abandoned


SCRIPT = """
import sys
from jaxssl.workdir import lease
lease.BEAT, lease.STALE = 0.1, 1.0
from jaxssl import main
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.every
def test_two_runs_of_which_the_first_is_suspended(tmp_path):
    """The whole program: refused while the first lives, taken over while it is suspended; awake again it stops, and the second ends as if it had been alone."""
    from tests.test_end_to_end import FLAGS, config_flags
    run, command = tmp_path / "run", [sys.executable, "-c", SCRIPT, *FLAGS, *config_flags("simclr"), f"--compilation_cache={tmp_path / 'cache'}", "--config.total=200",
                                      "--config.checkpoint_every=20", "--workdir"]
    how = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
                                                                                           "XLA_FLAGS": QUICK})
    first = subprocess.Popen([*command, str(run)], **how)
    try:
        while first.poll() is None and not list(run.glob("checkpoints/[0-9]*")):
            time.sleep(0.05)
        second = subprocess.run([*command, str(run)], **how, timeout=200)
        assert second.returncode == 2 and f"is in use by process {first.pid} on {socket.gethostname()}" in second.stdout, second.stdout
        first.send_signal(signal.SIGSTOP)
        second = subprocess.Popen([*command, str(run)], **how)
        while second.poll() is None and (folders.readable(run / leases.FILE) or {}).get("pid") != second.pid:
            time.sleep(0.05)
        first.send_signal(signal.SIGCONT)
        output = first.communicate(timeout=100)[0]
        assert first.returncode == 2 and f"was taken over by process {second.pid}" in output and "Traceback" not in output, output
        output = second.communicate(timeout=300)[0]
        assert second.returncode == 0 and "resuming" in output and json.loads((run / "run.json").read_text())["steps"] == 200, output
    finally:
        for each in (first, second):
            if isinstance(each, subprocess.Popen):
                each.kill()
    assert not [p.name for p in run.iterdir() if p.name.startswith((".lease", ".alive"))]
