"""Local copies of remote shards, in a folder of bounded size that any number of processes share.

A copy is fetched under a hidden name that its process holds locked, and gets its own name when it is whole: another
process that wants it waits for the lock, and one that is killed leaves nothing that could pass for a shard.
"""

import fcntl
import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cmd_lightning.data.fetch import MissingError, download
from cmd_lightning.errors import InputError, reason

_COPY, _PART = "shard-", ".part-"
_OURS = re.compile(rf"({_COPY}|{re.escape(_PART)})[0-9a-f]{{16}}-[\w.-]*", re.ASCII)
_STEP = 2**24  # bytes: room is made in such steps for a file of unknown size


@dataclass(frozen=True)
class ShardCache:
    """How remote shards are fetched and where their copies are kept.

    Removing a copy leaves it to those who have it open, and several processes may fetch at once: while they do, more
    than `gigabytes` can be in use.

    Attributes:
        folder: of the copies; None is `cmd-lightning/shards` in $XDG_CACHE_HOME or ~/.cache. Other files in it are
            left alone.
        gigabytes: 10**9 bytes that the copies may take; the least recently used ones are removed first.
        attempts: tries that may fail in a row, without getting farther in the file, before it counts as unreadable.
        timeout: seconds without 1 kB of progress after which a try is given up.
        allow_commands: also run what `pipe:COMMAND` and addresses such as gs:// stand for.

    Raises:
        InputError: a value is out of range.
    """

    folder: str | None = None
    gigabytes: float = 50.0
    attempts: int = 8
    timeout: float = 30.0
    allow_commands: bool = False

    def __post_init__(self) -> None:
        if not self.gigabytes > 0:
            raise InputError(f"remote.gigabytes {self.gigabytes}: must be above 0, and hold one shard at least")
        if self.attempts < 1:
            raise InputError(f"remote.attempts {self.attempts}: must be 1 or more")
        if not 0 < self.timeout <= 86400:
            raise InputError(f"remote.timeout {self.timeout}: must be above 0 and at most 86400 seconds")

    def open(self, url: str, size: int | None = None) -> BinaryIO:
        """The local copy of a shard, fetched if there is none.

        Args:
            url: an address, or `pipe:COMMAND`.
            size: bytes that the index says it has. A copy of another size is fetched anew; where it is None, any is
                taken.

        Returns:
            The copy, opened for reading at its start; it stays readable when it is removed from the folder.

        Raises:
            FetchError: the shard cannot be had, or has another size.
            InputError: it needs a command and these are not allowed; it is larger than all copies may be; or the
                folder cannot be used, as where the disk is full.
        """
        folder = self._folder()
        name = _name(url)
        copy, part = folder / f"{_COPY}{name}", folder / f"{_PART}{name}"
        with _told(folder):
            while (file := _reuse(copy, size)) is None:
                folder.mkdir(parents=True, exist_ok=True)
                with _locked(part) as descriptor:
                    if descriptor is not None:  # else another process had it while this one waited
                        return _reuse(copy, size) or self._fetch(url, size, copy, _Part(self, url, part, descriptor))
            return file

    def read(self, url: str) -> bytes | None:
        """A small file, into memory; no copy is kept.

        Returns:
            Its bytes; None where the server says that it has none (404, 410; S3: 403).

        Raises:
            FetchError: it cannot be had.
            InputError: it needs a command and these are not allowed.
        """
        memory = _Memory()
        try:
            download(url, memory, attempts=self.attempts, timeout=self.timeout, allow_commands=self.allow_commands)
        except MissingError:
            return None
        return memory.getvalue()

    def _fetch(self, url: str, size: int | None, copy: Path, part: "_Part") -> BinaryIO:
        copy.unlink(missing_ok=True)  # of another size
        download(url, part, size=size, attempts=self.attempts, timeout=self.timeout, allow_commands=self.allow_commands)
        return part.become(copy)

    def _folder(self) -> Path:
        default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "cmd-lightning", "shards")
        folder = Path(self.folder) if self.folder else default
        try:
            return folder.expanduser()
        except RuntimeError as error:
            raise InputError(f"remote.folder {folder}: no home folder is known; name another") from error


