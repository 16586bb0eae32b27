"""The layouts of public data sets, in miniature: packed by the command, read back as a Trainer gets them."""

import csv
import json
import re
import shutil
import tarfile

import odd_videos
import pytest

from cmd_lightning import cli
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.packing.annotations import Row, read_annotations

OPENVID = "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds"
WEBVID = "videoid,name,page_idx,page_dir,duration,contentUrl"


def clip(path, number):
    """A clip of that format of frames that show its number."""
    kinds = {".mp4": ("mp4", "libx264"), ".avi": ("avi", "mpeg4"), ".webm": ("webm", "libvpx-vp9")}
    kind, codec = kinds[path.suffix]
    frames = odd_videos.numbered(number + 1)[[number] * 3]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(odd_videos.encode(frames, kind, codec))


def table(path, header, rows, encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def pack(**options):
    words = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]
    return cli.main(["shards", "pack", *words])


def packed(folder):
    """Number, caption and label of each clip of a folder of shards."""
    data = WebVidDataModule(test_shards=str(folder), num_frames=2, size=[16, 64], batch_size=2)
    seen = []
    for batch in data.test_dataloader():
        numbers = [odd_videos.numbers_in(video)[0] for video in batch["video"]]
        seen += zip(numbers, batch["caption"], batch["label"].tolist(), strict=True)
    return seen


def facts(folder):
    with tarfile.open(folder / "000000.tar") as tar:
        return [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]


def classes(folder):
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))["classes"]


def refused(capsys, *words, **options):
    """The one line that a wrong call ends with."""
    capsys.readouterr()
    assert pack(**options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if not re.match(r"left out|\d+ of \d+ clips", line)]  # except the progress
    assert errors == lines[-1:]
    for word in words:
        assert word in errors[0]
    return errors[0]


# Hammering comes before HammerThrow, and the folder and the files of HandstandPushups differ in an S, as published.
CLASSES = ["ApplyEyeMakeup", "Hammering", "HammerThrow", "HandstandPushups", "YoYo"]


def ucf_lists(folder, number, train, test):
    folder.mkdir(exist_ok=True)
    numbers = "".join(f"{i} {c}\r\n" for i, c in enumerate(CLASSES, 1))
    (folder / "classInd.txt").write_bytes(numbers.encode("utf-8-sig"))
    numbered = [f"{path} {CLASSES.index(path.split('/')[0]) + 1}" for path in train]
    (folder / f"trainlist{number}.txt").write_bytes("".join(line + "\r\n" for line in numbered).encode())
    (folder / f"testlist{number}.txt").write_text("\n".join(test) + "\n")


@pytest.fixture
def ucf(tmp_path):
    """UCF-101 with five classes: its clips, and two of its splits."""
    videos, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    paths = [f"{c}/v_{c.replace('dst', 'dSt')}_g{g:02d}_c01.avi" for c in CLASSES for g in (1, 8)]
    for number, path in enumerate(paths):
        clip(videos / path, number)
    ucf_lists(lists, "01", paths[1::2], paths[::2])
    ucf_lists(lists, "02", paths[::2], paths[1::2])
    return videos, lists


