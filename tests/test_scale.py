"""Two tiers, who runs on which worker, and the forecast (tests/scale.py), in a small suite of their own."""
import os
import re
import subprocess
import sys

from tests import scale
from tests.tiny import ROOT

FILES = {
    "test_stories.py": "import os, time, pytest\n@pytest.mark.parametrize('method', 'abcdefgh')\ndef test_story(method):\n    open(os.environ['SEEN'] + '-stories', 'a').write(os.environ['PYTEST_XDIST_WORKER'] + '\\n')\n"
                       "    end = time.process_time() + .2\n    while time.process_time() < end: pass\n",
    "test_shared.py": "import os, pytest\n@pytest.mark.parametrize('i', range(8))\ndef test_shared(i):\n    open(os.environ['SEEN'], 'a').write(os.environ['PYTEST_XDIST_WORKER'] + '\\n')\n",
    "test_more.py": "import pytest\n@pytest.mark.every\ndef test_product(): pass\n",
}


def session(folder, *options):
    for name, text in {"conftest.py": "from tests.scale import *\n", **FILES}.items():
        (folder / name).write_text(text)
    done = subprocess.run([sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", *options, str(folder)],
                          cwd=folder, env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONPATH": str(ROOT), "SEEN": str(folder / "seen")}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_file_stays_on_one_worker_the_product_waits_to_be_asked_for_and_the_cost_is_said(tmp_path):
    said = session(tmp_path)
    assert "16 passed" in said and len(set((tmp_path / "seen").read_text().split())) == 1
    assert set((tmp_path / "seen-stories").read_text().split()) == {"gw0", "gw1"}
    costs = re.search(r"CPU-seconds of a method's story: a (\S+), b (\S+), .*; mean (\S+); of its configs 0.0", said)
    assert costs and all(float(x) >= .2 for x in costs.groups()) and "in 16 tests; with 40 methods" in said
    assert "17 passed" in session(tmp_path, "--every")


def test_forecast():
    costs = {"tests/test_stories.py::test_story[byol]": 30.0, "tests/test_stories.py::test_story[simclr]": 20.0, "tests/test_optim.py::test_lars": 200.0,
             "tests/test_structure.py::test_config[configs/imagenet/simclr.py:1000ep]": 6.0, "tests/test_evaluate.py::test_published[cifar10/byol.py]": 4.0,
             "tests/test_data.py::test_names[a/b.py/c]": 1.0}
    assert scale.forecast(costs) == ["CPU-seconds of a method's story: byol 30.0, simclr 20.0; mean 25.0; of its configs 5.0",
                                     "this run: 261 CPU-seconds in 6 tests; with 40 methods 1401 (201 + 40 × 30), 12 minutes of two cores"]
    assert scale.forecast({"tests/test_optim.py::test_lars": 200.0}) == []
