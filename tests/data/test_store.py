"""Object stores through fsspec: a file system that fails as a test wants it to, and a server with the Hub's layout."""

import asyncio
import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import http_server
import pytest
from fsspec.asyn import AsyncFileSystem
from http_server import Server
from jsonargparse import ArgumentParser

from cmd_lightning.data import fetch
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.fetch import FetchError, MissingError
from cmd_lightning.data.index import expand
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError

BODY = random.Random(1).randbytes(3_000_000)
REGISTRY = sys.modules["fsspec.registry"]._registry  # the name in fsspec is of something else


class Faulty(AsyncFileSystem):
    """Answers for gs://; `facts(i)` is information number i on the object, `ranges(i, start, end)` range number i."""

    protocol, cachable = "gs", False
    asked: list

    async def _info(self, path, **_):
        Faulty.infos += 1
        return await self.facts(Faulty.infos - 1)

    async def _cat_file(self, path, start=None, end=None, **_):
        Faulty.asked.append((start, end))
        return await self.ranges(len(Faulty.asked) - 1, start, end)


@pytest.fixture
def store(monkeypatch):
    """Registers `Faulty`; a test sets what it answers, by default `BODY`."""

    async def facts(self, number):
        return {"name": "bucket/0.tar", "size": len(BODY), "type": "file", "etag": "a"}

    async def ranges(self, number, start, end):
        return BODY[start:end]

    monkeypatch.setattr(fetch, "_pause", lambda _: None)
    monkeypatch.setitem(REGISTRY, "gs", Faulty)
    for name, value in {"facts": facts, "ranges": ranges, "asked": [], "infos": 0}.items():
        monkeypatch.setattr(Faulty, name, value, raising=False)
    return lambda **answers: [monkeypatch.setattr(Faulty, name, answer) for name, answer in answers.items()]


def get(url="gs://bucket/0.tar", size=None, **options):
    return http_server.get(url, size, **options)


def test_an_object_comes_in_ranges_that_grow(store):
    assert get(size=len(BODY)) == BODY
    lengths = [end - start for start, end in Faulty.asked]
    assert lengths[:3] == [2**18, 2**19, 2**20]
    assert sum(lengths) == len(BODY)


def test_a_failed_range_is_asked_for_again(store):
    async def failing(self, number, start, end):
        if number % 3 == 1:
            raise ConnectionResetError("reset")
        if number % 3 == 2:
            raise RuntimeError("of a library")
        return BODY[start:end]

    store(ranges=failing)
    assert get(attempts=3) == BODY
    done = [asked for number, asked in enumerate(Faulty.asked) if number % 3 == 0]
    assert sum(end - start for start, end in done) == len(BODY)


def test_a_short_range_is_no_object(store):
    async def short(self, number, start, end):
        return BODY[start : end - 1]

    store(ranges=short)
    with pytest.raises(FetchError, match=r"cannot be read \(ended after 262143 of 3000000 bytes, 2 tries"):
        get(attempts=2)


def test_a_store_that_stalls(store):
    async def silent(self, number, start, end):
        await asyncio.sleep(5 if number % 2 else 0)
        return BODY[start:end]

    store(ranges=silent)
    assert get(timeout=0.1) == BODY
    with pytest.raises(FetchError, match="stalled"):
        store(ranges=lambda *_: asyncio.sleep(5))
        get(timeout=0.1, attempts=2)


def test_two_versions_of_an_object_are_never_mixed(store):
    """It changes after each range, twice."""
    versions = [bytes([number]) * 600_000 for number in range(3)]

    def now():
        return min(len(Faulty.asked), 2)

    async def facts(self, number):
        return {"name": "x", "size": 600_000, "type": "file", "etag": str(now())}

    async def ranges(self, number, start, end):
        return versions[min(number, 2)][start:end]

    store(facts=facts, ranges=ranges)
    assert get() == versions[2]


def test_another_size_than_that_of_the_index(store):
    with pytest.raises(FetchError, match="has 3000000 bytes, 5 by its index, which is out of date"):
        get(size=5)
    assert Faulty.asked == []


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (FileNotFoundError("bucket/0.tar"), MissingError, "no such file"),
        (PermissionError("Forbidden"), MissingError, "no access"),
        (type("NoCredentialsError", (Exception,), {})("Unable to locate"), FetchError, "check the credentials"),
    ],
)
def test_final_errors(store, error, kind, words):
    async def failing(self, number):
        raise error

    store(facts=failing)
    with pytest.raises(kind, match=rf"^gs://bucket/0\.tar: .*{words}"):
        get()
    assert Faulty.infos == 1


