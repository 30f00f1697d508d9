"""Join the processes of one run: who am I, how many are we, where is process 0; and end together.

The answer comes from flags, else from Slurm, else from a TPU pod (GKE's variables, or a TPU VM's metadata server); else the run has one process
and nothing is initialised. Collectives between CPU processes go through gloo, JAX's default.
"""
import contextlib
import ctypes
import glob
import importlib.util
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jaxssl.parallel import rollcall
from jaxssl.parallel.company import AGAIN, Company
from jaxssl.errors import NonFiniteError, NotJoined, Temporary, UserError

PORT = 8476  # the coordinator's port where nothing else says one; JAX_COORDINATOR_PORT overrides it
WAIT = 30 * 24 * 3600  # seconds that those who are done wait for the last one; `company` ends them when it is lost
LONGEST = 1_000_000  # seconds to wait for the others, eleven days
MOST = 100_000  # processes; a larger number is a slip
GRACE = 60.0  # seconds that JAX itself gets once every process has answered the roll call
# What gloo, NCCL and JAX's services say when a neighbour is lost: then it is worth waiting for who it was.
NEIGHBOURS = re.compile("gloo|nccl|collective|connection|coordination|barrier|heartbeat|peer|deadline|unavailable|timed? ?out|socket", re.IGNORECASE)

_KEPT = []  # what C may call must not be collected


class Processes(NamedTuple):
    """This process's place in the run. `index` in [0, count); `local` and `devices`: number of devices here and in all; `kind`: device kind."""
    index: int
    count: int
    local: int
    devices: int
    kind: str
    coordinator: str


class Place(NamedTuple):
    """What the flags or the environment say; `processes` 0, `process_id` -1 and `coordinator` "" mean "not said"."""
    coordinator: str
    processes: int
    process_id: int
    source: str


