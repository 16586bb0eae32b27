import contextlib
import errno
import io
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from http_server import Server

from cmd_lightning.atomic_files import held
from cmd_lightning.data import cache as cache_module
from cmd_lightning.data import fetch
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.fetch import FetchError
from cmd_lightning.errors import InputError

KB = 1e-6  # of a gigabyte
BODY = random.Random(1).randbytes(100_000)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    monkeypatch.setattr(fetch, "_pause", lambda _: None)


@pytest.fixture
def server():
    """Serves at /n/... a file of n bytes."""
    with Server(lambda reply, _: reply.file(BODY[: int(reply.path.split("/")[1])])) as server:
        yield server


def content(cache, url, size=None):
    with cache.open(url, size) as file:
        return file.read()


def copies(folder):
    """The copies there by the names of their shards; nothing but the lock may be next to them."""
    names = set(os.listdir(folder)) - {".lock"}
    assert all(name.startswith("shard-") for name in names), names
    return {name.split("-", 2)[2]: os.path.getsize(folder / name) for name in sorted(names)}


def test_a_shard_is_fetched_once(tmp_path, server):
    cache = pickle.loads(pickle.dumps(ShardCache(str(tmp_path / "a" / "b"))))
    url = server.url + "/5000/0.tar?key=a/b"
    with cache.open(url) as file:
        assert file.read(10) == BODY[:10]
        (copy,) = (tmp_path / "a" / "b").glob("shard-*")
        assert os.path.samefile(file.fileno(), copy)
        assert not file.writable()
    assert content(cache, url, 5000) == BODY[:5000]
    assert len(server.requests) == 1
    assert copies(tmp_path / "a" / "b") == {"0.tar": 5000}
    assert content(cache, server.url + "/5000/0.tar?key=other") == BODY[:5000]
    assert len(server.requests) == 2


def test_an_index_without_end_is_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_MOST_IN_MEMORY", 3 * len(BODY))
    with Server(lambda reply, _: reply.file(BODY * 4)) as server, pytest.raises(FetchError, match="has more than"):
        ShardCache(str(tmp_path)).read(server.url + "/index.json")


