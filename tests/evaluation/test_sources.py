import json
import math
import os
import pickle
import random
import subprocess
import sys
import tarfile
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from shard_files import plain, sample, write_tar
from torch.utils.data import DataLoader

from cmd_lightning.data.check import check_shards
from cmd_lightning.data.shard_writer import ShardWriter
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError
from cmd_lightning.evaluation.datamodule import read_batch
from cmd_lightning.evaluation.sources import Selection, open_source
from cmd_lightning.video_encoding import mp4_bytes, write_video
from cmd_lightning.video_io import read_video


def clips(num=7, frames=9, height=16, width=20, seed=0):
    shape = (num, frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def to_tensor(clip):
    return torch.from_numpy(clip).permute(3, 0, 1, 2)


def array(path, data):
    if path.suffix == ".npy":
        np.save(path, data)
    else:
        torch.save(torch.as_tensor(data), path)
    return path


def items(path, **selection):
    source = open_source(path, Selection(**selection))
    return [source[index] for index in range(len(source))]


def batches(source, batch_size, workers=0, rank=0, ranks=1):
    """What a rank reads: every `ranks`-th clip."""
    own, read = range(rank, len(source), ranks), partial(read_batch, {"real": source}, None)
    for batch in DataLoader(own, batch_size, num_workers=workers, collate_fn=read):
        if "error" in batch["real"]:
            raise InputError(batch["real"]["error"])
        yield batch["real"]


def fails(path, *words, **selection):
    """The one line that reading all of a source ends with."""
    with pytest.raises(InputError) as caught:
        items(path, **selection)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Class folders of mp4 at 24 frames per second, 12 frames long."""
    folder = tmp_path_factory.mktemp("videos")
    for index, name in enumerate(("b/2", "a/1", "a/0", "c")):
        write_video(folder / f"{name}.mp4", to_tensor(clips(1, 12, seed=index)[0]), 24)
    (folder / "notes.md").write_text("no clip")
    (folder / "a" / ".hidden.mp4").write_bytes(b"no clip")
    return folder


def test_lossless_kinds_give_the_same_clips(tmp_path):
    data = clips()
    for index, clip in enumerate(data):
        write_video(tmp_path / "png" / f"{index:06d}", to_tensor(clip), 8)
    sources = [
        tmp_path / "png",
        array(tmp_path / "nthwc.npy", data),
        array(tmp_path / "ncthw.npy", data.transpose(0, 4, 1, 2, 3)),
        array(tmp_path / "ntchw.npy", np.asfortranarray(data.transpose(0, 1, 4, 2, 3))),
        array(tmp_path / "nthwc.pt", data),
        array(tmp_path / "ncthw.pth", torch.from_numpy(data).permute(0, 4, 1, 2, 3)),
    ]
    for path in sources:
        found = items(path, frames=4, stride=2)
        assert [item["key"] for item in found] == [f"{index:06d}" for index in range(7)]
        for clip, item in zip(data, found, strict=True):
            assert item["video"].dtype == torch.uint8
            assert torch.equal(item["video"], to_tensor(clip[[0, 2, 4, 6]]))
            assert (item["caption"], item["fps"]) == ("", 0.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.dtype(">f8"), torch.bfloat16])
def test_arrays_of_floats(tmp_path, dtype):
    data = clips(2) / 255
    if isinstance(dtype, torch.dtype):
        data = torch.from_numpy(data).to(dtype)
        path, wanted = array(tmp_path / "a.pt", data), data.float().numpy()
    else:
        path, wanted = array(tmp_path / "a.npy", data.astype(dtype)), data.astype(dtype).astype(np.float32)
    for clip, item in zip(wanted, items(path, frames=9), strict=True):
        assert item["video"].dtype == torch.float32
        assert torch.equal(item["video"], to_tensor(clip))


def test_floats_may_miss_their_range_by_rounding_and_are_resized(tmp_path):
    data = (clips(2, height=48, width=40) / 255).astype(np.float32)
    data[0, 0, 0, 0], data[0, 0, 0, 1] = -1e-6, 1 + 1e-6
    path = array(tmp_path / "a.npy", data)
    found = items(path, frames=9)
    assert torch.equal(found[0]["video"], to_tensor(data[0]).clamp(0, 1))
    assert torch.equal(found[1]["video"], to_tensor(data[1]))
    item = items(path, frames=9, size=(24, 20))[1]
    assert item["video"].shape == (3, 9, 24, 20)
    assert item["video"].mean().item() == pytest.approx(data[1].mean(), abs=2e-3)
    assert item["video"].dtype == torch.float32


@pytest.mark.parametrize("name", ["a.npy", "a.pt"])
def test_arrays_are_not_read_as_a_whole(tmp_path, name):
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("only Linux tells the memory in use")
    path = array(tmp_path / name, np.zeros((100, 16, 128, 128, 3), np.uint8))  # 79 MB

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    selection = Selection()
    open_source(path, selection)[50]  # whatever is imported first
    before = resident()
    source = open_source(path, selection)
    assert source[50]["video"].shape == (3, 16, 128, 128)
    assert resident() - before < 40e6
    assert len(pickle.dumps(source)) < 1e5
    assert torch.equal(pickle.loads(pickle.dumps(source))[50]["video"], source[50]["video"])


def test_videos_in_class_folders_with_captions(videos, tmp_path):
    found = items(videos, frames=5, stride=2)
    assert [item["key"] for item in found] == ["a/0", "a/1", "b/2", "c"]
    for item in found:
        assert torch.equal(item["video"], read_video(videos / f"{item['key']}.mp4")[:, :10:2])
        assert item["fps"] == 12.0
    clip = to_tensor(clips(1)[0])
    for name in ("a.mp4", "b.gif", "c.v1.mp4", "d.mp4"):
        write_video(tmp_path / name, clip, 8)
    write_video(tmp_path / "frames", clip, 8)
    (tmp_path / "a.txt").write_text(" a dog\n")
    (tmp_path / "a.json").write_text('{"caption": "not this"}')
    (tmp_path / "b.json").write_text('{"condition": "a cat", "seed": 0}')
    (tmp_path / "c.v1.json").write_text('{"caption": "a cow"}')
    (tmp_path / "d.json").write_text('{"condition": 3}')
    (tmp_path / "frames.txt").write_text("a bird")
    told = {item["key"]: item["caption"] for item in items(tmp_path, frames=2)}
    assert told == {"a": "a dog", "b": "a cat", "c.v1": "a cow", "d": "", "frames": "a bird"}


def test_clips_are_in_natural_order(tmp_path):
    for name in [f"{folder}{index}" for folder in ("", "class 9/", "class 10/") for index in range(11)]:
        write_video(tmp_path / "videos" / f"{name}.gif", torch.zeros(3, 1, 8, 8, dtype=torch.uint8), 8)
    wanted = [f"{folder}{index}" for folder in ("", "class 9/", "class 10/") for index in range(11)]
    assert open_source(tmp_path / "videos", Selection(frames=1)).keys == wanted
    assert open_source(tmp_path / "videos", Selection(frames=1, num=3, choose="first")).keys == ["0", "1", "2"]
    (tmp_path / "shards").mkdir()
    for index in range(11):
        write_tar(tmp_path / "shards" / f"{index}.tar", [{f"{key}{index}.mp4": b""} for key in "zy"])
    wanted = [f"{key}{index}" for index in range(11) for key in "zy"]
    for path in ("shards", "shards/*.tar", "shards/{0..10}.tar"):
        assert open_source(tmp_path / path, Selection(frames=1)).keys == wanted


def test_frames_are_ordered_by_number_and_a_folder_of_frames_is_a_clip(tmp_path):
    clip = to_tensor(clips(1, 12)[0])
    write_video(tmp_path / "one", clip, 8)
    for index in range(12):
        os.rename(tmp_path / "one" / f"{index:06d}.png", tmp_path / "one" / f"frame{index}.png")
    (item,) = items(tmp_path / "one", frames=12)
    assert item["key"] == "one"
    assert torch.equal(item["video"], clip)


def test_links_bring_no_clip_twice(videos, tmp_path):
    (tmp_path / "classes").symlink_to(videos)
    (tmp_path / "latest").symlink_to(videos / "a")
    (tmp_path / "here").symlink_to(tmp_path)
    assert [item["key"] for item in items(tmp_path, frames=1)] == [
        "classes/a/0",
        "classes/a/1",
        "classes/b/2",
        "classes/c",
    ]


def test_shards_as_training_reads_them(shards):
    data = WebVidDataModule(
        str(shards), str(shards), num_frames=3, size=(12, 16), stride=2, batch_size=5, num_workers=0
    )
    data.setup("validate")
    wanted = {}
    for batch in data.val_dataloader():
        for key, video, caption in zip(plain(batch["key"]), batch["video"], batch["caption"], strict=True):
            wanted[key] = video, caption
    for path in (shards, f"{shards}/*.tar", f"{shards}/{{00000..00004}}.tar"):
        found = items(path, frames=3, size=(12, 16), stride=2)
        assert [item["key"] for item in found] == [f"{index:04d}" for index in range(23)]
        for item in found:
            video, caption = wanted[item["key"]]
            assert torch.equal(item["video"], video)
            assert (item["caption"], item["fps"]) == (caption, 4.0)


def test_written_shards(tmp_path):
    video = mp4_bytes(to_tensor(clips(1)[0]), 8)
    with ShardWriter(tmp_path, shard_size=2) as writer:
        for index in range(3):
            writer.write("mp4", video, f"clip {index}", {"label": index})
    found = items(tmp_path, frames=9)
    assert [item["caption"] for item in found] == [f"clip {index}" for index in range(3)]
    assert all(torch.equal(item["video"], read_video(video)) for item in found)


def test_bad_samples_of_shards_are_left_out_and_counted(tmp_path):
    write_tar(tmp_path / "0.tar", [sample("a"), {"b.txt": b"no video"}, sample("c"), sample("d")])
    write_tar(tmp_path / "1.tar", [sample("e") | {"e.mp4": b"junk"}, {"f.txt": b""}, sample("g")])
    source = open_source(tmp_path, Selection(frames=2))
    assert source.keys == ["a", "c", "d", "e", "g"]
    assert source.skipped == {"no video": 2}
    fails(tmp_path, "1.tar clip e: unreadable video", "`shards check`", frames=2)
    check_shards(str(tmp_path))
    source = open_source(tmp_path, Selection(frames=2))
    assert source.keys == ["a", "c", "d", "g"]
    assert source.describe()["skipped"] == {"no video": 2, "unreadable video": 1}
    with open(tmp_path / "0.tar", "r+b") as file, tarfile.open(tmp_path / "0.tar") as tar:
        file.truncate(tar.getmember("d.mp4").offset_data + 10)
    with pytest.warns(UserWarning, match="cut off"):
        source = open_source(tmp_path / "0.tar", Selection(frames=2))
    assert source.keys == ["a", "c"]
    assert source.skipped == {"no video": 1, "truncated shard": 1}


def test_keys_are_unique_among_shards(tmp_path):
    for name in ("0", "1"):
        write_tar(tmp_path / f"{name}.tar", [sample("a"), sample("b")])
    assert len(set(open_source(tmp_path, Selection(frames=2)).keys)) == 4
    assert len(open_source(f"{tmp_path}/{{0,1,0}}.tar", Selection(frames=2))) == 4


def test_which_clips(tmp_path):
    path = array(tmp_path / "a.npy", clips(40, 4))
    whole = open_source(path, Selection(frames=4)).keys
    assert open_source(path, Selection(frames=4, num=10, choose="first")).keys == whole[:10]
    source = open_source(path, Selection(frames=4, num=10))
    assert (source.of, len(source), [whole[number] for number in source.chosen]) == (40, 10, source.keys)
    drawn = source.keys
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 10
    assert drawn == open_source(path, Selection(frames=4, num=10)).keys
    assert drawn != open_source(path, Selection(frames=4, num=10, seed=1)).keys
    often = Counter(
        key for seed in range(400) for key in open_source(path, Selection(frames=4, num=10, seed=seed)).keys
    )
    assert set(often) == set(whole)
    assert max(abs(number - 100) for number in often.values()) < 5 * math.sqrt(400 / 4 * 3 / 4)
    assert open_source(path, Selection(frames=4, num=40)).keys == whole
    fails(path, f"num 41: {path} has 40 clips; give `num` 40 or less", frames=4, num=41)


def test_ranks_and_workers_cover_every_clip_once(videos, tmp_path):
    data = clips(11)
    source = open_source(array(tmp_path / "a.npy", data), Selection(frames=9))
    for ranks in (1, 3, 4):
        keys = []
        for rank in range(ranks):
            for batch in batches(source, 2, workers=0, rank=rank, ranks=ranks):
                for key, video in zip(batch["key"], batch["video"], strict=True):
                    assert torch.equal(video, to_tensor(data[int(key)]))
                    keys.append(key)
        assert sorted(keys) == source.keys
    source = open_source(videos, Selection(frames=4, fps=8, random_start=True))
    read = [batch for rank in range(2) for batch in batches(source, 2, workers=2, rank=rank, ranks=2)]
    assert [key for batch in read for key in batch["key"]] == ["a/0", "b/2", "a/1", "c"]
    for batch in read:
        assert set(batch) == {"video", "caption", "key", "fps"}
        assert (batch["fps"].dtype, batch["fps"].tolist()) == (torch.float32, [8.0, 8.0])
        for key, video in zip(batch["key"], batch["video"], strict=True):
            assert torch.equal(video, source[source.keys.index(key)]["video"])


def test_rate_and_beginning(tmp_path):
    ramp = torch.arange(40, dtype=torch.uint8)[None, :, None, None].expand(3, 40, 16, 16) * 6
    for index in range(30):
        (tmp_path / f"{index:02d}.mp4").write_bytes(mp4_bytes(ramp, 24, crf=0))
        if index == 6:
            (tmp_path / "06.mp4").write_bytes(mp4_bytes(ramp, 17, crf=0))

    def numbers(item):
        return [round(level / 6) for level in item["video"].float().mean((0, 2, 3)).tolist()]

    source = open_source(tmp_path, Selection(frames=4, fps=10))
    assert numbers(source[0]) == [0, 2, 5, 7]  # 0, 2.4, 4.8, 7.2
    assert source[0]["fps"] == 10.0
    for rate in (7.1, 12.5):  # 24 / (24 / 7.1) is not 7.1
        source = open_source(tmp_path, Selection(frames=4, fps=rate))
        assert source[0]["fps"] == source[6]["fps"] == rate
    drawn = open_source(tmp_path, Selection(frames=5, stride=9, random_start=True))
    starts = [numbers(drawn[index])[0] for index in range(30)]
    assert set(starts) == {0, 1, 2, 3}
    few = open_source(tmp_path, Selection(frames=5, stride=9, random_start=True, num=8, seed=0))
    assert [numbers(few[i])[0] for i in range(8)] == [starts[int(key)] for key in few.keys]
    other = open_source(tmp_path, Selection(frames=5, stride=9, random_start=True, seed=1))
    assert starts != [numbers(other[index])[0] for index in range(30)]


def test_the_record(videos, tmp_path):
    record = open_source(videos, Selection(frames=3, fps=6, size=(8, 12), num=2, seed=5)).describe()
    assert json.loads(json.dumps(record)) == {
        "path": str(videos),
        "kind": "videos",
        "clips": 2,
        "of": 4,
        "frames": 3,
        "stride": None,
        "fps": 6.0,
        "source_fps": 24.0,
        "size": [8, 12],
        "choose": "random",
        "random_start": False,
        "seed": 5,
        "skipped": {},
    }
    record = open_source(array(tmp_path / "a.npy", clips()), Selection(frames=9)).describe()
    assert (record["kind"], record["stride"], record["fps"], record["source_fps"]) == ("array", 1, None, None)
    assert record["size"] == [16, 20]


def test_errors_of_arrays(tmp_path):
    data, path = clips(2), tmp_path / "a.npy"
    floats = (data / 255).astype(np.float32)
    fails(array(path, data[0]), "five axes", "NTHWC")
    fails(array(path, data[..., :1]), "repeat a grey channel")
    fails(array(path, np.concatenate([data, data[..., :1]], -1)), "drop the alpha")
    fails(array(path, data[..., :2]), "no axis of 3 channels")
    fails(array(path, data.astype(np.int64)), "int64: give uint8, or float")
    fails(array(path, data[:, :3]), 'give layout="NTHWC"', frames=3)
    assert items(path, frames=3, layout="NTHWC")[1]["video"].equal(to_tensor(data[1, :3]))
    fails(path, "no axis of 3 channels in layout NTCHW", frames=3, layout="NTCHW")
    fails(array(path, floats * 2 - 1), "a.npy clip 0: from -1 to 1; give float in [0, 1]", frames=9)
    fails(array(path, np.stack([floats[0], floats[1] + np.nan])), "a.npy clip 1: holds NaN", frames=9)
    text = fails(array(path, data), "a.npy clip 0 has 9 frames and 16 are needed; give `frames` 9 or less")
    assert text == fails(path)  # already when it is opened
    with pytest.raises(InputError, match="10 are needed; give `frames` 3 or less"):
        open_source(path, Selection(frames=4, stride=3))
    fails(path, "give a stride instead", fps=8)
    fails(array(path, data[:0]), "no usable clips", frames=9)
    path.write_bytes(b"junk")
    fails(path, "not readable", "numpy.save")
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    fails(path, "not readable")
    torch.save({"video": torch.zeros(1)}, tmp_path / "a.pt")
    fails(tmp_path / "a.pt", "holds a dict; save the tensor")
    torch.save(random.Random(0), tmp_path / "a.pt")
    fails(tmp_path / "a.pt", "not readable", "torch.save")


def test_errors_of_files(videos, tmp_path):
    fails(videos, "a/0.mp4 has 12 frames and 16 are needed; give `frames` 12 or less")
    fails("https://host/0.tar", "https://host/0.tar: evaluate reads local shards; fetch them first")
    fails("https://host/{0..3}.tar", "local shards")
    fails(tmp_path / "none", "no such file or folder", ".npy")
    fails(tmp_path / "none" / "*.tar", "no such shard")
    fails(tmp_path, "holds no usable clips", "PNG", ".tar shards")
    fails(videos / "c.mp4", "cannot be read as clips", "a folder of videos")
    clip = to_tensor(clips(1)[0])
    write_video(tmp_path / "png" / "a", clip, 8)
    with pytest.raises(InputError, match=r"png/a has 9 frames"):
        open_source(tmp_path / "png", Selection())
    fails(tmp_path / "png", "give a stride instead", frames=2, fps=8)
    write_video(tmp_path / "png" / "a.mp4", clip, 8)
    fails(tmp_path / "png", "are one clip twice", frames=2)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"junk")
    fails(tmp_path / "bad", "a.mp4: unreadable video")
    write_video(tmp_path / "bad" / "a2.mp4", clip, 8)
    (tmp_path / "bad" / "a2.json").write_text("{")
    (tmp_path / "bad" / "a.mp4").unlink()
    fails(tmp_path / "bad", "a2.mp4: unreadable json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0},
        {"stride": 0},
        {"num": 0},
        {"fps": 0.0},
        {"fps": math.nan},
        {"fps": 8.0, "stride": 1},
        {"size": (0, 8)},
        {"choose": "last"},
        {"layout": "CNTHW"},
    ],
)
def test_wrong_selections(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Selection(**wrong)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_as_one_line_from_workers_too(tmp_path, workers):
    write_video(tmp_path / "a.mp4", to_tensor(clips(1, 9, 16, 20)[0]), 8)
    write_video(tmp_path / "b.mp4", to_tensor(clips(1, 9, 24, 20)[0]), 8)
    source = open_source(tmp_path, Selection(frames=9))
    with pytest.raises(InputError, match=r"^a is 20x16, b is 20x24: give one size for all, as `size` 64$"):
        list(batches(source, 2, workers=workers))
    sized = open_source(tmp_path, Selection(frames=9, size=(16, 16)))
    assert next(batches(sized, 2, workers=workers))["video"].shape == (2, 3, 9, 16, 16)
    short = open_source(tmp_path, Selection(frames=10))
    with pytest.raises(InputError, match=r"^frames 10: \S+a.mp4 has 9 frames and 10 are needed;[^\n]*$"):
        list(batches(short, 2, workers=workers))


def test_errors_in_workers_reach_the_consumer_as_batches(tmp_path):
    for name in "abcd":
        write_tar(tmp_path / f"{name}.tar", [sample(name)])
    source = open_source(tmp_path, Selection(frames=2))
    (tmp_path / "d.tar").unlink()
    good, bad = DataLoader(range(4), 2, num_workers=2, collate_fn=partial(read_batch, {"real": source}, None))
    assert good["real"]["key"] == ["a", "b"]
    assert bad["real"] == {
        "error": f"{tmp_path}/d.tar clip d: No such file or directory; check that its files can be read"
    }


@pytest.mark.parametrize("label", [True, -2, 10**22, "cat"])
def test_no_label_is_read(tmp_path, label):
    clip = to_tensor(clips(1)[0])
    write_video(tmp_path / "a.mp4", clip, 8)
    (tmp_path / "a.json").write_text(json.dumps({"label": label, "condition": label, "caption": "a dog"}))
    (item,) = items(tmp_path, frames=9)
    assert item["caption"] == "a dog"
    assert set(item) == {"video", "key", "caption", "fps"}


def test_needs_neither_lightning_nor_diffusers():
    code = (
        "import sys, cmd_lightning.evaluation.sources\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'lightning', 'diffusers', 'torchmetrics'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_real_clips(assets):
    folder = assets / "videos" / "weizmann64"
    source = open_source(folder, Selection(num=8, fps=12.5))
    assert source.describe() | {"path": ""} == {
        "path": "",
        "kind": "videos",
        "clips": 8,
        "of": 72,
        "frames": 16,
        "stride": None,
        "fps": 12.5,
        "source_fps": 25.0,
        "size": [64, 64],
        "choose": "random",
        "random_start": False,
        "seed": 0,
        "skipped": {},
    }
    batch = next(batches(source, 8))
    for key, video in zip(batch["key"], batch["video"], strict=True):
        assert torch.equal(video, read_video(folder / f"{key}.mp4")[:, :32:2])
    fails(assets / "videos" / "generated_t2v" / "none", "no such file")
