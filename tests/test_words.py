"""Words that are not numbers, numbers that mean nothing, and what the system refuses: one sentence each, by the one boundary of its kind."""
import argparse
import asyncio
import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading

import jax
import pytest
import tensorstore

from jaxssl import command, config as configs, durations, errors, startup, typed
from jaxssl.errors import Temporary, UserError
from jaxssl.optim import rules
from jaxssl.parallel import processes, rollcall
from jaxssl.training import progress
from jaxssl.workdir import environment
from tests.tiny import METHODS, ROOT, spec

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2"}


def numeric(config):
    for path in configs.paths(config):
        value = configs.config_get(config, path)
        like = value[0] if isinstance(value, tuple) and value else value
        if path in configs.DURATIONS or isinstance(like, int | float) and not isinstance(like, bool):
            yield path, value


@pytest.mark.parametrize("method", METHODS)
def test_every_numeric_key_refuses_what_is_no_such_number(method):
    """A sweep over the signatures: a key of tomorrow is in it."""
    file, name = spec(method)
    opened = configs.opened(file)
    keys = list(numeric(configs.load(opened, name)))
    assert len(keys) > 60
    for path, value in keys:
        if not path.startswith("method.") and method not in ("simclr", "mae"):       # the other sections twice: with a ResNet and with a vision transformer
            continue
        for bad in ("nan", "1e999", "1e40", "-0.5", "-7"):                           # a duration counts in steps here
            text = bad if not isinstance(value, tuple) else f"({bad}{f', {value[-1]}' * (len(value) - 1)},)"
            with pytest.raises(UserError, match=path.replace(".", r"\.")):
                configs.load(opened, {**name, path: text})
                pytest.fail(f"{path}={text} is taken")


def test_numbers_within_settings_and_tuples_count_too():
    for value in ((("kernel$", {"decay": float("nan")}),), (("kernel$", {"rate": -1.0}),), ((7 * 10**12, {"decay": 0.0}),)):
        with pytest.raises(UserError, match="optim.rules"):
            typed.within(value, (), "optim.rules")
    for value, default in ((-1, -1), (0, 5), (1e-30, 1.0), ((.5, .5), (.1, .2)), (None, None), ("a", "b")):
        typed.within(value, default, "k")
    assert configs.load(configs.opened("configs/digits/simclr.py"), {"data.workers": "-1"}).data.workers == -1
    with pytest.raises(UserError, match="from -1 to 2,147,483,647"):
        typed.within(-2, -1, "data.workers")
    with pytest.raises(UserError, match="0 or at least 1e-30"):
        typed.within(1e-40, 1.0, "t")
    with pytest.raises(UserError, match="a number of some 5,000 digits"):
        typed.within(10**5000, 1, "seed")
    with pytest.raises(UserError, match=r"'9{50,60}'?"):
        durations.parse("9" * 5000, "total")


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS", "JAX_COORDINATOR_PORT"])
@pytest.mark.parametrize("value", ["two", "1.5", "-3", "²", "9" * 30, "nan", "\x1b[2J"])
def test_variables_that_are_no_number(name, value):
    with pytest.raises(UserError, match=f"{name} is .* in the environment, and should be a whole number"):
        processes.resolve("", 0, -1, {**SLURM, name: value})


