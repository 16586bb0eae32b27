"""The benchmark of the loader, made small: all sides give the same clips, and rates are computed correctly."""

import io
import json
import sys
from types import ModuleType, SimpleNamespace

import av
import pytest
import torch

from benchmarks import dataloader
from cmd_lightning.errors import InputError

TINY = dataloader.Settings(
    clips=4,
    shards=2,
    distinct=3,
    sizes=((20, 32),),
    frames=30,
    num_frames=4,
    size=(8, 8),
    batch_size=2,
    workers=(0,),
    rounds=2,
)
PYAV = ["loader", "bare", "bare, one converter", "webdataset"]


def torchcodec_by(shift):
    """A torchcodec that decodes by PyAV, every value off by `shift`."""

    class VideoDecoder:
        def __init__(self, source, num_ffmpeg_threads):
            with av.open(io.BytesIO(source)) as container:
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            self.frames = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in frames])

        def get_frames_at(self, indices):
            return SimpleNamespace(data=self.frames[indices] ^ shift)

    decoders = ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = VideoDecoder
    return {"torchcodec": ModuleType("torchcodec"), "torchcodec.decoders": decoders}


def test_all_sides_are_compared_on_the_same_clips_and_kept(monkeypatch, tmp_path):
    for name, module in torchcodec_by(1).items():
        monkeypatch.setitem(sys.modules, name, module)
    result = dataloader.run(TINY, tmp_path / "out.json")
    assert result.keys() >= {"versions", "commit", "hardware", "date", "settings", "protocol"}
    (row,) = result["rows"]
    assert {name: len(rates) for name, rates in row["rates"].items()} == dict.fromkeys([*PYAV, "torchcodec"], 2)
    assert dataloader.table(result).splitlines()[2].startswith("| 32x20, 0 | ")
    monkeypatch.setattr(dataloader, "measure", lambda *_: pytest.fail("measured again"))
    assert dataloader.run(TINY, tmp_path / "out.json") == json.loads((tmp_path / "out.json").read_text()) == result


def test_without_torchcodec_the_table_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    result = dataloader.run(TINY)
    (row,) = result["rows"]
    assert list(row["rates"]) == PYAV
    assert "torchcodec" in row["missing"]["torchcodec"]
    assert row["missing"]["torchcodec"] in dataloader.table(result).splitlines()[2]


def test_other_clips_are_not_compared(monkeypatch):
    (cell,) = [{"clips": "32x20", "workers": 0}]
    for name, module in torchcodec_by(32).items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(RuntimeError, match="torchcodec and bare, one converter give other clips"):
        dataloader.measure(TINY, cell)
    wrong = dataloader.choose_frames
    monkeypatch.setattr(dataloader, "choose_frames", lambda *given: [1 + n for n in wrong(given[0] - 1, *given[1:])])
    with pytest.raises(RuntimeError, match="loader and bare, one converter give other clips"):
        dataloader.measure(TINY, cell)


def test_shares_are_medians_within_rounds():
    rates = {"loader": [9.0, 30.0, 8.0], "bare, one converter": [10.0, 20.0, 10.0]}
    assert dataloader.share(rates, "loader") == pytest.approx(0.9)
    record = {"hardware": "a processor", "versions": "torch 1", "date": "today"}
    made = dataloader.table(record | {"rows": [{"clips": "1x1", "workers": 2, "rates": rates}]})
    assert "| 1x1, 2 | 9.0 (8.0 to 30.0), **0.90** | not measured | 10.0 (10.0 to 20.0) | not measured |" in made
    assert made.endswith("Measured on: a processor; torch 1; today.")


def test_settings_are_checked():
    with pytest.raises(InputError, match="--clips 40: give a multiple of 32, batches of 8 in 4 shards"):
        dataloader.Settings(clips=40)
    with pytest.raises(InputError, match="--rounds 0"):
        dataloader.Settings(rounds=0)
