"""Searches with Optuna, where it is installed: a killed one goes on as if nothing had been, workers share one, PostgreSQL holds one where there is a server."""
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest

from jaxssl.errors import Temporary, UserError
from jaxssl.studies import asked as asking, run, settings, space
from jaxssl.training import train
from tests.studied import Runs
from tests.test_distributed import free_port

optuna = pytest.importorskip("optuna", reason="a search needs Optuna (the extra protocol)")
AXES = ("optim.lr=log:1e-4:1e-1", "method.temperature=.1,.2,.5", "method.hidden=int:8:64")


@pytest.fixture
def ask(tmp_path, monkeypatch):
    runs = Runs(lambda config: config.optim.lr * 10 - config.method.temperature / 10 - config.method.hidden / 1e4)
    monkeypatch.setattr(train, "run", runs)

    def go(folder="study", **given):
        return run.run(asking.Asked(workdir=str(tmp_path / folder), config="configs/digits/simclr.py", search=AXES, **{"trials": 13, **given}))
    go.runs = runs
    return go


def values(found):
    return [tuple(row["values"].values()) for row in found["settings"]]


def test_a_killed_search_asks_for_the_same_settings(ask):
    whole = ask()
    ask.runs.died = {15: KeyboardInterrupt(), 24: KeyboardInterrupt()}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ask("killed")
    assert values(ask("killed")) == values(whole) and len(set(values(whole))) == 13
    assert all(1e-4 <= float(lr) <= 1e-1 and hidden.isdigit() for lr, _, hidden in values(whole))
    assert whole["best"] == max(whole["settings"], key=lambda row: row["mean"])["setting"]


def test_a_larger_search_goes_on_and_random_is_another(ask):
    few = ask(trials=3)
    assert values(ask(trials=5))[:3] == values(few)
    with pytest.raises(UserError, match="holds another study .kind: tpe"):
        ask(trials=5, sampler="random")
    assert len(values(ask("random", trials=5, sampler="random"))) == 5
    with pytest.raises(UserError, match="choose one of tpe, gp, random"):
        ask("none", sampler="tpee")


def test_a_setting_that_somebody_died_over_does_not_count(ask, tmp_path):
    ask(trials=2)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/study/study.db")
    study.ask()                                      # and never says what of
    assert len(values(ask(trials=4))) == 4


@contextlib.contextmanager
def server():
    """A PostgreSQL of this test alone; yields (its address, how to stop it)."""
    if not (shutil.which("initdb") and shutil.which("postgres")):
        pytest.skip("no PostgreSQL is installed")
    pytest.importorskip("psycopg", reason="PostgreSQL needs psycopg")
    folder, port = tempfile.mkdtemp(prefix="pg"), free_port()
    other = {"user": "postgres"} if os.getuid() == 0 else {}                 # it does not run as root
    if other:
        shutil.chown(folder, "postgres")
    subprocess.run(["initdb", "-D", f"{folder}/data", "-U", "study", "--auth=trust", "-N"], check=True, capture_output=True, cwd=folder, **other)
    process = subprocess.Popen(["postgres", "-D", f"{folder}/data", "-p", str(port), "-k", folder, "-F", "-c", "listen_addresses=127.0.0.1"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **other)
    try:
        import psycopg
        for _ in range(200):
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(f"host=127.0.0.1 port={port} user=study dbname=postgres", connect_timeout=2).close()
                break
            time.sleep(.1)
        yield f"postgresql+psycopg://study@127.0.0.1:{port}/postgres", process
    finally:
        process.send_signal(signal.SIGINT)         # those who are connected are sent away
        process.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def test_two_workers_share_a_study_in_postgresql_and_its_loss_is_a_passing_fault(ask, tmp_path):
    with server() as (url, process):
        axes = space.axes(AXES, "--search", ranges=True)
        found = []

        def worker():
            search = settings.Search(axes, storage=url, name="shared", most=9, sampler="tpe", seed=0)
            while setting := search.ask():
                search.tell(setting, float(setting.values["optim.lr"]))
            found.append(search.known())
        threads = [threading.Thread(target=worker) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 2 and len(max(found, key=len)) == 9
        assert len(values(ask(storage=url, trials=3))) == 3 and not (tmp_path / "study" / "study.db").exists()
        process.send_signal(signal.SIGINT)         # those who are connected are sent away
        process.wait(timeout=20)
        with pytest.raises(Temporary, match="does not answer or refuses .*the same command goes on") as raised:
            ask(storage=url, trials=3)
        assert raised.value.code == 75
