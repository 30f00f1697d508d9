"""What a machine does: no room, no right, signals, another environment at the next start."""
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faults_by_kind.tools import DIGITS, Fault, kind, process, tiny


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of `size` at `place`, where this user may mount one."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def mounted(place: Path, size: str, attempt: Callable) -> Callable:
    def inside():
        with small_disk(place, size):
            return attempt()
    return inside


def on_ext4(place: Path, attempt: Callable) -> Callable:
    """With a file system at `place` that becomes read-only when it meets an error."""
    def inside():
        place.mkdir()
        image = place.with_suffix(".img")
        with open(image, "wb") as file:
            file.truncate(2**26)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop,errors=remount-ro", str(image), str(place)], check=True, capture_output=True)
        try:
            return attempt()
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False)
    return inside


@kind
def system(folder: Path) -> Iterator[Fault]:
    """A system that says no: no room, no right, no such place, at the start and in the middle."""
    may_mount = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True).returncode == 0
    if may_mount:
        subprocess.run(["umount", str(folder)], check=True)
        for size in ("4k", "32k", "128k", "256k", "384k", "640k", "1m", "1536k"):
            yield Fault(f"a disk of {size}", mounted(folder / "disk", size, process(*tiny(folder / "disk" / "run"))), works=None)
            yield Fault(f"a disk of {size}, no TensorBoard", mounted(folder / "disk", size, process(*tiny(folder / "disk" / "run", "--config.log.tensorboard=false"))), works=None)

        yield Fault("a set packed on a full disk", mounted(folder / "disk", "64k", process("jaxssl.data", "pack", "digits", str(folder / "disk" / "pack"))))
        yield Fault("a contact sheet on a full disk", mounted(folder / "disk", "4k", process("jaxssl.data", "inspect", "digits", "--limit=40", f"--out={folder}/disk/sheet.png")))
        yield Fault("a picture of views on a full disk", mounted(folder / "disk", "4k", process("jaxssl.augment", "--config", DIGITS, f"--out={folder}/disk/views.png")))
        yield Fault("a compilation cache on a full disk", mounted(folder / "disk", "4k", process(*tiny(folder / "c1", f"--compilation_cache={folder}/disk"))), works=True)

        def shut(_, read):
            read("step 2/")
            device = subprocess.run(["findmnt", "-no", "SOURCE", str(folder / "ext4")], check=True, capture_output=True, text=True).stdout.strip()
            Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("x")          # as after an error of the device, whatever files are open
        if shutil.which("mkfs.ext4"):
            command = process(*tiny(folder / "ext4" / "run", "--config.total=60", "--config.checkpoint_every=20"), during=shut)
            yield Fault("a disk that becomes read-only", on_ext4(folder / "ext4", command))

    def move(_, read):
        read("step 2/")
        os.rename(folder / "moved", folder / "elsewhere")

    def delete(_, read):
        read("step 2/")
        shutil.rmtree(folder / "deleted", ignore_errors=True)
    yield Fault("a workdir that is moved", process(*tiny(folder / "moved", "--config.total=60"), during=move))
    yield Fault("a workdir that is deleted", process(*tiny(folder / "deleted", "--config.total=60"), during=delete))
    for limit in (20, 100, 300):
        yield Fault(f"files of at most {limit} kB", process(*tiny(folder / f"f{limit}"), shell=f'ulimit -f {limit}; exec "$@"'), works=None if limit == 300 else False)
    for limit in (20, 40, 80):
        yield Fault(f"at most {limit} open files", process(*tiny(folder / f"n{limit}"), shell=f'ulimit -n {limit}; exec "$@"'), works=None)
    (folder / "theirs").mkdir(mode=0o500)
    for what, value in {"a file": str(folder / "cache"), "a device": "/dev/full", "below a file": str(folder / "cache" / "x"), "nothing": ""}.items():
        (folder / "cache").write_text("")
        yield Fault(f"--compilation_cache is {what}", process(*tiny(folder / f"cc{len(what)}", f"--compilation_cache={value}")), works=None)
    for what, shell in {"standard output is closed": '"$@" >&-', "standard error is closed": '"$@" 2>&-', "all streams are closed": '"$@" <&- >&- 2>&-',
                        "the reader goes away": '"$@" | head -1; exit ${PIPESTATUS[0]}',
                        "standard output is full": '"$@" > /dev/full', "both are full": '"$@" > /dev/full 2>&1'}.items():
        yield Fault(f"{what}", process(*tiny(folder / what.replace(" ", "_")), shell=shell), works=True)
    for what, env in {"LC_ALL=C without UTF-8 mode": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "streams of ASCII": {"PYTHONIOENCODING": "ascii"},
                      "no HOME": {"HOME": None},
                      "a HOME that is not there": {"HOME": "/nowhere"}, "no TMPDIR": {"TMPDIR": "/nowhere"}, "a dumb terminal": {"TERM": "dumb"}}.items():
        yield Fault(what, process(*tiny(folder / what.replace(" ", "_").replace("=", "_")), **env), works=True)
        yield Fault(f"{what}: inspect", process("jaxssl.data", "inspect", "digits", "--limit=20", f"--out={folder}/i.png", **env), works=True)


