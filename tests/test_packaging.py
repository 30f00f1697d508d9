"""What gets installed is what was tested; importing costs little and drags nothing in; the closing table."""
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from jaxssl import table

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
HEAVY = ("tensorflow", "torch", "wandb", "tensorflow_datasets", "array_record", "tensorboardX", "matplotlib", "sklearn")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(python):
    found = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            assert normal(pin.name) not in found, f"{pin.name} is pinned twice for Python {python}"
            found[normal(pin.name)] = str(pin.specifier)
    return found


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines[1:]:
        assert re.fullmatch(r'[\w.-]+==[\w.]+( ; python_version (<|>=) "3\.12")?', line), line
    assert lines[1:] == sorted(lines[1:], key=str.lower)


@pytest.mark.parametrize("python, jax", [("3.11", "0.10."), ("3.12", "0.11."), ("3.13", "0.11.")])
def test_every_dependency_is_pinned_within_its_range(python, jax):
    chosen = pins(python)
    assert chosen["jax"].startswith(f"=={jax}") and chosen["jax"] == chosen["jaxlib"]
    for requirement in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]):
        assert normal(requirement.name) in chosen, f"{requirement.name} has no tested version"
        assert requirement.specifier.contains(chosen[normal(requirement.name)][2:]), f"{requirement} excludes the tested {chosen[normal(requirement.name)]}"


def test_named_extras_exist():
    assert {"tpu", "cuda", "export", "protocol", "curate", "test", "wandb"} <= set(PROJECT["optional-dependencies"])


def test_import_is_quick_and_light():
    """The command line and the training path, with the optional packages made impossible to import."""
    code = f"""
import sys, time
start = time.perf_counter()
import jaxssl.main
seconds = time.perf_counter() - start
assert seconds < 3, seconds
for name in ("tensorflow", "torch", "wandb", "tensorflow_datasets", "array_record"):
    sys.modules[name] = None
import jaxssl.training.train, jaxssl.parallel.processes, jaxssl.workdir.writers, jaxssl.training.progress, jaxssl.training.watchdog
print([name for name in {HEAVY!r} if sys.modules.get(name)])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_table(tmp_path, capsys):
    assert table.main(["--workdir", str(tmp_path)]) == 2
    assert "has no run.json, so its run has not finished" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(json.dumps({"knn": 0.8123, "knn_untrained": 0.12, "knn_raw": 0.51, "linear": 0.9, "linear_untrained": None}))
    assert table.main(["--workdir", str(tmp_path)]) == 0
    rows = [re.findall(r"[\w.% ]*[\w.%]", line) for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert ["raw pixels", "51.0", "not run"] in rows and ["untrained encoder", "12.0", "not finite"] in rows and ["trained encoder", "81.2", "90.0"] in rows
