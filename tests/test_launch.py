"""The scripts of launch/, run for real where this machine can, against a recorded gcloud, srun or pip where it cannot."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.compiled import QUICK

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), ROOT / ".ci" / "run", ROOT / "tests" / "slurm.sh"])
RECORD = "#!/usr/bin/env bash\nprintf '%s\\n' \"$@\" >>\"$RECORD\"\necho -- >>\"$RECORD\"\n"


def run(*command, cwd=ROOT, timeout=90, **env):
    given = {name: value for name, value in os.environ.items() if name != "PYTHON"}     # whoever chose this suite's interpreter by it did not choose the scripts'
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=given | env, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


def fake(folder, name, text=RECORD):
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(text)
    file.chmod(0o755)
    return file


def calls(file):
    return [call.splitlines() for call in file.read_text().split("--\n") if call]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck(script):
    program = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if not program:
        pytest.skip("shellcheck is not installed (it is in the extra 'test')")
    code, out, _ = run(program, "-x", script)
    assert code == 0, out


def test_scripts_can_be_called():
    for script in SCRIPTS:
        assert os.access(script, os.X_OK) != (script.name in ("_venv.sh", "slurm.sbatch")), f"{script}: wrong permission"
    assert "./launch/test.sh" in (ROOT / ".ci" / "run").read_text()


# --- set-up -------------------------------------------------------------------------------------------------------------------------------

FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
  "-c import sys"*) exit {old} ;;
  "-V") echo "Python {version}" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *) printf '%s\\n' "$@" >>"$RECORD"; echo -- >>"$RECORD" ;;
esac
"""


