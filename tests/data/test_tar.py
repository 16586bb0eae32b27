import io
import os
import pickle
import subprocess
import tarfile

import pytest
import webdataset
from shard_files import sample, write_tar

from cmd_lightning.data.check import check_shards
from cmd_lightning.data.clips import BadSample, ClipLoader
from cmd_lightning.data.index import load_index
from cmd_lightning.data.stream import ShardStream
from cmd_lightning.data.tar import read_samples


def read(path, write=None):
    """(key, fault) of all samples of a file, and the bytes of those without a fault."""
    if write is not None:
        path.write_bytes(write)
    with open(path, "rb") as file:
        samples = list(read_samples(file))
        return [(s.key, s.fault) for s in samples], [s.read() for s in samples if not s.fault]


def archive(*members, format=tarfile.PAX_FORMAT):
    """A tar file of (name or header, bytes)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for header, data in members:
            if isinstance(header, str):
                header = tarfile.TarInfo(header)
                header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def header(name, **fields):
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def numeric(data, member, start, stop, field):
    """Puts raw bytes into a numeric field of the header of a member, with a right checksum."""
    block = bytearray(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        offset = tar.getmember(member).offset
    block[offset + start : offset + stop] = field
    block[offset + 148 : offset + 156] = b" " * 8
    block[offset + 148 : offset + 156] = b"%06o\0 " % sum(block[offset : offset + 512])
    return bytes(block)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_those_of_webdataset(tmp_path, format):
    members = [("0/a.MP4", b"1"), ("0/a.txt", b"2"), ("b.mp4", b"3"), ("__meta__/x.txt", b""), ("._b.mp4", b"mac")]
    members += [("c" * 90 + "/d.gif", b"4"), ("\u00e9t\u00e9.mp4", b"5"), ("f.json", b"{}"), ("f.mp4", b"6" * 3000)]
    path = tmp_path / "a.tar"
    path.write_bytes(archive(*members, format=format))
    theirs = webdataset.WebDataset(str(path), shardshuffle=False)
    theirs = [{k: v for k, v in s.items() if k in ("__key__", "mp4", "gif", "txt", "json")} for s in theirs]
    keys, ours = read(path)
    assert ours == theirs
    assert [key for key, _ in keys] == ["0/a", "b", "c" * 90 + "/d", "\u00e9t\u00e9", "f"]


def test_faults(tmp_path):
    path = tmp_path / "a.tar"
    data = archive(
        ("a.mp4", b"1"),
        ("a.txt", b"1"),
        ("../b.mp4", b"1"),
        ("../b.txt", b"1"),
        ("/c.mp4", b"1"),
        ("d/../e.mp4", b"1"),
        ("f\x1b[2J\n.mp4", b"1"),
        ("g" * 2000 + ".mp4", b"1"),
        ("h.mp4", b"1"),
        ("h.mp4", b"2"),
        ("i.txt", b"1"),
        (header("j.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (header("k.mp4", type=tarfile.LNKTYPE, linkname="a.mp4"), b""),
        (header("l.mp4", type=tarfile.CHRTYPE, devmajor=1, devminor=5), b""),
        ("m.npy", b"other members are passed over"),
        ("n.mp4", b"1"),
        ("a.mp4", b"2"),
    )
    found, members = read(path, data)
    assert found == [
        ("a", ""),
        ("../b", "hostile name"),
        ("/c", "hostile name"),
        ("d/../e", "hostile name"),
        ("f\\x1b[2J\\n", "hostile name"),
        ("g" * 1024, "hostile name"),
        ("h", "member twice"),
        ("i", "no video"),
        ("n", ""),
        ("a~2", ""),
    ]
    assert [sample["mp4"] for sample in members] == [b"1", b"1", b"2"]


def test_names_in_other_encodings_are_read(tmp_path):
    found, members = read(tmp_path / "a.tar", archive((b"\xe9.mp4".decode("utf-8", "surrogateescape"), b"1")))
    assert found == [("\ufffd", "")]
    assert members[0]["mp4"] == b"1"
    found[0][0].encode()


@pytest.mark.parametrize("claimed", [b"\x80" + b"\0" * 6 + b"\x01" + b"\0" * 4, b"77777777777\0"])
def test_a_member_of_absurd_size_is_not_loaded(tmp_path, claimed):
    data = numeric(archive(("a.mp4", b"1"), ("b.mp4", b"2")), "b.mp4", 124, 136, claimed)
    assert read(tmp_path / "a.tar", data)[0] == [("a", ""), ("b", "truncated shard")]


def test_large_and_sparse_members_are_not_loaded(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(archive((header("a.mp4", size=0), b""), ("b.mp4", b"2")))
    with open(path, "r+b") as file:  # a hole of 3 GB behind a header that claims it
        file.seek(0)
        block = bytearray(header("a.mp4", size=3 * 10**9).tobuf(tarfile.GNU_FORMAT))
        file.write(block)
        file.truncate(512 + 3 * 10**9)
    assert read(path)[0] == [("a", "too large")]
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.truncate(10**8)
    made = subprocess.run(
        ["tar", "--sparse", "--format=gnu", "-cf", str(path), "--transform", "s/sparse/a.mp4/", "sparse"],
        cwd=tmp_path,
        check=False,
    )
    assert made.returncode == 0
    assert os.path.getsize(path) < 10**6
    assert read(path)[0] == [("a", "sparse member")]


def test_headers_that_lead_back_or_never_end(tmp_path):
    whole = archive(("a.mp4", b"1"), ("b.mp4", b"2"))
    back = numeric(whole, "b.mp4", 124, 136, b"\xff" * 11 + b"\x00")  # base 256, negative
    assert read(tmp_path / "a.tar", back)[0] == [("a", "truncated shard")]
    claims = header("b.mp4", type=tarfile.XHDTYPE, size=0).tobuf(tarfile.USTAR_FORMAT)
    extended = bytearray(whole[:1024] + claims * 3000 + whole[1024:])
    assert read(tmp_path / "a.tar", bytes(extended))[0][0][0] == "a"
    with open(tmp_path / "a.tar", "r+b") as file:  # an extended header of 5 GB, which tarfile would read at once
        file.seek(1024)
        file.write(header("b", type=tarfile.XHDTYPE, size=5 * 10**9).tobuf(tarfile.USTAR_FORMAT))
        file.truncate(6 * 10**9)
    assert read(tmp_path / "a.tar")[0] == [("a", "truncated shard")]


def test_compressed_archives_are_no_shards(tmp_path):
    import gzip

    assert read(tmp_path / "a.tar", gzip.compress(archive(("a.mp4", b"1"))))[0] == [("file", "unreadable shard")]


def test_nothing_is_unpickled(tmp_path):
    """Members that webdataset's own decoders would unpickle."""

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    data = pickle.dumps(Payload())
    extra = {f"b.{suffix}": data for suffix in ("pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "cls")}
    write_tar(tmp_path / "a.tar", [sample("a"), {**sample("b"), **extra}, {"c.mp4": data, "c.json": data}])
    check_shards(str(tmp_path / "a.tar"))
    (tmp_path / "index.json").unlink()
    shards = load_index([str(tmp_path / "a.tar")], write=True)
    for batch in ShardStream(shards, ClipLoader(4, (16, 16), stride=1), batch_size=3):
        assert len(batch["key"]) == 3
    assert not (tmp_path / "ran").exists()
    pickle.loads(data)  # so it would have been seen
    assert (tmp_path / "ran").exists()


def test_a_file_that_shrinks_after_it_was_listed(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, [sample("a"), sample("b")])
    with open(path, "rb") as file:
        samples = list(read_samples(file))
        os.truncate(path, 600)
        with pytest.raises(BadSample, match="truncated shard"):
            samples[1].read()