@contextlib.contextmanager
def joined(**how) -> Iterator[Processes]:
    """`join(**how)`, and a word to the others at the end, however the body ends. One that ends because a neighbour was lost ends there, with a sentence about it and 75."""
    place, company = _join(**how)
    try:
        yield place
    except BaseException as error:
        if company:
            if isinstance(error, Exception) and not isinstance(error, UserError | NonFiniteError) and NEIGHBOURS.search(str(error)):
                company.wait()
            company.part(str(error) if isinstance(error, UserError | NonFiniteError) else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        raise
    if company:
        company.part()


def join(**how) -> Processes:
    """Joins the other processes and reports who is here; must run before anything touches a device.

    coordinator, processes, process_id: may be left unset ("", 0, -1) and are then taken from Slurm or the TPU pod. run: what all of them are started for, as a
    person would say it; a process that is started for something else is turned away. Prints the process's place before it waits.
    timeout: seconds to wait for all processes. quiet: standard output is kept for other things, and a process alone says nothing.
    Raises `UserError` for flags that cannot be right (exit code 2), and `NotJoined` naming who is missing and the likely cause (exit code 75).
    """
    return _join(**how)[0]


def _join(*, coordinator: str = "", processes: int = 0, process_id: int = -1, run: str = "", timeout: float = 600.0, quiet: bool = False) -> tuple[Processes, Company | None]:
    if not 0 < timeout <= LONGEST:
        raise UserError(f"--join_timeout is {timeout:g}; it is a number of seconds from 1 to {LONGEST:,}")
    place = resolve(coordinator, processes, process_id, os.environ)
    if place.processes == 1 and quiet:
        return None, None
    if quiet:
        _keep_output()
    with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
        company = _initialize(place, run, timeout) if place.processes > 1 else None
        return _here(place), company


def _keep_output() -> None:
    """What libraries write to standard output (gloo does) goes to standard error from here on; what Python writes goes where it went."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(own, "w", buffering=1, encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def _here(place: Place) -> Processes:
    import jax

    devices, local = jax.devices(), jax.local_device_count()
    result = Processes(jax.process_index(), jax.process_count(), local, len(devices), devices[0].device_kind, place.coordinator)
    verb = "joined; " if result.count > 1 else ""
    _say(result.index, result.count, f"{verb}{local} local device{'s' * (local != 1)}, {len(devices)} in all ({result.kind})")
    return result


def leave(code: int) -> None:
    """Ends this process at once with `code`, without waiting for the others.

    For a failed process of several: an ordinary exit meets JAX's shutdown barrier and hangs for minutes, because the others are waiting in a
    collective for this very process. They notice the loss by a closed connection or a missed heartbeat.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def resolve(coordinator: str, processes: int, process_id: int, environ: Mapping[str, str]) -> Place:
    """Flags first, then the environment for whatever they leave open. Raises `UserError` for an incomplete or impossible answer."""
    if processes < 0 or process_id < -1:
        raise UserError(f"--processes must be positive and --process_id at least 0; got {processes} and {process_id}")
    said = bool(coordinator) + (processes > 0) + (process_id >= 0)
    found = Place("", 0, -1, "flags") if said == 3 or processes == 1 else _from_slurm(environ) or _from_tpu(environ) or Place("", 0, -1, "flags")
    place = Place(coordinator or found.coordinator, processes or found.processes, process_id if process_id >= 0 else found.process_id, found.source)
    if place.processes <= 1 and (processes == 1 or not said):
        return Place("", 1, 0, "one process")
    missing = [flag for flag, absent in (("--coordinator", not place.coordinator), ("--processes", not place.processes), ("--process_id", place.process_id < 0)) if absent]
    if missing:
        raise UserError(
            f"several processes need --coordinator host:port, --processes N and --process_id i; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing "
            "and neither Slurm nor a TPU pod says it"
        )
    if place.processes > MOST:
        raise UserError(f"{place.processes:,} processes are more than any run has ({MOST:,}); correct --processes, or what the environment says of them")
    if not 0 <= place.process_id < place.processes:
        raise UserError(f"--process_id {place.process_id} is out of range: {place.processes} processes are numbered 0 to {place.processes - 1}")
    rollcall.split(place.coordinator)
    return place


def _from_slurm(environ: Mapping[str, str]) -> Place | None:
    """A job step (srun) of more than one task. The first node of the step is process 0; the port follows the job number, as JAX does it."""
    if not all(name in environ for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")) or whole(environ, "SLURM_NTASKS", 1) < 2:
        return None
    port = whole(environ, "JAX_COORDINATOR_PORT", 0) or whole(environ, "SLURM_JOB_ID") % 4096 + 61440
    return Place(f"{_first_node(environ['SLURM_STEP_NODELIST'])}:{port}", whole(environ, "SLURM_NTASKS"), whole(environ, "SLURM_PROCID"), "Slurm")


def whole(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    """The whole number in a variable; `default` where it is missing or empty. Raises: UserError."""
    text = environ.get(name, "").strip()
    if not text and default is not None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise UserError(f"{name} is {text[:40]!r} in the environment, and should be a whole number; unset it, or set what its scheduler would")
    return int(text)


def _first_node(nodes: str) -> str:
    """"node[001-015,020],other" → "node001"; "node7,node8" → "node7". Raises: UserError."""
    match = re.match(r"([\w.-]*)(?:\[(\w+)[\w,-]*\][\w.-]*)?(?:,|$)", nodes)
    if not match or not "".join(filter(None, match.groups())):
        raise UserError(f"SLURM_STEP_NODELIST is {nodes[:40]!r} in the environment, and should name nodes, such as node[001-015] or node7,node8; set what Slurm would")
    return match[1] + (match[2] or "")


def _from_tpu(environ: Mapping[str, str]) -> Place | None:
    """A pod slice of several hosts, or several slices: GKE sets variables; a TPU VM asks its metadata server, and only where TPU devices exist."""
    hosts, worker = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES"), environ.get("TPU_WORKER_ID")
    slices = {name: environ.get(f"MEGASCALE_{name}") for name in ("COORDINATOR_ADDRESS", "NUM_SLICES", "SLICE_ID")}
    if not hosts and _on_tpu_vm(environ):
        endpoints = _metadata("worker-network-endpoints")  # "host,host" or, older, "name:id:ip,name:id:ip"
        hosts = ",".join(part.split(":")[-1] for part in endpoints.split(",")) if endpoints else None
        worker = _metadata("agent-worker-number")
        settings = dict(line.split(":", 1) for line in _metadata("tpu-env").splitlines() if ":" in line)
        slices = {name: slices[name] or settings.get(f"MEGASCALE_{name}", "").strip(" '") for name in slices}
    if not hosts or worker in (None, ""):
        return None
    names = hosts.split(",")
    told = {"TPU_WORKER_ID": worker, **{f"MEGASCALE_{name}": value or "" for name, value in slices.items()}}
    count = len(names) * whole(told, "MEGASCALE_NUM_SLICES", 1)
    number = whole(told, "TPU_WORKER_ID") + len(names) * whole(told, "MEGASCALE_SLICE_ID", 0)
    if count < 2:
        return None
    first = (slices["COORDINATOR_ADDRESS"] or names[0]).split(":")[0]
    return Place(f"{first}:{whole(environ, 'JAX_COORDINATOR_PORT', 0) or PORT}", count, number, "TPU pod")


def _on_tpu_vm(environ: Mapping[str, str]) -> bool:
    """TPU device files, libtpu, and nobody said "no TPU": only then is the metadata server worth the wait for an answer."""
    if environ.get("TPU_SKIP_MDS_QUERY") or "tpu" not in (environ.get("JAX_PLATFORMS") or "tpu"):
        return False
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")) and importlib.util.find_spec("libtpu") is not None


def _metadata(key: str) -> str:
    """One attribute of a Google Cloud virtual machine; empty where there is none."""
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(f"http://{host}/computeMetadata/v1/instance/attributes/{key}", headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _initialize(place: Place, run: str, timeout: float) -> Company:
    """Roll call, then `jax.distributed.initialize` under a guard that speaks before JAX's own fatal abort would. Returns who watches the others from then on."""
    import jax

    index, count = place.process_id, place.processes
    _say(index, count, f"coordinator {place.coordinator} (from {place.source}), waiting up to {timeout:g} s")
    job = f", Slurm job {os.environ.get('SLURM_JOB_ID')}" if place.source == "Slurm" else ""
    hello = {"process": index, "processes": count, "host": socket.gethostname(), "jax": jax.__version__, "run": (run or "a run")[:1000] + job}
    start = time.monotonic()
    try:
        if index == 0:
            peers = rollcall.answer_all(rollcall.split(place.coordinator)[1], hello, timeout, lambda text: _say(index, count, text))
        else:
            peers = {0: rollcall.report(place.coordinator, hello, timeout)}
    except UserError as error:
        raise NotJoined(str(error)) from error
    company = Company(peers, _lost)
    speak_before_abort()
    rest = max(GRACE, timeout - (time.monotonic() - start))
    guard = threading.Timer(rest, _give_up, (index, count, place.coordinator, rest))
    guard.daemon = True
    guard.start()
    try:
        # Only Slurm lets JAX choose the devices (one GPU a task); elsewhere a process takes all that it sees, and no metadata is asked.
        jax.distributed.initialize(
            place.coordinator, count, index, cluster_detection_method=None if place.source == "Slurm" else "deactivate", initialization_timeout=int(rest) + 60,
            shutdown_timeout_seconds=WAIT,
        )
    finally:
        guard.cancel()
    return company


def speak_before_abort() -> None:
    """From here on a library that aborts this process ends it with a sentence and 75.

    JAX's service aborts every process that loses the service of process 0, whatever Python says. A handler of Python's own would run after the abort only, so C gets
    one; for some seconds it lets `company` say more.
    """
    def aborted(_):
        time.sleep(5.0)
        _lost(f"a library aborted this process (the line above that begins with F says why), which mostly means that process 0 or the network was lost; {AGAIN}")

    if sys.platform != "win32":
        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        _KEPT.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted))
        libc.signal(signal.SIGABRT, ctypes.cast(_KEPT[-1], ctypes.c_void_p))


def _lost(sentence: str) -> None:
    """A neighbour was lost, and whatever this process does it can only wait for it."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    leave(Temporary.code)


def _give_up(index: int, count: int, coordinator: str, seconds: float) -> None:
    text = (
        f"every process answered at {coordinator}, but JAX's coordination service did not come up within {seconds:g} s: "
        "a process died in between (look at the other logs), or proxy variables of the environment catch its connections (unset http_proxy, https_proxy)"
    )
    print(f"process {index}/{count}: {text}", file=sys.stderr)
    leave(NotJoined.code)


def _say(index: int, count: int, text: str) -> None:
    print(f"process {index}/{count}: {text}", flush=True)
