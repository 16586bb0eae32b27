"""The report of `shards check` on clips by size and rate, and its contact sheet."""

import json

import numpy as np
import pytest
from odd_videos import encode
from PIL import Image
from shard_files import write_tar

from cmd_lightning.cli import main


def level(number, height, width, rate, frames):
    """A clip whose first half is this dark and whose second half is white."""
    images = np.full((frames, height, width, 3), number, np.uint8)
    images[frames // 2 :] = 255
    return encode(images, "mp4", "libx264", rate=rate)


@pytest.fixture
def shard(tmp_path):
    samples = [
        {f"{number:02d}.mp4": level(10 * number, *size, rate, frames), f"{number:02d}.txt": b"caf\xc3\xa9 " * 40}
        for number, (size, rate, frames) in enumerate([((16, 32), 8, 4), ((16, 32), 25, 5), ((64, 16), 25, 10)] * 5)
    ]
    write_tar(tmp_path / "0.tar", samples)
    return tmp_path / "0.tar"


def test_frames_and_seconds_by_size_and_rate(shard, capsys):
    assert main(["shards", "check", str(shard), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["frames"], report["seconds"]) == (5 * (4 + 5 + 10), 5 * (0.5 + 0.2 + 0.4))
    assert report["sizes"] == {
        "16x64": {"clips": 5, "frames": 50, "seconds": 2.0},
        "32x16": {"clips": 10, "frames": 45, "seconds": 3.5},
    }
    assert list(report["rates"].items()) == [
        ("8", {"clips": 5, "frames": 20, "seconds": 2.5}),
        ("25", {"clips": 10, "frames": 75, "seconds": 3.0}),
    ]


@pytest.mark.parametrize(("most", "shown"), [(24, list(range(15))), (4, [0, 4, 8, 12]), (3, [0, 4, 8]), (1, [0])])
def test_the_sheet_shows_the_first_and_the_middle_frame_of_clips(shard, tmp_path, most, shown):
    sheet = tmp_path / "new" / "sheet.png"
    assert main(["shards", "check", str(shard), "--sheet", str(sheet), "--sheet-clips", str(most), "--json", "-"]) == 0
    image = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    cells = [image[8 + row * 186 :, 8 + column * 272 :] for row in range(4) for column in range(4)]
    first = [int(cell[20, 10, 0]) for cell in cells[: len(shown)]]
    assert first == pytest.approx([10 * number for number in shown], abs=4)
    for cell in cells[: len(shown)]:
        assert cell[20, 136 + 10].min() > 250  # white: the middle frame
        assert cell[132:146, :200].min() < 160  # what it is, in grey
        assert cell[146:174, :200].min() < 90  # two lines of the caption
        assert cell[174:178, :200].min() > 250


@pytest.mark.parametrize(
    ("option", "words"), [(["--sheet", "a.bmp2"], "ends in"), (["--sheet-clips", "0"], "--sheet-clips 0")]
)
def test_wrong_sheets_are_an_error(shard, tmp_path, capsys, monkeypatch, option, words):
    monkeypatch.chdir(tmp_path)
    assert main(["shards", "check", str(shard), "--sheet", "a.png", *option]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
