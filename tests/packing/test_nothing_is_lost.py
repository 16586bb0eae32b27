"""What pack and check see but do not use is counted and reported: captions, cells, columns, labels, clips."""

import csv
import io
import json
import struct
import sys
import tarfile

import odd_videos
import pytest
from missing import needed
from shard_files import write_tar

from cmd_lightning.cli import main
from cmd_lightning.data.check import check_shards
from cmd_lightning.data.clips import read_caption
from cmd_lightning.errors import InputError
from cmd_lightning.packing.pack import pack_clips

CLIP = odd_videos.encode(odd_videos.numbered(2), "mp4", "libx264")
STILL = odd_videos.still_image("WebP")


def folder_of(place, *names):
    """A folder of clips, or of other files where a name says what is in it."""
    for name in names:
        name, data = name if isinstance(name, tuple) else (name, CLIP)
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def packed(place, clips, text=None, **options):
    """The report of a pack with a table, and of each sample its caption, label and path."""
    if text is not None:
        (place / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    lines = []
    done = pack_clips(clips, place / "out", text and place / "t.csv", progress=lines.append, **options)
    for note in done["notes"]:
        assert note in lines
    return done, samples(place / "out")


def samples(folder):
    with tarfile.open(folder / "000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    facts = [json.loads(data) for name, data in members.items() if name.endswith(".json")]
    captions = [data.decode() for name, data in members.items() if name.endswith(".txt")]
    return [(caption, about["label"], about["path"]) for caption, about in zip(captions, facts, strict=True)]


# Captions


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("path,text\na.mp4,hello\nb.mp4,world\n", "column 'text' is read as caption"),
        ("path, caption\na.mp4, hello\nb.mp4, world\n", None),
        ("Path,Caption\na.mp4,hello\nb.mp4,world\n", "column 'Caption' is read as caption"),
        ("file_name,prompt\na.mp4,hello\nb.mp4,world\n", "column 'file_name' is read as path"),
        ("\ufeffpath;caption\na.mp4;hello\nb.mp4;world\n", "cells are separated by semicolons"),
        ("path|caption\na.mp4|hello\nb.mp4|world\n", "cells are separated by pipes"),
        ("caption\tpath\nhello\ta.mp4\nworld\tb.mp4", "cells are separated by tabs"),
        ('"path" , "Description"\n"a.mp4", "hello"\n\n"b.mp4","world"\r\n', "is read as caption"),
        ("video,text\na.mp4,hello\nb.mp4,world\n", "column 'text' is read as caption"),
        ("path,title,caption\na.mp4,x,hello\nb.mp4,y,world\n", "columns that are not used: 'title'"),
        ("path,caption,fps,author\na.mp4,hello,8,me\nb.mp4,world,9,\n", "columns that are not used: 'fps', 'author'"),
        ("path,caption\na.mp4,hello,\nb.mp4,world,,\n", None),  # empty cells hold nothing
    ],
)
def test_captions_are_read_from_columns_of_many_names(tmp_path, text, note):
    clips = folder_of(tmp_path / "clips", "a.mp4", "b.mp4")
    done, found = packed(tmp_path, clips, text)
    assert [caption for caption, *_ in found] == ["hello", "world"]
    assert done["empty_captions"] == 0
    assert done["bad"] == {}
    assert [note in one for one in done["notes"]].count(True) == 1 if note else done["notes"] == []


OBJECTS = [
    ([{"path": "a.mp4", "caption": "hello"}, {"path": "b.mp4", "caption": "world"}], None),
    ([{"file_name": "a.mp4", "text": " hello "}, {"text": "world", "file_name": "b.mp4"}], "'text' is read as caption"),
    ([{"video": "a.mp4", "captions": ["", "hello"]}, {"video": "b.mp4", "captions": ["world"]}], "read as caption"),
    ([{"path": "a.mp4", "caption": "hello", "fps": 8}, {"path": "b.mp4", "caption": "world"}], "not used: 'fps'"),
]


