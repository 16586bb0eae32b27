import json
import shutil
import sys

import pytest
from http_server import Server
from shard_files import plain, sample, serve_folder, write_tar

from cmd_lightning.data import shard_module
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.check import check_shards
from cmd_lightning.data.index import load_index
from cmd_lightning.data.selecting import Selection
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def rated(tmp_path):
    """Two shards of ten samples: 3 is no video, 14 has no json, 15 has a damaged one."""
    samples = [
        sample(f"{i:02d}", i, score=i / 2, size={"width": i}, kind="even" if i % 2 == 0 else "odd") for i in range(20)
    ]
    samples[3]["03.mp4"] = b"junk"
    del samples[14]["14.json"]
    samples[15]["15.json"] = b"{"
    folder = tmp_path / "rated"
    folder.mkdir()
    for shard in range(2):
        write_tar(folder / f"{shard}.tar", samples[10 * shard :][:10])
    check_shards(str(folder))
    return folder


def module(shards, select, **options):
    return WebVidDataModule(str(shards), num_frames=4, size=16, batch_size=2, select=select, **options)


def keys(data):
    return sorted(int(key) for batch in data.train_dataloader() for key in plain(batch["key"]))


GOOD = sorted({*range(20)} - {3, 15})
CASES = [
    ({"score": {"min": 5}}, [i for i in GOOD if i >= 10 and i != 14]),
    ({"score": {"min": 1, "max": 4}}, [2, 4, 5, 6, 7, 8]),
    ({"kind": {"equals": "even"}, "score": {"max": 5}}, [0, 2, 4, 6, 8, 10]),
    ({"label": {"in": [1, 2]}}, [i for i in GOOD if i % 4 in (1, 2) and i != 14]),
    ({"caption": {"matches": " (red|blue) "}}, None),
    ({"kind": {"min": 3}, "score": {"max": 100}}, "no sample meets all conditions"),
    ({"scores": {"min": 3}}, r"no sample has scores; there are caption, kind, label, score, size"),
]