def test_a_package_that_is_missing_and_options_that_are_wrong(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r'^gs://b/0.tar: .*pip install "cmd-lightning\[remote\]"'):
        get("gs://b/0.tar")
    with pytest.raises(InputError, match=r"^gs://b/\*.tar: .*pip install"):
        expand("gs://b/*.tar")
    with pytest.raises(InputError, match=r"^remote\.storage_options s4: no such protocol; there are s3, gs, az, hf"):
        ShardCache(storage_options={"s4": {}})
    monkeypatch.setitem(REGISTRY, "gs", type("Strict", (Faulty,), {"__init__": lambda self: None}))
    with pytest.raises(InputError, match=r"unexpected keyword argument 'colour'.*data\.remote\.storage_options"):
        get("gs://b/0.tar", storage_options={"gs": {"colour": "red"}})


def test_storage_options_come_from_yaml():
    parser = ArgumentParser()
    parser.add_class_arguments(WebVidDataModule, "data")
    text = (
        "{data: {train_shards: 's3://b/t', remote: {gigabytes: 1, storage_options: {s3: {endpoint_url: 'http://x'}}}}}"
    )
    made = parser.instantiate(parser.parse_string(text)).data
    assert made.remote == ShardCache(gigabytes=1, storage_options={"s3": {"endpoint_url": "http://x"}})


SHARDS = {"data/0.tar": b"a" * 100_000, "data/1.tar": b"b" * 100, "data/index.json": b"{}", "README.md": b"#"}


@pytest.fixture
def hub(monkeypatch):
    """A server with the addresses of the Hub, and a data set me/clips for who has the token; it redirects to another.

    It yields the storage options for it, and the list of requests.
    """
    requests = []

    def stored(reply, number):  # as the Hub's storage: no token goes there, and the first answer is cut
        assert "Authorization" not in reply.headers
        requests.append(f"{reply.path} {reply.headers.get('Range', '')}")
        reply.file(SHARDS[reply.path[1:]], stop=5000 if number == 0 else None, ETag='"a"')

    class Reply(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urlsplit(self.path).path
            requests.append(path)
            if self.headers.get("Authorization") != "Bearer hf_secret":
                self.say(401, {"error": "who are you?"})
            elif path in ("/api/datasets/me/clips", "/api/datasets/me/clips/revision/main"):
                self.say(200, {"id": "me/clips"})
            elif path.startswith("/api/datasets/me/clips/tree/main"):
                folder = path.partition("/tree/main")[2].strip("/")
                found = [name for name in SHARDS if name.rpartition("/")[0] == folder]
                rows = [{"type": "file", "path": name, "size": len(SHARDS[name]), "oid": "0"} for name in found]
                self.say(200, rows if folder else [{"type": "directory", "path": "data", "oid": "1"}])
            elif (name := path.removeprefix("/datasets/me/clips/resolve/main/")) in SHARDS:
                self.send_response(302)
                self.send_header("Location", f"{storage.url}/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.say(404, {"error": "not found"})

        def say(self, code, words):
            body = json.dumps(words).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetch, "_pause", lambda _: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Reply)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with Server(stored) as storage:
        options = {"hf": {"endpoint": f"http://127.0.0.1:{server.server_port}", "token": "hf_secret"}}
        yield options, requests
    server.shutdown()
    server.server_close()


def test_the_hub(hub, tmp_path):
    options, requests = hub
    remote = ShardCache(str(tmp_path), storage_options=options)
    urls = ["hf://datasets/me/clips/data/0.tar", "hf://datasets/me/clips/data/1.tar"]
    for spec in ("hf://datasets/me/clips/data", "hf://datasets/me/clips/data/*.tar", urls):
        assert expand(spec, remote=remote) == urls
    with remote.open(urls[0]) as file:
        assert file.read() == SHARDS["data/0.tar"]
    assert [line for line in requests if line.startswith("/data/")] == ["/data/0.tar ", "/data/0.tar bytes=5000-"]
    assert remote.read("hf://datasets/me/clips/data/index.json") == b"{}"
    assert remote.read("hf://datasets/me/clips/data/none.json") is None


def test_the_hub_without_the_token(hub, tmp_path):
    options, _ = hub
    options["hf"]["token"] = False
    with pytest.raises(FetchError, match=r"^hf://datasets/me/clips/data: no access .*check the credentials"):
        expand("hf://datasets/me/clips/data", remote=ShardCache(storage_options=options))
    with pytest.raises(FetchError, match=r"^hf://datasets/me/clips/data/0.tar: no access .*check the credentials"):
        ShardCache(str(tmp_path), storage_options=options).open("hf://datasets/me/clips/data/0.tar")
