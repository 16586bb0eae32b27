"""Inputs of many kinds, from the folder or the shard they come in to the clips that a stream or an evaluation reads."""

import json
import tarfile

import pytest
import webdataset
from odd_videos import encode, numbered, numbers_in, still_image
from PIL import Image
from shard_files import write_tar

from cmd_lightning.data.check import check_shards
from cmd_lightning.data.clips import BadSample, ClipLoader, read_label
from cmd_lightning.data.index import expand, load_index
from cmd_lightning.data.stream import ShardStream
from cmd_lightning.data.tar import read_samples
from cmd_lightning.errors import InputError
from cmd_lightning.evaluation.sources import Selection, open_source
from cmd_lightning.packing.pack import pack_clips

KINDS = {  # container and codec by suffix
    "MOV": ("mov", "libx264"),
    "m4v": ("mp4", "mpeg4"),
    "Mpg": ("mpeg", "mpeg1video"),
    "MPEG": ("vob", "mpeg2video"),
    "TS": ("mpegts", "libx264"),
    "mts": ("mpegts", "mpeg2video"),
    "m2ts": ("mpegts", "libx264"),
    "WMV": ("asf", "wmv2"),
    "asf": ("asf", "wmv1"),
    "FLV": ("flv", "flv"),
    "ogv": ("ogg", "libvpx"),
    "3GP": ("3gp", "libx264"),
}
ANIMATED = {"apng": "PNG", "PNG": "PNG", "WebP": "WEBP"}


@pytest.fixture(scope="module")
def files():
    """Bytes of clips of six frames at 25 per second by suffix; frame n of clip c holds the number 10 c + n."""
    made = {}
    for clip, suffix in enumerate([*KINDS, *ANIMATED]):
        frames = numbered(10 * clip + 6, 32, 64)[10 * clip :]
        if suffix in KINDS:
            made[suffix] = encode(frames, *KINDS[suffix], rate=25)
        else:
            images = [Image.fromarray(one) for one in frames]
            made[suffix] = webp_or_png(images, ANIMATED[suffix])
    return made


def webp_or_png(images, kind):
    import io

    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], duration=40, **options)
    return buffer.getvalue()


def streamed(folder):
    """Numbers of the frames, caption, label and rate of each clip of shards, by their key."""
    stream = ShardStream(load_index(expand(str(folder))), ClipLoader(3, (32, 64), stride=2), batch_size=4)
    found = {}
    for batch in stream:
        assert not batch["bad"]
        for number, key in enumerate(batch["key"]):
            frames = numbers_in(batch["video"][number])
            found[key.rpartition("/")[2]] = (frames, batch["caption"][number], batch["label"][number].item())
            assert batch["fps"][number].item() == pytest.approx(12.5, rel=0.01)
    return found


def test_clips_of_all_kinds_in_folders_and_shards(files, tmp_path):
    wanted = [[10 * clip, 10 * clip + 2, 10 * clip + 4] for clip in range(len(files))]
    for number, (suffix, data) in enumerate(files.items()):
        path = tmp_path / "clips" / ("deep" if number % 2 else "") / f"{number:02d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"clip {number}")
    (tmp_path / "clips" / "cover.webp").write_bytes(still_image("WebP"))
    (tmp_path / "clips" / "deep" / "cover.png").write_bytes(still_image())

    done = pack_clips(tmp_path / "clips", tmp_path / "packed")
    assert (done["samples"], done["bad"], done["empty_captions"]) == (len(files), {"still image": 2}, 0)
    assert f"captions from {len(files)} .txt files; 0 clips without" in done["notes"][0]
    packed = streamed(tmp_path / "packed").values()
    assert sorted(frames for frames, *_ in packed) == wanted
    assert sorted(frames[0] for frames, *_ in packed) == sorted(10 * int(text.split()[1]) for _, text, _ in packed)

    (tmp_path / "shards").mkdir()
    samples = [{f"{suffix}.{suffix}": data} for suffix, data in files.items() if suffix != "PNG"]
    write_tar(tmp_path / "shards" / "0.tar", samples)
    assert check_shards(str(tmp_path / "shards"))["samples"] == len(files) - 1
    found = streamed(tmp_path / "shards")
    assert [found[suffix][0] for suffix in files if suffix != "PNG"] == [
        frames for frames, suffix in zip(wanted, files, strict=True) if suffix != "PNG"
    ]

    (tmp_path / "clips" / "deep" / "cover.png").unlink()
    source = open_source(tmp_path / "clips", Selection(frames=3, stride=2))
    assert sorted(numbers_in(source[number]["video"]) for number in range(len(source))) == wanted


