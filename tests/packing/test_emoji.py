"""Animated emoji, in miniature and with the real names: captions, splits, and what is counted."""

import io
import json
import sys
import tarfile
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from missing import needed
from PIL import Image

from cmd_lightning.packing.annotations import read_annotations
from cmd_lightning.packing.emoji import Emoji, find_names, parse, split_emoji, unicode_name
from cmd_lightning.packing.pack import pack_clips

TONES = {"1f3fb": "light", "1f3fc": "medium-light", "1f3fd": "medium", "1f3fe": "medium-dark", "1f3ff": "dark"}


def webp(frames, number=0):
    """Bytes of a WebP of that many frames of 8x8 pixels, transparent but for a square."""
    drawn = np.zeros((frames, 8, 8, 4), np.uint8)
    for index, one in enumerate(drawn):
        one[2:6, 2:6] = 10 * index, 5 * number % 256, 200, 255
    images = [Image.fromarray(one) for one in drawn]
    buffer = io.BytesIO()
    images[0].save(buffer, "WEBP", save_all=frames > 1, append_images=images[1:], duration=42, loop=0, lossless=True)
    return buffer.getvalue()


def folder_of(folder, stems, stills=()):
    """Archives of emoji as they are unpacked: two packages, each with a page that is no emoji."""
    for number, stem in enumerate([*stems, *stills]):
        path = folder / f"anim-{number % 2 + 1}" / "package" / "assets" / f"{stem}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(webp(1 if stem in stills else 4, number))
        (path.parents[1] / "README.md").write_text("emoji")
    return folder


def without_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "emoji", None)


@pytest.mark.parametrize(
    ("name", "base", "tone"),
    [
        ("1f407.webp", (0x1F407,), ""),
        ("1F407.WEBP", (0x1F407,), ""),
        ("1f3ce-fe0f.gif", (0x1F3CE,), ""),
        ("1f468-1f3fd-200d-1f373.webp", (0x1F468, 0x200D, 0x1F373), "medium"),
        ("26f9-1f3fb-200d-2640-fe0f.png", (0x26F9, 0x200D, 0x2640), "light"),
        ("1f9d1-1f3fe-200d-1f91d-200d-1f9d1-1f3fe.webp", (0x1F9D1, 0x200D, 0x1F91D, 0x200D, 0x1F9D1), "medium-dark"),
        ("1f9d1-1f3ff-200d-1f91d-200d-1f9d1-1f3fb.webp", (0x1F9D1, 0x200D, 0x1F91D, 0x200D, 0x1F9D1), "dark, light"),
    ],
)
def test_names_of_files_are_code_points(name, base, tone):
    assert parse(Path(name)) == Emoji(base, tone)


@pytest.mark.parametrize(
    "name",
    ["1f407.mp4", "2600.mp4", "0001.webp", "1234.gif", "face.webp", "dead-beef.gif", "1f407 (1).webp"],
)
def test_numbered_clips_and_words_are_no_emoji(name):
    assert parse(Path(name)) is None


def test_names_of_unicode():
    names = {
        "1f407": "rabbit",
        "1f3ce": "racing car",
        "1f468-200d-1f373": "man cooking",
        "1f9dd-200d-2640": "woman elf",
        "1f468-200d-1f9b0": "man red hair",
        "2642": "male sign",
    }
    for points, name in names.items():
        assert unicode_name([int(point, 16) for point in points.split("-")]) == name


def test_the_source_of_names_is_reported_and_cldr_is_preferred(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, ["1f407", "1f468-1f3fd-200d-1f373", "261d-1f3fb"])
    without_package(monkeypatch)
    plain = read_annotations(folder, None)
    assert any("English names of Unicode" in note and "pip install emoji" in note for note in plain.notes)
    captions = {Path(row.path).stem: row.caption for row in plain.rows}
    assert captions["1f407"] == "rabbit"
    assert captions["1f468-1f3fd-200d-1f373"] == "man cooking, medium skin tone"

    package = ModuleType("emoji")
    package.__version__ = "9.9"
    package.EMOJI_DATA = {
        "\U0001f468\u200d\U0001f373": {"en": ":man_cook:"},
        "\u261d\ufe0f": {"en": ":index_pointing_up:"},  # files with a skin tone lack the selector
    }
    monkeypatch.setitem(sys.modules, "emoji", package)
    known = read_annotations(folder, None)
    assert any("CLDR (emoji 9.9)" in note for note in known.notes)
    assert {Path(row.path).stem: row.caption for row in known.rows} == {
        "1f407": "rabbit",  # which this package lacks
        "1f468-1f3fd-200d-1f373": "man cook, medium skin tone",
        "261d-1f3fb": "index pointing up, light skin tone",
    }


