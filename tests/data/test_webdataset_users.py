"""Shards of webdataset and video2dataset are read as they are, and webdataset reads ours."""

import hashlib
import json

import pytest
import webdataset
from shard_files import plain, sample, write_tar

from cmd_lightning.data.shard_writer import ShardWriter
from cmd_lightning.data.webvid import WebVidDataModule


def read(folder):
    data = WebVidDataModule(str(folder), num_frames=4, size=16, batch_size=2)
    found = {}
    for batch in data.train_dataloader():
        for key, caption, label in zip(plain(batch["key"]), batch["caption"], batch["label"].tolist(), strict=True):
            found[key] = (caption, label)
    return found


def clip(number):
    made = sample("a", number)
    return made["a.mp4"], made["a.txt"].decode(), json.loads(made["a.json"])


@pytest.mark.parametrize("writer", ["ShardWriter", "TarWriter"])
def test_shards_of_webdatasets_writers_are_read(tmp_path, writer):
    def write(out, numbers):
        for number in numbers:
            video, caption, facts = clip(number)
            out.write({"__key__": f"{number:05d}", "mp4": video, "txt": caption, "json": facts, "npy": b"x"})

    if writer == "ShardWriter":
        with webdataset.ShardWriter(f"{tmp_path}/%06d.tar", maxcount=3, verbose=0) as out:
            write(out, range(7))
    else:
        for number in range(2):
            with webdataset.TarWriter(f"{tmp_path}/{number}.tar") as out:
                write(out, range(4 * number, 4 * number + 4 - number))
    assert read(tmp_path) == {f"{i:05d}": (clip(i)[1], i % 4) for i in range(7)}


def test_shards_of_video2dataset_are_read(tmp_path):
    """Its layout of WebVid: 9 digits of shard and sample, a json of the columns and of what became of the download."""
    samples = []
    for number in range(4):
        key, (video, caption, _) = f"00003{number:04d}", clip(number)
        facts = {
            "videoid": 1000 + number,
            "page_dir": "007401_007450",
            "key": key,
            "status": "success",
            "caption": caption,
        }
        facts |= {"error_message": None, "clips": [[0.0, 1.0]], "video_metadata": {"streams": [{"codec_name": "h264"}]}}
        samples.append(
            {f"{key}.json": json.dumps(facts, indent=4).encode(), f"{key}.mp4": video, f"{key}.txt": caption.encode()}
        )
    write_tar(tmp_path / "00003.tar", samples)
    (tmp_path / "00003_stats.json").write_text("{}")
    (tmp_path / "00003.parquet").write_bytes(b"PAR1")
    assert read(tmp_path) == {f"00003{i:04d}": (clip(i)[1], -1) for i in range(4)}


def test_plain_webdataset_reads_ours_which_are_reproducible(tmp_path):
    for name in ("one", "100%: two"):
        with ShardWriter(tmp_path / name, shard_size=3) as writer:
            for number in range(5):
                video, caption, facts = clip(number)
                writer.write("mp4", video, caption, facts | {"label": number})
    files = sorted((tmp_path / "one").glob("*.tar"))
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert sums == [hashlib.sha256((tmp_path / "100%: two" / path.name).read_bytes()).hexdigest() for path in files]
    theirs = list(webdataset.WebDataset(f"{tmp_path}/one/{{000000..000001}}.tar", shardshuffle=False))
    assert [one["__key__"] for one in theirs] == [
        "00000000000",
        "00000000001",
        "00000000002",
        "00000100000",
        "00000100001",
    ]
    for number, one in enumerate(theirs):
        video, caption, _ = clip(number)
        assert (one["mp4"], one["txt"].decode(), json.loads(one["json"])["label"]) == (video, caption, number)