@pytest.mark.parametrize(("given", "expected"), [({}, "glibc.malloc.hugetlb=1"), ({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, "glibc.malloc.hugetlb=1:glibc.malloc.check=1")])
def test_huge_pages_are_asked_for_beside_what_the_user_set(given, expected):
    clean = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(["bash", "-c", f"source '{LAUNCH}/_venv.sh'; echo $GLIBC_TUNABLES"], env=clean | given, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == expected, done.stderr
    assert 'export GLIBC_TUNABLES="glibc.malloc.hugetlb=1${GLIBC_TUNABLES:+:$GLIBC_TUNABLES}"' in (LAUNCH / "local.sh").read_text()


@pytest.fixture
def clone(tmp_path):
    """The scripts in another place, whose name has a space, with a Python that only records."""
    place = tmp_path / "a clone"
    shutil.copytree(LAUNCH, place / "launch")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, place)
    return place


def test_setup_installs_once_and_again_when_versions_change(clone, tmp_path):
    good, record = fake(tmp_path / "bin", "good python", FAKE_PYTHON.format(old=0, version="3.12.1")), tmp_path / "record"
    env = {"PYTHON": str(good), "RECORD": str(record)}

    def setup(script):
        record.write_text("")
        code, out, err = run(clone / "launch" / script, cwd=tmp_path, **env)
        assert code == 0, err
        return [call for call in calls(record) if "pip" in call], out

    installs, out = setup("quickstart.sh")
    assert installs == [["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--constraint", "constraints.txt", "--editable", "."]]
    assert "making .venv" in out and re.search(r"installed in \d+ s", out) and re.search(r"trained and evaluated in \d+ s; \d+ s in all", out)
    assert [call[:2] for call in calls(record)[1:]] == [["-m", "jaxssl.main"], ["-m", "jaxssl.table"]]
    assert setup("quickstart.sh")[0] == []
    assert [i[-1] for i in setup("test.sh")[0]] == [".[test]"]
    assert setup("test.sh")[0] == [] and setup("quickstart.sh")[0] == []
    with open(clone / "constraints.txt", "a") as file:
        file.write("new==1\n")
    assert [i[-1] for i in setup("test.sh")[0]] == [".[test]"]
    assert setup("quickstart.sh")[0] == []  # the extra's installation held the core
    moved = clone.rename(tmp_path / "moved")
    assert run(moved / "launch" / "quickstart.sh", cwd=tmp_path, **env)[0] == 0 and calls(record)[-3][-1] == "."


def test_failed_installation_is_not_remembered(clone, tmp_path):
    broken = FAKE_PYTHON.format(old=0, version="3.12.1").replace('  *) ', '  *pip*) exit 1 ;;\n  *) ')
    env = {"PYTHON": str(fake(tmp_path / "bin", "py", broken)), "RECORD": str(tmp_path / "record")}
    for _ in range(2):
        code, out, err = run(clone / "launch" / "quickstart.sh", **env)
        assert code == 1 and "the installation failed" in err and "training" not in out


def test_old_python_is_one_sentence(clone, tmp_path):
    old = FAKE_PYTHON.format(old=1, version="3.10.9")
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        fake(tmp_path / "bin", name, old)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    code, _, err = run(clone / "launch" / "quickstart.sh", PATH=path)
    assert code == 2 and err.count("\n") == 1 and "Python 3.11 or newer is needed and Python 3.10.9 was found" in err
    fake(tmp_path / "bin", "python3.12", FAKE_PYTHON.format(old=0, version="3.12.1"))  # a newer one beside it is taken
    code, out, _ = run(clone / "launch" / "quickstart.sh", PATH=path, RECORD=str(tmp_path / "record"))
    assert code == 0 and "making .venv with Python 3.12.1" in out
    fake(clone / ".venv" / "bin", "python", old)
    code, _, err = run(clone / "launch" / "quickstart.sh", PATH=path)
    assert code == 2 and "delete that folder" in err


# --- local.sh -----------------------------------------------------------------------------------------------------------------------------

JOINED = """
import os, sys, time
from jaxssl import main
from jaxssl.parallel import processes as distributed
from jaxssl.training.watchdog import Stop
flags, rest = main.parser().parse_known_args(["--config", "x", "--workdir", "y", *sys.argv[1:]])
place = distributed.join(coordinator=flags.coordinator, processes=flags.processes, process_id=flags.process_id, timeout=60)
"""


def module(tmp_path, body):
    (tmp_path / "tiny_run.py").write_text(JOINED + body)
    return {"MODULE": "tiny_run", "PYTHONPATH": str(tmp_path), "PYTHON": sys.executable, "XLA_FLAGS": QUICK}


def test_local_two_processes_share_a_sum(tmp_path):
    env = module(tmp_path, """
import jax.numpy as jnp
from jax.experimental import multihost_utils
total = multihost_utils.process_allgather(jnp.array([place.index + 1.0])).sum()
print("sum", total, rest, file=sys.stderr)
os.write(2, b"no newline")
os._exit(0)  # gloo's own buffered line would follow
""")
    code, out, err = run(LAUNCH / "local.sh", 2, "--config.a=b c", cwd=tmp_path, **env, DEVICES="3")
    assert code == 0, out + err
    for i in range(2):
        assert f"[{i}] process {i}/2: joined; 3 local devices, 6 in all (cpu)" in out
        assert f"[{i}] sum 3.0 ['--config.a=b c']" in out and f"[{i}] no newline\n" in out


def test_local_first_failure_is_the_exit_code_and_ends_the_others(tmp_path):
    env = module(tmp_path, """
if place.index == 1:
    distributed.leave(3)
time.sleep(600)
""")
    start = time.monotonic()
    code, out, err = run(LAUNCH / "local.sh", 2, **env)
    assert code == 3 and "process 1 ended with 3" in err and "ending the others" in err
    assert "[0] error: process 1 on " in out and "has gone" in out and "Traceback" not in out
    assert time.monotonic() - start < 60


def test_local_passes_sigterm_on_once(tmp_path):
    """After joining, too: jax.distributed puts a SIGTERM handler of its own in place, which ours must replace."""
    env = os.environ | module(tmp_path, """
with Stop() as stop:
    print("ready", flush=True)
    while not stop:
        time.sleep(0.05)
    time.sleep(0.5)
    print("saved after", stop.signal)
""")
    process = subprocess.Popen([LAUNCH / "local.sh", "2"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = []
    while sum("ready" in line for line in seen) < 2:
        seen.append(process.stdout.readline())
        assert seen[-1], "".join(seen)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "[0] saved after SIGTERM" in out and "[1] saved after SIGTERM" in out


def test_local_bad_input():
    for arguments in ([], ["0"], ["two"]):
        code, _, err = run(LAUNCH / "local.sh", *arguments)
        assert code == 2 and "usage" in err
    code, _, err = run(LAUNCH / "local.sh", 2, PYTHON="/nowhere/python")
    assert code == 2 and "cannot run /nowhere/python" in err


# --- the cloud and clusters -----------------------------------------------------------------------------------------------------------------

@pytest.fixture
def gcloud(tmp_path):
    fake(tmp_path / "bin", "gcloud")
    record = tmp_path / "record"

    def call(*arguments):
        record.write_text("")
        code, out, err = run(LAUNCH / "tpu_vm.sh", *arguments, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", RECORD=str(record))
        return code, calls(record), out + err
    return call


NAMED = ("--name", "my pod", "--zone", "z-b")
TPU = ["alpha", "compute", "tpus", "tpu-vm"]


def test_tpu_vm_commands(gcloud):
    assert gcloud("create", *NAMED, "--type", "v5litepod-16", "--spot", "--project", "p")[:2] == (
        0, [[*TPU, "create", "my pod", "--zone", "z-b", "--project", "p", "--accelerator-type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite", "--spot"]])
    assert gcloud("create", *NAMED, "--type", "v9-8", "--version", "image")[1][0][-4:] == ["--accelerator-type", "v9-8", "--version", "image"]
    code, (scp, ssh), _ = gcloud("copy", *NAMED)
    assert code == 0 and scp[:5] == [*TPU, "scp"] and scp[6] == "my pod:" and scp[-2:] == ["--worker", "all"]
    assert ssh[:6] == [*TPU, "ssh", "my pod"] and "setup_venv tpu" in "\n".join(ssh)
    assert gcloud("tail", *NAMED, "--worker", "3")[1][0][-4:] == ["--worker", "3", "--command", "tail -n 100 -F jaxssl.log"]
    assert gcloud("stop", *NAMED)[1][0][-1] == 'kill -TERM "$(cat jaxssl.pid)"'
    assert gcloud("delete", *NAMED)[1] == [[*TPU, "delete", "my pod", "--zone", "z-b", "--quiet"]]


def test_tpu_vm_run_quotes_its_arguments(gcloud, tmp_path):
    """What a worker would run is run here: arguments with spaces and quotes arrive as they were typed, and a second run is refused."""
    typed = ["--config", "configs/x.py", "--workdir", "gs://b/a run", "--config.note=it's $HOME; *"]
    code, (call,), _ = gcloud("run", *NAMED, "--", *typed)
    assert code == 0
    remote = "\n".join(call[call.index("--command") + 1:])
    home = tmp_path / "home"
    (home / "jaxssl" / ".venv").mkdir(parents=True)
    fake(home / "jaxssl" / ".venv" / "bin", "python", '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\nexec sleep 60\n')
    assert run("bash", "-c", remote, cwd=home)[0] == 0
    pid = int((home / "jaxssl.pid").read_text())
    try:
        code, _, err = run("bash", "-c", remote, cwd=home)
        assert code == 2 and "a run is active" in err
        deadline = time.monotonic() + 10
        while (home / "jaxssl.log").read_text().count("\n") < 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (home / "jaxssl.log").read_text().splitlines() == ["-u", "-m", "jaxssl.main", *typed]
    finally:
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("arguments, words", [
    (["fly"], "unknown command 'fly'"), (["create", "--zone", "z"], "--name is missing"), (["create", "--name", "n"], "--zone is missing"),
    (["create", *NAMED], "create needs --type"), (["create", *NAMED, "--type", "h100"], "no image is known"), (["run", *NAMED], "run needs the arguments"),
    (["tail", *NAMED, "--worker"], "--worker needs a value"), (["tail", *NAMED, "--follow"], "unknown option '--follow'"),
])
def test_tpu_vm_bad_input(gcloud, arguments, words):
    code, made, text = gcloud(*arguments)
    assert code == 2 and words in text and made == []


def test_tpu_vm_help(gcloud):
    code, made, text = gcloud("--help")
    assert code == 0 and made == [] and all(f"\n  {command} " in text for command in ("create", "copy", "run", "tail", "stop", "delete"))


def test_slurm_hands_arguments_to_srun(tmp_path):
    fake(tmp_path / "bin", "srun")
    fake(tmp_path / ".venv", "x")
    fake(tmp_path / ".venv" / "bin", "python")
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "RECORD": str(tmp_path / "record"), "SLURM_SUBMIT_DIR": str(tmp_path)}
    assert run("bash", LAUNCH / "slurm.sbatch", "--config", "a b", **env)[0] == 0
    assert calls(tmp_path / "record") == [["--kill-on-bad-exit=1", "--label", ".venv/bin/python", "-u", "-m", "jaxssl.main", "--config", "a b"]]
    code, _, err = run("bash", LAUNCH / "slurm.sbatch", **env)
    assert code == 2 and "no arguments of jaxssl.main" in err
    settings = dict(re.findall(r"^#SBATCH --([\w-]+)=(.+)$", (LAUNCH / "slurm.sbatch").read_text(), re.M))
    assert settings["gpus-per-node"] == settings["ntasks-per-node"] and settings["signal"].startswith("TERM@")


def gke():
    yaml = pytest.importorskip("yaml", reason="pyyaml reads the manifest")
    return yaml.safe_load((LAUNCH / "gke.yaml").read_text())


def test_gke_manifest():
    jobset = gke()
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet") and jobset["metadata"]["name"]
    (slice_,) = jobset["spec"]["replicatedJobs"]
    job = slice_["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert job["parallelism"] == job["completions"] == rows * columns / container["resources"]["limits"]["google.com/tpu"]
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert "cloud.google.com/gke-tpu-accelerator" in pod["nodeSelector"] and pod["terminationGracePeriodSeconds"] >= 120
    (rule,), (given_up,) = job["podFailurePolicy"]["rules"], jobset["spec"]["failurePolicy"]["rules"]
    from jaxssl import main
    from jaxssl.parallel import processes as distributed
    from jaxssl.errors import NonFiniteError, UserError
    assert rule == {"action": "FailJob", "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [UserError.code, NonFiniteError.code]}}
    assert given_up == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert distributed.PORT in [port["containerPort"] for port in container["ports"]]
    flags = main.parser().parse_args(container["args"])  # exits on a flag that main does not know
    assert (ROOT / flags.config).exists() and flags.workdir.startswith("gs://")


@pytest.mark.parametrize("args, asked", [
    (["--config", "c.py", "--workdir=gs://b/a run", "--config.seed=1"], ["--workdir=gs://b/a run"]), (["--workdir", "gs://b/a run", "--debug"], ["--workdir", "gs://b/a run"]),
    (["--config", "c.py"], None)])
def test_gke_command_finds_the_workdir_however_it_is_written(tmp_path, args, asked):
    """And ends with 2 where there is none, which main has refused before; a table that cannot be printed is worth another try."""
    fake(tmp_path, "python", '#!/usr/bin/env bash\nif [ "$2" = jaxssl.table ]; then printf "%s\\n" "${@:3}" >"$RECORD"; exit $TABLE; fi\n')
    container = gke()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    for table, expected in (("0", 0), ("2", 75)):
        code, _, err = run(*container["command"], *args, PATH=f"{tmp_path}:{os.environ['PATH']}", RECORD=str(tmp_path / "record"), TABLE=table, timeout=20)
        assert code == (2 if asked is None else expected), err
    assert asked is None or (tmp_path / "record").read_text().splitlines() == asked


@pytest.mark.parametrize("main_code, table_code, signalled, expected", [(0, 0, False, 0), (2, 0, False, 2), (3, 0, False, 3), (0, 2, True, 75), (0, 0, True, 0)])
def test_gke_command_tells_stopped_from_finished(tmp_path, main_code, table_code, signalled, expected):
    """The manifest's shell with a recorded python: SIGTERM reaches the run, and a run that saved and stopped counts neither as complete nor as one to give up."""
    fake(tmp_path, "python", f"""#!/usr/bin/env bash
echo "$@" >>"$RECORD"
[ "$2" = jaxssl.table ] && exit {table_code}
trap 'echo caught >>"$RECORD"; exit {main_code}' TERM
for _ in $(seq {100 if signalled else 1}); do sleep 0.1; done
exit {main_code}
""")
    container = gke()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    record = tmp_path / "record"
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(record)}
    process = subprocess.Popen(container["command"] + container["args"], env=env)
    if signalled:
        while not record.exists():
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == expected
    said = record.read_text().splitlines()
    assert ("caught" in said) == signalled
    assert ("-m jaxssl.table --workdir gs://BUCKET/jaxssl/simclr" in said) == (main_code == 0)
