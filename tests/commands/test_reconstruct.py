import json
import re

import numpy as np
import pytest
import torch

from cmd_lightning.cli import main
from cmd_lightning.video_encoding import write_video
from cmd_lightning.video_io import read_video


@pytest.fixture
def clips(tmp_path, tiny_pipeline):
    """A small model, and two clips of its size: one that moves, one that stands still."""
    tiny_pipeline(None).save_pretrained(tmp_path / "model")
    drift = torch.arange(12) * 20
    moving = torch.stack([drift.roll(t).expand(3, 8, -1) for t in range(11)], 1).to(torch.uint8)
    write_video(tmp_path / "moving.mp4", moving, 7.0)
    write_video(tmp_path / "still.mp4", moving[:, :1].repeat(1, 11, 1, 1), 7.0)
    return [str(tmp_path / name) for name in ("moving.mp4", "still.mp4")]


def psnr_of(a, b):
    return 10 * np.log10(255**2 / ((a.double() - b.double()) ** 2).mean().item())


@pytest.mark.parametrize("stride", [1, 2])
def test_scores_are_those_of_the_clips(clips, tmp_path, capsys, stride):
    out = ["--out", str(tmp_path / "out"), "--stride", str(stride)]
    assert main(["reconstruct", str(tmp_path / "model"), *clips, *out, "--json", "-"]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)  # nothing else on standard output
    assert "moving.mp4" in captured.err
    measures = r"content frames, in brackets real frames: high frequency 0\.\d+ \(0\.\d+\), .*denoising"
    assert re.search(measures, captured.err)
    assert str(tmp_path / "out") in captured.err.splitlines()[-1]
    assert [row["clip"] for row in rows] == clips
    frames = read_video(clips[0])[:, : 5 * stride : stride].float()
    mean = frames.mean(1, keepdim=True).expand_as(frames)
    assert rows[0]["psnr_of_mean_frame"] == pytest.approx(psnr_of(frames, mean), abs=0.05)
    best = max(psnr_of(frames, frames[:, t : t + 1].expand_as(frames)) for t in range(5))
    assert rows[0]["psnr_of_best_frame"] == pytest.approx(best, abs=0.05)
    assert rows[1]["psnr_of_best_frame"] > 35  # but for the loss of mp4
    assert all(-1 <= row["ssim"] <= 1 for row in rows)


def test_writes_the_clip_next_to_content_frame_and_reconstruction(clips, tmp_path, capsys):
    report = tmp_path / "scores.json"
    arguments = [*clips, "--out", str(tmp_path / "out"), "--json", str(report)]
    assert main(["reconstruct", str(tmp_path / "model"), *arguments]) == 0
    names = {f"{clip}-reconstruction.{kind}" for clip in ("moving", "still") for kind in ("gif", "mp4")}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    assert read_video(tmp_path / "out" / "moving-reconstruction.gif").shape == (3, 5, 8, 36)
    assert read_video(tmp_path / "out" / "moving-reconstruction.mp4").shape == (3, 5, 8, 12)
    assert len(json.loads(report.read_text())) == 2
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert main(["reconstruct", str(tmp_path / "model"), *arguments]) == 2
    assert "moving-reconstruction.mp4 and 3 more exist already; give another --out" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("kind", ["missing", "unreadable", "short"])
def test_clips_that_cannot_be_used_are_reported(clips, tmp_path, capsys, kind):
    clip = tmp_path / f"{kind}.mp4"
    if kind == "unreadable":
        clip.write_bytes(b"no video")
    if kind == "short":
        write_video(clip, torch.zeros(3, 2, 8, 12, dtype=torch.uint8), 7.0)
    capsys.readouterr()
    assert main(["reconstruct", str(tmp_path / "model"), str(clip), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert clip.name in lines[0]


def test_the_checkpoint_of_an_autoencoder_is_enough(tiny_stages, clips, tmp_path, capsys):
    """It gives what a model folder with this autoencoder gives."""
    paths, _ = tiny_stages("label")
    assert main(["export", *map(str, paths.values()), str(tmp_path / "whole")]) == 0
    rows = []
    for out, model in (("first", paths["autoencoder"]), ("second", tmp_path / "whole")):
        capsys.readouterr()
        assert main(["reconstruct", str(model), *clips, "--out", str(tmp_path / out), "--json", "-"]) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[0] == rows[1]
    assert main(["reconstruct", str(paths["content"]), *clips]) == 2
    assert "this checkpoint holds the content stage, not autoencoder" in capsys.readouterr().err