def test_names_of_the_real_package():
    emoji = needed("emoji")
    source, name_of = find_names()
    assert emoji.__version__ in source
    assert name_of((0x1F468, 0x200D, 0x1F373)) == "man cook"
    assert name_of((0x1F550,)) == "one o'clock"
    assert name_of((0x1F385,)) == "santa claus"


def emoji_of(things, people):
    """Emoji without a tone, and people with none and each of five."""
    plain = [Emoji((0x1F400 + number,), "") for number in range(things)]
    return plain + [Emoji((0x1F600 + number,), tone) for number, tone in product(range(people), ["", *TONES.values()])]


def test_base_emoji_and_a_fifth_of_combinations_are_held_out():
    emoji = emoji_of(459, 275)  # as many as there are
    splits = [split for split, _ in split_emoji(emoji, 0)]
    bases = defaultdict(set)
    for one, split in zip(emoji, splits, strict=True):
        bases[split].add(one.base)
    assert len(bases["test"]) == 61
    assert not bases["test"] & (bases["train"] | bases["combinations"])
    assert bases["combinations"] <= bases["train"]
    toned = [(one, split) for one, split in zip(emoji, splits, strict=True) if one.tone and split != "test"]
    held = [one for one, split in toned if split == "combinations"]
    assert len(held) * 5 == len(toned)
    assert set(Counter(one.base for one in held).values()) == {1}
    assert min(Counter(one.tone for one in held).values()) > 30  # of 50
    assert all(one.tone for one in held)


def test_splits_hang_on_seed_and_names_alone():
    emoji = emoji_of(40, 20)
    splits = dict(zip(emoji, split_emoji(emoji, 0), strict=True))
    assert dict(zip(emoji[::-1], split_emoji(emoji[::-1], 0), strict=True)) == splits
    assert dict(zip(emoji, split_emoji(emoji, 1), strict=True)) != splits
    more = [*emoji, Emoji((0x1F9FF,), "")]
    changed = [one for one, split in zip(emoji, split_emoji(more, 0), strict=False) if split != splits[one]]
    assert len({one.base for one in changed}) <= 1


@pytest.mark.parametrize("people", [1, 2, 3, 5, 11])
def test_each_person_and_tone_is_still_seen(people):
    for seed in range(20):
        emoji = [one for one in emoji_of(0, people) if one.tone]
        seen = [one for one, (split, _) in zip(emoji, split_emoji(emoji, seed), strict=True) if split == "train"]
        left = [one for one, (split, _) in zip(emoji, split_emoji(emoji, seed), strict=True) if split != "test"]
        assert {one.tone for one in seen} == {one.tone for one in left}
        assert {one.base for one in seen} == {one.base for one in left}


def test_a_folder_of_emoji_is_packed_with_facts_and_stills_are_counted(tmp_path, monkeypatch):
    without_package(monkeypatch)
    people = ["1f466", "1f467", "1f475"]
    stems = [f"1f4{number:02x}" for number in range(16)] + people + ["-".join(two) for two in product(people, TONES)]
    folder = folder_of(tmp_path / "emoji", stems, stills=["1f1e9-1f1ea", "2194-fe0f"])
    told = []
    done = pack_clips(folder, tmp_path / "out", progress=told.append)
    assert done["bad"] == {"still image": 2, "unknown suffix": 2}
    assert done["samples"] == len(stems) == 34
    assert set(done["splits"]) == {str(tmp_path / "out" / split) for split in ("train", "test", "combinations")}
    assert any("34 animated emoji, 15 of them with a skin tone, of 19 base emoji" in line for line in told)
    reasons = {"train": "seen", "test": "base emoji held out", "combinations": "skin tone held out of this person"}
    for split, reason in reasons.items():
        with tarfile.open(tmp_path / "out" / split / "000000.tar") as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for name, data in members.items():
            if name.endswith(".json"):
                facts, caption = json.loads(data), members[name.replace(".json", ".txt")].decode()
                tones = [tone for point, tone in TONES.items() if point in facts["path"]]
                assert facts["split_reason"] == reason
                assert facts["skin_tone"] == (tones[0] if tones else None)
                assert facts["code_points"] == Path(facts["path"]).stem.split("-")[0]
                assert caption == facts["class"] + "".join(f", {tone} skin tone" for tone in tones)
                assert members[name.replace(".json", ".webp")] == (folder / facts["path"]).read_bytes()


def test_other_folders_and_written_captions_are_read_as_before(tmp_path):
    folder = folder_of(tmp_path / "mixed", ["1f407", "1f408"])
    (folder / "cat.webp").write_bytes(webp(4))
    assert {row.label for row in read_annotations(folder, None).rows} == {"anim-1", "anim-2"}
    written = folder_of(tmp_path / "written", ["1f407"])
    next(written.rglob("1f407.webp")).with_suffix(".txt").write_text("a rabbit hops")
    assert [row.caption for row in read_annotations(written, None).rows] == ["a rabbit hops"]