def test_the_folder_if_none_is_given(tmp_path, server, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    ShardCache().open(server.url + "/10/0.tar").close()
    assert copies(tmp_path / "xdg/cmd-lightning/shards") == {"0.tar": 10}
    monkeypatch.delenv("XDG_CACHE_HOME")
    ShardCache().open(server.url + "/10/0.tar").close()
    assert copies(tmp_path / "home/.cache/cmd-lightning/shards") == {"0.tar": 10}
    ShardCache("~/mine").open(server.url + "/10/0.tar").close()
    assert copies(tmp_path / "home/mine") == {"0.tar": 10}


def test_a_copy_of_another_size_is_fetched_again(tmp_path, server):
    cache = ShardCache(str(tmp_path), gigabytes=8 * KB)  # not room for both
    url = server.url + "/5000/0.tar"
    content(cache, url)
    (copy,) = tmp_path.glob("shard-*")
    copy.write_bytes(b"x" * 4999)
    assert content(cache, url) == b"x" * 4999
    assert content(cache, url, 5000) == BODY[:5000]
    assert len(server.requests) == 2
    with pytest.raises(FetchError, match="5001 by its index, which is out of date"):
        cache.open(url, 5001)
    assert copies(tmp_path) == {}


def test_the_least_recently_used_copies_go(tmp_path, server):
    cache = ShardCache(str(tmp_path), gigabytes=10 * KB)

    def used(name, size, *, told=True):
        time.sleep(0.01)  # more than the clock of a file system ticks
        url = f"{server.url}/{size}/{name}"
        assert content(cache, url, size if told else None) == BODY[:size]

    used("a", 3000)
    used("b", 3000)
    used("c", 4000)
    assert copies(tmp_path) == {"a": 3000, "b": 3000, "c": 4000}  # full to the last byte
    used("a", 3000)
    used("d", 1)
    assert copies(tmp_path) == {"a": 3000, "c": 4000, "d": 1}
    used("e", 6000, told=False)
    assert copies(tmp_path) == {"a": 3000, "d": 1, "e": 6000}
    used("f", 10_000)
    assert copies(tmp_path) == {"f": 10_000}


def test_the_bound_holds_always(tmp_path, server):
    """Of all copies, parts included, at any moment."""
    chance = random.Random(5)
    cache = ShardCache(str(tmp_path), gigabytes=20 * KB)
    totals, over = [], threading.Event()

    def watch():
        while not over.wait(0.001):
            with FileLock(tmp_path / ".lock", poll_interval=0.001):  # nothing is removed or grows meanwhile
                sizes = {}
                for entry in os.scandir(tmp_path):
                    with contextlib.suppress(FileNotFoundError):  # it has its name by now
                        facts = entry.stat()
                        sizes[facts.st_ino] = facts.st_size
                totals.append(sum(sizes.values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(60):
            size = chance.randint(0, 20_000)
            url = f"{server.url}/{size}/{number}.tar"
            assert content(cache, url, size if number % 2 else None) == BODY[:size]
    finally:
        over.set()
        watcher.join()
    assert len(totals) > 20
    assert 10_000 < max(totals) <= 20_000


def test_a_shard_that_fits_nowhere(tmp_path, server):
    cache = ShardCache(str(tmp_path), gigabytes=20 * KB, allow_commands=True)
    content(cache, server.url + "/15000/0.tar")
    for size in (None, 20_001):
        with pytest.raises(InputError, match=r"^remote\.gigabytes .*: .*/1\.tar alone has 2e-05 GB or more"):
            cache.open(server.url + "/20001/1.tar", size)
    (tmp_path.parent / "large").write_bytes(BODY)
    with pytest.raises(InputError, match=r"^remote\.gigabytes .*: .*large alone has .* GB or more"):
        cache.open(f"pipe:cat {tmp_path.parent}/large")
    assert set(copies(tmp_path)) <= {"0.tar"}


def test_a_shard_of_unknown_size_takes_no_more_room_than_it_needs(tmp_path):
    cache = ShardCache(str(tmp_path), gigabytes=0.0185, allow_commands=True)  # a step of 16 MiB and one copy fit
    for name in "ab":
        cache.open(f"pipe:head -c 1000000 /dev/zero; : /{name}").close()
    assert copies(tmp_path) == {"a": 10**6, "b": 10**6}
    small = ShardCache(str(tmp_path), gigabytes=0.001, allow_commands=True)  # less than a step
    small.open("pipe:head -c 1000000 /dev/zero; : /c").close()
    assert copies(tmp_path) == {"c": 10**6}
    large = ShardCache(str(tmp_path), gigabytes=0.037, allow_commands=True)  # two steps and one copy
    large.open("pipe:head -c 18000000 /dev/zero; : /d").close()
    assert copies(tmp_path) == {"c": 10**6, "d": 18 * 10**6}


def test_what_is_removed_stays_open_to_its_reader(tmp_path, server):
    cache = ShardCache(str(tmp_path), gigabytes=10 * KB)
    with cache.open(server.url + "/9000/0.tar") as file:
        content(cache, server.url + "/9000/1.tar")
        assert copies(tmp_path) == {"1.tar": 9000}
        assert file.read() == BODY[:9000]


def test_files_of_others_are_left_alone(tmp_path, server):
    cache = ShardCache(str(tmp_path), gigabytes=10 * KB)
    theirs = ["0.tar", "shard-0.tar", "shard-0123456789abcdeg-0.tar", ".part-x", "x-shard-0123456789abcdef-0.tar"]
    for name in theirs:
        (tmp_path / name).write_bytes(BODY)
    for number in range(3):
        content(cache, f"{server.url}/9000/{number}.tar")
    assert all((tmp_path / name).read_bytes() == BODY for name in theirs)
    assert len(os.listdir(tmp_path)) == len(theirs) + 2  # one copy and the lock


def test_a_failure_leaves_nothing(tmp_path):
    with Server(lambda reply, _: reply.file(BODY, stop=5000)) as server:
        cache = ShardCache(str(tmp_path), attempts=2)
        with pytest.raises(FetchError, match="ended after 5000 of 100000 bytes, 2 tries"):
            cache.open(server.url + "/0.tar")
    assert copies(tmp_path) == {}


@pytest.mark.parametrize("size", [0, 2000])
def test_a_file_that_shrinks_while_it_is_fetched(tmp_path, size):
    """Nothing of its longer version comes out, also if not one byte follows that."""

    def answer(reply, number):
        reply.file(BODY, stop=5000) if number == 0 else reply.file(BODY[len(BODY) - size :])

    with Server(answer) as server:
        assert content(ShardCache(str(tmp_path)), server.url + "/0.tar") == BODY[len(BODY) - size :]
    with Server(answer) as server:
        assert ShardCache().read(server.url + "/index.json") == BODY[len(BODY) - size :]
    assert copies(tmp_path) == {"0.tar": size}


def test_a_small_file_is_read_and_not_kept(tmp_path):
    def answer(reply, number):
        if number < 3:
            return reply.file(BODY, stop=1000 * number, ranges=number == 2)
        return reply.status(404, Content_Length=0) if reply.path == "/none" else reply.file(BODY)

    with Server(answer) as server:
        cache = ShardCache(str(tmp_path / "folder"))
        assert cache.read(server.url + "/index.json") == BODY
        assert cache.read(server.url + "/none") is None
    with Server(lambda reply, _: reply.status(401, Content_Length=0)) as server, pytest.raises(FetchError, match="401"):
        cache.read(server.url + "/none")
    with pytest.raises(InputError, match="allow_commands"):
        cache.read("ais://bucket/index.json")
    assert not (tmp_path / "folder").exists()


def test_a_command(tmp_path):
    cache = ShardCache(str(tmp_path), allow_commands=True, attempts=2)
    assert content(cache, "pipe:echo one | sed s/one/two/") == b"two\n"
    with pytest.raises(FetchError, match=r"exit .*7.*2 tries"):
        cache.open("pipe:echo half; exit 7 # a/b.tar")
    with pytest.raises(InputError, match=r"data\.remote\.allow_commands"):
        ShardCache(str(tmp_path)).open("pipe:echo 1")
    assert len(copies(tmp_path)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"gigabytes": 0},
        {"gigabytes": float("nan")},
        {"gigabytes": float("inf")},
        {"attempts": 0},
        {"timeout": 0},
        {"timeout": float("inf")},
    ],
    ids=str,
)
def test_wrong_options(options):
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=rf"^remote\.{name} {value}: must be"):
        ShardCache(**options)


