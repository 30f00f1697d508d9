"""The ways in which people keep images: each is read as a person would, or refused in one sentence, and docs/layouts.md says so."""
import importlib.util
import re

import pytest

from tests.tiny import ROOT

spec = importlib.util.spec_from_file_location("layouts", ROOT / "benchmarks" / "layouts.py")
layouts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(layouts)
CASES = [(group, case) for group, cases in layouts.GROUPS.items() for case in cases]


@pytest.mark.parametrize("group, case", CASES, ids=[f"{group[:3]}-{case.what[:40]}" for group, case in CASES])
def test_read_as_a_person_would(group, case):
    numbers, said = layouts.outcome(case)
    assert "\n" not in said and "\x1b" not in said
    if isinstance(case.expected, tuple):
        assert numbers == case.expected, said
    else:
        assert numbers is None and re.search(case.expected, said), (numbers, said)


def test_the_page_says_what_the_program_does():
    assert len(CASES) >= 60
    assert layouts.DOC.read_text(encoding="utf-8") == layouts.document(), "run python benchmarks/layouts.py and read what changed"
