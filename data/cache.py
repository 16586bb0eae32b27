"""Local copies of remote shards, in a folder of bounded size that any number of processes share.

A copy is fetched as a hidden part file that its process holds locked, and gets its own name when it is whole. Another
process that wants the shard waits for the lock. A killed process leaves nothing that could pass for a shard.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cmd_lightning.atomic_files import is_same_file
from cmd_lightning.data.fetch import FetchError, MissingError, Put, download
from cmd_lightning.errors import InputError, reason

_COPY, _PART = "shard-", ".part-"
_OURS = re.compile(rf"({_COPY}|{re.escape(_PART)})[0-9a-f]{{16}}-[\w.-]*", re.ASCII)
_MOST_IN_MEMORY = 2**28  # bytes: the index of a million shards
_STEP = 2**24  # bytes; room for a file of unknown size is made in such steps, as each looks through the folder


@dataclass(frozen=True)
class ShardCache:
    """How remote shards are fetched and where their copies are kept.

    Removing a copy leaves it to those who have it open, and several processes may fetch at once: while they do, more
    than `gigabytes` can be in use.

    Attributes:
        folder: Where the copies are; None is `cmd-lightning/shards` in $XDG_CACHE_HOME or ~/.cache. Other files in
            it are left alone.
        gigabytes: 10**9 bytes that the copies may take; the least recently used ones are removed first.
        attempts: Consecutive failures without 1 kB of progress after which it gives up.
        timeout: Seconds without 1 kB of progress after which a try is given up.
        allow_commands: Also run what `pipe:COMMAND` and addresses such as gs:// stand for.

    Raises:
        InputError: A value is out of range.
    """

    folder: str | None = None
    gigabytes: float = 50.0
    attempts: int = 8
    timeout: float = 30.0
    allow_commands: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.gigabytes <= 1e9:
            raise InputError(
                f"remote.gigabytes {self.gigabytes}: must be above 0 and at most 1e9, and hold one shard at least"
            )
        if self.attempts < 1:
            raise InputError(f"remote.attempts {self.attempts}: must be 1 or more")
        if not 0 < self.timeout <= 86400:
            raise InputError(f"remote.timeout {self.timeout}: must be above 0 and at most 86400 seconds")

    def open(self, url: str, size: int | None = None) -> BinaryIO:
        """The local copy of a shard, opened for reading; it is fetched if there is none of this size.

        It stays readable when it is removed from the folder.

        Raises:
            FetchError: The shard cannot be had, or has another size.
            InputError: It needs a command and these are not allowed; it is larger than all copies may be; or the
                folder cannot be used, as where the disk is full.
        """
        folder = self.place()
        # A hash, then the name of the shard for people to read.
        base = re.sub(r"[^\w.-]+", "_", re.split(r"[?#]", url)[0].rpartition("/")[2], flags=re.ASCII)
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{base[-80:]}"
        copy, part = folder / f"{_COPY}{name}", folder / f"{_PART}{name}"
        with _folder_errors(folder):
            while (file := _reuse(copy, size)) is None:
                folder.mkdir(parents=True, exist_ok=True)
                with _locked(part) as descriptor:
                    if descriptor is None:  # another process had it while this one waited
                        continue
                    if file := _reuse(copy, size):
                        return file
                    copy.unlink(missing_ok=True)  # of another size
                    fetched = _Part(self, url, part, descriptor)
                    return fetched.commit(self._download(url, fetched.put, size), copy)
            return file

    def read(self, url: str) -> bytes | None:
        """A small file, in memory; None where the server says that it has none (404, 410; S3: 403)."""
        memory = bytearray()

        def put(at: int, data: bytes, total: int | None) -> None:
            if at + len(data) > _MOST_IN_MEMORY:
                raise FetchError(f"{url}: has more than {_MOST_IN_MEMORY >> 20} MB; check what answers this address")
            memory[at:] = data

        try:
            return bytes(memory[: self._download(url, put)])
        except MissingError:
            return None

    def _download(self, url: str, put: Put, size: int | None = None) -> int:
        return download(
            url, put, size=size, attempts=self.attempts, timeout=self.timeout, allow_commands=self.allow_commands
        )

    def place(self) -> Path:
        """The folder of the copies."""
        default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "cmd-lightning", "shards")
        folder = Path(self.folder) if self.folder else default
        try:
            return folder.expanduser()
        except RuntimeError as error:
            raise InputError(f"remote.folder {folder}: no home folder is known; name another") from error


class _Part:
    """A shard being fetched. Its file is as long as the room kept for it, so that other processes count with that."""

    def __init__(self, cache: ShardCache, url: str, path: Path, descriptor: int) -> None:
        self._gigabytes, self._limit = cache.gigabytes, round(cache.gigabytes * 1e9)
        self._url, self._path, self._descriptor = url, path, descriptor
        self._room = 0
        os.ftruncate(descriptor, 0)  # what a killed process left

    def put(self, at: int, data: bytes, total: int | None) -> None:
        """Write the next bytes, as `download` hands them over."""
        end = at + len(data)
        with _folder_errors(self._path.parent):
            if total is not None:
                self._reserve(total)
            elif end > self._room:
                self._reserve(max(end, min(end + _STEP, self._limit)))
            left = memoryview(data)
            while left:
                left = left[os.pwrite(self._descriptor, left, end - len(left)) :]

    def commit(self, size: int, copy: Path) -> BinaryIO:
        """Cut the file to its size, give it the name of the copy, and open that before others can remove it."""
        os.ftruncate(self._descriptor, size)
        os.fsync(self._descriptor)
        os.replace(self._path, copy)
        return os.fdopen(os.dup(self._descriptor), "rb")

    def _reserve(self, room: int) -> None:
        if room > self._limit:
            raise InputError(
                f"remote.gigabytes {self._gigabytes}: {self._url} alone has {room / 1e9:.3g} GB or more; "
                "raise it to hold some shards at a time"
            )
        if room != self._room:
            _make_room(self._path, room, self._limit)
            self._room = room


def _reuse(copy: Path, size: int | None) -> BinaryIO | None:
    """Open a copy and note that it was used; None if it is missing or of another size."""
    try:
        file = open(copy, "rb")  # noqa: SIM115  # handed out open
    except FileNotFoundError:
        return None
    if size is not None and os.fstat(file.fileno()).st_size != size:
        file.close()
        return None
    with suppress(OSError):  # removed, or in a folder that others fill
        os.utime(copy)
    return file


def _make_room(own: Path, wanted: int, limit: int) -> None:
    """Make `own` as long as `wanted`; first remove copies, the least recently used first, until all fits."""
    with open(own.parent / ".lock", "a") as folder_lock:
        fcntl.flock(folder_lock, fcntl.LOCK_EX)
        used, copies = wanted, []
        for path in own.parent.iterdir():
            if path == own or not _OURS.fullmatch(path.name):
                continue
            is_part = path.name.startswith(_PART)
            if is_part:
                with suppress(PermissionError), _locked(path, wait=False):
                    pass  # what no process holds is removed
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
def _locked(part: Path, *, wait: bool = True) -> Iterator[int | None]:
    """Lock a part file, creating it if needed, for its descriptor; delete it on exit unless it was renamed.

    The descriptor is None if another process holds the file, or held it while this one waited.
    """
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    held = False
    try:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = is_same_file(part, descriptor)
        yield descriptor if held else None
    finally:
        if held and is_same_file(part, descriptor):
            part.unlink()
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a child was forked meanwhile
        os.close(descriptor)


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """Turns an `OSError` of the folder into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"remote.folder {folder}: cannot be used ({reason(error)}); free space there, lower remote.gigabytes, "
            "or name a folder that can be written"
        ) from error
