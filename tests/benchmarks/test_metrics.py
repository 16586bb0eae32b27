"""The benchmark of the metrics, made small: its rows, values computed from their parts, and memory."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import metrics
from cmd_lightning.errors import InputError
from cmd_lightning.metrics import PRESETS

TINY = metrics.Settings(
    clips=4, batch=2, shape=(2, 8, 8), dim=12, samples=40, few=6, stored=(2_000, 40_000), kernel=(20,)
)


class Means(nn.Module):
    """Three features of a clip: the mean of each channel."""

    num_features = 3

    def forward(self, video):
        return video.mean((2, 3, 4))


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setitem(metrics.ROWS, "memory", lambda settings: {})  # has a separate test
    return dict(metrics.measure(TINY, Means()))


def test_rows_are_plain_data_and_ratios_follow_from_their_parts(rows):
    assert json.loads(json.dumps(rows)).keys() == rows.keys() >= {"solve", "accuracy", "kernel", "video distance"}
    row = rows["video distance"]
    assert (row["real"], row["generated"], row["batches"], row["warns of few clips"]) == (4, 4, 4, False)
    of = {name: value["median"] for name, value in row["seconds"].items()}
    assert all(value["least"] <= value["median"] <= value["most"] for value in row["seconds"].values())
    assert list(row["presets"]) == list(PRESETS)
    for name, preset in row["presets"].items():
        assert preset["total"] == pytest.approx(4 * (of["network"] + of[f"added by {name}"]) + of[f"compute {name}"])
        assert preset["ratio"] == pytest.approx(preset["total"] / preset["bare"])
        parts = 4 * (of["network"] + of[f"preparation {name}"] + of["sums"]) + of["solve"]
        assert preset["ratio by parts"] == pytest.approx(parts / (4 * of["network"]))
        added, update, bare = (row["seconds"][part] for part in (f"added by {name}", f"update {name}", "network"))
        assert update["least"] - bare["most"] <= added["least"] <= added["most"] <= update["most"] - bare["least"]


def test_the_bias_counts_only_with_a_warning():
    seconds = {"network": 10.0, "sums": 1.0, "solve": 2.0, "bias": 4.0, "compute x": 8.0, "update x": 13.0}
    seconds = {name: {"median": value} for name, value in (seconds | {"added by x": 3.0, "preparation x": 2.0}).items()}
    few, many = (metrics.ratios(seconds, 10, "x", warns) for warns in (True, False))
    assert few["ratio"] == many["ratio"] == pytest.approx(1.38)
    assert (few["ratio by parts"], many["ratio by parts"]) == pytest.approx((1.36, 1.32))


def test_calls_take_turns():
    order = []
    calls = {name: lambda number, name=name: order.append(f"{name}{number}") for name in "abc"}
    taken = metrics.interleaved(calls, 3)
    assert order == ["a0", "b0", "c0", "b1", "c1", "a1", "c2", "a2", "b2"]
    assert {len(seconds) for seconds in taken.values()} == {3}


def test_accuracy_tells_a_good_root_from_a_bad_one(rows):
    for case in ("two sets", "a set and itself"):
        errors = {name: abs(value) for name, value in rows["accuracy"][case].items()}
        assert max(errors["frechet_distance"], errors["frechet_distance_from_features"]) < 1e-9
        assert errors["torchmetrics"] > 1e-8  # eigenvalues of a product without full rank
    assert rows["accuracy"]["two sets"]["exact"] > 1


@pytest.mark.slow
def test_sums_do_not_grow_and_kept_features_do(monkeypatch):
    """Of 400 features in double precision; in a fresh process, so that nothing else grows."""
    monkeypatch.delitem(metrics.KEEPING, "kept features in batches of 8")  # it starts slowly
    row = metrics.memory(replace(TINY, dim=400))
    assert metrics.slope({10: 1000, 20: 7, 30: 5000}) == 200
    assert abs(row["sums"]["bytes per clip"]) < 200
    assert 1300 < row["kept features"]["bytes per clip"] < 4000
    for case in row.values():
        taken = case["resident bytes"]
        assert case["bytes per clip"] == (taken[40_000] - taken[2_000]) / 38_000


def test_the_file_and_the_refusals(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "drawn_i3d", Means)
    monkeypatch.setattr(metrics, "measure", lambda settings, network: iter([("solve", vars(settings))]))
    monkeypatch.setattr(sys, "argv", ["metrics", "--json", str(tmp_path / "new" / "a.json"), "--clips", "8"])
    assert metrics.main() == 0
    result = json.loads((tmp_path / "new" / "a.json").read_text())
    assert result["settings"]["clips"] == result["rows"]["solve"]["clips"] == 8
    assert f"{torch.get_num_threads()} threads" in result["hardware"]
    for options in (["--clips", "6"], ["--clips", "0"], *([] if torch.cuda.is_available() else [["--device", "cuda"]])):
        monkeypatch.setattr(sys, "argv", ["metrics", *options])
        with pytest.raises(InputError, match=f"^{options[0]} {options[1]}: .*give"):
            metrics.main()
