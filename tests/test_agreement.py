"""Processes that differ, or of which one is refused, all end with code 2 and one sentence; none hangs."""
import json
import os
import subprocess
import sys

import pytest

from jaxssl.parallel import agreement
from jaxssl.errors import UserError
from tests.compiled import QUICK
from tests.test_data_sources import CLASSED, tree
from tests.test_distributed import free_port
from tests.tiny import ROOT


def told(*facts, refused=()):
    return [{"refusal": dict(refused).get(i, ""), "facts": {} if i in dict(refused) else fact} for i, fact in enumerate(facts)]


def test_nothing_to_refuse():
    assert agreement._problem(told({"a": 1}, {"a": 1}, {"a": 1})) is None
    assert agreement.reach(lambda: 7, lambda found: {"found": found}) == 7


def test_those_that_differ_are_named():
    text = str(agreement._problem(told({"config": {"seed": 0}}, {"config": {"seed": 0}}, {"config": {"seed": 1}}, {"config": {"seed": 2}})))
    assert "processes 2, 3 started otherwise than process 0 (0 → 2: config.seed: 0 → 1)" in text and "same flags" in text and "\n" not in text


def test_a_refusal_comes_before_a_difference():
    text = str(agreement._problem(told({"a": 1}, {"a": 2}, {"a": 1}, refused=[(2, "data.path='x' does not exist")])))
    assert text == "process 2 cannot start: data.path='x' does not exist"


def test_one_process_raises_its_own_error():
    def body():
        raise UserError("no such file")
    with pytest.raises(UserError, match="^no such file$"):
        agreement.reach(body)


SMALL = ["--config", str(ROOT / "configs/folder/simclr.py:laptop"), "--config.data.source=folder", "--config.data.path=set", "--config.data.holdout=0", "--config.augment.size=4",
         "--config.batch_size=4",
         "--config.total=2", "--config.warmup=0", "--config.log.tensorboard=false", "--config.report=false", "--compilation_cache=off"]


@pytest.mark.parametrize(("case", "own", "words"), [
    ("another seed", None, ["process 1 started otherwise than process 0", "config.seed: 0 → 1"]),
    ("a class is missing", None, ["process 1 started otherwise than process 0", "data.classes: 3 → 2", "data.training_images: 6 → 5"]),
    ("no data", "data.path='set' does not exist", ["process 1 cannot start: data.path='set' does not exist"]),
    ("a foreign workdir", None, ["not a run of this program"]),         # each looks for itself
    ("a folder of each one's own", "1/run on ", ["process 1 cannot start: ", "is not the folder that process 0 works in"]),
])
def test_two_processes(tmp_path, case, own, words):
    """own: what the process that is refused says of itself; words: what the others say, or both."""
    port, flags, running = free_port(), {0: [], 1: []}, []
    workdir = "run" if case == "a folder of each one's own" else str(tmp_path / "run")
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        if not (case == "no data" and i == 1):
            tree(tmp_path / str(i) / "set", CLASSED)
    if case == "another seed":
        flags[1] = ["--config.seed=1"]
    if case == "a class is missing":
        (tmp_path / "1/set/ant/9.JPG").unlink()
    if case == "a foreign workdir":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.txt").write_text("mine")
    for i in range(2):
        command = [sys.executable, "-m", "jaxssl.main", *SMALL, *flags[i], "--workdir", workdir, f"--coordinator=127.0.0.1:{port}", "--processes=2",
                   f"--process_id={i}"]
        running.append(subprocess.Popen(command, cwd=tmp_path / str(i), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {QUICK}"}))
    ends = [(process.communicate(timeout=120), process.returncode) for process in running]
    lines = []
    for (_, errors), code in ends:
        assert code == 2 and "Traceback" not in errors, errors
        mine = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(mine) == 1, errors
        lines += mine
    refused = {"no data": 1, "a folder of each one's own": 1}.get(case)
    for i, line in enumerate(lines):
        for word in [own] if i == refused else words:
            assert word in line, line
    assert not [p for p in tmp_path.glob("[01]/*") if p.name != "set"]
    left = [p.name for p in (tmp_path / "run").iterdir()] if (tmp_path / "run").exists() else []
    assert left == (["thesis.txt"] if case == "a foreign workdir" else []), json.dumps(left)
