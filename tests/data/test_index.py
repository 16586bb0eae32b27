import json
import os
import shutil
import tarfile

import pytest
from shard_files import sample, write_tar

from cmd_lightning.data.index import expand, load_index, read_index, scan, update_index
from cmd_lightning.errors import InputError


def test_paths_globs_folders_braces_and_addresses(shards):
    names = [str(shards / f"{i:05d}.tar") for i in range(5)]
    assert expand(f"{shards}/*.tar") == names
    assert expand(str(shards)) == names
    assert expand(f"{shards}/{{00000..00004}}.tar") == names
    assert expand([names[3], f"{shards}/0000{{1,0}}.tar"]) == [names[3], names[1], names[0]]
    assert expand("https://host/{000..002}.tar") == [f"https://host/00{i}.tar" for i in range(3)]
    for wrong in (
        f"{shards}/none.tar",
        f"{shards}/x*.tar",
        f"{shards}/{{00000..00005}}.tar",
        "/x/{0..3",
        "pipe:cat x",
        [],
    ):
        with pytest.raises(InputError) as error:
            expand(wrong, "train_shards")
        assert str(error.value).lstrip("`").startswith("train_shards")
        assert "\n" not in str(error.value)


def test_scan_counts_what_tarfile_lists(shards, tmp_path):
    for path in expand(str(shards)):
        with tarfile.open(path) as tar:
            keys = {name.split(".")[0] for name in tar.getnames()}
        assert (counted(path).samples, counted(path).bad) == (len(keys), {})
    odd = {"__meta__/info.json": b"{}", "e.txt": b"no clip", "f.mp4": b""}
    write_tar(tmp_path / "odd.tar", [sample("d"), odd])
    found = counted(tmp_path / "odd.tar")
    assert (found.samples, found.bad) == (3, {"e": "no video"})  # an empty video is found when it is decoded


def test_cut_off_and_other_files(shards, tmp_path):
    whole = (shards / "00003.tar").read_bytes()
    with tarfile.open(shards / "00003.tar") as tar:
        third = tar.getmember("0014.mp4")
    cut = tmp_path / "cut.tar"
    lengths = {third.offset_data + 10, third.offset_data - 300, third.offset}  # in a member, a header, between
    for length, last in zip(sorted(lengths), ("0013", "0013", "0014"), strict=True):
        cut.write_bytes(whole[:length])
        with pytest.warns(UserWarning, match="cut off or damaged"):
            found = counted(cut)
        assert (found.samples, found.bad) == (int(last) - 11, {last: "truncated shard"})
    (tmp_path / "text.tar").write_text("no tar at all, but long enough" * 100)
    found = counted(tmp_path / "text.tar")
    assert (found.good, list(found.bad.values())) == (0, ["unreadable shard"])


def counted(path):
    with open(path, "rb") as file:
        return scan(str(path), file)


@pytest.mark.parametrize(
    "index",
    [
        b'\xff{"shards": {}}',
        b'{"shards": {}, "classes": null}',
        b'{"shards": {"00002.tar": {"bytes": 10240, "samples": 10000000000, "bad": {}}}}',
        b'{"shards": {"00002.tar": {"bytes": 10000000000000, "samples": 10000000000, "bad": {}}}}',
        b'{"shards": {"00002.tar": {"bytes": 10240, "samples": 1.5, "bad": {}}}}',
        b"[" * 200_000,
        b'{"shards": {"00002.tar": {"bytes": 10240, "samples": 1, "bad": {"a": "x", "b": "x"}}}}',
        b'{"shards": {"00002.tar": {"bytes": 10240, "samples": 1, "bad": ["a"]}}}',
    ],
)
def test_a_damaged_index_is_rebuilt(shards, tmp_path, index):
    shutil.copy(shards / "00002.tar", tmp_path)
    (tmp_path / "index.json").write_bytes(index)
    assert [shard.good for shard in load_index(expand(str(tmp_path)), write=True)] == [1]
    assert json.loads((tmp_path / "index.json").read_text())["shards"]["00002.tar"]["samples"] == 1


def test_an_untrusted_index_is_believed_within_reason(shards, tmp_path):
    class Remote:
        def __init__(self, **entry):
            self.entry, self.asked = {"bytes": 10240, "samples": 2, "bad": {}} | entry, []

        def place(self):
            return tmp_path

        def read(self, url):
            self.asked.append(url)
            return json.dumps({"shards": {"0.tar": self.entry}}).encode()

        def open(self, url, size):
            return open(shards / "00002.tar", "rb")

    signed, remote = "https://host/set/0.tar?key=ab/cd", Remote()
    assert [(shard.url, shard.samples) for shard in load_index([signed], remote=remote)] == [(signed, 2)]
    assert remote.asked == ["https://host/set/index.json?key=ab/cd"]
    with pytest.warns(UserWarning, match="no index.json next to it knows this shard"):
        (absurd,) = load_index([signed], remote=Remote(bytes=10**13, samples=10**10))
    assert (absurd.samples, absurd.bytes) == (1, (shards / "00002.tar").stat().st_size)
    with pytest.raises(InputError, match="password") as error:
        expand("https://me:secret@host/{0..3}.tar")
    assert "secret" not in str(error.value)


def test_the_index_is_written_used_and_renewed(shards, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder, ignore=shutil.ignore_patterns("*.json"))
    urls = expand(str(folder))
    first = load_index(urls, write=True)
    assert [shard.good for shard in first] == [4, 7, 1, 5, 6]
    import cmd_lightning.data.index as module

    scans = []
    monkeypatch.setattr(module, "scan", lambda path, file: scans.append(path) or scan(path, file))
    assert load_index(urls) == first
    assert scans == []
    write_tar(folder / "00002.tar", [sample(f"x{i}") for i in range(9)])  # another size
    assert [shard.good for shard in load_index(urls, write=True)] == [4, 7, 9, 5, 6]
    assert scans == [urls[2]]
    assert json.loads((folder / "index.json").read_text())["shards"]["00002.tar"]["samples"] == 9
    (folder / "index.json").write_text("{damaged")
    assert [shard.good for shard in load_index(urls)] == [4, 7, 9, 5, 6]
    update_index(folder, [], ["cat", "dog"])
    assert read_index(os.path.dirname(urls[0]))["classes"] == ["cat", "dog"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
