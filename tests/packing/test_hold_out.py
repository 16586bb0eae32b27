"""Clips held out of training: the same on every call, of every class, and always some."""

import json
from collections import Counter

import odd_videos
import pytest

from cmd_lightning.errors import InputError
from cmd_lightning.packing.hold_out import held_out
from cmd_lightning.packing.pack import pack_clips


def names(count):
    return [f"clip{number}.mp4" for number in range(count)]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5, 0.9])
def test_every_class_gives_its_share(share):
    classes = [name for name, count in (("a", 20), ("b", 40), ("c", 7), ("d", 133)) for _ in range(count)]
    chosen = held_out(names(200), classes, share, seed=0)
    assert len(chosen) == round(200 * share)
    for name, count in Counter(classes).items():
        held = sum(classes[number] == name for number in chosen)
        assert abs(held - share * count) < 1


def test_the_choice_is_random_and_follows_from_seed_and_names():
    classes = [""] * 1000
    chosen = held_out(names(1000), classes, 0.1, seed=0)
    assert chosen == held_out(names(1000), classes, 0.1, seed=0)
    backwards = held_out(names(1000)[::-1], classes, 0.1, seed=0)
    assert {999 - number for number in backwards} == chosen
    assert 2 < len(chosen & held_out(names(1000), classes, 0.1, seed=1)) < 30  # 10 expected by chance
    assert 450 < sum(chosen) / len(chosen) < 550  # spread over the row: 500, give or take 29


def test_some_are_held_out_and_some_stay():
    assert len(held_out(names(2), ["", ""], 0.01, 0)) == 1
    assert len(held_out(names(3), ["", "", ""], 0.99, 0)) == 2
    assert held_out(names(5), ["a", "b", "c", "d", "d"], 0.5, 0) <= {3, 4}  # classes of one clip stay in training
    with pytest.raises(InputError, match=r"hold_out 0\.1: at least 2 usable clips are needed, there are 1"):
        held_out(["x"], [""], 0.1, 0)


def test_rows_of_one_clip_stay_together():
    """As of a table with several captions for each clip."""
    rows = [name for name in names(50) for _ in range(3)]
    chosen = held_out(rows, [""] * 150, 0.2, 0)
    assert len(chosen) == 30
    assert len({rows[number] for number in chosen}) == 10
    with pytest.raises(InputError, match="2 usable clips are needed, there are 1"):
        held_out(["x", "x"], ["", ""], 0.5, 0)


def facts(folder):
    index = json.loads((folder / "index.json").read_text())
    return sum(entry["samples"] for entry in index["shards"].values()), index["classes"], index["num_classes"]


def test_pack_holds_usable_clips_out(tmp_path):
    clip = odd_videos.encode(odd_videos.numbered(2), "mp4", "libx264")
    for name in ("cat", "dog"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number in range(10):
            broken = name == "dog" and number > 2
            (tmp_path / "clips" / name / f"{number}.mp4").write_bytes(b"junk" if broken else clip)
    done = [pack_clips(tmp_path / "clips", tmp_path / out, hold_out=0.3) for out in ("one", "two")]
    for folder in ("train", "test"):
        one, two = (tmp_path / out / folder / "000000.tar" for out in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert facts(tmp_path / "one" / "train") == (9, ["cat", "dog"], 2)
    assert facts(tmp_path / "one" / "test") == (4, ["cat", "dog"], 2)  # 3 of 10 cats, 1 of the 3 good dogs
    assert done[0]["splits"] == {str(tmp_path / "one" / "train"): 9, str(tmp_path / "one" / "test"): 4}
    assert done[0]["bad"] == {"unreadable video": 7}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hold_out": 0.0}, "between 0 and 1"),
        ({"hold_out": 1.0}, "between 0 and 1"),
        ({"hold_out": 10.0}, "between 0 and 1"),
        ({"hold_out": float("nan")}, "between 0 and 1"),
        ({"hold_out": 0.1, "split": "train"}, "give one of the two"),
    ],
)
def test_wrong_shares(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        pack_clips(tmp_path, tmp_path / "out", **options)


def test_a_table_with_splits_is_not_split_again(tmp_path):
    (tmp_path / "t.csv").write_text("path,split\na.mp4,train\nb.mp4,val\n")
    with pytest.raises(InputError, match=r"hold_out 0\.1: the clips have splits already \(train, val\)"):
        pack_clips(tmp_path, tmp_path / "out", tmp_path / "t.csv", hold_out=0.1)
    assert not (tmp_path / "out").exists()