@pytest.mark.parametrize("suffix", ["jsonl", "NDJSON", "parquet"])
@pytest.mark.parametrize(("objects", "note"), OBJECTS)
def test_captions_are_read_from_objects_as_from_cells(tmp_path, objects, note, suffix):
    clips = folder_of(tmp_path / "clips", "a.mp4", "b.mp4")
    write_objects(tmp_path / f"t.{suffix}", objects)
    done = pack_clips(clips, tmp_path / "out", tmp_path / f"t.{suffix}")
    assert [caption for caption, *_ in samples(tmp_path / "out")] == ["hello", "world"]
    assert [note in one for one in done["notes"]].count(True) == 1 if note else done["notes"] == []


def write_objects(path, objects):
    if path.suffix == ".parquet":
        needed("pyarrow.parquet").write_table(needed("pyarrow").Table.from_pylist(objects), path)
    else:
        path.write_text("\ufeff" + "\n\n".join(map(json.dumps, objects)) + "\n", encoding="utf-8")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_labels_and_splits_of_objects(tmp_path, suffix):
    clips = folder_of(tmp_path / "clips", "a.mp4", "b.mp4", "c.mp4")
    labels = [3, 2.0, None] if suffix == "jsonl" else [3.0, 2.0, None]
    rows = [{"path": f"{one}.mp4", "label": label, "split": "x"} for one, label in zip("abc", labels, strict=True)]
    write_objects(tmp_path / f"t.{suffix}", rows)
    done = pack_clips(clips, tmp_path / "out", tmp_path / f"t.{suffix}")
    assert [label for _, label, _ in samples(tmp_path / "out" / "x")] == [3, 2, -1]
    assert done["num_classes"] == 4


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.jsonl", b'{"path": "a.mp4"}\n{"path"', "object 2: not a JSON object"),
        ("t.jsonl", b'["a.mp4"]', "object 1: not a JSON object"),
        ("t.jsonl", b'{"caption": "x"}', "no column 'path' (there are: caption)"),
        ("t.jsonl", b"\n", "no column 'path' (there are: none)"),
        ("t.parquet", b"PAR1 and nothing else", "not readable as .parquet"),
    ],
)
def test_other_objects_are_an_error(tmp_path, name, data, words):
    if name.endswith("parquet"):
        needed("pyarrow")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        pack_clips(folder_of(tmp_path / "clips", "a.mp4"), tmp_path / "out", tmp_path / name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"cmd-lightning\[parquet\]"):
        pack_clips(folder_of(tmp_path / "clips", "a.mp4"), tmp_path / "out", tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("rows", "surplus", "first"),
    [
        (["a.mp4,a dog, brown, runs", "b.mp4,a cat"], 1, 2),
        (["a.mp4,a cat", "", 'b.mp4,"a dog, brown",x'], 1, 4),
        (["a.mp4,one, two", "b.mp4,three, four"], 2, 2),
        (['a.mp4,"two\nlines"', "b.mp4,x, y"], 1, 4),
    ],
)
def test_surplus_cells_are_reported(tmp_path, rows, surplus, first):
    clips = folder_of(tmp_path / "clips", "a.mp4", "b.mp4")
    done, found = packed(tmp_path, clips, "path,caption\n" + "\n".join(rows) + "\n")
    [note] = done["notes"]
    assert f"{surplus} rows have more cells than the header, the first is line {first};" in note
    wanted = csv.DictReader(["path,caption", *"\n".join(rows).splitlines(keepends=True)], skipinitialspace=True)
    assert [caption for caption, *_ in found] == [row["caption"] for row in wanted]


@pytest.mark.parametrize(
    ("text", "empty"),
    [
        ("path,caption\na.mp4,\nb.mp4,x\n", 1),
        ("path,caption\na.mp4\nb.mp4,  \n", 2),
        ("path,label\na.mp4,1\nb.mp4,2\n", 2),
        ("path,comment\na.mp4,1\nb.mp4,2\n", 2),
    ],
)
def test_empty_captions_are_counted_by_pack_and_check(tmp_path, text, empty):
    clips = folder_of(tmp_path / "clips", "a.mp4", "b.mp4")
    done, _ = packed(tmp_path, clips, text)
    assert done["empty_captions"] == empty
    assert f"captions: {empty} of 2 clips have none" in done["notes"]
    lines = []
    assert check_shards(str(tmp_path / "out"), progress=lines.append)["empty_captions"] == empty
    assert f"2 good, 0 bad, {empty} without a caption" in lines[0]


