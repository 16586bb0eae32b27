import shutil
import warnings
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from http_server import Server
from shard_files import plain, sample, serve_folder, write_tar

from cmd_lightning.data import bad_samples, fetch
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.check import check_shards
from cmd_lightning.data.clips import ClipLoader
from cmd_lightning.data.index import Shard, expand, load_index
from cmd_lightning.data.loader import Position, StreamLoader
from cmd_lightning.data.stream import ShardStream
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError

ONCE = ShardCache(attempts=1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


OPTIONS = {"remote": ONCE, "batch_size": 3, "seed": 4, "shuffle_buffer": 5, "shuffle": True}


def stream(urls, first=0, epoch=1, **options):
    options = OPTIONS | options
    made = ShardStream(load_index(urls, remote=ONCE), ClipLoader(4, (16, 16), stride=1, random_start=True), **options)
    made.begin(epoch, first)
    return made


def batches(made, workers=0):
    """The batches as a DataLoader gives them, and the bad samples by reason."""
    loader = torch.utils.data.DataLoader(made, batch_size=None, num_workers=workers)
    got = list(loader)
    return got, Counter(reason for batch in got for reason, _ in batch["bad"])


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        one["key"] == two["key"] and torch.equal(one["video"], two["video"]) and one["bad"] == two["bad"]
        for one, two in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shard_count", [1, 2, 5])
def test_two_ranks_get_every_sample_once_in_equal_batches(shards, workers, shard_count):
    urls = expand(str(shards))[:shard_count]
    ranks = [batches(stream(urls, rank=rank, ranks=2, batch_size=2), workers)[0] for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == len(stream(urls, ranks=2, batch_size=2))
    keys = [key for got in ranks for batch in got for key in plain(batch["key"])]
    assert sorted(keys) == [f"{i:04d}" for i in range((4, 11, 0, 0, 23)[shard_count - 1])]


def test_order_changes_with_epoch_and_seed_and_stays_without_shuffle(shards):
    urls = expand(str(shards))

    def keys(**options):
        return [key for batch in batches(stream(urls, **options))[0] for key in plain(batch["key"])]

    assert keys() == keys()
    assert keys() != keys(epoch=2)
    assert keys() != keys(seed=5)
    assert keys(shuffle=False, shuffle_buffer=0) == [f"{i:04d}" for i in range(23)]


def test_what_a_sample_becomes_hangs_on_seed_epoch_and_key_alone(shards):
    urls = expand(str(shards))

    def clips(**options):
        got, _ = batches(stream(urls, **options))
        return {key: batch["video"][i].numpy().tobytes() for batch in got for i, key in enumerate(batch["key"])}

    assert clips() == clips(batch_size=5, shuffle_buffer=0, shuffle=False)
    changed = clips(epoch=2)
    assert sum(clips()[key] != changed[key] for key in changed) > 5


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """21 samples, 9 of them bad, 8 in a row at the beginning."""
    folder = tmp_path_factory.mktemp("spoiled")
    samples = [sample(f"{i:04d}", i, frames=3 if i < 8 else 6) for i in range(21)]
    samples[13]["0013.mp4"] = b"junk"
    write_tar(folder / "0.tar", samples[:9])
    write_tar(folder / "1.tar", samples[9:])
    return [str(folder / "0.tar"), str(folder / "1.tar")]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_replaced_by_good_ones_and_counted(spoiled, workers):
    got, bad = batches(stream(spoiled), workers)
    assert bad == {"too short": 8, "unreadable video": 1}
    keys = [key for batch in got for key in plain(batch["key"])]
    good = {f"{i:04d}" for i in range(8, 21)} - {"0013"}
    assert len(keys) == 21
    assert set(keys) == good
    clips = {batch["video"][i].numpy().tobytes() for batch in got for i in range(len(batch["key"]))}
    assert len(clips) > len(good) - 2  # stand-ins have another start


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("first", [1, 5])
def test_beginning_later_gives_the_rest(spoiled, workers, first):
    for options in ({}, {"shuffle": False, "shuffle_buffer": 0}):
        whole, _ = batches(stream(spoiled, **options), workers)
        rest, _ = batches(stream(spoiled, first, **options), workers)
        assert same(rest, whole[first:])


def test_skipping_does_not_decode(shards, monkeypatch):
    made = stream(expand(str(shards)), first=5)
    decoded = []
    monkeypatch.setattr(ShardStream, "decode", lambda self, *a, f=ShardStream.decode: decoded.append(1) or f(self, *a))
    got = list(made)
    assert len(decoded) == sum(len(batch["key"]) for batch in got) == 23 - 15


@pytest.mark.parametrize("workers", [2, 3])
def test_a_reader_without_good_samples_borrows_one(tmp_path, workers):
    write_tar(tmp_path / "0.tar", [sample(f"{i:04d}", i, frames=6 if i < 6 else 3) for i in range(12)])
    options = {"shuffle": False, "shuffle_buffer": 0, "batch_size": 2}
    urls = [str(tmp_path / "0.tar")]
    got, bad = batches(stream(urls, **options), workers)
    keys = [key for batch in got for key in plain(batch["key"])]
    assert bad == {"too short": 6}
    assert len(keys) == 12
    assert set(keys) == {f"{i:04d}" for i in range(6)}
    assert same(batches(stream(urls, 3, **options), workers)[0], got[3:])


def test_all_bad_is_an_error_with_reasons(spoiled):
    made = ShardStream([Shard(spoiled[0], 8)], ClipLoader(4, (16, 16), stride=1), batch_size=2)
    for workers in (0, 2):
        with pytest.raises(InputError, match=r"no usable clip among 8: 8 too short .*lower data\.num_frames") as error:
            list(StreamLoader(made, num_workers=workers))
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 200 + len(spoiled[0])


def test_bad_samples_are_reported_at_the_end_of_an_epoch(spoiled, tmp_path):
    write_tar(tmp_path / "2.tar", [{"lost.txt": b"no video"}, sample("0021")])
    made = stream([*spoiled, str(tmp_path / "2.tar")])
    loader = StreamLoader(made)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(loader)
    replaced, left_out = [str(w.message) for w in caught if "unclosed" not in str(w.message)]
    assert replaced.startswith("9 of 22 samples were bad and replaced: 8 too short, 1 unreadable video (")
    assert replaced.endswith("; and 4 more)")
    assert left_out == "1 samples known to be bad were left out: 1 no video"


def test_too_many_bad_samples_stop_the_run_with_the_list(spoiled):
    """9 of 21 are bad: more than 0.4 of them, less than 0.45."""
    list(StreamLoader(stream(spoiled), max_bad_share=0.45))
    seen = []
    with pytest.raises(InputError, match=r"max_bad_share 0.4: .* 9 of 21: 8 too short, 1 unreadable") as error:
        seen.extend(StreamLoader(stream(spoiled), max_bad_share=0.4))
    assert len(seen) < len(StreamLoader(stream(spoiled)))
    places = {f"{spoiled[0]} {i:04d}" for i in range(8)} | {f"{spoiled[1]} 0013"}
    assert sum(place in str(error.value) for place in places) == 3
    assert "; and 6 more)" in str(error.value)
    assert "\n" not in str(error.value)


def judged(folder, kinds, share):
    """Whether a pass over shards of 100 samples ends; kinds: "." good, "x" bad, "k" known to be bad."""
    clip, short = sample("a")["a.mp4"], sample("b", frames=3)["b.mp4"]
    makes = {".": lambda i: {f"{i}.mp4": clip}, "x": lambda i: {f"{i}.mp4": short}, "k": lambda i: {f"{i}.txt": b""}}
    folder.mkdir()
    for start in range(0, len(kinds), 100):
        write_tar(
            folder / f"{start:05d}.tar",
            [makes[kind](f"{start + i:05d}") for i, kind in enumerate(kinds[start : start + 100])],
        )
    made = stream(expand(str(folder)), shuffle=False, shuffle_buffer=0, batch_size=4)
    try:
        return len(list(StreamLoader(made, max_bad_share=share)))
    except InputError as error:
        assert "max_bad_share" in str(error)
        return "stopped"


def test_the_share_is_that_of_the_pass(tmp_path, monkeypatch):
    """Bad samples often lie together: a pass is judged by what it will hold at least, from its first batch on."""
    assert judged(tmp_path / "together", "x" * 20 + "." * 280, 0.1) == 75
    assert judged(tmp_path / "known", "k" * 19 + "." * 181, 0.1) == 46
    assert judged(tmp_path / "many known", "k" * 21 + "." * 179, 0.1) == "stopped"
    assert judged(tmp_path / "both", "k" * 12 + "x" * 12 + "." * 176, 0.1) == "stopped"
    assert judged(tmp_path / "few of both", "k" * 9 + "x" * 9 + "." * 182, 0.1) == 48
    monkeypatch.setattr(bad_samples, "_ENOUGH", 40)  # of a long pass a part tells enough
    assert judged(tmp_path / "long", "x." * 50 + "." * 600, 0.1) == "stopped"
    assert judged(tmp_path / "late", "." * 600 + "x" * 50, 0.1) == 163


def test_a_resumed_pass_is_not_judged_by_its_rest(tmp_path):
    folder = tmp_path / "shards"
    assert judged(folder, "." * 199 + "x", 0.1) == 50
    made = stream(expand(str(folder)), shuffle=False, shuffle_buffer=0, batch_size=4)

    class Late(Position):
        def begin(self, stream, workers, trainer):
            return 1, 49

    rest = list(StreamLoader(made, max_bad_share=0.1, position=Late()))
    assert len(rest) == 1
    assert rest[0]["key"]


def test_a_pass_that_is_cut_short_is_judged_and_reported(spoiled):
    """As by `limit_train_batches`."""
    made = stream(spoiled)
    progress = SimpleNamespace(_data_fetcher=None, epoch_loop=SimpleNamespace(batch_progress=None))
    trainer = SimpleNamespace(num_training_batches=5, current_epoch=0, fit_loop=progress)
    cut = StreamLoader(made, max_bad_share=0.5, position=Position(), trainer=trainer)
    with pytest.warns(UserWarning, match="of 15 samples were bad and replaced"):
        list(islice(cut, 5))
    cut = StreamLoader(made, max_bad_share=0.3, position=Position(), trainer=trainer)
    with pytest.raises(InputError, match=r"max_bad_share 0\.3"):
        list(islice(cut, 5))


def test_known_bad_samples_are_left_out(spoiled):
    bad = {f"{i:04d}": "too short" for i in range(8)}
    known = [Shard(spoiled[0], 9, bad), Shard(spoiled[1], 12, {"0013": "unreadable video"})]
    got, counted = batches(ShardStream(known, ClipLoader(4, (16, 16), stride=1), batch_size=5, ranks=2, rank=1))
    other, _ = batches(ShardStream(known, ClipLoader(4, (16, 16), stride=1), batch_size=5, ranks=2, rank=0))
    assert not counted
    keys = [key for batch in other + got for key in plain(batch["key"])]
    assert keys == [f"{i:04d}" for i in range(8, 21) if i != 13]


def test_a_shard_that_vanishes_costs_its_samples_only(shards, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    made = stream(expand(str(copy)), shuffle=False, shuffle_buffer=0)
    (copy / "00001.tar").unlink()
    got, bad = batches(made)
    assert bad == {"unreadable shard": 7}
    assert sum(len(batch["key"]) for batch in got) == 23


@pytest.fixture
def server(shards, tmp_path):
    """The shards over http, the index with them in one folder and not in the other."""
    shutil.copytree(shards, tmp_path / "with")
    load_index(expand(str(tmp_path / "with")), write=True)
    shutil.copytree(shards, tmp_path / "without", ignore=shutil.ignore_patterns("*.json"))
    with Server(serve_folder(tmp_path)) as server:
        yield server.url


def test_remote_shards(server):
    urls = expand(server + "/with/{00000..00004}.tar")
    got, bad = batches(stream(urls, rank=0, ranks=1), workers=2)
    assert not bad
    assert sorted(key for batch in got for key in plain(batch["key"])) == [f"{i:04d}" for i in range(23)]


def test_remote_shards_without_an_index_are_counted_first(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match=r"without/00000\.tar: no index\.json") as warned:
        shards = load_index(expand(server + "/without/0000{0,1}.tar"))
    assert len(warned) == 1
    assert [shard.samples for shard in shards] == [4, 7]
    for training in (False, True):
        made = ShardStream(shards, ClipLoader(4, (16, 16), stride=1), batch_size=4, shuffle=training)
        assert sorted(key for batch in made for key in plain(batch["key"])) == [f"{i:04d}" for i in range(11)]


def test_a_command_in_a_validation_set_gives_its_clips_once(shards, tmp_path):
    remote = ShardCache(str(tmp_path / "cache"), allow_commands=True)
    options = {"val_shards": [f"pipe:cat {shards}/00003.tar"], "num_frames": 4, "size": 16, "batch_size": 2}
    with pytest.warns(UserWarning, match="fetched now to count"):
        loader = WebVidDataModule(**options, remote=remote).val_dataloader()
    assert [key for batch in loader for key in plain(batch["key"])] == [f"{i:04d}" for i in range(12, 17)]


@pytest.mark.parametrize("reason", ["404", "refused"])
def test_an_unreachable_shard_is_named_with_the_reason(server, reason):
    url = f"{server}/with/none.tar" if reason == "404" else "http://127.0.0.1:9/000000.tar"
    with pytest.raises(InputError, match=rf"{url}: cannot be read .*{reason}"):
        check_shards(url, remote=ONCE)
    with pytest.raises(InputError, match=rf"{server if reason == '404' else ''}.*: cannot be read .*{reason}") as error:
        list(StreamLoader(stream([url])))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_server_costs_no_sample(shards, monkeypatch, workers):
    """It fails, cuts, stalls and resets, each shard and the index in turn; the batches are those of local shards."""
    monkeypatch.setattr(fetch, "_pause", lambda seconds: None)
    load_index(expand(str(shards)), write=True)

    def answer(reply, number):
        body = (shards / reply.path.rpartition("/")[2]).read_bytes()
        if number % 5 == 0:
            reply.status(503, Content_Length=0)
        elif number % 5 == 1:
            reply.file(body, stop=len(body) // 3)
        elif number % 5 == 2:
            reply.status(200, Content_Length=len(body))
            reply.wfile.write(body[:700])
            reply.closing.wait(5)
        elif number % 5 == 3:
            reply.file(body, stop=len(body) // 2, ETag='"a"')
            reply.reset()
        else:
            reply.file(body, ETag='"a"')

    with Server(answer) as server:
        remote = ShardCache(timeout=0.3, attempts=30)
        urls = expand(server.url + "/{00000..00004}.tar")
        made = ShardStream(
            load_index(urls, remote=remote),
            ClipLoader(4, (16, 16), stride=1, random_start=True),
            **OPTIONS | {"remote": remote},
        )
        made.begin(1)
        got, bad = batches(made, workers)
        assert len(server.requests) > 20
    assert not bad
    assert same(got, batches(stream(expand(str(shards))), workers)[0])


def test_commands_are_run_only_if_allowed(shards, tmp_path):
    command = f"pipe:touch {tmp_path}/ran; cat {shards}/00000.tar"
    with pytest.raises(InputError, match="allow_commands"):
        expand(command)
    with pytest.raises(InputError, match="allow_commands"):
        check_shards(command)
    for url in ("ais://bucket/0.tar", "file:///etc/0.tar", f"data:{shards}", "ftp://host/0.tar"):
        with pytest.raises(InputError, match="allow_commands"):
            expand(url)
    assert not (tmp_path / "ran").exists()
    allowed = ShardCache(allow_commands=True)
    assert check_shards(command, remote=allowed)["samples"] == 4
    assert (tmp_path / "ran").exists()


def test_a_page_that_is_no_shard_is_rejected(server):
    assert check_shards(f"{server}/with/index.json")["bad"] == {"unreadable shard": 1}
    with pytest.raises(InputError, match=r"no usable clip: 1 unreadable shard \(.*index.json"):
        WebVidDataModule(test_shards=f"{server}/without/../with/index.json").test_dataloader()