@kind
def signals(folder: Path) -> Iterator[Fault]:
    """A process that is asked to end: what it had not finished is not there."""
    def sends(*pairs: tuple[str, int]):
        def during(running, read):
            for words, number in pairs:
                read(words) if words else time.sleep(0.2)
                running.send_signal(number)
        return during
    run = functools.partial(tiny, folder / "run", "--config.total=3000")
    term, ctrl_c = signal.SIGTERM, signal.SIGINT
    yield Fault("SIGTERM between two steps", process(*run(), during=sends(("step 2/", term))), works=True)
    yield Fault("Ctrl-C between two steps", process(*run(), during=sends(("step ", ctrl_c))), works=True)
    yield Fault("three Ctrl-C", process(*run(), during=sends(("step ", ctrl_c), ("", ctrl_c), ("", ctrl_c)), seconds=60), codes=(0, 130), works=None)
    yield Fault("SIGHUP between two steps", process(*run(), during=sends(("step ", signal.SIGHUP))), codes=(129,), works=None)
    yield Fault("SIGTERM while it starts", process(*run(), during=sends(("", term))), codes=(-15, 143), works=None)
    yield Fault("SIGTERM while it compiles", process(*run(), during=sends(("mesh:", term))), works=True)
    yield Fault("a run for what follows", process(*tiny(folder / "done")), works=True)

    def clean_folder(out):
        def after(code, said):
            left = [str(path.relative_to(out.parent)) for path in out.parent.rglob("*") if "partial" in path.name or "unchecked" in path.name]
            return f"LEFT {left}" if left or out.exists() and code not in (0,) else ""
        return after
    for number, moment in enumerate((0.5, 2, 4, 6, 8, 10)):
        def later(running, _, moment=moment):
            time.sleep(moment)
            running.send_signal(term)
        (place := folder / f"e{number}").mkdir()
        yield Fault(f"SIGTERM {moment} s into an export", process("jaxssl.export", "--workdir", str(folder / "done"), "--format=safetensors", f"--out={place}/out", "--images=20",
                                                                  during=later,
                                                                  after=clean_folder(place / "out")), codes=(-15, 143), works=None)
        evaluation = ("jaxssl.evaluate", "--workdir", str(folder / "done"), "--protocols=knn,linear", "--compilation_cache=off", f"--cache={place}/cache", f"--out={place}/found")
        yield Fault(f"SIGTERM {moment} s into an evaluation", process(*evaluation, during=later, after=whole_json(place / "found")), codes=(-15, 143), works=None)
        pack = process("jaxssl.data", "pack", "digits", f"{place}/pack", during=later, after=clean_folder(place / "pack"))
        yield Fault(f"SIGTERM {moment} s into a pack", pack, codes=(-15, 143), works=None)
    yield Fault("the workdir is as sound as before", process("jaxssl.table", "--workdir", str(folder / "done")), works=True)


def whole_json(folder: Path) -> Callable:
    def after(code, said):
        for file in folder.rglob("*"):
            if "partial" in file.name:
                return f"LEFT {file.name}"
            if file.suffix == ".json":
                json.loads(file.read_text())
        return ""
    return after


@kind
def surroundings(folder: Path) -> Iterator[Fault]:
    """A resume in another environment: the same bits, or a line that says that they are not."""
    yield Fault("the run itself", process(*tiny(folder / "run")), works=True)

    def resumed(what, *, said: bool, shell="", **env):
        place = folder / re.sub(r"\W", "_", what)

        def attempt():
            shutil.copytree(folder / "run", place)
            (place / "run.json").unlink()
            shutil.rmtree(place / "checkpoints" / "4")
            code, text = process(*tiny(place), shell=shell, **env)()
            if code != 0:
                return code, text
            digests = [json.loads((each / "run.json").read_text())["state_sha256"] for each in (folder / "run", place)]
            noticed = "not bit for bit" in text
            return (0 if noticed == said and (said or digests[0] == digests[1]) and "resuming" in text else f"SAID {noticed}, EQUAL {digests[0] == digests[1]}"), text
        return Fault(f"a resume with {what}", attempt, works=True)
    yield resumed("nothing changed", said=False)
    if len(os.sched_getaffinity(0)) > 1:
        yield resumed("one core", said=True, shell='exec taskset -c 0 "$@"')
    yield resumed("another XLA flag", said=True, XLA_FLAGS=os.environ["XLA_FLAGS"] + " --xla_cpu_enable_fast_math=true")
    yield resumed("two devices", said=True, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    for name, value in {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
                        "JAX_RANDOM_SEED_OFFSET": "7",
                        "JAX_NUMPY_DTYPE_PROMOTION": "strict", "PYTHONHASHSEED": "7", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"}.items():
        yield resumed(f"{name}={value}", said=False, **{name: value})
