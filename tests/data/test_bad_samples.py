import re
import tarfile
import warnings
from pathlib import Path

import pytest
from odd_videos import sound, still_image
from shard_files import plain, sample, write_tar

from cmd_lightning.data.check import check_shards
from cmd_lightning.data.index import read_index
from cmd_lightning.data.webvid import WebVidDataModule

ROOT = Path(__file__).parents[2]


def test_streams_and_checks_count_alike(tmp_path):
    """One good sample among many kinds of bad ones; all but "too short" are bad whatever is asked of a clip."""
    clip = sample("x")["x.mp4"]
    start, stop = clip.index(b"mdat") + 4, clip.index(b"moov") - 4
    gone = clip[:start] + bytes(stop - start) + clip[stop:]  # the header stays
    bad = {
        "empty file": {"a.mp4": b""},
        "unreadable video": {"b.mp4": b"junk" * 100},
        "still image": {"c.mp4": still_image()},
        "no video stream": {"d.mp4": sound()},
        "damaged frames": {"e.mp4": gone},
        "unreadable json": {"f.mp4": clip, "f.json": b"{"},
        "bad label": {"g.mp4": clip, "g.json": b'{"label": -7}'},
        "no video": {"h.txt": b"alone"},
        "hostile name": {"../i.mp4": clip},
        "too short": {"j.mp4": sample("j", frames=3)["j.mp4"]},
    }
    write_tar(tmp_path / "0.tar", [*bad.values(), sample("z")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = WebVidDataModule(str(tmp_path), num_frames=4, size=16, batch_size=3, max_bad_share=1, num_workers=1)
        keys = [key for batch in data.train_dataloader() for key in plain(batch["key"])]
    assert set(keys) == {"z"}
    said = " ".join(str(warning.message) for warning in caught)
    assert all(f"1 {reason}" in said for reason in bad)
    report = check_shards(str(tmp_path))
    assert report["samples"] == 2
    assert report["bad"] == {reason: 1 for reason in bad if reason != "too short"}
    noted = read_index(str(tmp_path))["shards"]["0.tar"]["bad"]
    assert noted == {next(iter(members)).rpartition(".")[0]: why for why, members in bad.items() if why != "too short"}


def test_each_row_of_the_table_of_faults_is_a_test(collected):
    """Every file that it names exists, and every test of the files that are part of this run."""
    text = "\n".join((ROOT / "docs/data" / name).read_text() for name in ("faults.md", "faults-of-clips.md"))
    rows = [row for row in text.splitlines() if row.startswith("| ") and not row.startswith(("| fault", "| ---"))]
    assert len(rows) > 40
    for row in rows:
        found = re.findall(r"`([^`]+)`", row.rpartition(" | ")[2])
        assert found, row
        file = ""
        for test in found:
            path, _, function = test.partition("::")
            file = f"tests/{path}" if path else file
            assert (ROOT / file).is_file() and function in collected.get(file, {function}), test


@pytest.mark.parametrize("keep", [0, 100, 512, 700])
def test_a_shard_of_almost_nothing(tmp_path, keep):
    write_tar(tmp_path / "good.tar", [sample("a"), sample("b")])
    (tmp_path / "bad.tar").write_bytes((tmp_path / "good.tar").read_bytes()[:keep])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = WebVidDataModule(str(tmp_path), num_frames=4, size=16, batch_size=1, max_bad_share=0.5)
        assert sorted(key for batch in data.train_dataloader() for key in plain(batch["key"])) == ["a", "b"]
        assert sum(check_shards(str(tmp_path))["bad"].values()) == 1
    with tarfile.open(tmp_path / "good.tar") as tar:
        assert len(tar.getnames()) == 6