@pytest.mark.parametrize("command", ["export", "convert", "augment"])
def test_variables_that_jax_refuses_before_a_command_runs(command):
    """These import JAX at their top."""
    given = {**os.environ, "JAX_TRACEBACK_FILTERING": "maybe"}
    done = subprocess.run([sys.executable, "-m", f"jaxssl.{command}", "--help"], cwd=ROOT, env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and re.fullmatch(r"error: jax does not start \(Invalid value \"maybe\" for JAX flag.*JAX_TRACEBACK_FILTERING='maybe'.*\n", done.stderr), done.stderr


def test_what_jax_says_of_no_device_is_a_sentence_wherever_it_is_asked(capsys):
    def asked():
        jax.devices("nonsense")

    assert command.guarded(asked, debug=False) == 2 and "jax does not start (Unknown backend nonsense" in capsys.readouterr().err
    with pytest.raises(ValueError, match="ours"):
        command.guarded(lambda: (_ for _ in ()).throw(ValueError("ours")), debug=False)


def test_numbers_of_processes_beyond_reason():
    for flags in (("h:1", 10**30, 0), ("h:1", 10**6, 0)):
        with pytest.raises(UserError, match="more than any run has"):
            processes.resolve(*flags, {})
    for timeout in (0, -1, 10**30):
        with pytest.raises(UserError, match="--join_timeout"):
            processes.join(timeout=timeout)


@pytest.mark.parametrize("nodes", ["", "[", "a[", "a[]", "a[1-", "a b", ",a", "\x1b[31m"])
def test_lists_of_nodes_that_name_none(nodes):
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST"):
        processes._first_node(nodes)


@pytest.mark.parametrize("address", ["host:²", "host:99999", "h:1:2", "\x1b[2J:8", "host: 8", "[::1:8"])
def test_addresses_that_are_none(address):
    with pytest.raises(UserError, match="must be host:port"):
        rollcall.split(address)


def test_patterns_that_never_end(monkeypatch):
    monkeypatch.setattr(rules, "PATIENCE", .2)
    shapes = {"encoder": {"a" * 40: type("Leaf", (), {"shape": (3,)})()}}
    with pytest.raises(UserError, match="does not end"):
        rules.table(shapes, (("(a+)+b", {"decay": 0.0}),), behind=(), clip_by="all", total=10)
    for wrong in (("a{1,99999999999}", {"decay": 0.0}), ("a", {}), ("a", {1: 2})):
        with pytest.raises(UserError, match="optim.rules"):
            rules.table(shapes, (wrong,), behind=(), clip_by="all", total=10)


@pytest.mark.parametrize("body, words", [("import sys; sys.exit(0)", "SystemExit"), ("raise GeneratorExit", "GeneratorExit"),
                                         ("def get_config(v):\n    raise SystemExit('a\\nb')", "SystemExit: a b"),
                                         ("from ml_collections import ConfigDict\ndef get_config(v):\n    return ConfigDict({'optim': {1: 2}})", "can be no key")])
def test_config_files_that_exit_or_return_keys_that_are_no_text(tmp_path, body, words):
    (tmp_path / "c.py").write_text(body)
    with pytest.raises(UserError, match=words):
        configs.load(str(tmp_path / "c.py"))


def test_words_of_a_command_line():
    assert command.place("~/x") == os.path.expanduser("~/x") and command.whole("-7") == -7 and command.number("1e-6") == 1e-6
    for read, text in ((command.place, "a\0b"), (command.whole, "²"), (command.whole, "9" * 30), (command.whole, "1_0"), (command.number, "nan"), (command.number, "1e999"),
                       (command.number, "x")):
        with pytest.raises(argparse.ArgumentTypeError):
            read(text)


# What the system refuses

@pytest.mark.parametrize("number, code, words", [(errno.ENOSPC, 2, "make room"), (errno.EDQUOT, 2, "quota"), (errno.EROFS, 2, "can only be read"), (errno.EACCES, 2, "right"),
                                                 (errno.ENAMETOOLONG, 2, "shorter name"), (errno.EFBIG, 2, "ulimit -f"), (errno.ENOENT, 2, "moved or deleted"), (errno.EIO, 75,
                                                                                                                                                                 "try again"),
                                                 (errno.ESTALE, 75, "try again"), (errno.ETIMEDOUT, 75, "try again"), (9999, 2, "see that it is there")])
def test_errors_of_the_system_are_sentences(capsys, number, code, words):
    def body():
        try:
            raise OSError(number, "?", "/data/a\x1b[2J\nb")
        except OSError as error:
            raise RuntimeError("a library's own words") from error
    assert command.guarded(body, False) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: /data/a\\x1b[2J\\nb: ") and words in said


def test_what_libraries_keep_of_an_error_is_read_from_their_words():
    assert "make room" in str(errors.system(ValueError('RESOURCE: Error writing "x/d/1" [OS error 28: ENOSPC No space left on device]')))
    assert "make room" in str(errors.system(ValueError("RESOURCE_EXHAUSTED: Error writing local file: [OS error 28: ENOSPC No space left on device]")))
    assert "make room" in str(errors.system(RuntimeError("write() failed: No space left on device; writing /data/x at byte 65536")))
    assert "ulimit -n" in str(errors.system(RuntimeError("[Errno 24] Too many open files: 'x'")))
    assert "out of memory" in str(errors.system(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes."))) and "plan" in str(errors.system(MemoryError()))
    assert isinstance(errors.system(TimeoutError("slow")), Temporary) and isinstance(errors.system(ConnectionResetError()), Temporary)
    assert errors.system(KeyError("a")) is None and errors.system(AssertionError()) is None
    looped = ValueError("x")
    looped.__context__ = looped
    assert errors.system(looped) is None


def test_a_fault_of_ours_stays_one():
    with pytest.raises(ZeroDivisionError):
        command.guarded(lambda: 1 / 0, False)


def test_streams_that_fail_do_not_end_a_run():
    """A reader that goes away, and a terminal of ASCII."""
    reading, writing = os.pipe()
    stream = command.Steady(os.fdopen(writing, "w", encoding="ascii"))
    stream.write("2 × \udcff\n")
    stream.flush()
    assert os.read(reading, 99) == rb"2 \xd7 \udcff" + b"\n"
    os.close(reading)
    for _ in range(3):
        stream.write("more")
        stream.flush()
    stream._stream.close()
    stream.write("still more")


def test_a_thread_that_is_refused_says_so_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", command._in_thread)

    def work():
        raise OSError(errno.ENOSPC, "?", "tb/events")
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert capsys.readouterr().err == "warning: tb/events: No space left on device; make room on that disk, or choose another place\n"


@pytest.mark.parametrize("module", [False, True])
def test_a_callback_of_a_library_is_a_line_and_what_ends_the_process_a_stack(module, capsys, monkeypatch):
    """Also where the callback is made in the main thread."""
    monkeypatch.setattr(command, "_SAID", set())
    try:
        exec(compile("[][0]", "somewhere", "exec")) if module else exec("def callback():\n [][0]\ncallback()")
    except IndexError as error:
        trace = error.__traceback__.tb_next          # below this test
        for _ in range(2):
            command._in_callback(IndexError, error, trace if module else trace.tb_next)
    told = capsys.readouterr().err
    assert told.count("Traceback") == 2 if module else told == "warning: a library's callback failed (IndexError: list index out of range)\n"


def test_what_nobody_can_catch_is_one_line(capsys, monkeypatch):
    """As TensorStore hands it to Python: C++ calls back once the loop that waited is closed."""
    monkeypatch.setattr(sys, "unraisablehook", command._swallowed)
    monkeypatch.setattr(command, "_SAID", set())
    loop = asyncio.new_event_loop()
    loop.close()
    for _ in range(2):
        promise, waited = tensorstore.Promise.new()
        waited.add_done_callback(lambda done: loop.call_soon_threadsafe(done.result))
        promise.set_result(1)
        assert waited.result() == 1
    assert capsys.readouterr().err == "warning: a library's callback failed (RuntimeError: Event loop is closed)\n"


@pytest.mark.parametrize("code", [0, 2])
def test_a_signal_while_python_ends_is_no_stack(code):
    """What was asked for is done by then, and its exit code stands."""
    late = "import atexit, os, signal, time; from jaxssl import command; atexit.register(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(5)))"
    done = subprocess.run([sys.executable, "-c", f"{late}; command.process(lambda: {code})"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_finaliser_is_not_lost(number, code):
    """What its handler raises there, Python drops."""
    lines = ["import os, signal, time", "from jaxssl import command", "class Late:", "    def __del__(self):",
             f"        os.kill(os.getpid(), {int(number)})", "        time.sleep(1)",
             "def body():", "    try:",
             "        late = Late()", "        del late", "        time.sleep(5)", "    finally:", "        print('cleaned', flush=True)",
             "command.process(lambda: command.guarded(body, False))"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, "cleaned\n") and "Traceback" not in done.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_a_signal_interrupts_is_not_taken_apart(number, code, tmp_path):
    """Neither Python's end nor JAX's runs, in which threads of libraries crash; what was registered for the end does, so that temporary folders are gone."""
    lines = ["import os, signal, sys, tempfile, time", "from jax._src import api", "from jaxssl import command", "class Taken:",
             "    def __del__(self, kill=os.kill, own=os.getpid()):", f"        kill(own, {int(signal.SIGSEGV)})",
             "def body():", f"    sys.kept = Taken(), tempfile.TemporaryDirectory(dir={str(tmp_path)!r})",
             f"    os.kill(os.getpid(), {int(number)})", "    time.sleep(5)",
             "command.process(lambda: command.guarded(body, False))"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code and "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_asking_git_for_the_revision_writes_nothing(tmp_path, monkeypatch):
    """`describe --dirty` would renew the index of the user's repository, and leave a lock there when it is killed meanwhile."""
    def git(*ask):
        return subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b", *ask], check=True, capture_output=True, text=True).stdout.strip()
    git("init", "-q")
    (tmp_path / "source.py").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "source.py"))
    os.utime(tmp_path / "source.py", (1e9, 1e9))                 # the index knows another time
    before = (tmp_path / ".git" / "index").stat().st_mtime_ns, (tmp_path / ".git" / "index").read_bytes()
    assert environment._revision() == git("rev-parse", "--short", "HEAD")
    assert ((tmp_path / ".git" / "index").stat().st_mtime_ns, (tmp_path / ".git" / "index").read_bytes()) == before
    (tmp_path / "source.py").write_text("22")
    assert environment._revision() == git("rev-parse", "--short", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._revision() is None


def test_lines_of_a_run_are_harmless(capsys):
    with progress.Progress(1) as screen:
        screen.note("a\x1b[2Jb\nsecond")
        screen.note("")
    assert capsys.readouterr().out == "a\\x1b[2Jb\nsecond\n"


# The environment

def test_what_changes_the_bits_of_a_resume_is_said_in_one_line(monkeypatch):
    before = environment.now()
    assert environment.changed(before, environment.now()) == "" and environment.changed({}, before) == ""
    after = {**before, "threads": before["threads"] + 1, "packages": {**before["packages"], "jax": "9.9"}}
    said = environment.changed(before, after)
    assert "\n" not in said and f"threads {before['threads']} → {before['threads'] + 1}" in said and "jax" in said and "rounding" in said
    assert "threads" not in environment.changed({**before, "backend": "tpu"}, {**after, "backend": "tpu"})
    driven = {**before, "packages": {**before["packages"], "nvidia-cudnn-cu13": "9.1"}}
    assert environment.changed(driven, before) == "" and "nvidia-cudnn-cu13 9.1 → 9.2" in environment.changed(
        {**driven, "backend": "gpu"}, {**driven, "backend": "gpu", "packages": {**driven["packages"], "nvidia-cudnn-cu13": "9.2"}})
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_cpu_collective_call_terminate_timeout_seconds=300 --xla_force_host_platform_device_count=3")
    assert environment.changed(before, environment.now()) == ""
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_cpu_enable_fast_math=true")
    assert "xla_flags" in environment.changed(before, environment.now())


@pytest.mark.parametrize(("backend", "flags", "promised"), [
    ("gpu", "", False), ("gpu", "--xla_gpu_deterministic_ops=false", False), ("gpu", "--xla_a=1 --xla_gpu_deterministic_ops=true", True),
    ("gpu", "--xla_gpu_deterministic_ops", True), ("cpu", "", True), ("tpu", "", True)])
def test_a_resume_on_gpus_promises_bits_where_kernels_are_fixed(backend, flags, promised):
    same = {**environment.now(), "backend": backend, "xla_flags": flags}
    said = environment.changed(same, same)
    assert said == "" if promised else "\n" not in said and "rounding" in said and "--xla_gpu_deterministic_ops=true" in said


def test_what_draws_random_numbers_is_not_left_to_the_environment(monkeypatch):
    import jax
    from jaxssl.parallel import runtime
    monkeypatch.setattr(runtime.logging.root, "handlers", [])
    held = {name: getattr(jax.config, name) for name in startup.FIXED}
    try:
        for name, value in {"jax_default_prng_impl": "rbg", "jax_threefry_partitionable": False, "jax_enable_x64": True, "jax_random_seed_offset": 7}.items():
            jax.config.update(name, value)
        runtime.configure("off")
        assert {name: getattr(jax.config, name) for name in startup.FIXED} == startup.FIXED
    finally:
        for name, value in held.items():
            jax.config.update(name, value)


def test_log_lines_are_harmless():
    import logging
    from jaxssl.parallel import runtime
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(runtime.Harmless())
    handler.emit(logging.LogRecord("x", logging.WARNING, "", 0, "broken %s", ("a\x1b]0;owned\x07",), None))
    assert handler.stream.getvalue() == "broken a\\x1b]0;owned\\x07\n"
    assert "jaxssl" in sys.modules
