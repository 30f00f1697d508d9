"""What is refused leaves the workdir as it was, and nothing has been compiled for it: the corrected command runs there."""
import json
import sys
from pathlib import Path

import jax
import pytest

from jaxssl import main
from jaxssl.training import job as jobs
from tests.tiny import SMALL

ROOT = Path(__file__).parent.parent
RUN = {**SMALL, "total": "2", "warmup": "0", "eval_every": "0", "eval.reference": "50", "eval.queries": "20", "log.tensorboard": "false", "report": "false"}


@pytest.fixture
def attempt(monkeypatch, capsys, tmp_path):
    """attempt(*flags) -> (exit code, error lines) of a run in one and the same workdir."""
    monkeypatch.chdir(ROOT)

    def go(*flags):
        shared = [f"--config.{key}={value}" for key, value in RUN.items()]
        code = main.main(["--config", "configs/digits/simclr.py", "--workdir", str(tmp_path / "run"), "--compilation_cache=off", *shared, *flags])
        return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return go


@pytest.fixture
def nothing_runs(monkeypatch):
    """Every program of a job fails the test when it is called or compiled."""
    real = jobs.prepare

    def refuse(*_, **__):
        pytest.fail("reached a compiled program before the input was checked")

    def prepare(*arguments):
        return real(*arguments)._replace(init=refuse, step=refuse, embed=refuse)
    monkeypatch.setattr(jobs, "prepare", prepare)
    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    monkeypatch.setitem(sys.modules, "wandb", None)
    return monkeypatch


def without_login():
    """wandb as it behaves in a batch job without an account."""
    wandb = type(sys)("wandb")
    wandb.Error = type("Error", (Exception,), {})

    def login():
        raise wandb.Error("api_key not configured (no-tty). call wandb.login(key=[your_api_key])")
    wandb.login = login
    return wandb


def test_refused_before_the_workdir_is_claimed(attempt, nothing_runs, tmp_path):
    for flag, word in (("--config.log.wandb=true", "pip install wandb"), ("--config.checkpoint.keep_last=0", "checkpoint.keep_last"),
                       ("--config.checkpoint.keep_every=-1", "keep_every"), ("--config.eval.batch=0", "eval.batch"), ("--config.eval.rank_samples=1", "rank_samples"),
                       ("--profile_steps=2:4", "--profile_steps is 2:4, but the run has 2 steps")):
        code, errors = attempt(flag)
        assert code == 2 and len(errors) == 1 and word in errors[0], errors
        assert not (tmp_path / "run").exists(), flag
    nothing_runs.setitem(sys.modules, "wandb", without_login())
    code, errors = attempt("--config.log.wandb=true")
    assert code == 2 and len(errors) == 1 and "`wandb login`, set WANDB_API_KEY" in errors[0] and "no-tty" in errors[0], errors
    assert not (tmp_path / "run").exists()
    nothing_runs.undo()
    nothing_runs.chdir(ROOT)
    code, errors = attempt()
    assert code == 0, errors
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 2
