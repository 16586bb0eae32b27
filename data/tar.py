"""The samples of a tar file, found by their headers alone: what they hold is read when it is needed.

A name is `key.suffix` or `key.field.suffix`, where the field is one of `FIELDS`; any other dots are part of the key:
`a.txt` and `a.caption.txt` are captions of the sample `a`, `a.720p.mp4` is the clip `a.720p`. webdataset, which ends a
key at its first dot, agrees where keys have no dots. Its reader is not used: it loads every member whatever size it
claims, unpacks compressed files, and cannot tell a shard that was cut off from a whole one.
"""

import os
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, BinaryIO, NamedTuple

from cmd_lightning.animation import is_still_webp
from cmd_lightning.data.clips import IMAGE_SUFFIXES, LATENT_SUFFIX, BadSample
from cmd_lightning.video_io import VIDEO_SUFFIXES

_CLIPS = frozenset({*VIDEO_SUFFIXES, LATENT_SUFFIX})
SUFFIXES = _CLIPS | {"txt", "json", "cls"}  # of the members that are read; others are ignored
READ = SUFFIXES.union(IMAGE_SUFFIXES)  # the same where still images are asked for

# Names before a suffix that are not part of the key. Of members with the same suffix the one without a field is used,
# else the first in this order.
FIELDS = (
    *("video", "image", "caption", "text", "prompt", "label", "class", "meta", "metadata"),
    *("thumbnail", "thumb", "preview"),
)

NO_VIDEO, STILL, CUT = "no video", "still image", "truncated shard"

MAX_MEMBER_BYTES = 0x7FFFF000  # 2 GiB, the most that one call reads: a member must fit into memory
_MAX_HEADER_BYTES = 2**20  # what tarfile may read at once; extended headers of honest archives are a few hundred bytes
_MAX_NAME = 1024


class Member(NamedTuple):
    """Where the bytes of a member are in its file."""

    offset: int
    size: int


@dataclass(frozen=True)
class Sample:
    """A sample that has not been read yet."""

    key: str  # what its members' names share; unique within the shard
    members: dict[str, Member] = field(default_factory=dict)  # by suffix, in lower case
    fault: str = ""  # why it cannot be used, where the headers show a reason
    place: str = ""  # for people: the shard and the key
    url: str = ""  # of the shard
    file: BinaryIO | None = field(default=None, compare=False, repr=False)  # stays open while a sample refers to it

    def read(self, suffixes: Collection[str] = READ) -> dict[str, Any]:
        """The bytes of its members with these suffixes, and "__key__"; moves the file's position."""
        if self.fault:
            raise BadSample(self.fault)
        found: dict[str, Any] = {"__key__": self.key}
        for suffix in self.members.keys() & suffixes:
            offset, size = self.members[suffix]
            assert self.file is not None  # only a sample with a fault has none
            try:
                self.file.seek(offset)
                found[suffix] = self.file.read(size)
            except OSError as error:
                raise BadSample("unreadable shard") from error
            if len(found[suffix]) < size:
                raise BadSample(CUT)
        return found

    def is_still(self) -> bool:
        """Whether its clip is a WebP that is not animated, by its first bytes; moves the file's position."""
        if self.file is None or self.members.keys() & _CLIPS != {"webp"}:
            return False
        self.file.seek(self.members["webp"].offset)
        return is_still_webp(self.file.read(21))


def read_samples(file: BinaryIO, name: str = "", images: bool = False) -> Iterator[Sample]:
    """Find the samples of an uncompressed tar file, in its order.

    A sample with a fault is given, too, so that all readers count alike: "no video" (nor latents), "member twice",
    "hostile name" (leads out of its folder, or cannot be printed), "sparse member", "too large", and "truncated shard"
    for the last one of a file that is cut off or damaged there. A file that is no tar file is one sample, "unreadable
    shard". A key that comes again later in the file is another sample and gets a number. The file needs a descriptor;
    `name` is its name in errors. With `images`, a still image in place of a video is a sample, too.
    """
    times: Counter[str] = Counter()
    for key, group in groupby(_with_dots(_members(file, READ if images else SUFFIXES)), itemgetter(0)):
        members: dict[str, Member] = {}
        fault = ""
        for _, rest, member in group:
            if isinstance(member, str):
                fault = fault or member
            elif rest in members:
                fault = fault or "member twice"
            else:
                members[rest] = member
        members = {suffix_of(rest): members[rest] for rest in sorted(members, key=_rank, reverse=True)}
        if members.keys().isdisjoint(_CLIPS):
            fault = fault or (NO_VIDEO if members.keys().isdisjoint(IMAGE_SUFFIXES) else "")
        else:  # an image next to a video is its thumbnail
            members = {suffix: member for suffix, member in members.items() if suffix in SUFFIXES}
        times[key] += 1
        if times[key] > 1:
            key = f"{key}~{times[key]}"
        yield Sample(key, members, fault, f"{name} {key}", name, file)


