"""A run whose workdir is in a bucket, against a server that speaks the protocol: train, kill, resume, evaluate, export. Runs where gcsfs and gcp-storage-emulator are installed."""
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from tests import bucket
from tests.compiled import QUICK
from tests.tiny import ROOT

pytestmark = pytest.mark.skipif(bool(bucket.missing()), reason=bucket.missing() or "all here")
WORKDIR = "gs://bucket/some runs/digits"
CONFIG = ["--config", "configs/digits/simclr.py", "--config.total=30", "--config.batch_size=32", "--config.warmup=2", "--config.log_every=5", "--config.eval_every=0",
          "--config.checkpoint_every=5", "--config.model.name=resnet10", "--config.model.width=0.0625", "--config.augment.size=16", "--config.data.canvas=16",
          "--config.data.variant=clean", "--config.eval.reference=300", "--config.eval.queries=100", "--config.eval.raw=false", "--config.report=false"]


@pytest.fixture(scope="module")
def served():
    with bucket.served() as environment:
        yield {**os.environ, **environment, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}


def start(command, environment, *flags):
    return subprocess.Popen([sys.executable, "-m", f"jaxssl.{command}", *flags], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(command, environment, *flags):
    process = start(command, environment, *flags)
    output = process.communicate(timeout=300)[0]
    assert "Traceback" not in output, output
    return process.returncode, output


def objects(environment):
    with urllib.request.urlopen(environment["STORAGE_EMULATOR_HOST"] + "/storage/v1/b/bucket/o") as answer:
        return [each["name"].removeprefix("some runs/digits/") for each in json.load(answer)["items"] or []]


def read(environment, name):
    with urllib.request.urlopen(environment["STORAGE_EMULATOR_HOST"] + f"/bucket/some%20runs/digits/{name}") as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def trained(served, tmp_path_factory):
    """The environment of a finished run that was killed once, and what the two processes said."""
    folder = tmp_path_factory.mktemp("local")
    cache = f"--compilation_cache={folder / 'cache'}"
    code, output = run("main", served, *CONFIG, "--workdir", str(folder / "run"), cache)
    assert code == 0, output
    process = start("main", served, *CONFIG, "--workdir", WORKDIR, cache)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and not any(name.startswith("checkpoints/10/") for name in objects(served)):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    killed = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, killed
    code, again = run("main", served, *CONFIG, "--workdir", WORKDIR, cache)
    assert code == 0, again
    return served, json.loads((folder / "run/run.json").read_text()), again


def test_a_killed_run_goes_on_to_the_same_bits(trained):
    environment, straight, again = trained
    assert "resuming gs://bucket/some runs/digits at step" in again and "was re-opened and is intact" in again, again
    assert json.loads(read(environment, "run.json"))["state_sha256"] == straight["state_sha256"]
    steps = [json.loads(line)["step"] for line in read(environment, "metrics.jsonl").splitlines() if "loss" in line]
    assert steps == [5, 10, 15, 20, 25, 30]
    left = objects(environment)
    assert {name.split("/")[1] for name in left if name.startswith("checkpoints/")} == {"25", "30"}, left
    assert not [name for name in left if "shared-" in name or "tmp" in name], left


def test_it_is_finished_evaluated_and_exported(trained, tmp_path):
    environment, _, _ = trained
    code, output = run("main", environment, *CONFIG, "--workdir", WORKDIR, "--compilation_cache=off")
    assert code == 0 and "is finished (30 steps)" in output, output
    code, output = run("table", environment, "--workdir", WORKDIR)
    assert code == 0 and "trained encoder" in output, output
    code, output = run("evaluate", environment, "--workdir", WORKDIR, "--protocols", "knn", "--cache", str(tmp_path / "cache"), "--compilation_cache=off")
    assert code == 0 and "written: gs://bucket/some runs/digits/evaluations/" in output, output
    code, output = run("export", environment, "--workdir", WORKDIR, "--format", "safetensors", "--out", str(tmp_path / "export"))
    assert code == 0 and "done: " in output and (tmp_path / "export").is_dir(), output


def test_a_bucket_that_is_not_there_is_one_sentence(served):
    code, output = run("main", served, *CONFIG, "--workdir", "gs://nobucket/run", "--compilation_cache=off")
    assert code in (2, 75) and [line for line in output.splitlines() if line.startswith("error: ")], output
