"""s3:// against a server on the loopback that answers as S3 does (moto)."""

import contextlib
import socket
import threading
from dataclasses import replace

import pytest
from missing import missing
from shard_files import plain, sample, write_tar

from cmd_lightning.data import fetch
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.check import check_shards
from cmd_lightning.data.fetch import FetchError, MissingError
from cmd_lightning.data.index import expand, load_index, read_index
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError

BODY = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture(scope="module")
def server():
    """The address of a server with a bucket of two shards, their index, and a large object."""
    try:
        import boto3
        import s3fs  # noqa: F401
        from moto.server import ThreadedMotoServer
    except ImportError:
        missing("moto and s3fs are not installed; pip install -e '.[dev]'")
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=address, **keys)
    client.create_bucket(Bucket="clips")
    client.put_object(Bucket="clips", Key="large/0.tar", Body=BODY)
    client.address = address
    yield client
    running.stop()


@pytest.fixture(scope="module")
def shards(server, tmp_path_factory):
    """A folder of two shards and their index, which the bucket has under train/."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(2):
        write_tar(folder / f"{number}.tar", [sample(f"{number}{key}") for key in "abc"])
    load_index(expand(str(folder)), write=True)
    for path in folder.iterdir():
        server.put_object(Bucket="clips", Key=f"train/{path.name}", Body=path.read_bytes())
    return folder


@pytest.fixture
def remote(server, tmp_path, monkeypatch):
    """Makes the options for the server, or another address; keys are in the environment."""
    monkeypatch.setattr(fetch, "_pause", lambda _: None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def make(address=server.address, **options):
        of_this_test = {"endpoint_url": address, "skip_instance_cache": True}
        return ShardCache(str(tmp_path / "cache"), storage_options={"s3": of_this_test}, **options)

    return make


def test_folders_globs_and_braces(shards, remote):
    names = ["s3://clips/train/0.tar", "s3://clips/train/1.tar"]
    for spec in ("s3://clips/train", "s3://clips/train/", "s3://clips/*/[01].tar", "s3://clips/train/{0..1}.tar"):
        assert [name for name in expand(spec, remote=remote()) if "large" not in name] == names
    for nothing in ("s3://clips/none", "s3://clips/train/x*.tar"):
        with pytest.raises(InputError, match=rf"^val_shards {nothing.replace('*', '.')}: no such shard"):
            expand(nothing, "val_shards", remote())


def test_a_stream_of_remote_shards_is_that_of_local_ones(shards, remote):
    def batches(place):
        data = WebVidDataModule(place, num_frames=4, size=16, batch_size=2, remote=remote(), num_workers=1)
        return [plain(batch) for batch in data.train_dataloader()]

    assert batches("s3://clips/train") == batches(str(shards))
    assert read_index("s3://clips/train", remote()) == read_index(str(shards))
    assert check_shards("s3://clips/train", remote=remote())["samples"] == 6


def test_what_is_not_there(shards, remote):
    for url in ("s3://clips/none.tar", "s3://no-such-bucket/0.tar"):
        with pytest.raises(MissingError, match=rf"^{url}: no such file"):
            remote().open(url)
    assert remote().read("s3://clips/none.json") is None


def test_a_shard_without_an_index_is_counted(server, shards, remote):
    server.put_object(Bucket="clips", Key="plain/9.tar", Body=(shards / "0.tar").read_bytes())
    with pytest.warns(UserWarning, match="index"):
        [shard] = load_index(["s3://clips/plain/9.tar"], remote=remote())
    assert (shard.samples, shard.bad) == (3, {})


def test_another_size_than_that_of_the_index(remote):
    with pytest.raises(FetchError, match=r"^s3://clips/large/0.tar: has 5120000 bytes, 7 by its index"):
        remote().open("s3://clips/large/0.tar", 7)


def test_nobody_answers(remote):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # botocore itself would ask for many seconds.
        cache = remote(f"http://127.0.0.1:{unused.getsockname()[1]}", attempts=2, timeout=0.2)
        with pytest.raises(FetchError, match=r"^s3://clips/large/0.tar: cannot be read \(.*2 tries"):
            cache.open("s3://clips/large/0.tar")


def test_wrong_credentials(remote, monkeypatch):
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from now on it looks at keys
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    with pytest.raises(FetchError, match=r"^s3://clips/large/0.tar: no access"):
        remote().open("s3://clips/large/0.tar")
    with pytest.raises(InputError, match=r"^s3://clips/large: no access"):
        expand("s3://clips/large", remote=remote())


def test_no_credentials(remote, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(FetchError, match=r"^s3://clips/large/0.tar: no access .*check the credentials"):
        remote().open("s3://clips/large/0.tar")


def test_an_unknown_option_is_named_at_once(remote, monkeypatch):
    monkeypatch.setattr(fetch, "_pause", lambda _: pytest.fail("tried again"))
    options = replace(remote(), storage_options={"s3": {"endpoint": "x", "skip_instance_cache": True}})
    with pytest.raises(
        FetchError, match=r"^s3://clips/large/0.tar: .* 'endpoint'\); check data\.remote\.storage_options$"
    ):
        options.open("s3://clips/large/0.tar")


class Relay:
    """Passes connections on to a server, and cuts each of the first ones after so many bytes of its answers."""

    def __init__(self, address, cuts):
        self._target = address.removeprefix("http://").split(":")
        self._cuts, self.passed = list(cuts), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # of a listener that is closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                left = self._cuts.pop(0) if self._cuts else 10**9
                for ends in ((client, server, 10**9), (server, client, left)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source, target, left):
        with contextlib.suppress(OSError):
            while left > 0 and (data := source.recv(min(left, 65536))):
                target.sendall(data)
                left -= len(data)
                self.passed += len(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()


def test_connections_that_are_cut_cost_a_range_each(server, remote):
    relay = Relay(server.address, [3_000_000] * 2)
    with remote(relay.address).open("s3://clips/large/0.tar") as file:
        assert file.read() == BODY
    relay.close()
    assert not relay._cuts
    assert relay.passed < len(BODY) + 3_000_000
