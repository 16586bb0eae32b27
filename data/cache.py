"""Local copies of remote shards, in a folder of bounded size that any number of processes share.

A copy is fetched as a hidden part file while its process holds a lock, and gets its own name when it is whole. Another
process that wants the shard waits for the lock. A killed process leaves nothing that could pass for a shard.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from cmd_lightning.atomic_files import held
from cmd_lightning.data.fetch import FetchError, FetchOptions, MissingError, download
from cmd_lightning.errors import InputError, reason

_COPY, _PART, _LOCK = "shard-", ".part-", ".lock"
_OURS = re.compile(rf"({_COPY}|{re.escape(_PART)})[0-9a-f]{{16}}-[\w.-]*", re.ASCII)
_MOST_IN_MEMORY = 2**28  # bytes: the index of a million shards
_STEP = 2**24  # bytes; room for a file of unknown size is made in such steps, as each looks through the folder


@dataclass(frozen=True)
class ShardCache(FetchOptions):
    """How remote shards are fetched and where their copies are kept.

    Removing a copy leaves it to those who have it open, and several processes may fetch at once: while they do, more
    than `gigabytes` can be in use.

    Attributes:
        folder: Where the copies are; None is `cmd-lightning/shards` in $XDG_CACHE_HOME or ~/.cache. Other files in
            it are left alone.
        gigabytes: 10**9 bytes that the copies may take; the least recently used ones are removed first.

    Raises:
        InputError: A value is out of range.
    """

    folder: str | None = None
    gigabytes: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gigabytes <= 1e9:
            raise InputError(f"remote.gigabytes {self.gigabytes}: must be above 0 and at most 1e9; give e.g. 50")

    def open(self, url: str, size: int | None = None) -> BinaryIO:
        """The local copy of a shard, fetched if it is missing or of another size; readable also if it is removed later.

        Raises:
            FetchError: The shard cannot be had, or has another size.
            InputError: It needs a command and these are not allowed; it is larger than all copies may be; or the
                folder cannot be used, as where the disk is full.
        """
        folder = self.place()
        # A hash, then the name of the shard for people to read.
        base = re.sub(r"[^\w.-]+", "_", re.split(r"[?#]", url)[0].rpartition("/")[2], flags=re.ASCII)
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{base[-80:]}"
        copy = folder / f"{_COPY}{name}"
        with _folder_errors(folder):
            if file := _reuse(copy, size):
                return file
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder / f"{_LOCK}-{name}"):
                return _reuse(copy, size) or self._fetch(url, size, copy, folder / f"{_PART}{name}")

    def read(self, url: str) -> bytes | None:
        """A small file, in memory; None where the server says that it has none, or does not give it."""
        memory = bytearray()

        def put(at: int, data: bytes, total: int | None) -> None:
            if at + len(data) > _MOST_IN_MEMORY:
                raise FetchError(f"{url}: has more than {_MOST_IN_MEMORY >> 20} MB; check what answers this address")
            memory[at:] = data

        try:
            return bytes(memory[: download(url, put, self)])
        except MissingError:
            return None

    def _fetch(self, url: str, size: int | None, copy: Path, part: Path) -> BinaryIO:
        """Fetch a shard, whose lock is held, as the file `part`: as long as the room kept for it, so that it counts."""
        limit, room = round(self.gigabytes * 1e9), 0

        def put(at: int, data: bytes, total: int | None) -> None:
            nonlocal room
            end = at + len(data)
            if total is None:
                total = max(end, min(end + _STEP, limit)) if end > room else room
            if total > limit:
                size = f"{total / 1e9:.3g} GB or more"
                raise InputError(f"remote.gigabytes {self.gigabytes}: {url} alone has {size}; raise it to hold some")
            with _folder_errors(part.parent):
                if total != room:
                    _make_room(part, total, limit)
                    room = total
                file.seek(at)
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]

        copy.unlink(missing_ok=True)  # of another size
        try:
            with open(part, "wb", buffering=0) as file:  # what a killed process left is emptied
                file.truncate(download(url, put, self, size))
                os.fsync(file.fileno())
            with FileLock(part.with_name(_LOCK)):  # until it is open nobody removes it
                os.replace(part, copy)
                return open(copy, "rb")
        finally:
            part.unlink(missing_ok=True)

    def place(self) -> Path:
        default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "cmd-lightning", "shards")
        folder = Path(self.folder) if self.folder else default
        try:
            return folder.expanduser()
        except RuntimeError as error:
            raise InputError(f"remote.folder {folder}: no home folder is known; name another") from error


def _reuse(copy: Path, size: int | None) -> BinaryIO | None:
    """Open a copy and note that it was used; None if it is missing or of another size."""
    with suppress(FileNotFoundError):
        file = open(copy, "rb")  # noqa: SIM115  # handed out open
        if size in (None, os.fstat(file.fileno()).st_size):
            with suppress(OSError):  # removed, or in a folder that others fill
                os.utime(copy)
            return file
        file.close()
    return None


def _make_room(own: Path, wanted: int, limit: int) -> None:
    """Extend the file `own` to the size `wanted`; before, remove the least recently used copies until all fits."""
    with FileLock(own.with_name(_LOCK), poll_interval=0.02):
        used, copies = wanted, []
        for path in own.parent.iterdir():
            if path == own or not _OURS.fullmatch(path.name):
                continue
            is_part = path.name.startswith(_PART)
            if is_part:  # what no process fetches is removed
                lock = path.with_name(path.name.replace(_PART, f"{_LOCK}-", 1))
                with suppress(Timeout, PermissionError), held(lock, timeout=0):
                    path.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                facts = path.stat()
                used += facts.st_size
                if not is_part:
                    copies.append((facts.st_mtime_ns, path, facts.st_size))
        for _, path, size in sorted(copies):
            if used <= limit:
                break
            with suppress(PermissionError):  # somebody else's: it stays, and counts
                path.unlink(missing_ok=True)
                used -= size
        os.truncate(own, wanted)


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """Turns an `OSError` of the folder into an `InputError`."""
    try:
        yield
    except OSError as error:
        remedy = "free space there, lower remote.gigabytes, or name another folder"
        raise InputError(f"remote.folder {folder}: cannot be used ({reason(error)}); {remedy}") from error
