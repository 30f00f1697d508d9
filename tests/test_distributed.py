"""Joining processes: who am I (flags, Slurm, TPU pod), the roll call, and real processes that join, are missing, or contradict each other."""
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxssl import main
from jaxssl.parallel import processes as distributed, rollcall
from jaxssl.parallel.processes import Place, resolve
from jaxssl.errors import NotJoined, UserError
from tests.compiled import QUICK

ROOT = Path(__file__).parents[1]
SLURM = {
    "SLURM_JOB_ID": "4100", "SLURM_STEP_NODELIST": "tpu[003-007,012],other", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NTASKS": "7",
}
GKE = {"TPU_WORKER_HOSTNAMES": "job-0.svc,job-1.svc", "TPU_WORKER_ID": "1"}
JOIN = """
import sys
from jaxssl.parallel import processes as distributed
from jaxssl.errors import UserError
try:
    place = distributed.join(coordinator=sys.argv[1], process_id=int(sys.argv[2]), processes=int(sys.argv[3]), timeout=float(sys.argv[4]))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
print("sum", multihost_utils.process_allgather(jnp.array([place.index + 1.0])).sum(), tuple(place)[:5], jax.config.jax_cpu_collectives_implementation)
"""


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def start(port, index, count, timeout):
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": f"--xla_force_host_platform_device_count=4 {QUICK}"}
    command = [sys.executable, "-c", JOIN, f"127.0.0.1:{port}", str(index), str(count), str(timeout)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def test_place_from_flags_and_environment():
    flags = Place("h:1", 4, 3, "flags")
    assert resolve("h:1", 4, 3, SLURM | GKE) == flags  # flags win
    assert resolve("", 0, -1, {}) == Place("", 1, 0, "one process")
    assert resolve("", 1, -1, SLURM) == Place("", 1, 0, "one process")
    assert resolve("", 0, -1, SLURM) == Place("tpu003:61444", 7, 2, "Slurm")
    assert resolve("h:9", 0, -1, SLURM) == Place("h:9", 7, 2, "Slurm")  # a flag over the environment
    assert resolve("", 0, -1, SLURM | {"SLURM_NTASKS": "1"}) == Place("", 1, 0, "one process")
    assert resolve("", 0, -1, GKE) == Place("job-0.svc:8476", 2, 1, "TPU pod")
    slices = {"MEGASCALE_COORDINATOR_ADDRESS": "first:8080", "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2"}
    assert resolve("", 0, -1, GKE | slices) == Place("first:8476", 6, 5, "TPU pod")
    assert resolve("", 0, -1, {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) == Place("", 1, 0, "one process")


@pytest.mark.parametrize("nodes, first", [("a1", "a1"), ("a1,a2", "a1"), ("n[001-015],h", "n001"), ("n[7,9-12]", "n7"), ("h2,n[1-2]", "h2")])
def test_first_node(nodes, first):
    assert distributed._first_node(nodes) == first


def test_place_from_jax_agrees(monkeypatch):
    """JAX's own Slurm reading of the same variables gives the same coordinator, count and number."""
    from jax._src.clusters.slurm_cluster import SlurmCluster
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    theirs = Place(SlurmCluster.get_coordinator_address(None, None), SlurmCluster.get_process_count(), SlurmCluster.get_process_id(), "Slurm")
    assert resolve("", 0, -1, os.environ) == theirs


def test_place_from_a_tpu_vm(monkeypatch):
    answers = {"worker-network-endpoints": "w:0:10.0.0.4,w:1:10.0.0.5", "agent-worker-number": "1",
               "tpu-env": "ACCELERATOR_TYPE: 'v4-16'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'"}
    monkeypatch.setattr(distributed, "_on_tpu_vm", lambda _: True)
    monkeypatch.setattr(distributed, "_metadata", answers.__getitem__)
    assert resolve("", 0, -1, {}) == Place("10.0.0.4:8476", 4, 3, "TPU pod")


@pytest.mark.parametrize("flags, words", [
    (("h:1", 0, -1), "--processes and --process_id are missing"),
    (("", 4, 0), "--coordinator is missing"),
    (("h:1", 4, -1), "--process_id is missing"),
    (("h:1", 4, 4), "out of range"),
    (("h", 4, 0), "must be host:port"),
    (("h:1", -2, 0), "must be positive"),
])
def test_impossible_flags(flags, words):
    with pytest.raises(UserError, match=words):
        resolve(*flags, {})


def hello(index, count, **other):
    return {"process": index, "processes": count, "host": f"host{index}", "jax": "1", "run": "the run in a"} | other


def roll(port, hellos, timeout, count=3):
    """Process 0 in this thread, the others in theirs → what each one got: "" or the error's text."""
    got = {}

    def other(place, message):
        try:
            rollcall.report(f"127.0.0.1:{port}", message, timeout)
            got[place] = ""
        except UserError as error:
            got[place] = str(error)

    threads = [threading.Thread(target=other, args=item) for item in enumerate(hellos, 1)]
    for thread in threads:
        thread.start()
    try:
        rollcall.answer_all(port, hello(0, count), timeout, lambda _: None)
        got[0] = ""
    except UserError as error:
        got[0] = str(error)
    for thread in threads:
        thread.join()
    return got


def test_rollcall_all_here():
    assert roll(free_port(), [hello(2, 3), hello(1, 3)], 20) == {0: "", 1: "", 2: ""}


@pytest.mark.parametrize("hellos, words", [
    ([hello(2, 3)], "process 1 of 3 did not join within 1 s (joined: 0 on host0, 2 on host2"),
    ([], "processes 1, 2 of 3 did not join"),
    ([hello(1, 4)], "started for 3 processes, process 1 on host1 (127.0.0.1) for 4"),
    ([hello(0, 3)], "two processes have number 0"),
    ([hello(7, 3)], "process 7 on host7 (127.0.0.1) is out of range"),
    ([hello(1, 3, jax="2")], "process 0 runs jax 1, process 1 on host1 (127.0.0.1) runs jax 2"),
])
def test_rollcall_everybody_gets_the_same_sentence(hellos, words):
    got = roll(free_port(), hellos, 1.0)
    assert words in got[0] and set(got.values()) == {got[0]}


def test_rollcall_ignores_strangers_and_takes_a_restarted_process():
    port, said, got = free_port(), [], []
    thread = threading.Thread(target=lambda: (rollcall.answer_all(port, hello(0, 3), 20, said.append), got.append("go")))
    thread.start()
    time.sleep(0.2)
    for message in (b"GET / HTTP/1.0\r\n\r\n\n", b"[1]\n", json.dumps(hello(1, 3)).encode() + b"\n"):
        with socket.create_connection(("127.0.0.1", port)) as brief:
            brief.sendall(message)
            time.sleep(0.1)
    time.sleep(0.7)  # longer than one round of the roll call, which notices that process 1 has gone
    again = [threading.Thread(target=rollcall.report, args=(f"127.0.0.1:{port}", hello(i, 3), 20)) for i in (1, 2)]
    for other in again:
        other.start()
    for other in [*again, thread]:
        other.join()
    assert got == ["go"]
    assert len(said) == 1 and "process 1 on host1 (127.0.0.1) reported and then went away" in said[0]


STRANGERS = {
    "nothing": b"", "half a line": b'{"process": 1', "http": b"GET / HTTP/1.0\r\n\r\n\n", "lists in lists": b"[" * 9000 + b"\n", "objects in objects": b'{"a":' * 3000 + b"\n",
    "a list": b"[1]\n", "null": b"null\n", "no text": b"\xff\xfe\x00\n", "too long": b"x" * 40_000, "an endless number": b'{"process": ' + b"9" * 9000 + b"}\n",
    "infinite": b'{"process": 1e999, "processes": 3, "host": "h", "jax": "1", "run": "the run in a"}\n',
    "true": b'{"process": true, "processes": 3, "host": "h", "jax": "1", "run": "the run in a"}\n',
    "a large number": b'{"process": -99999999999999999999, "processes": 3, "host": "h", "jax": "1", "run": "the run in a"}\n',
    "a host of lists": b'{"process": 1, "processes": 3, "host": [["h"]], "jax": "1", "run": "the run in a"}\n',
    "of another run": b'{"process": 1, "processes": 9, "host": "\\u001b[31mh\\ud800", "jax": "7", "run": "\\u001b[2J\\ud800"}\n',
    "of another version": b'{"process": 1, "processes": 3, "host": "h", "jax": "1"}\n',
}


def test_rollcall_survives_anybodys_bytes():
    """All at once, and two that say a byte now and then; those who belong here join meanwhile, without waiting for any of them."""
    port, said, open_ = free_port(), [], []
    began = time.monotonic()

    def trickle(line):
        for byte in b'{"process": 1, "processes": 3, "host": "h", "jax": "1", "run": "the run in a"}':
            try:
                line.sendall(bytes([byte]))
            except OSError:
                return
            time.sleep(0.1)

    thread = threading.Thread(target=lambda: said.append(rollcall.answer_all(port, hello(0, 3), 20, said.append)))
    thread.start()
    time.sleep(0.2)
    for message in [*STRANGERS.values(), None, None]:
        open_.append(socket.create_connection(("127.0.0.1", port)))
        if message is None:
            threading.Thread(target=trickle, args=(open_[-1],), daemon=True).start()
        else:
            open_[-1].sendall(message)
    time.sleep(0.3)
    others = [threading.Thread(target=rollcall.report, args=(f"127.0.0.1:{port}", hello(i, 3), 20)) for i in (1, 2)]
    for other in others:
        other.start()
    for other in [*others, thread]:
        other.join(15)
    assert sorted(said[-1]) == [1, 2] and time.monotonic() - began < 5
    assert len(said) == 3 and all(text.isprintable() and "turned away a process" in text for text in said[:-1]), said


def test_go_may_come_together_with_what_is_said_after_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].sendall(b'{"error": ""}\nhere\n'))
        thread.start()
        assert rollcall.report(f"127.0.0.1:{server.getsockname()[1]}", hello(1, 2), 5).connection
        thread.join()


