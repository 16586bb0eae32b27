"""The check of retired words finds them in prose and in names, and leaves ordinary uses alone."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("words", ROOT / "docs/words.py")
words = importlib.util.module_from_spec(spec)
spec.loader.exec_module(words)


@pytest.mark.parametrize(
    "text",
    [
        "Trained from nothing.",
        "40 clips a second",
        "def test_a_bad_file_is_told(path):",
        "the fit goes on",
        "A fit that ends",
        "Weights beside the code",
        "Bit-equal to before",
        "All captions that are none",
        "a model of its own.",
    ],
)
def test_retired_words_are_found(text):
    assert list(words.found_in(text))


@pytest.mark.parametrize(
    "text",
    [
        "if value is None:",
        "the fit command; a curve fits in the cell",
        "besides, it depends on a second file",
        "its own class, and your own clips",
        "rows and columns are told apart",
        "that is None",
    ],
)
def test_ordinary_words_are_left_alone(text):
    assert not list(words.found_in(text))


def test_lines_are_counted_and_files_are_checked(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("one\ntwo\nstored beside it\n")
    assert list(words.found_in(page.read_text())) == [(3, "beside", "next to, compared with")]
    assert words.main([str(page)]) == 1
    assert f"{page}:3: 'beside': write next to" in capsys.readouterr().out
    page.write_text("stored next to it\n")
    assert words.main([str(page)]) == 0