def test_a_folder_that_cannot_be_used(tmp_path, server):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(InputError, match=rf"^remote\.folder {folder}: cannot be used \(.*lower remote\.gigabytes"):
            ShardCache(str(folder)).open(server.url + "/10/0.tar")
    with pytest.raises(InputError, match=r"^remote\.folder ~nobody-has-this-name: no home"):
        ShardCache("~nobody-has-this-name").open(server.url + "/10/0.tar")


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullDisk(io.FileIO):
    def write(self, data):
        return super().write(data[:50_000]) if self.tell() < 50_000 else no_space()


@pytest.mark.parametrize("when", ["while writing, after some bytes went in", "in the end"])
def test_a_full_disk(tmp_path, server, when, monkeypatch):
    if when == "in the end":
        monkeypatch.setattr(os, "fsync", no_space)
    else:
        monkeypatch.setattr(cache_module, "open", lambda path, mode, **_: FullDisk(path, mode), raising=False)
        monkeypatch.setattr(cache_module, "_reuse", lambda *_: None)
    with pytest.raises(InputError, match=rf"^remote\.folder {tmp_path}: .*No space left on device.*remote\.gigabytes"):
        ShardCache(str(tmp_path)).open(server.url + "/100000/0.tar")
    assert copies(tmp_path) == {}
    assert len(server.requests) == 1


OPEN = """
import sys
from cmd_lightning.data.cache import ShardCache
print("begins", flush=True)
with ShardCache(sys.argv[1], gigabytes=float(sys.argv[2])).open(sys.argv[3]) as file:
    print(len(file.read()), flush=True)
"""


def test_a_shard_that_another_fetched_in_the_last_moment(tmp_path, server, monkeypatch):
    """After this one saw no copy, and before it holds the lock."""
    cache, url = ShardCache(str(tmp_path / "folder")), server.url + "/5000/0.tar"
    original = Path.mkdir

    def late(path, *args, **options):
        monkeypatch.setattr(Path, "mkdir", original)
        content(cache, url)

    monkeypatch.setattr(Path, "mkdir", late)
    assert content(cache, url) == BODY[:5000]
    assert len(server.requests) == 1
    assert copies(tmp_path / "folder") == {"0.tar": 5000}


def test_a_copy_that_another_wants_to_remove_at_once(tmp_path, server, monkeypatch):
    """It takes the lock of the folder for that, so the copy is open by then."""
    original = os.replace

    def remove(copy):
        with FileLock(tmp_path / ".lock", poll_interval=0.001):
            os.unlink(copy)

    def robbed(part, copy):
        original(part, copy)
        robber.append(threading.Thread(target=remove, args=[copy]))
        robber[0].start()
        time.sleep(0.02)

    robber = []
    monkeypatch.setattr(os, "replace", robbed)
    assert content(ShardCache(str(tmp_path)), server.url + "/5000/0.tar") == BODY[:5000]
    robber[0].join()
    assert copies(tmp_path) == {}
    assert len(server.requests) == 1