def test_ucf101(ucf, tmp_path):
    videos, lists = ucf
    assert pack(videos=videos, captions=lists, out=tmp_path / "out") == 0
    words = ["apply eye makeup", "hammering", "hammer throw", "handstand pushups", "yo yo"]
    assert packed(tmp_path / "out" / "train") == [(2 * i + 1, word, i) for i, word in enumerate(words)]
    assert packed(tmp_path / "out" / "test") == [(2 * i, word, i) for i, word in enumerate(words)]
    for split in ("train", "test"):
        assert classes(tmp_path / "out" / split) == CLASSES
    first = facts(tmp_path / "out" / "train")[0]
    assert (first["class"], first["path"]) == ("ApplyEyeMakeup", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi")


def test_ucf101_other_splits_and_one_alone(ucf, tmp_path):
    videos, lists = ucf
    assert pack(videos=videos, captions=lists / "trainlist02.txt", out=tmp_path / "second") == 0
    assert [number for number, *_ in packed(tmp_path / "second" / "train")] == [0, 2, 4, 6, 8]
    assert pack(videos=videos, captions=lists / "testlist02.txt", out=tmp_path / "second") == 0
    assert [number for number, *_ in packed(tmp_path / "second" / "test")] == [1, 3, 5, 7, 9]
    assert pack(videos=videos, captions=lists, out=tmp_path / "one", split="test") == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["test"]


def test_ucf101_copies_that_are_flat_or_in_another_format_and_lack_clips(ucf, tmp_path, capsys):
    videos, lists = ucf
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in videos.glob("*/*.avi"):
        path.rename(flat / path.name)
    clip(flat / "v_YoYo_g08_c01.webm", 77)
    (flat / "v_YoYo_g08_c01.avi").unlink()
    (flat / "v_Hammering_g08_c01.avi").unlink()
    (flat / "v_HammerThrow_g08_c01.avi").write_bytes(b"junk")
    assert pack(videos=flat, captions=lists, out=tmp_path / "out", json="-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["bad"] == {"missing file": 1, "unreadable video": 1}
    assert "left out, missing file: Hammering/v_Hammering_g08_c01.avi" in captured.err
    assert [(number, label) for number, _, label in packed(tmp_path / "out" / "train")] == [(1, 0), (7, 3), (77, 4)]
    assert classes(tmp_path / "out" / "train") == CLASSES
    clip(videos / "again" / "v_YoYo_g08_c01.avi", 77)
    clip(videos / "once" / "v_YoYo_g08_c01.avi", 77)
    refused(capsys, "v_YoYo_g08_c01 is there twice", videos=videos, captions=lists, out=tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize("kind", ["lines", "csv", "csv without names"])
def test_prompts_by_class(ucf, tmp_path, kind):
    videos, lists = ucf
    prompts = [f'A person, {name} and "more", ä' for name in CLASSES]
    prompts[1] = "YoYo, not hammering"  # a prompt may begin with a class and a comma
    file = tmp_path / "prompts.txt"
    if kind == "lines":
        file.write_text("\ufeff" + "\n\n".join(prompts) + "\n", encoding="utf-8")
    else:
        rows = list(zip(CLASSES, prompts, strict=True))[::-1]
        table(file, "class,prompt", rows, "utf-8-sig")
        if kind == "csv without names":
            file.write_text(file.read_text(encoding="utf-8-sig").partition("\n")[2], encoding="utf-8")
    assert pack(videos=videos, captions=lists, out=tmp_path / "out", prompts=file) == 0
    assert packed(tmp_path / "out" / "test") == [(2 * i, prompt, i) for i, prompt in enumerate(prompts)]


def test_wrong_prompts(ucf, tmp_path, capsys):
    videos, lists = ucf
    file = tmp_path / "prompts.csv"
    call = {"videos": videos, "captions": lists, "out": tmp_path / "out", "prompts": file}
    refused(capsys, "prompts.csv: no such file", **call)
    file.write_text("one\ntwo\n")
    refused(capsys, "2 lines for 5 classes", **call)
    rows = [(name, "a prompt") for name in CLASSES]
    table(file, "class,prompt", rows[:4])
    refused(capsys, "class YoYo has no prompt", **call)
    table(file, "class,prompt", [*rows, rows[0]])
    refused(capsys, "class ApplyEyeMakeup has no prompt, or two", **call)
    table(file, "class,prompt", [*rows[:4], ("Yoyo", "a prompt")])
    refused(capsys, "'Yoyo,a prompt' is not a class", **call)
    file.write_text("".join(f"{name},a prompt, with commas\n" for name in CLASSES))
    refused(capsys, "in quotes if it has commas", **call)
    file.write_bytes(b"\xff\xfe\x00")
    refused(capsys, "not text in UTF-8", **call)
    mine = table(tmp_path / "mine.csv", "path,caption", [("YoYo/v_YoYo_g01_c01.avi", "x")])
    refused(capsys, "the clips have no classes by name", **call | {"captions": mine})
    assert not (tmp_path / "out").exists()


def test_prompts_go_to_class_folders_too(ucf, tmp_path):
    videos, _ = ucf
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"prompt {number}\n" for number in range(5)))
    assert pack(videos=videos, out=tmp_path / "out", prompts=file) == 0
    ordered = sorted(CLASSES)  # of the alphabet, capitals first
    assert [caption for _, caption, _ in packed(tmp_path / "out")] == [f"prompt {i // 2}" for i in range(10)]
    assert classes(tmp_path / "out") == ordered


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("classInd.txt", None, "no classInd.txt in it"),
        ("classInd.txt", "1 ApplyEyeMakeup\n3 Hammering\n", "classInd.txt, line 2: a number and a class"),
        ("classInd.txt", "1 YoYo\n2 YoYo\n", "classInd.txt, line 2: a number and a class"),
        ("trainlist01.txt", None, "trainlist01.txt: no such file; give the whole folder"),
        ("testlist01.txt", "\n\n", "testlist01.txt: it is empty"),
        ("testlist01.txt", "Juggling/v_Juggling_g01_c01.avi\n", "testlist01.txt, line 1: not a class"),
        ("trainlist01.txt", "YoYo/v_YoYo_g01_c01.avi 4\n", "trainlist01.txt, line 1: not a class"),
        ("trainlist01.txt", "YoYo/v_YoYo_g01_c01.avi 5 x\n", "trainlist01.txt, line 1: not a class"),
        ("trainlist01.txt", "v_YoYo_g01_c01.avi\n", "trainlist01.txt, line 1: not a class"),
        ("trainlist01.txt", b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_wrong_lists_of_ucf101(ucf, tmp_path, capsys, name, text, words):
    videos, lists = ucf
    (lists / name).unlink()
    if text is not None:
        (lists / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(capsys, words, videos=videos, captions=lists, out=tmp_path / "out")


def test_openvid(tmp_path, capsys):
    captions = ['A dog, "Rex", runs, then\nsits.', "Straße, 日本 and 🙂", "never fetched", "plain"]
    names = ["---_iRTHryQ_13_0to241.mp4", "celebv_-0Vi2v8.mp4", "gone.mp4", "x_0_0to9.mp4"]
    rows = [(*pair, 5.1, 3.2, 0.99, "static", 3, 10.0, 0.3) for pair in zip(names, captions, strict=True)]
    file = table(tmp_path / "OpenVid-1M.csv", OPENVID, rows, "utf-8-sig")
    videos = tmp_path / "video"
    for number, name in enumerate(names):
        clip(videos / ("OpenVid_part1" if number == 1 else ".") / name, number)  # unzip without -j keeps folders
    (videos / "gone.mp4").unlink()
    assert pack(videos=videos, captions=file, out=tmp_path / "out", split="train", json="-") == 0
    assert json.loads(capsys.readouterr().out)["bad"] == {"missing file": 1}
    assert packed(tmp_path / "out" / "train") == [(i, captions[i], -1) for i in (0, 1, 3)]
    assert classes(tmp_path / "out" / "train") == []


def test_what_is_missing_is_counted_and_only_the_first_are_named(tmp_path, capsys):
    rows = [("here.mp4", "x"), *((f"{number}.mp4", "x") for number in range(40))]
    file = table(tmp_path / "t.csv", "video,caption", rows)
    clip(tmp_path / "videos" / "here.mp4", 1)
    assert pack(videos=tmp_path / "videos", captions=file, out=tmp_path / "out", json="-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["bad"] == {"missing file": 40}
    assert captured.err.count("left out") == 10


def test_webvid(tmp_path, capsys):
    names = ["Horse grazing, seperated on green screen", 'A "quoted" street', "fetched elsewhere", "dead link"]
    rows = [(5641526 + i, name, 28620, f"05410{i}_054150", "PT00H00M24S", "https://x") for i, name in enumerate(names)]
    file = table(tmp_path / "results_2M_val.csv", WEBVID, rows)
    for number, folder in enumerate(("054100_054150", "054101_054150", "00000")):
        clip(tmp_path / "videos" / folder / f"{5641526 + number}.mp4", number)
    assert pack(videos=tmp_path / "videos", captions=file, out=tmp_path / "out", split="val", json="-") == 0
    assert json.loads(capsys.readouterr().out)["bad"] == {"missing file": 1}
    assert packed(tmp_path / "out" / "val") == [(number, names[number], -1) for number in range(3)]
    assert facts(tmp_path / "out" / "val")[0]["path"] == "054100_054150/5641526.mp4"


def test_webvid_as_published(assets, tmp_path):
    file = assets / "videos" / "webvid_style" / "webvid_sample.csv"
    with file.open(newline="", encoding="utf-8") as opened:
        expected = [line[:4] for line in csv.reader(opened)][1:]
    rows = read_annotations(tmp_path, file).rows
    assert rows == [Row(f"{page_dir}/{videoid}.mp4", name.strip()) for videoid, name, _, page_dir in expected]
    assert len(rows) == 19
    assert any(", " in row.caption for row in rows)


def msrvtt(path, splits, per_clip=20, order=1):
    """An annotation file with clips of these splits, whose sentences lie mixed."""
    sentences = [
        {"caption": f"video {v} said {s}, truly", "video_id": f"video{v}", "sen_id": 1000 * v + s}
        for s in range(per_clip)
        for v in splits
    ]
    about = {"category": 3, "url": "https://x", "start time": 1.0, "end time": 2.0}
    videos = [{"video_id": f"video{v}", "id": v, "split": split, **about} for v, split in splits.items()]
    facts = {"info": {}, "videos": videos, "sentences": sentences[::order]}
    path.write_text(json.dumps(facts), encoding="utf-8-sig")
    return path


def test_msrvtt(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    splits = {0: "train", 1: "train", 2: "validate"}
    for number in range(6):
        clip(videos / ("TestVideo" if number > 2 else "TrainValVideo") / f"video{number}.mp4", number)
    clip(videos / "notes" / "video0000.mp4", 99)
    assert pack(videos=videos, captions=msrvtt(tmp_path / "train_val_videodatainfo.json", splits), out=out) == 0
    tests = msrvtt(tmp_path / "test_videodatainfo.json", dict.fromkeys((3, 4, 5), "test"))
    assert pack(videos=videos, captions=tests, out=out) == 0
    seen = {split: packed(out / split) for split in ("train", "val", "test")}
    assert [[number for number, *_ in clips] for clips in seen.values()] == [[0, 1], [2], [3, 4, 5]]
    for split, clips in seen.items():
        for (number, caption, label), about in zip(clips, facts(out / split), strict=True):
            assert about["captions"] == [f"video {number} said {s}, truly" for s in range(20)]
            assert caption == about["caption"]
            assert caption in about["captions"]
            assert label == -1
    assert pack(videos=videos, captions=tests, out=tmp_path / "other", seed=1) == 0
    other = packed(tmp_path / "other" / "test")
    assert other != seen["test"]  # one in 20^3 seeds would draw the same


def test_the_caption_of_msrvtt_hangs_on_seed_and_clip_alone(tmp_path):
    def drawn(splits, seed=0, order=1):
        rows = read_annotations(tmp_path, msrvtt(tmp_path / "m.json", splits, order=order), seed=seed).rows
        return {row.path: row.caption for row in rows}

    everything = drawn(dict.fromkeys(range(1000), "test"))
    assert drawn(dict.fromkeys(range(999, -1, -1), "test"), order=-1) == everything
    assert drawn({7: "train"})["video7.mp4"] == everything["video7.mp4"]
    counts = [sum(f"said {number}," in caption for caption in everything.values()) for number in range(20)]
    assert 25 < min(counts) <= max(counts) < 80  # 50 each, give or take 7
    same = sum(caption == everything[path] for path, caption in drawn(dict.fromkeys(range(1000), ""), 1).items())
    assert 25 < same < 80


def test_half_a_character_in_msrvtt(tmp_path):
    clip(tmp_path / "video0.mp4", 0)
    sentence = {"video_id": "video0", "sen_id": 0, "caption": "a laugh \ud83d\n"}
    file = tmp_path / "m.json"
    file.write_text(json.dumps({"videos": [{"video_id": "video0", "split": "test"}], "sentences": [sentence]}))
    assert pack(videos=tmp_path, captions=file, out=tmp_path / "out") == 0
    assert packed(tmp_path / "out" / "test") == [(0, "a laugh ?", -1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "not MSR-VTT's json"),
        ("[1, 2]", "not MSR-VTT's json"),
        ('{"annotations": [{"image_id": "video0", "caption": "x"}]}', "with videos (video_id, split) and sentences"),
        ('{"videos": [{"id": 1}], "sentences": []}', "KeyError 'video_id'"),
        ('{"videos": [{"video_id": "video1"}], "sentences": []}', "1 videos have no sentence, as video1.mp4"),
        ('{"videos": [], "sentences": []}', "lists no videos"),
        (b"\xff\xfe", "not MSR-VTT's json"),
    ],
)
def test_other_json(tmp_path, capsys, text, words):
    file = tmp_path / "x.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(capsys, words, videos=tmp_path, captions=file, out=tmp_path / "out")


def test_a_table_of_ones_own(tmp_path):
    captions = ['a "red", round ball', "Käse, 🧀", "half"]
    rows = [("b/1.mp4", captions[0], "7", "train"), ("2.avi", captions[1], "3", "val"), ("gone.mp4", "", "3", "val")]
    file = table(tmp_path / "t.csv", "path,caption,label,split", rows, "utf-8-sig")
    file.write_text(file.read_text(encoding="utf-8") + "3.mp4,half\n", encoding="utf-8")  # a short line
    for number, path in enumerate(("b/1.mp4", "2.avi", "3.mp4", "elsewhere/gone.mp4")):
        clip(tmp_path / "videos" / path, number)
    assert pack(videos=tmp_path / "videos", captions=file, out=tmp_path / "out") == 0
    assert packed(tmp_path / "out" / "train") == [(0, captions[0], 7)]
    assert packed(tmp_path / "out" / "val") == [(1, captions[1], 3)]  # the path is the path: gone.mp4 is not looked for
    assert facts(tmp_path / "out")[0] | {"caption": "half", "label": -1} == facts(tmp_path / "out")[0]


def test_other_tables(tmp_path, capsys):
    call = {"videos": tmp_path, "out": tmp_path / "out"}
    for text, words in (
        ("thing,caption\nx,y\n", "no column 'path'"),
        ("videoid,name,duration\n1,x,2\n", "no column 'path'"),
        ("", "no column 'path'"),
        ("path,caption\n", "no rows below the column names"),
        ("path\nx.mp4\n", "none of 1 clips is usable (1 missing file)"),
        ('path,caption\nx.mp4,"y\nz.mp4,w\n', "t.csv, line 2: a quotation mark is opened and not closed"),
    ):
        (tmp_path / "t.csv").write_text(text)
        errors = refused(capsys, words, captions=tmp_path / "t.csv", **call)
        assert ("give a CSV, .jsonl or .parquet with the columns path,caption,label,split" in errors) == (
            "column 'path'" in words
        )
    (tmp_path / "t.csv").write_bytes("path,caption\nx,Stra\xdfe\n".encode("latin-1"))
    refused(capsys, "not a CSV in UTF-8", captions=tmp_path / "t.csv", **call)
    refused(capsys, "no such file or folder; give a CSV", captions=tmp_path / "none", **call)
    refused(capsys, "no classInd.txt in it", "give a CSV", captions=tmp_path, **call)
    table(tmp_path / "t.csv", "path,split", [("x.mp4", "train"), ("y.mp4", "val")])
    refused(capsys, "split test: no clip", "give one of train, val", captions=tmp_path / "t.csv", split="test", **call)


def test_real_clips(assets, tmp_path):
    """UCF-101's own files in its own layout, and a real preview of WebVid's source."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 PlayingGuitar\n")
    names = sorted(path.name for path in (assets / "videos" / "ucf101_playing_guitar").glob("*.avi"))
    (lists / "trainlist01.txt").write_text(f"PlayingGuitar/{names[0]} 1\nPlayingGuitar/{names[1]} 1\n")
    (lists / "testlist01.txt").write_text(f"PlayingGuitar/{names[2]}\n")
    shutil.copytree(assets / "videos" / "ucf101_playing_guitar", tmp_path / "UCF-101" / "PlayingGuitar")
    assert pack(videos=tmp_path / "UCF-101", captions=lists, out=tmp_path / "out") == 0
    data = WebVidDataModule(test_shards=str(tmp_path / "out" / "train"), num_frames=16, size=64, batch_size=2)
    (batch,) = data.test_dataloader()
    assert batch["video"].shape == (2, 3, 16, 64, 64)
    assert batch["caption"] == ["playing guitar"] * 2
    assert batch["label"].tolist() == [0, 0]
    assert [about["width"] for about in facts(tmp_path / "out" / "test")] == [320]
