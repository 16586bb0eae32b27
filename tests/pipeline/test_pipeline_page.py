"""The page of conventions names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_behaviour_has_its_test():
    page = (ROOT / "docs" / "pipeline.md").read_text()
    table = page.partition("## Behaviours")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`test_" in line]
    assert len(rows) == table.count("\n| ") - 2  # but for the head and the line below it
    named = set(re.findall(r"`(test_\w+)`", table))
    files = [*(ROOT / "tests" / "pipeline").glob("test_*.py"), ROOT / "tests" / "diffusion" / "test_sampling.py"]
    written = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    assert named <= written
    own = {name for file in files[:-1] for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    assert len(own - named) < 12, own - named  # the rest are errors and details
