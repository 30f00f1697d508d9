"""Who is here? A roll call over plain TCP before `jax.distributed` starts.

Why it exists: when a process is missing, jax.distributed aborts every other process with a C++ stack trace and exit code 134, and nobody
learns who was missing. Here process 0 listens on the coordinator's port, every other process reports to it, and when all are present process 0
says "go", closes the port and hands it to JAX. Whatever is wrong (a process missing, two with one number, different counts or JAX versions)
is one sentence that every process prints. The connections stay open: `company` watches them.

Protocol, one line of JSON each way: `{"process": i, "processes": N, "host": name, "jax": version, "run": what it is started for}`, answered by
`{"error": ""}` or by the reason. Anybody may connect. Bytes that are no report are dropped, however slowly they come and whatever they hold, and
nobody waits for them; a process of another run is told so, and this run goes on waiting for its own.
"""
import json
import re
import selectors
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from jaxssl.errors import UserError, shown

LINE = 16384  # bytes; anything longer is not ours
PATIENCE = 10.0  # seconds in which a caller must have said who it is
REMIND = 15.0  # seconds between two reminders of who is missing
TEXT = 200  # characters of a stranger's words that are shown
LARGEST = 2**31  # a number of processes, or of one, is below


def plain(text: str, most: int = TEXT) -> str:
    """The first characters of what somebody else said, which a terminal and a log can show."""
    return shown(text[:most].encode("utf-8", "replace").decode())


class Peer(NamedTuple):
    """A process at the other end of an open connection. host: its name and address, for people."""
    connection: socket.socket
    host: str


class _Caller:
    """Somebody who has connected. number: of the process, once it has reported."""

    def __init__(self, connection: socket.socket, address: str):
        self.connection, self.address, self.since, self.data, self.number = connection, address, time.monotonic(), b"", None


def answer_all(port: int, hello: dict, timeout: float, say: Callable[[str], None]) -> dict[int, Peer]:
    """Process 0's side: returns the other processes when all `hello["processes"]` have reported; tells all of them the result.

    Raises `UserError` when the port is taken, when a report contradicts process 0's own (`hello`), or when somebody is
    still missing after `timeout` seconds; the processes that did report get the same sentence.
    """
    count, here, turned_away = hello["processes"], {}, set()
    deadline, remind = time.monotonic() + timeout, time.monotonic() + REMIND
    with _listen(port) as server, selectors.DefaultSelector() as events:
        server.setblocking(False)
        events.register(server, selectors.EVENT_READ)

        def drop(caller):
            events.unregister(caller.connection)
            caller.connection.close()
        try:
            while len(here) < count - 1:
                now = time.monotonic()
                if now >= deadline:
                    raise UserError(_missing(here, hello, timeout))
                if now >= remind:
                    say(f"{len(here) + 1} of {count} here, waiting for {_names(_absent(here, count))}")
                    remind = now + REMIND
                for key, _ in events.select(min(1.0, deadline - now)):
                    caller = key.data
                    if caller is None:
                        if (caller := _accept(server)) is not None:
                            events.register(caller.connection, selectors.EVENT_READ, caller)
                    elif caller.number is not None:     # it says more or hangs up while it waits: it has died at start; a restarted one may report again
                        say(f"process {caller.number} on {here.pop(caller.number).host} reported and then went away: look at its log")
                        drop(caller)
                    elif (report := _heard(caller)) is None:
                        drop(caller)
                    elif report:
                        other = Peer(caller.connection, f"{plain(report['host'])} ({caller.address})")
                        if report["run"] != hello["run"]:
                            _tell([other], f"process 0 on {hello['host']} belongs to {hello['run']}, this one to {plain(report['run'])}: give the processes of a run the "
                                           "same folder to work in, and every run a coordinator of its own")
                            if (told := f"turned away a process on {other.host}, which belongs to {plain(report['run'])}; this is {hello['run']}") not in turned_away:
                                turned_away.add(told)
                                say(told)
                            drop(caller)
                            continue
                        if problem := _problem(report, other.host, hello, here):
                            _tell([other], problem)
                            raise UserError(problem)
                        caller.number = report["process"]
                        here[caller.number] = other
                for caller in [key.data for key in events.get_map().values() if key.data and key.data.number is None and time.monotonic() - key.data.since > PATIENCE]:
                    drop(caller)
        except UserError as error:
            _tell(here.values(), str(error))
            raise
        finally:
            for caller in [key.data for key in events.get_map().values() if key.data and key.data.number is None]:
                drop(caller)
        _tell(here.values(), "")
    return here


def report(address: str, hello: dict, timeout: float) -> Peer:
    """The other processes' side: report to process 0 at `address` ("host:port"), retry until it answers, return it when all are here.

    Raises `UserError` with process 0's reason, or with the likely cause when process 0 does not answer within `timeout` seconds.
    """
    host, port = split(address)
    deadline, trouble = time.monotonic() + timeout, None
    while time.monotonic() < deadline:
        connection = None
        try:
            connection = socket.create_connection((host, port), timeout=min(10.0, timeout))
            connection.sendall(json.dumps(hello).encode() + b"\n")
            # Process 0 keeps the deadline; a little longer here, so that its reason arrives.
            answer, trouble = _answer(connection, deadline + 5.0), None
        except OSError as error:
            answer, trouble = None, error
        if answer == "":
            return Peer(connection, f"the coordinator's host ({address})")
        if connection:
            connection.close()
        if answer is not None:
            raise UserError(answer)
        time.sleep(min(1.0, timeout / 10))
    raise UserError(_silent(address, hello, timeout, trouble))


