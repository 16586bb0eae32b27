"""The paper's tables: every figure of CMD can be measured, and its column has no other figures."""

import json
import re

import pytest
import torch

from benchmarks.counting import calls, read
from benchmarks.recipe import predict
from benchmarks.reproduce import __main__ as reproduce
from benchmarks.reproduce import needs
from benchmarks.reproduce.needs import CONFIGS, NEEDS, TFLOPS, Need
from benchmarks.reproduce.rows import Row, figures_of, row_of, rows
from cmd_lightning.errors import InputError
from cmd_lightning.metrics.i3d_weights import Public

FIGURES = [figure for number in reproduce.TABLES for figure in figures_of(number)]
UCF = next(row for row in rows() if row.clips == 2048)
[OF_UCF] = [figure for figure in FIGURES if UCF.covers(figure)]


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """A machine without data, weights and GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(needs.VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(needs, "try_to_load_from_cache", lambda *names: None)
    monkeypatch.setitem(NEEDS, "gpu", Need("GPU", lambda: False, "# get one"))
    return tmp_path


def fields(text):
    """The lines of the last table of a text, as lists of fields."""
    lines = [line for line in text.split("\n\n") if line.startswith("| figure")][-1].splitlines()
    return [[field.strip() for field in line.strip("|").split("|")] for line in lines[2:]]


def test_every_figure_of_cmd_has_one_way_to_be_measured():
    for figure in FIGURES:
        ways = [row for row in rows() if row.covers(figure)]
        counted = figure.quantity in ("tmacs_paper", "params") and figure.system in ("LVDM", "ModelScope")
        timed = figure.table == "9" and figure.quantity in ("seconds", "memory_gb")
        assert len(ways) == (figure.system == "CMD" or counted or timed), figure


def test_rows_are_of_what_there_is():
    for row in rows():
        assert any(row.covers(figure) for figure in FIGURES)
        assert set(row.needs) <= NEEDS.keys()
        for path in re.findall(r"configs/\S+\.yaml", row.command + " ".join(NEEDS[name].get for name in row.needs)):
            assert (CONFIGS.parent / path).is_file(), path


@pytest.mark.parametrize("number", reproduce.TABLES)
def test_with_nothing_a_table_says_what_is_missing_and_how_to_get_it(number, nothing):
    text = reproduce.report(number, list_only=True)
    for figure, line in zip(figures_of(number), fields(text), strict=True):
        assert float(line[1]) == pytest.approx(figure.value, rel=1e-5)
        assert line[4] == ""
        row = row_of(figure)
        for name in row.needs if row else ():
            assert name in line[-1].split(", ")
            assert NEEDS[name].get in text
    assert f"python -m benchmarks.reproduce --table {number}" in text or number == "10"


def test_a_record_counts_only_with_the_papers_number_of_clips_and_metric(nothing):
    path = nothing / UCF.result
    path.parent.mkdir(parents=True)
    record = {"metric": "fvd", "of": "generation", "value": 111.0, "clips": {"real": 2048, "fake": 2048}}

    def measured(**changes):
        path.write_text(json.dumps([record | changes]))
        return UCF.measured(OF_UCF)

    assert measured().value == 111.0
    assert measured(clips={"real": 256, "fake": 256}) is None
    assert measured(metric="frechet_distance(shapes)") is None
    assert measured(of="reconstruction") is None
    measured()
    [line] = [line for line in fields(reproduce.report("1", list_only=True)) if line[3] == "2,048"]
    assert line[1:] == ["107", "± 9", "2,048", "111", "2,048 real, 2,048 fake", "yes", ""]
    measured(value=117.0)
    [line] = [line for line in fields(reproduce.report("1", list_only=True)) if line[3] == "2,048"]
    assert line[6] == "no"


def test_a_figure_is_measured_once_all_is_there(nothing, monkeypatch):
    ran = []
    monkeypatch.setattr(Row, "run", lambda row: ran.append(row))
    reproduce.measure("1")
    assert not ran
    for name in UCF.needs:
        monkeypatch.setitem(NEEDS, name, Need(name, lambda: True, "#"))
    reproduce.measure("1")
    assert [row.clips for row in ran] == [2048, 10000]


@pytest.mark.slow
def test_counts_are_compared_as_printed():
    [line] = [line for line in fields(reproduce.report("10", list_only=False)) if line[0].startswith("LVDM")]
    assert line[1] == "0.96"
    assert float(line[4]) == pytest.approx(0.9589, abs=1e-4)
    assert line[6] == "yes"


def test_commands_that_fail_are_reported(monkeypatch):
    with pytest.raises(InputError, match="table 1: `exit 3` ended with code 3"):
        Row("1", {}, "", "records", command="exit 3").run()


def test_another_file_is_no_i3d(nothing, monkeypatch):
    path = nothing / "i3d_pretrained_400.pt"
    path.write_bytes(b"other weights")
    monkeypatch.setenv(needs.VARIABLE, str(path))
    assert not NEEDS["i3d"].found()
    blob = needs.git_blob_id(b"other weights")
    monkeypatch.setitem(needs.PUBLISHED, "i3d", blob)
    monkeypatch.setitem(needs.PUBLIC, blob, Public("published", "i3d", path.name))
    assert NEEDS["i3d"].found()


def test_a_stage_is_trained_when_it_has_all_steps(nothing):
    path = nothing / "outputs/ucf101/motion_content_patch_8/last.ckpt"
    path.parent.mkdir(parents=True)
    for steps, done in ((110_999, False), (111_000, True)):
        torch.save({"global_step": steps, "callbacks": {}}, path)
        assert NEEDS["ucf101 motion 8"].found() is done
    assert not NEEDS["ucf101 motion 16"].found()


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["ucf101", "webvid_sd15", "webvid_sd21"])
def test_hours_are_those_of_the_recipe(folder):
    configs = read(CONFIGS / folder)
    for stage, call in calls(configs).items():
        assert NEEDS[f"{folder} {stage}"].hours == pytest.approx(predict(configs[stage], call).hours(TFLOPS), rel=0.01)
