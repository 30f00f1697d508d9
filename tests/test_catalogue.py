"""`--list`: every config by name, without JAX and without executing any of them."""
import subprocess
import sys

import pytest

from jaxssl import config as configs, config_file, main
from jaxssl.errors import UserError
from tests.tiny import CONFIGS, ROOT


def test_every_config_with_its_variants_and_first_line():
    lines = {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in config_file.catalogue()}
    assert [name.partition(":")[0] for name in lines] == CONFIGS
    for name, said in lines.items():
        path, _, variants = name.partition(":")
        file = configs.opened(path)
        assert variants.split("|") == list(file.variants[1:])
        assert said and f'"""{said}' in (ROOT / path).read_text(encoding="utf-8")


def test_the_command_needs_nothing_else_and_no_jax():
    code = ("import sys; from jaxssl import main\ntry: main.main(['--list'])\nexcept SystemExit as end: code = end.code\n"
            "sys.exit(code or [name for name in ('jax', 'flax', 'numpy', 'tensorflow') if name in sys.modules] or 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.splitlines() == config_file.catalogue()


def test_a_file_that_is_no_python_is_named_and_an_empty_folder_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main.main(["--list"])
    assert end.value.code == 2 and "no config files here; run from the repository" in capsys.readouterr().err
    (tmp_path / "configs" / "mine").mkdir(parents=True)
    (tmp_path / "configs" / "mine" / "a.py").write_text("def get_config(:\n")
    (tmp_path / "configs" / "mine" / "b.py").write_text("VARIANTS = ['x']\nraise SystemExit(3)\n")
    (tmp_path / "configs" / "mine" / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert [line.split("  ")[0] for line in config_file.catalogue()] == ["configs/mine/a.py", "configs/mine/b.py:x", "configs/mine/gone.py"]
    assert "it fails as Python" in config_file.catalogue()[0] and "it cannot be read" in config_file.catalogue()[2]
    with pytest.raises(UserError, match="no config file 'configs/mine/c.py'; did you mean 'configs/mine/[ab].py'.*python -m jaxssl.main --list names those that are here"):
        configs.load("configs/mine/c.py")
