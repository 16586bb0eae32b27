"""The samples of a tar file, found by their headers alone: what they hold is read when it is needed.

webdataset says which members make a sample. Its reader is not used: it loads every member whatever size it claims,
unpacks compressed files, and cannot tell a shard that was cut off from a whole one.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from cmd_lightning.data.clips import BadSample
from cmd_lightning.video_io import VIDEO_SUFFIXES

SUFFIXES = frozenset({*VIDEO_SUFFIXES, "txt", "json"})
"""Of the members that are read; others are passed over."""

MAX_MEMBER_BYTES = 0x7FFFF000
"""A larger member (2 GiB, the most that one call reads) is not loaded: it would have to fit into memory."""

CUT = "truncated shard"
_MAX_HEADER_BYTES = 2**20  # what tarfile may read at once; extended headers of honest archives are a few hundred bytes
_MAX_NAME = 1024


class Member(NamedTuple):
    """Where a member's bytes lie in its file."""

    offset: int
    size: int


@dataclass(frozen=True)
class Sample:
    """A sample that has not been read yet.

    Attributes:
        key: what its members' names share; unique within the shard.
        members: by suffix, in lower case.
        fault: why it cannot be used; "" where the headers show no reason.
        place: where it is, for people: the shard and the key.
        file: what it is read from; it stays open as long as a sample refers to it.
    """

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    fault: str = ""
    place: str = ""
    file: BinaryIO | None = field(default=None, compare=False, repr=False)

    def read(self) -> dict[str, Any]:
        """The bytes of its members by suffix, and "__key__".

        Raises:
            BadSample: it has a fault, or its file is shorter than its headers say.
        """
        if self.fault or self.file is None:
            raise BadSample(self.fault)
        return {"__key__": self.key} | read_members(self.file, self.members)


def read_members(file: BinaryIO, members: dict[str, Member]) -> dict[str, bytes]:
    """The bytes of members by suffix, without moving the file's position.

    Raises:
        BadSample: the file ends before, or cannot be read.
    """
    found = {}
    for suffix, (offset, size) in members.items():
        try:
            found[suffix] = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise BadSample("unreadable shard") from error
        if len(found[suffix]) < size:
            raise BadSample(CUT)
    return found


def read_samples(file: BinaryIO, name: str = "") -> Iterator[Sample]:
    """Find the samples of an uncompressed tar file, in its order.

    A sample with a fault comes too, so that everybody counts alike: "no video", "member twice", "hostile name" (leads
    out of its folder, or cannot be printed), "sparse member", "too large", and "truncated shard" for the last one of a
    file that is cut off or damaged there. A file that is no tar file at all is one sample, "unreadable shard". A key
    that comes again later in the file is another sample and gets a number.

    Args:
        file: opened for reading, with a file descriptor.
        name: what the samples' places call it.
    """
    from webdataset.tariterators import group_by_keys

    times: dict[str, int] = {}
    for group in group_by_keys(_members(file), handler=lambda _: True):
        key = group.pop("__key__")
        del group["__url__"]
        faults = [member for member in group.values() if isinstance(member, str)]
        members = {suffix: member for suffix, member in group.items() if isinstance(member, Member)}
        if not faults and members.keys().isdisjoint(VIDEO_SUFFIXES):
            faults = ["no video"]
        times[key] = times.get(key, 0) + 1
        if times[key] > 1:
            key = f"{key}~{times[key]}"
        yield Sample(key, members, faults[0] if faults else "", f"{name} {key}", file)


def _members(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Members as webdataset groups them; "data" is a `Member`, or why it cannot be used."""
    from webdataset.tariterators import base_plus_ext

    size = os.fstat(file.fileno()).st_size
    headers = _Headers(file)
    last, key, suffixes = "", None, set[str]()
    for header in headers:
        name = header.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        prefix, suffix = base_plus_ext(name)
        if not header.isreg() or re.match(r"__[^/]*__($|/)", name) or (suffix or "").lower() not in SUFFIXES:
            continue  # names like `__meta__/...` are webdataset's own
        suffix = suffix.lower()
        data: Member | str = Member(header.offset_data, header.size)
        if _is_hostile(name):
            data, prefix = "hostile name", prefix.encode("unicode_escape").decode()[:_MAX_NAME]
        elif header.issparse():
            data = "sparse member"
        elif header.offset_data + header.size > size:
            data = CUT
        elif header.size > MAX_MEMBER_BYTES:
            data = "too large"
        if prefix != key:
            key, suffixes = prefix, set()
        if suffix in suffixes:
            data, suffix = "member twice", f"{suffix}.{len(suffixes)}"
        suffixes.add(suffix)
        last = f"{prefix}.{suffix}"
        yield {"fname": last, "data": data, "__url__": ""}
    if not headers.any:
        yield {"fname": "file.tar", "data": "unreadable shard", "__url__": ""}
    elif last and not headers.whole:  # of the last sample, whose other members may be missing
        yield {"fname": last + ".cut", "data": CUT, "__url__": ""}


def _is_hostile(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/") or len(name) > _MAX_NAME or not name.isprintable()


class _Headers:
    """The headers of a tar file in order.

    Attributes:
        any: whether the file begins as a tar file does.
        whole: whether it ended with an archive's end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.any = self.whole = False

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        try:
            self._file.seek(0)
            with tarfile.open(fileobj=_Careful(self._file), mode="r:") as tar:  # type: ignore[call-overload]
                self.any = True
                offset = -1
                while (header := tar.next()) is not None and tar.offset > offset and header.size >= 0:
                    offset = tar.offset  # a header with a negative size would lead back, for ever
                    yield header
                    tar.members = []  # type: ignore[attr-defined]  # headers of a long shard need not be kept
                self._file.seek(tar.offset)
                self.whole = header is None and self._file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except (tarfile.TarError, OSError, ValueError, ArithmeticError, RecursionError, LookupError):
            return  # what a damaged or crafted header does to tarfile; what came before it is still good


class _Careful:
    """A file for tarfile that refuses the size of a header's extension to be whatever a stranger wrote."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)
