"""`generate` to files: resumed, on several devices, in other formats, in a grid, and again from a record."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from cmd_lightning import video_encoding
from cmd_lightning.cli import main
from cmd_lightning.commands.records import frames_sha256
from cmd_lightning.video_io import read_video

STEPS = ("--steps", "content=2,motion=3", "--guidance", "content=2,motion=1.5")


@pytest.fixture
def run(tiny_pipeline, tmp_path, capsys):
    """Runs `generate` on a small model: the paths that it prints, and what it says on standard error."""
    tiny_pipeline("caption").save_pretrained(tmp_path / "model")

    def run(*words, out="out", code=0):
        capsys.readouterr()
        given = ["generate", str(tmp_path / "model"), "--out", str(tmp_path / out), *STEPS, *map(str, words)]
        assert main(given) == code
        captured = capsys.readouterr()
        return captured.out.splitlines(), captured.err

    return run


@pytest.fixture
def prompts(tmp_path):
    """A file of five captions, two of them equal, for two batches."""
    path = tmp_path / "prompts.txt"
    path.write_text("red\nblue\nred\ngreen\nwhite\n")
    return "--prompts", path, "--batch-size", 3


def hashes(folder):
    """The hash of the frames in each record, by the name of its file."""
    return {path.name: json.loads(path.read_text())["frames_sha256"] for path in folder.glob("*.json")}


def test_resumed_files_are_those_of_one_call(run, prompts, tmp_path):
    names, _ = run(*prompts)
    assert [os.path.basename(name) for name in names] == [f"{name}-0{n}.mp4" for name, n in (
        ("red", ""), ("blue", ""), ("red", "-2"), ("green", ""), ("white", "")
    )]  # fmt: skip
    whole = hashes(tmp_path / "out")
    (tmp_path / "out" / "blue-0.mp4").unlink()
    for kind in ("mp4", "json"):  # as if it was interrupted before
        (tmp_path / "out" / f"white-0.{kind}").unlink()
    kept = (tmp_path / "out" / "red-0.mp4").stat()
    written, message = run(*prompts, "--resume")
    assert [os.path.basename(name) for name in written] == ["blue-0.mp4", "white-0.mp4"]
    assert "3 of 5 videos exist already" in message
    assert hashes(tmp_path / "out") == whole
    assert (tmp_path / "out" / "red-0.mp4").stat().st_mtime_ns == kept.st_mtime_ns
    assert run(*prompts, "--resume")[0] == []


def test_resuming_does_not_mix_options(run, prompts, tmp_path):
    run(*prompts)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    _, message = run(*prompts, "--resume", "--steps", "2", code=2)
    assert "was made with steps {'content': 2, 'motion': 3}; give the same, or another --out" in message
    (tmp_path / "out" / "red-0.json").write_text("[]")
    assert "is not a video's record" in run(*prompts, "--resume", code=2)[1]
    (tmp_path / "out" / "red-0.json").write_bytes(before[tmp_path / "out" / "red-0.json"])
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_nothing_is_overwritten(run, tmp_path):
    """Neither a video, nor a record of another format, nor what is not of this program; and nothing is computed."""
    run("--prompt", "red", "blue")
    (tmp_path / "out" / "mine-0.mp4").write_text("mine")
    (tmp_path / "out" / "grid.mp4").symlink_to("elsewhere.mp4")
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    folder = f"--out {tmp_path / 'out'}: "
    for words, message in (
        (("red", "blue"), "red-0.mp4 and 3 more exist already; give --resume to leave out such videos, or another"),
        (("green", "blue", "--steps", "9"), "blue-0.mp4 and 1 more exist already"),
        (("red", "--format", "gif"), "red-0.json exists already; give --resume"),
        (("mine",), "mine-0.mp4 exists already"),
        (("green", "--grid", "2"), "grid.mp4 exists already"),
    ):
        assert run("--prompt", *words, code=2)[1].startswith(f"cmd-lightning: {folder}{message}")
    assert "mine-0.mp4 has no record next to it; move it" in run("--prompt", "mine", "--resume", code=2)[1]
    assert {path: path.lstat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.slow
def test_devices_share_the_batches(run, prompts, tmp_path):
    """Two processes, each of as many threads as one of them has here."""
    run(*prompts)
    run(*prompts, "--devices", 2, out="spread")
    assert hashes(tmp_path / "spread").keys() == hashes(tmp_path / "out").keys()
    for name in hashes(tmp_path / "out"):
        videos = [read_video(tmp_path / folder / name.replace("json", "mp4")).int() for folder in ("out", "spread")]
        assert (videos[0] - videos[1]).abs().max() <= 3  # sums on another number of threads
    _, message = run(*prompts, "--devices", 2, "--resume", "--steps", "2", out="spread", code=2)
    del message  # of the processes themselves


@pytest.mark.parametrize(("kind", "suffix"), [("gif", ".gif"), ("webp", ".webp"), ("png", "")])
def test_other_formats(run, tmp_path, monkeypatch, kind, suffix):
    videos = {}
    original = video_encoding.write_video
    monkeypatch.setattr(
        video_encoding,
        "write_video",
        lambda path, video, fps: (videos.update({path: video}), original(path, video, fps)),
    )
    (name,), _ = run("--prompt", "red", "--format", kind)
    path = tmp_path / "out" / f"red-0{suffix}"
    assert name == str(path)
    shown = read_video(path)
    assert torch.equal(shown, videos[path]) or (kind == "gif" and shown.shape == videos[path].shape)
    record = json.loads((tmp_path / "out" / "red-0.json").read_text())
    assert record["frames_sha256"] == frames_sha256(videos[path])


def test_a_grid(run, tmp_path):
    names, _ = run("--prompt", "red", "--num", "3", "--format", "webp", "--grid", "2")
    assert names[-1] == str(tmp_path / "out" / "grid.webp")
    grid, videos = read_video(names[-1]), [read_video(name) for name in names[:-1]]
    assert grid.shape == (3, 5, 2 * 8 + 2, 2 * 12 + 2)
    assert torch.equal(grid[:, :, :8, :12], videos[0])
    assert torch.equal(grid[:, :, :8, 14:], videos[1])
    assert torch.equal(grid[:, :, 10:, :12], videos[2])
    assert (grid[:, :, 8:10] == 255).all() and (grid[:, :, 10:, 12:] == 255).all()
    assert "--grid 0: must be at least 1" in run("--prompt", "red", "--grid", "0", code=2)[1]


def test_again(run, prompts, tmp_path, capsys):
    """The third of a batch of three, with an equal sibling; rounding depends on the whole batch."""
    run(*prompts)
    record = tmp_path / "out" / "red-0-2.json"
    assert main(["generate", "--again", str(record), "--out", str(tmp_path / "again"), "--format", "webp"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'again' / 'red-0-2-again.webp'}\n"
    assert captured.err.splitlines()[-1] == "the same frames, bit for bit"
    first, second = (json.loads(path.read_text()) for path in (record, tmp_path / "again" / "red-0-2-again.json"))
    assert frames_sha256(read_video(tmp_path / "again" / "red-0-2-again.webp")) == first["frames_sha256"]
    assert second | {"date": ""} == first | {"date": ""}


def test_again_of_an_image(run, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    run("--prompt", "red", "--image", tmp_path / "photo.png", "--seed", "3")
    record = tmp_path / "out" / "photo-red-3.json"
    (tmp_path / "photo.png").rename(tmp_path / "out" / "photo.png")  # sent along with the record
    assert main(["generate", "--again", str(record), "--out", str(tmp_path / "again")]) == 0
    assert main(["generate", "--again", str(record), "--out", str(tmp_path / "again")]) == 2
    assert "photo-red-3-again.mp4 and 1 more exist already; give another --out" in capsys.readouterr().err
    (tmp_path / "out" / "photo.png").unlink()
    assert main(["generate", "--again", str(record), "--out", str(tmp_path / "other")]) == 2
    assert "photo.png is missing; put it next to the record" in capsys.readouterr().err


def test_again_reports_other_frames(run, tmp_path, capsys):
    run("--prompt", "red")
    record = tmp_path / "out" / "red-0.json"
    found = json.loads(record.read_text())
    record.write_text(json.dumps(found | {"frames_sha256": "0", "hardware": "another"}))
    assert main(["generate", "--again", str(record), "--out", str(tmp_path / "again")]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == f"warning: other frames than those of {record}: hardware another, now {found['hardware']}"
    record.write_text(json.dumps(found | {"weights": {"unet/a.safetensors": "0"}}))
    assert main(["generate", "--again", str(record), "--out", str(tmp_path / "other")]) == 2
    assert "has other weights now (unet/a.safetensors)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, (), "there is no such file; give the .json next to a video"),
        ("no JSON", (), "it is not a video's record"),
        ("[]", (), "it has no 'options'"),
        ('{"model": "shapes32"}', (), "it has no 'options'; give a record of `generate` of this version"),
        ("{}", ("--seed", "3"), "--again and --seed: the record has it; leave it out"),
        ("{}", ("shapes32",), "--again and MODEL: the record has it; leave it out"),
    ],
)
def test_again_without_a_record(tmp_path, capsys, content, words, message):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert main(["generate", *words, "--again", str(tmp_path / "a.json")]) == 2
    assert message in capsys.readouterr().err


def test_a_model_is_needed(capsys):
    assert main(["generate", "--prompt", "red"]) == 2
    assert "MODEL: missing; give a model folder" in capsys.readouterr().err