@pytest.mark.parametrize("length", [131_073, 140_000, 3_000_000])
def test_cells_of_any_length(tmp_path, length):
    clips = folder_of(tmp_path / "clips", "a.mp4")
    before = csv.field_size_limit()
    _done, [(caption, *_)] = packed(tmp_path, clips, f'path,caption\na.mp4,"{"word " * (length // 5)}"\n')
    assert caption == ("word " * (length // 5)).strip()
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "text", ['path,caption\na.mp4,"x\nb.mp4,y\n', 'path,caption\na.mp4,"x', 'path,"caption\na.mp4,x\n']
)
def test_a_quotation_mark_that_stays_open_is_an_error(tmp_path, text):
    clips = folder_of(tmp_path / "clips", "a.mp4", "b.mp4")
    with pytest.raises(InputError, match=r"t\.csv"):
        packed(tmp_path, clips, text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("facts", "caption"),
    [
        ({"text": "hello"}, "hello"),
        ({"captions": ["", "hello", "other"]}, "hello"),
        ({"prompt": "hello", "title": "x"}, "hello"),
        ({"caption": "", "text": " hello "}, "hello"),
        ({"caption": "hello", "text": "x"}, "hello"),
        ({"description": "hello"}, "hello"),
        ({"condition": 3}, ""),
        ({"text": {"a": 1}, "captions": []}, ""),
    ],
)
def test_captions_of_json_members(facts, caption):
    assert read_caption({}, facts) == caption
    assert read_caption({"txt": b" \n"}, facts) == caption
    assert read_caption({"txt": b"mine"}, facts) == "mine"


def test_captions_next_to_clips(tmp_path):
    clips = folder_of(
        tmp_path / "clips",
        "a.b/1.mp4",
        ("a.b/1.txt", b"\xef\xbb\xbfhello"),
        "a.b/2.mp4",
        ("a.b/2.json", b'{"condition": "world"}'),
        "c_d/3.mp4",
        ("c_d/4.txt", b"of no clip"),
    )
    done, found = packed(tmp_path, clips)
    assert found == [("hello", 0, "a.b/1.mp4"), ("world", 0, "a.b/2.mp4"), ("", 1, "c_d/3.mp4")]
    assert "captions from 1 .json file and 1 .txt file; 1 clip without" in done["notes"][0]
    assert done["bad"] == {"unknown suffix": 1}


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_captions_next_to_clips_in_any_unicode(tmp_path, coding):
    clips = folder_of(tmp_path / "clips", "a/1.mp4", ("a/1.txt", "ein grüner Kreis".encode(coding)))
    done, found = packed(tmp_path, clips)
    assert found == [("ein grüner Kreis", 0, "a/1.mp4")]
    assert not any("cannot be read" in note for note in done["notes"])


def test_unreadable_characters_of_captions_are_reported(tmp_path):
    clips = folder_of(
        tmp_path / "clips", "a/1.mp4", ("a/1.txt", "ein grüner Kreis".encode("cp1252")), "a/2.mp4", ("a/2.txt", b"red")
    )
    done, _ = packed(tmp_path, clips)
    assert any(note.startswith("captions: 1 with unreadable characters") for note in done["notes"])


# Labels


@pytest.mark.parametrize(
    ("given", "labels", "classes"),
    [
        (["0.0", "10.0", "2.0"], [0, 10, 2], []),
        (["0.0", "", "2.0"], [0, -1, 2], []),
        (["1", "nan", "12"], [1, -1, 12], []),
        (["3.", "1e1", "07"], [3, 10, 7], []),
        (["-1", "10", "2"], [-1, 10, 2], []),
        (["3.0", "-1.0", "12.0"], [3, -1, 12], []),
        (["0.5", "10.0", "2.0"], [0, 1, 2], ["0.5", "10.0", "2.0"]),
        (["cat", "10", "2"], [2, 0, 1], ["10", "2", "cat"]),
        (["none", "cat", "cat"], [1, 0, 0], ["cat", "none"]),
    ],
)
def test_whole_numbers_stay_labels(tmp_path, given, labels, classes):
    clips = folder_of(tmp_path / "clips", "a.mp4", "b.mp4", "c.mp4")
    rows = [f"{name}.mp4,x,{label}" for name, label in zip("abc", given, strict=True)]
    done, found = packed(tmp_path, clips, "\n".join(["path,caption,label", *rows]))
    assert [label for _, label, _ in found] == labels
    assert done["classes"] == classes
    assert done["num_classes"] == max(labels) + 1
    assert any("is not a whole number, so labels are names" in note for note in done["notes"]) == (
        "10.0" in classes or "10" in classes
    )
    assert any("labels: 1 of 3 clips have none" in note for note in done["notes"]) == (-1 in labels)


# Clips


@pytest.mark.parametrize(
    ("names", "samples", "bad"),
    [
        (["cat/a.mp4", "cat/b.MOV", "dog/c.m4v", "dog/d.mkv"], 4, {}),
        (["cat/a.mp4", "dog/b.mp4", "c.mp4", "d.mov"], 2, {"next to class folders": 2}),
        (
            ["cat/a.mp4", "cat/b.WMV", "cat/c.rm", ("cat/d.webp", STILL), ("dog/notes.txt", b"x")],
            2,
            {"unknown suffix": 2, "still image": 1},
        ),
        (["a.mp4", "b.1.mp4", "b.2.v1.0.mp4"], 3, {}),
        (["a.mp4", ".hidden.mp4", ".git/x.mp4"], 1, {}),
        (["cat/deep/er/a.mp4", "dog/b.mp4", ("dog/x.mp4", b"")], 2, {"empty file": 1}),
    ],
    ids=str,
)
def test_files_without_a_table(tmp_path, names, samples, bad):
    done, found = packed(tmp_path, folder_of(tmp_path / "clips", *names))
    assert (done["samples"], done["bad"], len(found)) == (samples, bad, samples)


def test_clips_that_a_table_does_not_name_are_counted(tmp_path):
    clips = folder_of(tmp_path / "clips", "a.mp4", "b/c.mp4", "b/d.mov", ("readme.md", b"x"), ("e.mp4", b"junk"))
    text = "path,caption\n./a.mp4,x\nf.mp4,x\ne.mp4,x\n"
    done, _ = packed(tmp_path, clips, text)
    assert done["bad"] == {"not in the table": 2, "missing file": 1, "unreadable video": 1}


def test_what_is_packed_into_the_folder_itself_is_not_counted(tmp_path):
    clips = folder_of(tmp_path / "clips", "a.mp4", ("t.csv", b"path,caption\na.mp4,x\n"))
    assert pack_clips(clips, clips / "shards", clips / "t.csv")["bad"] == {}
    assert pack_clips(clips, clips / "shards" / "2")["bad"] == {"unknown suffix": 3}  # the table, and what was packed


def gif(*images):
    """A GIF of these image blocks, each its bytes of codes."""
    data = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(6)
    for codes in images:
        blocks = bytes([len(codes)]) + codes if codes else b""
        data += (
            b"\x21\xf9\x04\x00\x0a\x00\x00\x00"
            + b"\x2c"
            + struct.pack("<HHHHB", 0, 0, 4, 4, 0)
            + b"\x02"
            + blocks
            + b"\0"
        )
    return data + b";"


def test_gifs_without_pixels_are_bad(tmp_path):
    from PIL import Image

    buffer = io.BytesIO()
    frames = [Image.new("P", (4, 4), color) for color in (0, 1, 2)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    good = buffer.getvalue()
    bad = {"header": good[:13], "none": gif(), "one": gif(b""), "several": gif(b"", b"", b""), "signature": b"GIF89a"}
    clips = folder_of(tmp_path / "clips", ("good.gif", good), *((f"{name}.gif", data) for name, data in bad.items()))
    done, _found = packed(tmp_path, clips)
    assert (done["samples"], sum(done["bad"].values())) == (1, 5)
    write_tar(tmp_path / "a.tar", [{f"{name}.gif": data} for name, data in {**bad, "good": good}.items()])
    checked = check_shards(str(tmp_path / "a.tar"))
    assert (checked["samples"], checked["bad"]) == (1, done["bad"])


# Shards


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["a.mp4", "a.txt", "b.v1.0.mp4", "b.v1.0.txt", "c.mp4", "c.txt"], {"a": 2, "b.v1.0": 2, "c": 2}),
        (["x/clip.720p.mp4", "x/clip.720p.txt", "x/clip.1080p.mp4"], {"x/clip.720p": 2, "x/clip.1080p": 1}),
        (["b.1.json", "b.1.mp4", "b.1.txt", "b.2.json", "b.2.mp4"], {"b.1": 3, "b.2": 2}),
        (["a.mp4", "a.meta.json", "a.txt", "a.thumb.jpg", "a.json"], {"a": 3}),
        (["a.json", "a.meta.json", "a.mp4", "a.seg.txt", "b.mp4"], {"a": 2, "b": 1}),
        (["a.video.mp4", "a.caption.txt", "a.label.cls", "a.Meta.JSON", "b.video.mp4"], {"a": 4, "b": 1}),
        (["a.preview.mp4", "a.video.mp4", "a.thumb.webp", "a.text.txt", "a.caption.txt"], {"a": 3}),
        (["a.1.caption.txt", "a.1.mp4", "a.2.video.mp4", "a.2.text.txt"], {"a.1": 2, "a.2": 2}),
        (["v2.0/a.mp4", "v2.0/a.txt", "v2.0/b.c.safetensors"], {"v2.0/a": 2, "v2.0/b.c": 1}),
    ],
    ids=str,
)
def test_names_with_dots_are_samples(tmp_path, names, keys):
    from cmd_lightning.data.tar import read_samples

    write_tar(tmp_path / "a.tar", [{name: CLIP} for name in names])
    with open(tmp_path / "a.tar", "rb") as file:
        found = list(read_samples(file))
    assert {sample.key: len(sample.members) for sample in found} == keys
    assert not any(sample.fault for sample in found)


