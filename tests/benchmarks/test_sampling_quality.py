import json
from types import SimpleNamespace

import pytest

from benchmarks import sampling
from benchmarks.sampling import accuracy, difference, table


def cell(hits, seconds=1.0):
    return {
        "num": len(hits),
        "hits": hits,
        "kernel_distance": 0.25,
        "kernel_distance_error": 0.125,
        "seconds": seconds,
    }


def test_errors_are_those_of_shares_and_of_pairs():
    assert accuracy(cell("1010")) == (0.5, 0.25)
    assert difference(cell("1100"), cell("1100")) == (0, 0)
    share, error = difference(cell("1110"), cell("0011"))
    assert share == 0.25
    assert error == pytest.approx((11 / 12) ** 0.5 / 2)  # of +1, +1, 0, -1: variance 11/12


def test_table_compares_within_a_split():
    cells = {"val/ddim/50": cell("0011"), "val/dpm++/10": cell("1110"), "test/dpm++/10": cell("1111")}
    rows = table({"cells": cells}).splitlines()[2:]
    assert rows[0] == "| val | ddim | 50 | 0.500 ± 0.250 |  | 0.250 ± 0.125 | 1.000 |"
    assert rows[1].startswith("| val | dpm++ | 10 | 0.750 ± 0.217 | +0.250 ± 0.479 |")
    assert rows[2].startswith("| test | dpm++ | 10 | 1.000 ± 0.000 |  |")


def test_settings_are_measured_once_and_go_into_one_file(tmp_path, monkeypatch, capsys):
    out = tmp_path / "sampling.json"
    words = ["sampling", "shapes32", "--num", "16", "--reference", "16", "--out", str(out)]

    def run(*more):
        monkeypatch.setattr("sys.argv", [*words, *more])
        assert sampling.main() == 0
        return json.loads(out.read_text())

    first = run("--settings", "dpm++/5")
    found = first["cells"]["val/dpm++/5"]
    assert (found["num"], len(found["hits"]), set(found["hits"]) <= {"0", "1"}) == (16, 16, True)
    assert found["seconds"] > 0
    assert {"weights", "numbers", "dtype", "commit", "hardware", "date"} <= set(first["protocol"])
    monkeypatch.setattr(sampling, "Sampling", lambda *_: SimpleNamespace(cell=lambda split, setting: cell("01")))
    second = run("--settings", "dpm++/5", "unipc/5")
    assert second["cells"] == first["cells"] | {"val/unipc/5": cell("01")}
    run("--settings", "ddim/5")
    assert set(run("--test", "unipc/8")["cells"]) == {*(f"val/{name}/5" for name in sampling.SOLVERS), "test/unipc/8"}
    monkeypatch.setattr("sys.argv", [*words, "--settings", "euler/5"])
    with pytest.raises(sampling.InputError, match="euler/5: give SOLVER/STEPS"):
        sampling.main()
    monkeypatch.setattr("sys.argv", [*words, "--reference", "17"])
    with pytest.raises(sampling.InputError, match="it was measured otherwise"):
        sampling.main()
    run("--plot", str(tmp_path / "plot.png"), "--table")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("| val |") == 3
