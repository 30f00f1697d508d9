"""Lines that a screen holds: at most 180 characters; the files that still have longer ones are listed with how many, and the list may only shrink."""
from tests.tiny import ROOT

MOST = 180
LONGER = {
    "tests/test_convert.py": 4,
    "tests/test_encoder.py": 5,
    "tests/test_export.py": 18,
    "tests/test_interop.py": 12,
    "tests/test_interop_vit.py": 21,
    "tests/test_scale.py": 4,
    "tests/test_structure.py": 2,
}
FILES = sorted(str(file.relative_to(ROOT)) for folder in ("benchmarks", "configs", "jaxssl", "launch", "tests") for file in (ROOT / folder).rglob("*.py"))


def test_no_line_is_longer_than_a_screen_holds():
    found = {file: [number for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1) if len(line) > MOST] for file in FILES}
    fresh = [f"{file}:{lines[LONGER.get(file, 0)]}" for file, lines in found.items() if len(lines) > LONGER.get(file, 0)]
    assert not fresh, f"more than {MOST} characters; wrap {', '.join(fresh)}"
    assert not (done := [file for file in LONGER if not found.get(file)]), f"no long line is left in {', '.join(done)}; take it from the list"
