"""Who is here? A roll call over plain TCP before `jax.distributed` starts.

Why it exists: when a process is missing, jax.distributed aborts every other process with a C++ stack trace and exit code 134, and nobody
learns who was missing. Here process 0 listens on the coordinator's port, every other process reports to it, and when all are present process 0
says "go", closes the port and hands it to JAX. Whatever is wrong (a process missing, two with one number, different counts or JAX versions)
is one sentence that every process prints.

Protocol, one line of JSON each way: `{"process": i, "processes": N, "host": name, "jax": version}`, answered by `{"error": ""}` or by the reason.
"""
import json
import re
import selectors
import socket
import time
from collections.abc import Callable

from jaxssl.errors import UserError

LINE = 4096  # bytes; anything longer is not ours
REMIND = 15.0  # seconds between two reminders of who is missing


def answer_all(port: int, hello: dict, timeout: float, say: Callable[[str], None]) -> None:
    """Process 0's side: returns when all `hello["processes"]` processes have reported; tells all of them the result.

    Raises `UserError` when the port is taken, when a report contradicts process 0's own (`hello`), or when somebody is
    still missing after `timeout` seconds; the processes that did report get the same sentence.
    """
    count, here = hello["processes"], {}  # here: process number → (connection, host)
    deadline, remind = time.monotonic() + timeout, time.monotonic() + REMIND
    with _listen(port) as server, selectors.DefaultSelector() as events:
        events.register(server, selectors.EVENT_READ)
        try:
            while len(here) < count - 1:
                now = time.monotonic()
                if now >= deadline:
                    raise UserError(_missing(here, hello, timeout))
                if now >= remind:
                    say(f"{len(here) + 1} of {count} here, waiting for {_names(_absent(here, count))}")
                    remind = now + REMIND
                for key, _ in events.select(min(1.0, deadline - now)):
                    if key.fileobj is not server:
                        events.unregister(key.fileobj)
                        say(_forget(here, key.data))
                    elif (number := _register(server, here, hello)) is not None:
                        events.register(here[number][0], selectors.EVENT_READ, number)
        except UserError as error:
            _tell(here, str(error))
            raise
        _tell(here, "")


def report(address: str, hello: dict, timeout: float) -> None:
    """The other processes' side: report to process 0 at `address` ("host:port"), retry until it answers, return when all are here.

    Raises `UserError` with process 0's reason, or with the likely cause when process 0 does not answer within `timeout` seconds.
    """
    host, port = split(address)
    deadline, trouble = time.monotonic() + timeout, None
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=min(10.0, timeout)) as connection:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                # Process 0 keeps the deadline; a little longer here, so that its reason arrives.
                connection.settimeout(max(1.0, deadline - time.monotonic()) + 5.0)
                answer, trouble = _read(connection), None
        except OSError as error:
            answer, trouble = None, error
        if answer is not None:
            if answer.get("error"):
                raise UserError(answer["error"])
            return
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


def _register(server: socket.socket, here: dict, hello: dict) -> int | None:
    """Takes one report and returns its number; a contradiction is an error for everybody, bytes that are no report (a port scanner's) are ignored."""
    connection, peer = server.accept()
    connection.settimeout(5.0)
    other = _read(connection)
    if not other or not isinstance(other.get("process"), int):
        connection.close()
        return None
    number, host, count = other["process"], f"{other.get('host')} ({peer[0].removeprefix('::ffff:')})", hello["processes"]
    problem = ""
    if other.get("processes") != count:
        problem = f"process 0 was started for {count} processes, process {number} on {host} for {other.get('processes')}: give the same number everywhere"
    elif number == 0 or number in here:
        first = hello["host"] if number == 0 else here[number][1]
        problem = f"two processes have number {number}: one on {first}, one on {host}; each needs its own number from 0 to {count - 1}"
    elif not 0 < number < count:
        problem = f"process {number} on {host} is out of range: {count} processes are numbered 0 to {count - 1}"
    elif other.get("jax") != hello["jax"]:
        problem = f"process 0 runs jax {hello['jax']}, process {number} on {host} runs jax {other.get('jax')}: install the same version everywhere"
    if problem:
        _tell({-1: (connection, host)}, problem)
        raise UserError(problem)
    here[number] = (connection, host)
    return number


def _forget(here: dict, number: int) -> str:
    """A process that says more or hangs up while it waits has died at start; a restarted one may report again."""
    connection, host = here.pop(number)
    connection.close()
    return f"process {number} on {host} reported and then went away: look at its log"


def _tell(here: dict, error: str) -> None:
    for connection, _ in here.values():
        try:
            connection.sendall(json.dumps({"error": error}).encode() + b"\n")
        except OSError:
            continue  # it has gone; the others must still hear
        finally:
            connection.close()


def _read(connection: socket.socket) -> dict | None:
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < LINE:
            part = connection.recv(LINE)
            if not part:
                return None
            data += part
        message = json.loads(data)
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def _absent(here: dict, count: int) -> list[int]:
    return [i for i in range(1, count) if i not in here]


def _names(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:16])) + (f" and {len(numbers) - 16} more" if len(numbers) > 16 else "")
    return f"process{'es' if len(numbers) > 1 else ''} {shown}"


def _missing(here: dict, hello: dict, timeout: float) -> str:
    absent = _absent(here, hello["processes"])
    present = ", ".join([f"0 on {hello['host']}"] + [f"{i} on {here[i][1]}" for i in sorted(here)][:15])
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
