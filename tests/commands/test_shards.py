import csv
import io
import json
import subprocess
import sys
import tarfile

import pytest
import torch

from cmd_lightning.commands import shards
from cmd_lightning.data.shard_writer import ShardWriter
from cmd_lightning.errors import InputError
from cmd_lightning.shapes.painting import make_clip
from cmd_lightning.shapes.scenes import SHAPES
from cmd_lightning.video_encoding import write_video
from cmd_lightning.video_io import read_video


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.fixture
def clips(tmp_path):
    """Six clips in two class folders and an unreadable one."""
    folder = tmp_path / "clips"
    for index in range(6):
        video, _ = make_clip(0, index, frames=4 + index, fps=8, size=16)
        write_video(folder / ("dog" if index % 2 else "cat_big") / f"{index}.mp4", video, 8)
    (folder / "dog" / "broken.avi").write_bytes(b"junk")
    return folder


def table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "caption", "label", "split"), *rows])
    return str(path)


def test_synth_is_reproducible_and_true(tmp_path):
    for name in ("a", "b"):
        shards.synth(out=str(tmp_path / name), num=7, size=32, frames=5, fps=4, seed=3, split="val", shard_size=4)
    for shard, count in (("000000.tar", 4), ("000001.tar", 3)):
        one, two = (tmp_path / name / "val" / shard for name in "ab")
        assert one.read_bytes() == two.read_bytes()
        assert len(members(one)) == 3 * count
    found = members(tmp_path / "a" / "val" / "000000.tar")
    facts = json.loads(found["00000000002.json"])
    assert found["00000000002.txt"].decode() == facts["caption"]
    (thing,) = facts["things"]
    size = "" if thing["size"] == "medium" else thing["size"] + " "
    assert facts["caption"] == f"a {size}{thing['colour']} {thing['shape']} moves {thing['direction']}"
    video = read_video(found["00000000002.mp4"])
    assert video.shape == (3, 5, 32, 32)
    assert len(thing["positions"]) == 5
    background = facts["background"]["colours"][0][0]
    moved = (video.float() - background).abs().sum(0).sub(60).clamp(min=0)  # above the codec's noise
    x = (moved.sum(1) * (torch.arange(32) + 0.5)).sum(1) / moved.sum((1, 2)) / 32
    assert torch.allclose(x, torch.tensor(thing["positions"])[:, 0], atol=0.02)
    index = json.loads((tmp_path / "a" / "val" / "index.json").read_text())
    assert [entry["samples"] for entry in index["shards"].values()] == [4, 3]
    shards.synth(out=str(tmp_path / "a"), num=7, size=32, frames=5, fps=4, seed=3, split="train")
    assert found["00000000002.mp4"] not in members(tmp_path / "a" / "train" / "000000.tar").values()


def test_synth_levels_motions_and_what_training_leaves_out(tmp_path):
    options = {"num": 60, "size": 16, "frames": 2, "level": "mixed", "motion": "extreme"}
    facts = {}
    for split in ("train", "val"):
        shards.synth(out=str(tmp_path), split=split, **options)
        found = members(tmp_path / split / "000000.tar")
        facts[split] = [json.loads(data) for name, data in found.items() if name.endswith("json")]
        assert all(about["label"] == SHAPES.index(about["things"][0]["shape"]) for about in facts[split])
        assert {about["level"] for about in facts[split]} == {"mixed"}
        assert {about["motion"] for about in facts[split]} == {"extreme"}
        assert {len(about["things"]) for about in facts[split]} == {1, 2, 3}
    assert all(about["seen"] for about in facts["train"])
    assert not all(about["seen"] for about in facts["val"])


def test_pack_with_a_table(clips, tmp_path, capsys):
    rows = [(f"{'dog' if i % 2 else 'cat_big'}/{i}.mp4", f'a "{i}", yes', ["cat", "dog"][i % 2], "") for i in range(6)]
    rows = [(*row[:3], "test" if i > 3 else "train") for i, row in enumerate(rows)]
    rows += [("dog/broken.avi", "x", "dog", "train"), ("none.mp4", "x", "dog", "test")]
    captions = table(tmp_path / "c.csv", rows)
    shards.pack(videos=str(clips), captions=captions, out=str(tmp_path / "out"), shard_size=3, json="-")
    report = json.loads(capsys.readouterr().out)  # nothing else on standard output
    assert report["samples"] == 6
    assert report["bad"] == {"unreadable video": 1, "missing file": 1}
    train = members(tmp_path / "out" / "train" / "000000.tar") | members(tmp_path / "out" / "train" / "000001.tar")
    assert len(train) == 12
    assert train["00000000001.mp4"] == (clips / "dog" / "1.mp4").read_bytes()
    assert train["00000000001.txt"].decode() == 'a "1", yes'
    facts = json.loads(train["00000000001.json"])
    assert (facts["label"], facts["class"], facts["frames"], facts["width"]) == (1, "dog", 5, 16)
    test = json.loads(members(tmp_path / "out" / "test" / "000000.tar")["00000000000.json"])
    assert (test["label"], test["path"]) == (0, "cat_big/4.mp4")
    shards.pack(videos=str(clips), captions=captions, out=str(tmp_path / "one"), split="test")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["test"]


