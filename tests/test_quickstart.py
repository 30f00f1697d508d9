"""The README's commands: they exist, and the quick start runs as it is typed, only shorter."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_names_only_what_exists():
    for path in set(re.findall(r"(?:\./)?((?:configs|launch|benchmarks|jaxssl)/[\w/.-]+\.\w+)", README)):
        assert (ROOT / path).exists(), path
    for module in set(re.findall(r"python -m (jaxssl[\w.]*)", README)):
        file = ROOT / module.replace(".", "/")
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), module


def test_the_table_of_methods_is_the_folder_of_configs():
    """Each row's name is a config of each data set, and each such config has its row."""
    rows = re.findall(r"^\| [^|]+ \| `([a-z]\w*)` \| ", README, re.M)
    for data in ("digits", "cifar10", "imagenet"):
        assert sorted(rows) == sorted(path.stem for path in (ROOT / "configs" / data).glob("*.py")), data


def test_every_result_has_its_script_and_its_file():
    """A row whose JSON is not in benchmarks/results/ says that it was not run."""
    table = README.partition("## Results")[2].partition("|---|")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(table) > 10
    for row in table:
        command = row.split("|")[2]
        script = re.search(r"`(?:(?:tests/slurm\.sh |[A-Z_]+=\w+ )?python benchmarks/(\w+)\.py|\./launch/quickstart\.sh)|^ same $", command)
        assert script, row
        assert not script[1] or "not run" in row or (ROOT / "benchmarks" / "results" / f"{script[1]}.json").exists(), row


def test_quick_start_as_typed(tmp_path):
    if not (ROOT / ".venv" / ".jaxssl-installed").exists() or Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("the tests were not started by launch/test.sh, which makes the .venv that the quick start uses")
    workdir = tmp_path / "with a space"
    short = ["--config.total=3", "--config.batch_size=16", "--config.checkpoint_every=0", "--config.eval.reference=250", "--config.eval.queries=100", "--config.model.width=0.0625"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHONPATH")} | {"WORKDIR": str(workdir)}
    done = subprocess.run(["./launch/quickstart.sh", *short], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    run = json.loads((workdir / "run.json").read_text())
    assert {"knn", "knn_untrained", "knn_raw", "linear", "linear_untrained", "linear_raw"} <= run.keys()
    assert "</html>" in (workdir / "report.html").read_text() and "report.html" in done.stdout
    for words in ("is up to date", "raw pixels", "untrained encoder", "trained encoder", str(workdir)):
        assert words in done.stdout, done.stdout
    assert f"{100 * run['knn_raw']:.1f}" in done.stdout