_Found = tuple[str, str, Member | str]
"""Key, the rest of the name as "mp4" or "video.mp4", and the place of a member or why it cannot be read."""


def suffix_of(name: str) -> str:
    """The suffix of a name in lower case and without its dot, as "mp4"; of a name without dots all of it."""
    return name.rpartition(".")[2].lower()


def _rank(rest: str) -> int:
    name = rest.rpartition(".")[0]
    return FIELDS.index(name) + 1 if name else 0


def _with_dots(members: Iterator[_Found]) -> Iterator[_Found]:
    """Members whose key has no dots, or is that of a clip (`a.720p`); others, as `a.mask.json`, are ignored."""
    current: str | None = None
    waiting: list[_Found] = []  # what comes before the clip that it may belong to
    for found in members:
        key, rest, member = found
        dotted = "." in key.rpartition("/")[2]
        if not rest and current is not None and key.startswith(f"{current}."):
            yield current, rest, member  # a fault of the file, in a member that is ignored
        elif not dotted or suffix_of(rest) in _CLIPS or not rest:
            yield from (one for one in waiting if one[0] == key)
            current, waiting = key, []
            yield found
        elif key == current:
            yield found
        else:
            waiting = [*(one for one in waiting if one[0] == key), found][-len(SUFFIXES) :]


def _members(file: BinaryIO, seen: Collection[str]) -> Iterator[_Found]:
    """The members that are read, keyed by their name without suffix and field; at the end a fault of the file."""
    size = os.fstat(file.fileno()).st_size
    key: str | None = None
    member: Member | str
    for header in _headers(file):
        if isinstance(header, str):
            if header != CUT or key is not None:
                yield key or "file", "", header  # the last sample's other members may be missing
            return
        name = header.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        base, _, rest = name.rpartition(".")
        stem, _, last = base.rpartition(".")
        if last.lower() in FIELDS:
            base, rest = stem, f"{last}.{rest}"
        own = re.match(r"__[^/]*__($|/)", name)  # names like `__meta__/...` are webdataset's own
        plain = not base.rpartition("/")[2].startswith(".")
        if own or not header.isreg() or not base.rpartition("/")[2] or not plain or suffix_of(rest) not in seen:
            continue
        key, member = base, Member(header.offset_data, header.size)
        if name.startswith("/") or ".." in name.split("/") or len(name) > _MAX_NAME or not name.isprintable():
            key, member = base.encode("unicode_escape").decode()[:_MAX_NAME], "hostile name"
        elif header.issparse():
            member = "sparse member"
        elif header.offset_data + header.size > size:
            member = CUT
        elif header.size > MAX_MEMBER_BYTES:
            member = "too large"
        yield key, rest.lower(), member


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo | str]:
    """The headers of a tar file in order; at last the fault of another file, or of one without an archive's end."""
    fault = "unreadable shard"
    try:
        file.seek(0)
        bounded: Any = _BoundedReader(file)  # has all that tarfile needs of a file
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            fault, offset = CUT, -1
            while (header := tar.next()) is not None and tar.offset > offset and header.size >= 0:
                offset = tar.offset  # a header with a negative size would lead back, for ever
                yield header
                tar.members = []  # type: ignore[attr-defined]  # headers of a long shard need not be kept
            file.seek(tar.offset)
            if header is None and file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
                return
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, RecursionError, LookupError):
        pass  # what a damaged or crafted header does to tarfile; what came before it is still good
    yield fault


class _BoundedReader:
    """A file for tarfile that refuses to read more than 1 MiB at once, whatever size a header claims for another."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)