@pytest.mark.parametrize(("select", "expected"), CASES, ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_meet_all_conditions_come_once(rated, select, expected, workers):
    data = module(rated, select, num_workers=workers)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=rf"data\.select: nothing is left of train_shards .*{expected}") as error:
            data.train_dataloader()
        assert "\n" not in str(error.value)
        return
    loader = data.train_dataloader()
    found = keys(data)
    if expected is None:
        everything = {
            key: caption
            for batch in module(rated, None).train_dataloader()
            for key, caption in zip(plain(batch["key"]), batch["caption"], strict=True)
        }
        expected = sorted(int(key) for key, caption in everything.items() if " red " in caption or " blue " in caption)
        assert 0 < len(expected) < 18
    assert found == expected
    assert len(loader) == -(-len(expected) // 2)


def test_ranks_share_what_is_selected(rated):
    data = module(rated, {"score": {"min": 5}})
    [shards] = data._find("train_shards")
    from cmd_lightning.data.clips import ClipLoader
    from cmd_lightning.data.stream import ShardStream

    ranks = [
        list(ShardStream(shards, ClipLoader(4, (16, 16), stride=1), batch_size=2, rank=rank, ranks=3, shuffle=True))
        for rank in range(3)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(int(key) for batches in ranks for batch in batches for key in plain(batch["key"])) == [
        10,
        11,
        12,
        13,
        16,
        17,
        18,
        19,
    ]


def test_a_function_selects(rated, tmp_path, monkeypatch):
    source = "def {}(facts):\n    return {}\n"
    (tmp_path / "user_select.py").write_text(
        source.format("odd", "facts.get('kind') == 'odd'")
        + source.format("fails", "facts['caption'] > 3")
        + "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert keys(module(rated, "user_select.odd")) == [i for i in GOOD if i % 2]
    assert keys(module(rated, lambda facts: "score" not in facts)) == [14]
    for name, words in (
        ("user_select.number", r"data\.select user_select\.number: is of type int"),
        ("user_select.none", r"data\.select user_select\.none: cannot be imported"),
        ("user_select.fails", r"data\.select user_select\.fails: fails on 00 \(TypeError"),
    ):
        with pytest.raises(InputError, match=words):
            module(rated, name).train_dataloader()
    sys.modules.pop("user_select")


def test_what_is_selected_is_kept_in_the_index_until_it_may_have_changed(rated, monkeypatch):
    asked = []
    monkeypatch.setattr(
        Selection, "choose", lambda self, *a, f=Selection.choose: asked.append(self.where) or f(self, *a)
    )
    select = {"score": {"min": 5}}
    assert keys(module(rated, select)) == keys(module(rated, select))
    assert asked == [select] * 2  # each shard once
    index = json.loads((rated / "index.json").read_text())["shards"]
    assert index["0.tar"]["bad"] == {"03": "unreadable video"}
    assert list(index["0.tar"]["chosen"].values()) == ["0000"]
    module(rated, {"score": {"min": 6}}).train_dataloader()
    assert len(asked) == 4
    assert len(json.loads((rated / "index.json").read_text())["shards"]["1.tar"]["chosen"]) == 2
    write_tar(rated / "1.tar", [sample("50", 50, score=7), sample("51", 51, score=1)])
    assert keys(module(rated, select)) == [50]
    assert len(asked) == 5
    check_shards(str(rated))  # may find others to be bad
    assert keys(module(rated, select)) == [50]
    assert len(asked) == 7
    assert keys(module(rated, None)) == [*(i for i in range(10) if i != 3), 50, 51]


@pytest.mark.parametrize("where", ["with", "without"])
def test_remote_shards_are_fetched_and_counted_once(rated, tmp_path, where, monkeypatch):
    asked = []
    monkeypatch.setattr(
        Selection, "choose", lambda self, *a, f=Selection.choose: asked.append(self.where) or f(self, *a)
    )
    (rated / "index.json").unlink()
    load_index([str(rated / "0.tar"), str(rated / "1.tar")], write=where == "with")
    with Server(serve_folder(rated)) as server:
        url = server.url + "/{0,1}.tar"
        remote = ShardCache(folder=str(tmp_path / "copies"), attempts=1)
        for _ in range(2):
            assert keys(module(url, {"score": {"min": 5}}, remote=remote)) == [10, 11, 12, 13, 16, 17, 18, 19]
            assert len(asked) == 2
        assert sum(request.endswith(".tar") for request in map(str, server.requests)) <= 2
        shutil.rmtree(tmp_path / "copies")
        assert keys(module(url, {"score": {"max": 1}}, remote=remote)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("select", "words"),
    [
        ({"score": 5}, r"data\.select score 5: give conditions of min, max, equals, in, matches"),
        ({"score": {}}, r"data\.select score {}: give conditions"),
        ({"score": {"least": 5}}, r"data\.select score {'least': 5}: give conditions"),
        ({"score": {"min": "5"}}, r"data\.select score min 5: cannot be compared"),
        ({"score": {"in": 5}}, r"data\.select score in 5: cannot be compared"),
        ({"caption": {"matches": "("}}, r"data\.select caption matches \(: cannot be compared"),
    ],
)
def test_conditions_are_checked_at_the_start(rated, select, words):
    with pytest.raises(InputError, match=words) as error:
        module(rated, select).train_dataloader()
    assert "\n" not in str(error.value)


def test_the_number_is_printed_once(rated, monkeypatch):
    lines = []
    monkeypatch.setattr(shard_module, "rank_zero_info", lines.append)
    data = module(rated, {"score": {"min": 5}})
    data.prepare_data()
    list(data.train_dataloader())
    assert lines == [f"train_shards {rated}: data.select takes 8 of 20 samples"]
