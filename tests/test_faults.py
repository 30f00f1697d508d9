"""A quick form of benchmarks/faults.py: of every kind that needs no process of its own a few faults, spread evenly, through the front door of the command."""
import importlib.util
import sys

import pytest

from tests.tiny import ROOT

OWN = {"system", "signals", "surroundings"}      # kinds whose faults are processes of their own
EACH = 4


@pytest.fixture(scope="module")
def faults():
    spec = importlib.util.spec_from_file_location("faults", ROOT / "benchmarks" / "faults.py")
    module, before = importlib.util.module_from_spec(spec), list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.mark.parametrize("kind", ["numbers", "words", "sizes", "names", "paths", "homes", "images", "manifests"])
def test_a_few_of_a_kind(kind, faults, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    here = [fault for fault in faults.KINDS[kind](tmp_path) if not fault.attempt.__qualname__.startswith("process.") and "6,000" not in fault.what]
    if not here:
        pytest.skip("packed sets need array_record")
    rows = [faults.attempted(kind, here[i]) for i in range(0, len(here), max(1, len(here) // EACH))]
    assert not [row for row in rows if not row["outcome"].islower()]


def test_every_kind_is_either_quick_or_has_processes_of_its_own(faults):
    assert {"numbers", "words", "sizes", "names", "paths", "homes", "images", "manifests"} | OWN == set(faults.KINDS)


def test_what_falls_short_is_seen(faults):
    """The judge itself: a traceback, two sentences, silence and a bad value that is taken are no sentence."""
    from faults_by_kind.tools import Fault, judged      # the benchmark has imported it
    bad, good = Fault("x", None), Fault("x", None, works=True)
    assert judged(bad, 2, "error: no") == "sentence" and judged(good, 0, "") == judged(good, -1, "") == "worked"
    assert [judged(*each) for each in ((bad, 0, ""), (good, 2, "error: no"), (bad, 1, ""), (bad, 2, "Traceback (most recent call last)\nerror: x"), (bad, 2,
                                                                                                                                                     "error: a\nerror: b"), (bad,
                                                                                                                                                                             2, ""),
                                       (bad, "hang", ""), (bad, -11, "error: x"))] == ["ACCEPTED", "REFUSED", "TRACEBACK", "TRACEBACK", "2 SENTENCES", "0 SENTENCES", "HANGS",
                                                                                       "EXIT -11"]
