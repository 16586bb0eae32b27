"""The benchmark of the loader, made small: both sides give the same clips, and what is computed from their rates."""

import json

import pytest

from benchmarks import dataloader
from cmd_lightning.errors import InputError

TINY = dataloader.Settings(
    clips=4, distinct=3, sizes=((20, 32),), frames=30, num_frames=4, size=(8, 8), batch_size=2, workers=(0,), rounds=2
)


def test_loader_and_bare_decoding_are_compared_on_the_same_clips():
    result = json.loads(json.dumps(dataloader.run(TINY)))
    assert result.keys() >= {"versions", "commit", "hardware", "date", "settings", "protocol"}
    (row,) = result["rows"].values()
    assert [len(rates) for rates in row["rates"].values()] == [2, 2, 2]
    assert row["share"].keys() == {"bare", "bare, one converter"}
    assert dataloader.table(result["rows"]).splitlines()[2].startswith("| 32x20, 0 | ")


def test_other_clips_are_not_compared(monkeypatch):
    wrong = dataloader.choose_frames
    monkeypatch.setattr(dataloader, "choose_frames", lambda *given: [1 + n for n in wrong(given[0] - 1, *given[1:])])
    with pytest.raises(RuntimeError, match="other clips"):
        dataloader.measure(TINY, 20, 32, 0)


def test_shares_are_medians_within_rounds():
    rates = {"loader": [9.0, 30.0, 8.0], "bare": [10.0, 20.0, 10.0]}
    result = dataloader.summary(rates)
    assert result["share"] == {"bare": pytest.approx(0.9)}
    assert result["clips a second"]["loader"] == {"median": 9.0, "least": 8.0, "most": 30.0}


def test_settings_are_checked():
    with pytest.raises(InputError, match="--clips 9: give a multiple of 8"):
        dataloader.Settings(clips=9)
    with pytest.raises(InputError, match="--rounds 0"):
        dataloader.Settings(rounds=0)