class _Memory(io.BytesIO):
    """A small file being fetched."""

    def expect(self, total: int) -> None:
        pass

    def restart(self) -> None:
        self.seek(0)
        self.truncate()


class _Part:
    """A shard being fetched; the file is as long as the room that is kept for it, so that others count with that."""

    def __init__(self, cache: ShardCache, url: str, path: Path, descriptor: int) -> None:
        self._cache = cache
        self._url = url
        self._path = path
        self._descriptor = descriptor
        self._position = 0
        self._room = 0
        os.ftruncate(descriptor, 0)  # what a killed process left

    def expect(self, total: int) -> None:
        limit = self._cache.gigabytes * 1e9
        if total > limit:
            raise InputError(
                f"remote.gigabytes {self._cache.gigabytes}: {self._url} alone has {total / 1e9:.3g} GB or more; "
                "raise it to hold some shards at a time"
            )
        if total != self._room:
            with _told(self._path.parent):
                _make_room(self._path, total, limit)
            self._room = total

    def write(self, data: bytes) -> None:
        end = self._position + len(data)
        if end > self._room:
            limit = int(min(self._cache.gigabytes * 1e9, 2.0**62))
            self.expect(max(end, min(end + _STEP, limit)))
        with _told(self._path.parent):
            left = memoryview(data)
            while left:
                written = os.pwrite(self._descriptor, left, end - len(left))
                left = left[written:]
        self._position = end

    def restart(self) -> None:
        self._position = 0

    def become(self, copy: Path) -> BinaryIO:
        """Give the whole file its name; opened through what is open, as others may remove it at once."""
        self.expect(self._position)
        os.fsync(self._descriptor)
        os.replace(self._path, copy)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return open(copy, "rb", opener=lambda *_: os.dup(self._descriptor))


def _name(url: str) -> str:
    """A name for the copy of an address, of which people can tell the shard."""
    base = re.sub(r"[^\w.-]+", "_", re.split(r"[?#]", url)[0].rpartition("/")[2], flags=re.ASCII)
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{base[-80:]}"


def _reuse(copy: Path, size: int | None) -> BinaryIO | None:
    """Open a copy that is there and as long as it should be, and note that it was used."""
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


def _make_room(own: Path, wanted: int, limit: float) -> None:
    """Make `own` as long as `wanted`; first remove copies, the least recently used first, until all fits."""
    with open(own.parent / ".lock", "a") as folder_lock:
        fcntl.flock(folder_lock, fcntl.LOCK_EX)
        used, copies = wanted, []
        for path in own.parent.iterdir():
            if not _OURS.fullmatch(path.name) or path == own or (_is_part(path) and _swept(path)):
                continue
            with suppress(FileNotFoundError):
                facts = path.stat()
                used += facts.st_size
                if not _is_part(path):
                    copies.append((facts.st_mtime_ns, path, facts.st_size))
        for _, path, size in sorted(copies):
            if used <= limit:
                break
            with suppress(PermissionError):  # somebody else's: it stays, and counts
                path.unlink(missing_ok=True)
                used -= size
        os.truncate(own, wanted)


def _is_part(path: Path) -> bool:
    return path.name.startswith(_PART)


def _swept(part: Path) -> bool:
    """Remove what a killed process left; whether it was that."""
    try:
        with _locked(part, wait=False) as descriptor:
            return descriptor is not None
    except PermissionError:
        return False


@contextmanager
def _locked(part: Path, *, wait: bool = True) -> Iterator[int | None]:
    """Hold a part, made where it is missing, as nobody else does; what still has that name in the end is removed.

    Yields:
        Its descriptor, for reading and writing; None where another process has it, or had it while this one waited.
    """
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    held = False
    try:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = _names(part, descriptor)
        yield descriptor if held else None
    finally:
        if held and _names(part, descriptor):
            part.unlink()
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a child was forked meanwhile
        os.close(descriptor)


def _names(path: Path, descriptor: int) -> bool:
    """Whether the path is that of the open file, and not of another or none."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What goes wrong with the folder, in words."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"remote.folder {folder}: cannot be used ({reason(error)}); free space there, lower remote.gigabytes, "
            "or name a folder that can be written"
        ) from error
