"""Cells of a benchmark: measured once, kept, and continued."""

import json
from pathlib import Path

import pytest

from benchmarks.cells import add_json, check_writable, closing, command_line, measure_cells, missing
from cmd_lightning.errors import InputError

CELLS = [{"network": name, "compiled": compiled} for compiled in (False, True) for name in ("a", "b")]
RECORD = {"settings": {"size": (64, 64)}, "hardware": "a machine", "versions": "torch 2"}


def test_another_call_continues_with_the_next_cell(tmp_path, capsys):
    path, done = tmp_path / "deep" / "cells.json", []

    def measure(cell):
        done.append(cell)
        return [{"component": "all", "seconds": 1.5}, {"component": "part", "seconds": None}]

    assert measure_cells(CELLS, measure, RECORD, path, minutes=-1)["rows"] == []
    assert done == []
    result = measure_cells(CELLS, measure, RECORD, path)
    assert done == CELLS
    assert result == json.loads(path.read_text())
    assert result["settings"] == {"size": [64, 64]}
    assert result["rows"][:2] == [
        {"network": "a", "compiled": False, "component": "all", "seconds": 1.5},
        {"network": "a", "compiled": False, "component": "part", "seconds": None},
    ]
    assert "a; compiled False 1.500 s" in capsys.readouterr().out
    path.write_text(json.dumps(result | {"rows": result["rows"][:2] + result["rows"][4:]}))
    assert len(measure_cells(CELLS, measure, RECORD, path)["rows"]) == 8
    assert done[4:] == [CELLS[1]]


@pytest.mark.parametrize(
    ("key", "value"), [("settings", {"size": [64, 128]}), ("hardware", "another"), ("versions", "torch 3")]
)
def test_results_of_something_else_are_rejected(tmp_path, key, value):
    path = tmp_path / "cells.json"
    path.write_text(json.dumps(RECORD | {"rows": [], key: value}))
    with pytest.raises(InputError, match=f"--json {path}: its results are of other {key}; give another file"):
        measure_cells(CELLS, lambda _: [], RECORD, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", r"it cannot be read \(Expecting value: .*\)"),
        ("\xff", "it cannot be read"),
        ("[1]", "it holds no results of a benchmark"),
        ('{"rows": 1}', "it holds no results of a benchmark"),
        ('{"rows": [1]}', "it holds no results of a benchmark"),
    ],
)
def test_files_without_results_are_rejected_before_measuring(tmp_path, text, message):
    path = tmp_path / "cells.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=f"^--json {path}: {message}.*; give another file$"):
        measure_cells(CELLS, measured_in_vain, RECORD, path)
    assert path.read_text(encoding="latin-1") == text


def measured_in_vain(cell):
    raise AssertionError(f"{cell} was measured")


def test_files_that_cannot_be_written_are_rejected_before_measuring(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    message = {
        "/proc/x.json": "it cannot be written .*; give another file",
        tmp_path / "file" / "x.json": "it cannot be written .*; give another file",
        tmp_path / "folder.json": "it is a folder; give a file",
        tmp_path / "x.md": "give a file whose name ends in .json",
    }
    for path, words in message.items():
        with pytest.raises(InputError, match=f"^--json {path}: {words}$"):
            measure_cells(CELLS, measured_in_vain, RECORD, Path(path))
    check_writable(tmp_path / "new" / "x.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_failed_cell_is_measured(capsys):
    result = measure_cells(CELLS[:1], lambda _: [{"seconds": None}], RECORD)
    assert "did not fit" in capsys.readouterr().out
    assert missing(CELLS, result["rows"]) == CELLS[1:]
    assert closing(CELLS[:1], result["rows"]) == "done"
    assert closing(CELLS[:2], result["rows"]) == "left for another call: b; compiled False"


@pytest.mark.parametrize("default", [None, "a.json"])
def test_the_former_name_of_json_is_taken_and_not_shown(default):
    parser = command_line("A benchmark.")
    add_json(parser, default)
    for name in ("--json", "--out"):
        assert vars(parser.parse_args([name, "b.json"])) == {"json": Path("b.json")}
    assert "--json" in parser.format_help() and "--out" not in parser.format_help()
    if default:
        assert parser.parse_args([]).json == Path(default)
    else:
        with pytest.raises(InputError, match="--json is required"):
            parser.parse_args([])