def split(address: str) -> tuple[str, int]:
    """"host:port" → (host, port); IPv6 hosts in brackets. Raises `UserError`."""
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[0-9A-Fa-f:.%\w]+\]", host) or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UserError(f"the coordinator's address must be host:port, such as 10.0.0.2:8476; got {address[:80]!r}")
    return host.strip("[]"), int(port)


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} ({error.strerror or error}): another run may still be using it, "
            "or two processes were started with number 0; end the other one or choose another port"
        ) from None


def _accept(server: socket.socket) -> _Caller | None:
    try:
        connection, peer = server.accept()
    except OSError:                                 # it has hung up already, or there are more of them than this process may have open
        time.sleep(0.01)
        return None
    connection.setblocking(False)
    return _Caller(connection, peer[0].removeprefix("::ffff:"))


def _heard(caller: _Caller) -> dict | None:
    """The report that a caller has made; {} while its line has not ended; None when it has hung up or what it says is no report."""
    try:
        part = caller.connection.recv(LINE)
    except BlockingIOError:
        return {}
    except OSError:
        return None
    caller.data += part
    if not part or len(caller.data) > LINE:
        return None
    if not caller.data.endswith(b"\n"):
        return {}
    found = {"run": "a run of another version of this program", **_object(caller.data)}
    whole = all(type(found.get(name)) is int and abs(found[name]) < LARGEST for name in ("process", "processes"))
    return found if whole and all(isinstance(found.get(name), str) for name in ("host", "jax", "run")) else None


def _object(line: bytes) -> dict:
    """The JSON object in `line`; {} for anything else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):            # no JSON, or lists in lists until Python gives up
        return {}
    return found if isinstance(found, dict) else {}


def _answer(connection: socket.socket, deadline: float) -> str | None:
    """What process 0 says: "" for go, or a reason; None when it hangs up, or is not process 0. Raises: OSError, TimeoutError at the deadline."""
    data = b""
    while b"\n" not in data:                        # behind it the first "here" of `company` may have come
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        part = connection.recv(LINE)
        data += part
        if not part or len(data) > 4 * LINE:
            return None
        if time.monotonic() > deadline:
            raise TimeoutError("it says too little")
    error = _object(data.partition(b"\n")[0]).get("error")
    return plain(error, len(data)) if isinstance(error, str) else None


def _problem(report: dict, host: str, hello: dict, here: dict) -> str:
    """How a report contradicts process 0's own, or another one; "" when it does not."""
    number, count = report["process"], hello["processes"]
    if report["processes"] != count:
        return f"process 0 was started for {count} processes, process {number} on {host} for {report['processes']}: give the same number everywhere"
    if number == 0 or number in here:
        first = hello["host"] if number == 0 else here[number].host
        return f"two processes have number {number}: one on {first}, one on {host}; each needs its own number from 0 to {count - 1}"
    if not 0 < number < count:
        return f"process {number} on {host} is out of range: {count} processes are numbered 0 to {count - 1}"
    if report["jax"] != hello["jax"]:
        return f"process 0 runs jax {hello['jax']}, process {number} on {host} runs jax {plain(report['jax'])}: install the same version everywhere"
    return ""


def _tell(peers, error: str) -> None:
    """The result to each of `peers`; an error is the last thing they hear."""
    for peer in peers:
        try:
            peer.connection.sendall(json.dumps({"error": error}).encode() + b"\n")
        except OSError:
            continue  # it has gone; the others must still hear
        finally:
            if error:
                peer.connection.close()


def _absent(here: dict, count: int) -> list[int]:
    return [i for i in range(1, count) if i not in here]


def _names(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:16])) + (f" and {len(numbers) - 16} more" if len(numbers) > 16 else "")
    return f"process{'es' if len(numbers) > 1 else ''} {shown}"


def _missing(here: dict, hello: dict, timeout: float) -> str:
    absent = _absent(here, hello["processes"])
    present = ", ".join([f"0 on {hello['host']}"] + [f"{i} on {here[i].host}" for i in sorted(here)][:15])
    return (
        f"{_names(absent)} of {hello['processes']} did not join within {timeout:g} s (joined: {present}). Likely causes: fewer workers were started than "
        f"--processes says, a worker crashed at start (look at its log), it was given another coordinator address, or a firewall closes the port. "
        "A slow start needs a larger --join_timeout"
    )


def _silent(address: str, hello: dict, timeout: float, trouble: OSError | None) -> str:
    if isinstance(trouble, socket.gaierror):
        cause = "its name cannot be resolved: check the address given as coordinator, or the cluster's DNS"
    elif isinstance(trouble, ConnectionRefusedError):
        cause = "the host refuses the connection: process 0 was not started there or has crashed (look at its log), or the port is another"
    elif isinstance(trouble, TimeoutError):
        cause = "no answer at all: a wrong address, or a firewall that closes the port"
    else:
        cause = f"the connection broke ({trouble or 'closed by the other side'}): process 0 crashed at start (look at its log), or another program has the port"
    return f"process {hello['process']} of {hello['processes']} found no coordinator (process 0) at {address} within {timeout:g} s; {cause}"
