"""Generated text is current."""

import re
import sys

import pytest

from benchmarks import readme
from benchmarks.readme import FILES, counted, main, written
from cmd_lightning import zoo
from cmd_lightning.errors import InputError
from cmd_lightning.zoo.sizes import count_parameters


@pytest.mark.parametrize("path", FILES, ids=str)
def test_blocks_are_current(path):
    text = path.read_text()
    assert written(text, path) == text, "run python -m benchmarks.readme"


CARDS = [entry for entry in zoo.entries() if entry.kind != "model" and entry.card_path.is_file()]


@pytest.mark.parametrize("entry", CARDS, ids=lambda entry: entry.name)
def test_parameters_in_cards_are_current(entry):
    text = entry.card_path.read_text()
    assert counted(text, entry) == text, "run python -m benchmarks.readme"


def test_parameters_of_published_models():
    """As their papers and model cards have them."""
    published = {"ModelScope": 1.411e9, "LVDM": 958.9e6, "LTX": 1.9e9, "unet": 859.5e6, "ContentDiT": 675e6}
    for name, number in published.items():
        assert zoo.entry(name).card.parameters == pytest.approx(number, rel=0.015), name


def test_what_is_not_current_is_reported(tmp_path, monkeypatch):
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- begin fact: python -m benchmarks.readme -->\nold\n<!-- end fact -->\nafter\n")
    monkeypatch.setattr(readme, "FILES", (file,))
    monkeypatch.setattr(readme, "BLOCKS", {"fact": lambda: "new"})
    monkeypatch.setattr(readme.zoo, "entries", lambda: [])
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    with pytest.raises(InputError, match=r"not current; run python -m benchmarks\.readme"):
        main()
    assert "old" in file.read_text()
    monkeypatch.setattr(sys, "argv", ["readme"])
    assert main() == 0
    assert re.fullmatch(r"before\n<!-- begin .*-->\nnew\n<!-- end fact -->\nafter\n", file.read_text())
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    assert main() == 0


@pytest.mark.parametrize(("begin", "end"), [("other", "other"), ("claims", "zoo")])
def test_wrong_blocks_are_reported(begin, end, tmp_path):
    with pytest.raises(InputError, match=f"block {begin}: give one of claims, zoo, .*, and `<!-- end {begin}"):
        written(f"<!-- begin {begin}: python -m benchmarks.readme -->\n<!-- end {end} -->\n", tmp_path)


def test_a_card_keeps_its_other_fields():
    entry = zoo.entry("MotionDiT")
    line = f"parameters: {count_parameters(entry)}\n"
    assert counted("name: A\nwhat: b # why\n", entry) == f"name: A\nwhat: b # why\n{line}"
    assert counted("name: A\nparameters: 3\nwhat: b\n", entry) == f"name: A\n{line}what: b\n"
    assert counted("name: A\nparameters:\n  a: 3\n\n  b: 4\nwhat: b\n", entry) == f"name: A\n{line}what: b\n"
    assert counted("name: A\nranking:\n  key: k\n", entry) == f"name: A\n{line}ranking:\n  key: k\n"