def test_check_exits_with_1_if_a_sample_is_bad(tmp_path, capsys):
    write_tar(tmp_path / "good.tar", [{"a.mp4": CLIP}])
    write_tar(tmp_path / "bad.tar", [{"a.mp4": CLIP}, {"b.mp4": b"junk"}])
    call = ["shards", "check", "--json", "-"]
    assert main([*call, str(tmp_path / "good.tar")]) == 0
    assert main([*call, str(tmp_path / "bad.tar")]) == 1
    assert main([*call, str(tmp_path)]) == 1
    assert main([*call, str(tmp_path / "bad.tar"), "--allow-bad"]) == 0
    capsys.readouterr()
    assert main([*call, str(tmp_path / "none.tar")]) == 2


def test_splits_are_listed(tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / "shards" / split).mkdir(parents=True)
        write_tar(tmp_path / "shards" / split / "000000.tar", [{"a.mp4": CLIP}])
    for place, words in (
        ("shards", "no shards in this folder itself; give one of its splits: {0}/shards/test or {0}/shards/train"),
        ("shards/val", "no such split; there are {0}/shards/test and {0}/shards/train"),
        ("shards/val/*.tar", "no such split; there are {0}/shards/test and {0}/shards/train"),
        ("shards/train/1.tar", "no such shard"),
        ("other", "no such shard"),
    ):
        assert main(["shards", "check", str(tmp_path / place)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert words.format(tmp_path) in line


@pytest.mark.parametrize("names", [["a.npy"], ["README", "b/c.tif"]])
def test_shards_without_any_clip_say_so(tmp_path, names):
    from cmd_lightning.data.webvid import WebVidDataModule

    write_tar(tmp_path / "a.tar", [{name: b"x"} for name in names])
    with pytest.raises(InputError, match="no usable clip: no sample with a clip in it"):
        WebVidDataModule(str(tmp_path)).train_dataloader()