def process(folder, url, gigabytes=1.0):
    command = [sys.executable, "-P", "-c", OPEN, str(folder), str(gigabytes), url]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout.readline() == "begins\n"
    return started


def test_processes_make_room_one_after_the_other(tmp_path, server):
    with FileLock(tmp_path / ".lock"):
        waiting = process(tmp_path, server.url + "/5000/0.tar")
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.3)
    assert waiting.communicate(timeout=10)[0] == "5000\n"


def test_two_processes_fetch_a_shard_once(tmp_path):
    asked, go = threading.Event(), threading.Event()

    def answer(reply, _):
        asked.set()
        go.wait(10)
        reply.file(BODY)

    with Server(answer) as server:
        first = process(tmp_path, server.url + "/0.tar")
        assert asked.wait(10)
        others = [process(tmp_path, server.url + "/0.tar") for _ in range(2)]
        for other in others:
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.1)
        go.set()
        for each in (first, *others):
            assert each.communicate(timeout=10)[0] == "100000\n"
        assert len(server.requests) == 1
    assert copies(tmp_path) == {"0.tar": len(BODY)}


def test_a_killed_process_leaves_nothing_that_counts(tmp_path):
    half = threading.Event()

    def answer(reply, number):
        reply.file(BODY, stop=None if number > 1 else 60_000)
        if number < 2:
            reply.wfile.flush()
            half.set()
            reply.closing.wait(10)

    def kill_one(url):
        half.clear()
        killed = process(tmp_path, url)
        assert half.wait(10)
        (part,) = tmp_path.glob(".part-*")
        while part.read_bytes()[50_000:50_010] != BODY[50_000:50_010]:
            time.sleep(0.01)
        assert list(tmp_path.glob("shard-*")) == []
        assert part.stat().st_size == len(BODY)  # so much room is kept
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert part.exists()

    with Server(answer) as server:
        kill_one(server.url + "/0.tar")
        kill_one(server.url + "/0.tar")
        assert content(ShardCache(str(tmp_path)), server.url + "/0.tar") == BODY
        assert copies(tmp_path) == {"0.tar": len(BODY)}


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_nothing_of_what_a_killed_process_left_comes_out(tmp_path, server, size):
    cache, url = ShardCache(str(tmp_path)), f"{server.url}/{size}/0.tar"
    content(cache, url)
    (copy,) = tmp_path.glob("shard-*")
    copy.rename(tmp_path / copy.name.replace("shard-", ".part-", 1)).write_bytes(b"x" * 2000)
    assert content(cache, url) == BODY[:size]


def test_what_a_killed_process_left_makes_room(tmp_path, server):
    """A part that nobody holds goes; one that is being fetched counts as what it is going to be."""
    left, held_part = (tmp_path / f".part-{digit * 16}-0.tar" for digit in "01")
    left.write_bytes(BODY)
    held_part.write_bytes(BODY[:6000])
    cache = ShardCache(str(tmp_path), gigabytes=10 * KB)
    with held(tmp_path / held_part.name.replace("part", "lock")):
        content(cache, server.url + "/3000/a")
        content(cache, server.url + "/2000/b")
        assert sorted(path.name[-1] for path in tmp_path.iterdir()) == [
            "b",
            "k",
            "r",
            "r",
        ]  # the copy, .lock, the part and its lock
        content(cache, server.url + "/9000/c")  # all else is gone: it comes on top
    content(cache, server.url + "/1000/d")
    assert copies(tmp_path) == {"c": 9000, "d": 1000}


def test_many_processes_in_a_small_folder(tmp_path, server):
    """They remove each other's copies, between any two steps, and read whole shards all the same."""
    script = """
import random, sys
from cmd_lightning.data.cache import ShardCache
cache, chance = ShardCache(sys.argv[1], gigabytes=2e-6), random.Random(int(sys.argv[3]))
for _ in range(40):
    size = chance.choice([700, 900, 1100])
    with cache.open(f"{sys.argv[2]}/{size}/{chance.randrange(3)}.tar", chance.choice([size, None])) as file:
        assert len(file.read()) == size
"""
    running = [
        subprocess.Popen([sys.executable, "-P", "-c", script, str(tmp_path), server.url, str(number)])
        for number in range(3)
    ]
    assert [each.wait(30) for each in running] == [0, 0, 0]
    assert len(server.requests) > 20
    assert sum(copies(tmp_path).values()) <= 2000
