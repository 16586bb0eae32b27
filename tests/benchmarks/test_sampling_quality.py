import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import sampling
from benchmarks.sampling import accuracy, difference, table
from cmd_lightning.pipeline import CMDPipeline


def row(hits, seconds=1.0):
    return {
        "num": len(hits),
        "hits": hits,
        "kernel_distance": 0.25,
        "kernel_distance_error": 0.125,
        "seconds": seconds,
    }


def test_errors_are_those_of_shares_and_of_pairs():
    assert accuracy(row("1010")) == (0.5, 0.25)
    assert difference(row("1100"), row("1100")) == (0, 0)
    share, error = difference(row("1110"), row("0011"))
    assert share == 0.25
    assert error == pytest.approx((11 / 12) ** 0.5 / 2)  # of +1, +1, 0, -1: variance 11/12


def test_table_compares_within_a_split():
    settings = [("val", "ddim", 50, "0011"), ("val", "dpm++", 10, "1110"), ("test", "dpm++", 10, "1111")]
    rows = [{"split": split, "solver": name, "steps": steps, **row(hits)} for split, name, steps, hits in settings]
    lines = table({"rows": rows}).splitlines()[2:]
    assert lines[0] == "| val | ddim | 50 | 0.500 ± 0.250 |  | 0.250 ± 0.125 | 1.000 |"
    assert lines[1].startswith("| val | dpm++ | 10 | 0.750 ± 0.217 | +0.250 ± 0.479 |")
    assert lines[2].startswith("| test | dpm++ | 10 | 1.000 ± 0.000 |  |")


@pytest.mark.slow
def test_settings_are_measured_once_and_go_into_one_file(tmp_path, monkeypatch, capsys):
    out = tmp_path / "sampling.json"
    words = ["sampling", "shapes32paper", "--num", "16", "--reference", "16", "--json", str(out)]

    def run(*more):
        monkeypatch.setattr("sys.argv", [*words, *more])
        assert sampling.main() == 0
        return json.loads(out.read_text())

    first = run("--settings", "dpm++/5")
    (found,) = first["rows"]
    assert (found["split"], found["solver"], found["steps"]) == ("val", "dpm++", 5)
    assert (found["num"], len(found["hits"]), set(found["hits"]) <= {"0", "1"}) == (16, 16, True)
    assert found["seconds"] > 0
    assert {"weights", "numbers", "dtype"} <= set(first["settings"])
    assert {"commit", "hardware", "date"} <= set(first)
    assert {"commit", "date"} <= set(found)
    made = SimpleNamespace(measure=lambda cell: [row("01")])
    monkeypatch.setattr(sampling, "Sampling", lambda *_: made)
    second = run("--settings", "dpm++/5", "unipc/5")
    assert second["rows"] == [found, {"split": "val", "solver": "unipc", "steps": 5, **row("01")}]
    run("--settings", "ddim/5")
    assert [one["split"] for one in run("--test", "unipc/8")["rows"]] == ["val"] * 3 + ["test"]
    assert capsys.readouterr().out.endswith("done\n")
    monkeypatch.setattr("sys.argv", [*words, "--settings", "euler/5"])
    with pytest.raises(sampling.InputError, match="euler/5: give SOLVER/STEPS, one of ddim/50"):
        sampling.main()
    monkeypatch.setattr("sys.argv", [*words, "--reference", "17"])
    with pytest.raises(sampling.InputError, match="its results are of other settings; give another file"):
        sampling.main()
    run("--plot", str(tmp_path / "plot.png"), "--table")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("| val |") == 3


def test_students_stand_among_the_solvers():
    chosen = [f"{cell['solver']}/{cell['steps']}" for cell in sampling.cells([], [], ("lcm", "scm"))]
    assert chosen[-8:] == [f"{name}/{steps}" for steps in (8, 4, 2, 1) for name in ("lcm", "scm")]
    assert "dpm++/10" in chosen and len(chosen) == 6 * 3 + 8
    assert sampling.cells(["scm/4"], [], ["scm"]) == [{"split": "test", "solver": "scm", "steps": 4}]
    assert sampling.students_of(["lcm=a/b", "scm=c=d"]) == {"lcm": "a/b", "scm": "c=d"}
    for wrong in (["lcm"], ["=a"], ["a="], ["ddim=a"], ["lcm=a", "lcm=b"]):
        with pytest.raises(sampling.InputError, match="give NAME=FOLDER"):
            sampling.students_of(wrong)


def test_a_student_is_measured_by_its_own_scheduler_and_guidance(monkeypatch):
    """And its teacher by the solver that is named, next to it."""
    seen = []

    def generate(pipeline, captions, steps):
        seen.append((type(pipeline.scheduler).__name__, pipeline.sampling("motion", steps), len(captions)))
        return torch.zeros(len(captions), 3, 16, 32, 32, dtype=torch.uint8)

    teacher, student = (CMDPipeline.from_pretrained("shapes32") for _ in range(2))
    student.use_solver("lcm")
    student.register_to_config(guidance={"content": 1.0, "motion": 1.0})
    monkeypatch.setattr(sampling, "generate", generate)
    made = sampling.Sampling(teacher, {"val": 16}, 16, {"lcm": student})
    rows = [made.measure({"split": "val", "solver": name, "steps": 4}) for name in ("lcm", "dpm++", "lcm")]
    assert seen == [
        ("FlowMatchLCMScheduler", (4, 1.0), 16),
        ("DPMSolverMultistepScheduler", (4, 3.0), 16),
        ("FlowMatchLCMScheduler", (4, 1.0), 16),
    ]
    assert all(row["hits"] == "0" * 16 and row["seconds"] > 0 for [row] in rows)
