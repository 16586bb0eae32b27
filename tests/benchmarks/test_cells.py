"""Cells of a benchmark: measured once, kept, and gone on with."""

import json

import pytest

from benchmarks.cells import closing, measure_cells, missing
from cmd_lightning.errors import InputError

CELLS = [{"network": name, "compiled": compiled} for compiled in (False, True) for name in ("a", "b")]
RECORD = {"settings": {"size": (64, 64)}, "hardware": "a machine", "versions": "torch 2"}


def test_another_call_goes_on_with_the_next_cell(tmp_path, capsys):
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
def test_results_of_something_else_are_refused(tmp_path, key, value):
    path = tmp_path / "cells.json"
    path.write_text(json.dumps(RECORD | {"rows": [], key: value}))
    with pytest.raises(InputError, match=f"--json {path}: its results are of other {key}; give another file"):
        measure_cells(CELLS, lambda _: [], RECORD, path)


def test_a_failed_cell_is_measured(capsys):
    result = measure_cells(CELLS[:1], lambda _: [{"seconds": None}], RECORD)
    assert "did not fit" in capsys.readouterr().out
    assert missing(CELLS, result["rows"]) == CELLS[1:]
    assert closing(CELLS[:1], result["rows"]) == "done"
    assert closing(CELLS[:2], result["rows"]) == "left for another call: b; compiled False"
