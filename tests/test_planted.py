"""The suite catches what it is for: with each fault of tests/planted.py in place, the tests that it names fail, by an assertion.

Without faults the same tests pass: they are in the suite.
"""
import re
import subprocess
import sys

import pytest

from tests.planted import PLANTS
from tests.tiny import METHODS, ROOT, config_of, kinds_of_state

pytestmark = pytest.mark.every


def bearer(has):
    """The first method with that part, the cheapest state first."""
    def bears(method):
        section, _, key = has.partition(".")
        return key in config_of(method)[section] if key else any(re.fullmatch(has, top) for top, _ in kinds_of_state(method))
    return next(filter(bears, METHODS), None)


@pytest.mark.parametrize("name", PLANTS)
def test_is_caught(name):
    plant = PLANTS[name]
    method = bearer(plant.has) if plant.has else ""
    tests = [test.format(method=method) for test in plant.caught_by if method is not None or "{method}" not in test]
    if not tests:
        pytest.skip(f"no method here has {plant.has.replace('|', ' or ')}")
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "tests.planted", "-p", "no:cacheprovider", f"--plant={name}", "-q", "-rf", *(f"tests/{test}" for test in tests)],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "error" not in done.stdout.splitlines()[-1], done.stdout + done.stderr
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.M)
    assert sorted(failed) == sorted(f"tests/{test}" for test in tests), done.stdout
    assert set(re.findall(r"^\S+:\d+: (\w+)$", done.stdout, re.M)) == {"AssertionError"}, done.stdout
