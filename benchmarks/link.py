"""Two processes on two hosts that are network namespaces with a virtual link between them: the link is cut in mid-run, and the same command goes on.

    python benchmarks/link.py              # as root, with iproute2; writes benchmarks/results/link.json

Predicted: a cut of 20 s, mended, is waited for. A cut that stays ends both with 75 and one sentence after a minute, a killed process ends the other one with 75 at
once, and a workdir of each host's own is named at the start with 2. Nobody hangs, nobody shows a traceback, and every final state has the digest of an uninterrupted run's.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
STEPS, PORT = 60, 8476
CONFIG = ["--config", "configs/digits/simclr.py", f"--config.total={STEPS}", "--config.batch_size=32", "--config.warmup=20", "--config.log_every=5", "--config.eval_every=0",
          "--config.checkpoint_every=10", "--config.model.name=resnet10", "--config.model.width=0.0625", "--config.augment.size=16", "--config.data.canvas=16",
          "--config.data.variant=clean", "--config.eval.reference=300", "--config.eval.queries=100", "--config.eval.raw=false", "--config.log.tensorboard=false",
          "--config.report=false"]
APART = "a folder of each host's own"
SPACES = ("jaxssl0", "jaxssl1")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/link.json"))
    flags.add_argument("--rows", nargs="+", default=[], help="only these; the others stay as they are in --out")
    args = flags.parse_args()
    rows = json.loads(Path(args.out).read_text())["rows"] if args.rows and Path(args.out).exists() else {}
    expected = rows.get("uninterrupted", {}).get("state_sha256")
    with tempfile.TemporaryDirectory() as folder, hosts():
        for name, act in (("uninterrupted", None), ("cut and mended after 20 s", mended), ("cut for good", cut), ("process 1 killed", lambda alive: kill(alive[1])),
                          ("process 0 killed", lambda alive: kill(alive[0]))):
            if args.rows and name not in args.rows:
                continue
            rows[name] = row(Path(folder), name.replace(" ", "-"), act)
            expected = expected or rows[name]["state_sha256"]
            rows[name]["equal"] = rows[name]["state_sha256"] == expected
            write(args.out, rows)
        if not args.rows or APART in args.rows:
            rows[APART] = apart(Path(folder))
            write(args.out, rows)
    assert all(each.get("equal", True) for each in rows.values()), "not the same bits"


def write(out, rows):
    result = {"command": "python benchmarks/link.py", "machine": machine("jax", "jaxlib", "orbax-checkpoint"), "steps": STEPS, "rows": rows}
    Path(out).write_text(json.dumps(result, indent=1) + "\n")


@contextmanager
def hosts():
    """Two namespaces, 10.77.0.1 and .2, joined by a pair of virtual devices; each with its own table of hosts."""
    try:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
            ip("netns", "add", space)
            folder = Path("/etc/netns") / space
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 host0\n10.77.0.2 host1\n")
        ip("link", "add", "jv0", "netns", SPACES[0], "type", "veth", "peer", "name", "jv1", "netns", SPACES[1])
        for i, space in enumerate(SPACES):
            ip("-n", space, "addr", "add", f"10.77.0.{i + 1}/24", "dev", f"jv{i}")
            ip("-n", space, "link", "set", "lo", "up")
        link("up")
        yield
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
            (Path("/etc/netns") / space / "hosts").unlink(missing_ok=True)
            (Path("/etc/netns") / space).rmdir()


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def link(state):
    for i, space in enumerate(SPACES):
        ip("-n", space, "link", "set", f"jv{i}", state)


def row(folder, name, act):
    """One run, disturbed by `act(processes)` at a quarter of it, and started again until it is finished."""
    workdir, found, begin = folder / name, {}, time.time()
    alive = start(folder, workdir)
    if act:
        wait(lambda: newest(workdir) >= STEPS // 4 or ended(alive))
        found["at_step"], since = newest(workdir), time.time()
        act(alive)
        wait(lambda: ended(alive), 300)
        found |= {"ended_after_seconds": round(time.time() - since, 1), "codes": [p.poll() for p in alive], "said": said(folder)}
    wait(lambda: ended(alive), 600)
    if not (workdir / "run.json").exists():
        link("up")
        again = start(folder, workdir)
        wait(lambda: ended(again), 600)
        found["codes_again"] = [p.poll() for p in again]
    assert not any("Traceback" in log(folder, i) for i in (0, 1)), log(folder, 0) + log(folder, 1)
    return {"state_sha256": json.loads((workdir / "run.json").read_text())["state_sha256"], "seconds": round(time.time() - begin, 1), **found}


def apart(folder):
    """Both hosts have a folder of that name, and it is not the same one."""
    workdirs = [folder / f"own{i}" for i in (0, 1)]
    for place in workdirs:
        place.mkdir()
    shown = folder / "scratch"
    shown.mkdir()
    mount = [f"mount --bind '{place}' '{shown}' && " for place in workdirs]      # each in a mount namespace of its own, as ip netns exec makes one
    alive = start(folder, shown / "run", before=mount)
    wait(lambda: ended(alive), 300)
    return {"codes": [p.poll() for p in alive], "said": said(folder), "left": [sorted(str(p.relative_to(place)) for p in place.rglob("*")) for place in workdirs]}


def start(folder, workdir, before=("", "")):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    alive = []
    for i, space in enumerate(SPACES):
        command = [sys.executable, "-u", "-m", "jaxssl.main", *CONFIG, "--workdir", str(workdir), f"--compilation_cache={folder / 'cache'}", "--coordinator", f"10.77.0.1:{PORT}",
                   "--processes=2", f"--process_id={i}", "--join_timeout=120"]
        own = ["ip", "netns", "exec", space, "unshare", "--uts", "bash", "-c", f'hostname host{i}; {before[i]} exec "$@"', "host", *command]
        alive.append(subprocess.Popen(own, cwd=ROOT, env=environment, stdout=open(folder / f"log{i}", "w"), stderr=subprocess.STDOUT, start_new_session=True))
    return alive


def cut(_):
    link("down")


def mended(_):
    link("down")
    time.sleep(20)
    link("up")


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)


def ended(alive):
    return all(p.poll() is not None for p in alive)


def log(folder, i):
    return (folder / f"log{i}").read_text(errors="replace")


def said(folder):
    """What each process says beside its ordinary lines."""
    return [[line.replace(str(folder), "FOLDER") for line in log(folder, i).splitlines()
             if line.startswith(("error:", "E1", "F1", "E0", "F0", "Traceback")) or "Terminating" in line] for i in (0, 1)]


def newest(workdir):
    try:
        return max((json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()), default=0)
    except (OSError, ValueError):
        return 0


def wait(met, seconds=600):
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


if __name__ == "__main__":
    main()