def test_a_process_of_another_run_hears_of_it_and_the_run_goes_on():
    port, got = free_port(), []
    thread = threading.Thread(target=lambda: got.append(rollcall.answer_all(port, hello(0, 2), 20, got.append)))
    thread.start()
    with pytest.raises(UserError, match=r"process 0 on host0 belongs to the run in a, this one to the run in b: give the processes of a run the same folder"):
        rollcall.report(f"127.0.0.1:{port}", hello(1, 2, run="the run in b"), 10)
    rollcall.report(f"127.0.0.1:{port}", hello(1, 2), 10)
    thread.join(15)
    assert "turned away a process on host1 (127.0.0.1), which belongs to the run in b; this is the run in a" in got[0] and sorted(got[1]) == [1]


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[" * 9000 + b"\n", b'{"error": 7}\n', b'{"error": ""', b"\xff\n", b"x" * 99_000],
                         ids=["echo", "http", "lists", "number", "half", "bytes", "flood"])
def test_a_stranger_at_the_coordinators_port_is_not_process_0(answer):
    """Not even one that says back what it hears."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve():
            while True:
                try:
                    line, _ = server.accept()
                    heard = line.recv(9999)
                    line.sendall(heard if answer is None else answer)
                    line.close()
                except OSError:
                    return
        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(UserError, match="found no coordinator"):
            rollcall.report(f"127.0.0.1:{server.getsockname()[1]}", hello(1, 2), 0.7)


def test_port_in_use_and_no_coordinator():
    with socket.create_server(("", 0)) as server, pytest.raises(UserError, match="cannot listen on port .* another run may still be using it"):
        rollcall.answer_all(server.getsockname()[1], hello(0, 2), 1, print)
    with pytest.raises(UserError, match="found no coordinator .* refuses the connection: process 0 was not started there"):
        rollcall.report(f"127.0.0.1:{free_port()}", hello(1, 2), 1)
    with pytest.raises(UserError, match="cannot be resolved"):
        rollcall.report("no.such.host.invalid:1", hello(1, 2), 1)


def test_two_processes_join_for_real():
    port = free_port()
    for code, out, err in map(finish, [start(port, i, 2, 60) for i in range(2)]):
        assert code == 0, err
        assert "waiting up to 60 s" in out and "joined; 4 local devices, 8 in all (cpu)" in out
        assert "sum 3.0" in out and "gloo" in out


def test_a_process_that_does_not_join_is_named():
    """Without the roll call JAX aborts with a stack trace and 134."""
    began = time.monotonic()
    code, out, err = finish(start(free_port(), 0, 2, 3))
    assert code == 2 and out.startswith("process 0/2: coordinator 127.0.0.1:") and "process 1 of 2 did not join within 3 s" in err
    assert "Traceback" not in err and "stack trace" not in err and time.monotonic() - began < 30


def test_a_run_whose_processes_do_not_join_may_be_tried_again(capsys, tmp_path):
    """Its exit code is not that of wrong input, which a cluster does not repeat."""
    flags = ["--config", "c.py", "--workdir", str(tmp_path / "run"), "--compilation_cache=off", "--processes=2", "--process_id=0", "--join_timeout=1"]
    assert main.main([*flags, f"--coordinator=127.0.0.1:{free_port()}"]) == NotJoined.code == 75
    assert "process 1 of 2 did not join within 1 s" in capsys.readouterr().err
    assert main.main([*flags, "--coordinator=nowhere"]) == UserError.code