def test_captions_next_to_clips_at_any_depth(files, tmp_path):
    for name, text in (("a", "one"), ("b/c", "two"), ("b/d/e", "three"), ("f/g", None)):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".mov").write_bytes(files["MOV"])
        if text:
            path.with_suffix(".txt").write_text(text)
    done = pack_clips(tmp_path / "clips", tmp_path / "out")
    assert "captions from 3 .txt files; 1 clip without" in done["notes"][0]
    assert (done["bad"], done["classes"]) == ({}, ["b", "f"])
    assert [(text, label) for _, text, label in streamed(tmp_path / "out").values()] == [
        ("one", -1),
        ("two", 0),
        ("three", 0),
        ("", 1),
    ]


def test_shards_of_webdatasets_writer(files, tmp_path):
    """Its fields with several parts and its classes; the keys are those of its own reader."""
    with webdataset.ShardWriter(str(tmp_path / "%06d.tar"), maxcount=2, verbose=0) as writer:
        for number in range(4):
            field = "video." if number % 2 else ""
            writer.write(
                {
                    "__key__": f"{number:04d}",
                    f"{field}mov": files["MOV"],
                    "caption.txt": f"clip {number}",
                    "cls": number,
                    "meta.json": {"label": 9},
                }
            )
    assert {key: (text, label) for key, (_, text, label) in streamed(tmp_path).items()} == {
        f"{number:04d}": (f"clip {number}", number) for number in range(4)
    }
    theirs = webdataset.WebDataset([str(path) for path in sorted(tmp_path.glob("*.tar"))], shardshuffle=False)
    assert [sample["__key__"] for sample in theirs] == [*streamed(tmp_path)]
    assert check_shards(str(tmp_path))["samples"] == 4
    assert json.loads((tmp_path / "index.json").read_text())["num_classes"] == 4


@pytest.mark.parametrize(
    ("cls", "label", "wanted"),
    [
        (None, "3", 3),
        (None, 2.0, 2),
        (None, " 7.0 ", 7),
        (None, "cat", -1),
        (None, 2.5, -1),
        (None, float("nan"), -1),
        (None, -1, -1),
        (None, None, -1),
        (b"5", 2, 5),
        (b"5\n", None, 5),
        (b"cat", 2, -1),
        (b"\x80\x04pickle", 2, -1),
    ],
)
def test_labels_of_all_spellings(cls, label, wanted):
    assert read_label({} if cls is None else {"cls": cls}, {"label": label}) == wanted


@pytest.mark.parametrize("label", [True, -2, 2**63])
def test_numbers_that_are_no_class(label):
    with pytest.raises(BadSample, match="bad label"):
        read_label({}, {"label": label})


def test_a_sample_has_one_member_of_each_kind(tmp_path):
    members = {"a.preview.mp4": b"1", "a.mp4": b"2", "a.video.mp4": b"3", "a.caption.txt": b"4", "a.text.txt": b"5"}
    write_tar(tmp_path / "0.tar", [members, {"b.preview.mp4": b"6", "b.video.mp4": b"7", "b.txt": b"8"}])
    with open(tmp_path / "0.tar", "rb") as file:
        first, second = (sample.read() for sample in read_samples(file))
    assert first == {"__key__": "a", "mp4": b"2", "txt": b"4"}
    assert second == {"__key__": "b", "mp4": b"7", "txt": b"8"}


def test_unions_are_webdatasets(tmp_path):
    for name in ("a/0.tar", "a/1.tar", "b/0.tar", "c::d.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tarfile.open(tmp_path / name, "w").close()
    spec = f"{tmp_path}/a/{{0..1}}.tar::{tmp_path}/b/0.tar"
    assert expand(spec) == webdataset.shardlists.expand_urls(spec)
    assert expand(f"{tmp_path}/b::{tmp_path}/a/*.tar") == [
        f"{tmp_path}/b/0.tar",
        f"{tmp_path}/a/0.tar",
        f"{tmp_path}/a/1.tar",
    ]
    assert expand(f"{tmp_path}/c::d.tar") == [f"{tmp_path}/c::d.tar"]
    with pytest.raises(InputError, match=r"::: a path is empty; write a/train::b/train for the shards of both$"):
        expand(f"{tmp_path}/b::")
    assert expand("http://[::1]:80/{0..1}.tar") == ["http://[::1]:80/0.tar", "http://[::1]:80/1.tar"]