def test_pack_class_folders_then_check(clips, tmp_path, capsys):
    out = tmp_path / "out"
    shards.pack(videos=str(clips), out=str(out))
    found = members(out / "000000.tar")
    labels = [json.loads(data)["label"] for name, data in found.items() if name.endswith("json")]
    assert labels == [0, 0, 0, 1, 1, 1]
    assert found["00000000000.txt"] == b"cat big"
    assert json.loads((out / "index.json").read_text())["classes"] == ["cat_big", "dog"]
    with tarfile.open(out / "000000.tar", "a") as tar:
        for name, data in (("z.mp4", b"junk"), ("z.txt", b"words"), ("zz.txt", b"words alone")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    capsys.readouterr()
    shards.check([str(out)], json="-")
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "samples": 6,
        "bad": {"unreadable video": 1, "no video": 1},
        "frames": 4 + 5 + 6 + 7 + 8 + 9,
        "seconds": 39 / 8,
        "sizes": {"16x16": {"clips": 6, "frames": 39, "seconds": 39 / 8}},
        "rates": {"8": {"clips": 6, "frames": 39, "seconds": 39 / 8}},
    }
    index = json.loads((out / "index.json").read_text())
    assert index["shards"]["000000.tar"]["samples"] == 8
    assert index["shards"]["000000.tar"]["bad"] == {"z": "unreadable video", "zz": "no video"}
    assert index["classes"] == ["cat_big", "dog"]
    shards.check([str(out / "*.tar")], json=str(tmp_path / "new" / "report.json"))
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == report


def test_bad_input_is_one_line_and_leaves_nothing(clips, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("thing,caption\nx,y\n")
    missing = table(tmp_path / "c.csv", [("none.mp4", "x", "", "")])
    outside = table(tmp_path / "o.csv", [("dog/1.mp4", "x", "", "../esc")])
    out = str(tmp_path / "made" / "out")
    before = sorted(tmp_path.rglob("*"))
    for action, words in (
        (lambda: shards.pack(videos=str(tmp_path / "none"), out=out), "no such folder"),
        (lambda: shards.pack(videos=str(tmp_path / "empty"), out=out), "no clips in it"),
        (lambda: shards.pack(videos=str(clips), captions="none.csv", out=out), "no such file"),
        (lambda: shards.pack(videos=str(clips), captions=str(tmp_path / "bad.csv"), out=out), "column 'path'"),
        (lambda: shards.pack(videos=str(clips), captions=missing, out=out), "none of 1 clips"),
        (lambda: shards.pack(videos=str(clips), out=out, shard_size=0), "shard_size 0"),
        (lambda: shards.check([str(tmp_path / "none.tar")]), "no such shard"),
        (lambda: shards.synth(out=out, size=31), "size 31"),
        (lambda: shards.synth(out=out, num=0), "num 0"),
        (lambda: shards.synth(out=out, fps=float("nan")), "fps nan"),
        (lambda: shards.synth(out=out, fps=float("inf")), "fps inf"),
        (lambda: shards.synth(out=out, split="../esc"), "split '../esc'"),
        (lambda: shards.synth(out=out, level="plane"), "level plane: give one of plain, mixed"),
        (lambda: shards.synth(out=out, motion="quick"), "motion quick: give one of still"),
        (lambda: shards.pack(videos=str(clips), out=out, split="../esc"), "split '../esc'"),
        (lambda: shards.pack(videos=str(clips), out=out, split=str(tmp_path / "esc")), "split '/"),
        (lambda: shards.pack(videos=str(clips), captions=outside, out=out), "split '../esc'"),
    ):
        with pytest.raises(InputError, match=words) as error:
            action()
        assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
    shards.synth(out=out, num=2, size=16, frames=2)
    with pytest.raises(InputError, match="holds shards already"):
        shards.synth(out=out, num=2, size=16, frames=2)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "a" / "b", 2) as writer:
        for _ in range(5):
            writer.write("mp4", b"x", "words", {})
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_module_is_imported_at_once():
    code = "import sys, cmd_lightning.commands.shards; print(sorted({'torch', 'av', 'webdataset'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
