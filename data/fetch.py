"""Downloads that survive bad connections: a file at an address, or what a command prints, whole or not at all.

A failed try is followed by another after a pause. It resumes where the last one ended if the other side can do that.
The result is always one version of the file.
"""

import asyncio
import random
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from typing import Any

from cmd_lightning.errors import InputError, check_positive, reason

Put = Callable[[int, bytes, int | None], object]  # (at, data, total), see `download`

WEB = ("http", "https")
STORES = ("s3", "gs", "az", "hf")  # read through fsspec

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled from try to try
STALL_BYTES = 1000  # fewer in the seconds given are a stall

_chance = random.SystemRandom()  # not the seeded one, and another in each worker
_pause = time.sleep


class FetchError(InputError):
    """A file could not be fetched; the text has its address, the reason and the number of tries."""


class MissingError(FetchError):
    """There is no such file, or it is not given to us: servers may answer 403 for both."""


def protocol_of(url: str) -> str:
    """What an address begins with, such as "https"; "pipe" of a command, "" of a path."""
    protocol, separator, _ = url.partition("://")
    return "pipe" if url.startswith("pipe:") else protocol.lower() if separator else ""


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How files are fetched.

    Attributes:
        attempts: Consecutive failures without 1 kB of progress after which it gives up.
        timeout: Seconds without 1 kB of progress after which a try is given up.
        allow_commands: Also run `pipe:COMMAND`, and what else webdataset runs a command for.
        storage_options: Options of fsspec's file systems by protocol (s3, gs, az, hf), such as
            {"s3": {"endpoint_url": "https://minio.example"}}. Secret keys belong into the environment or a profile.

    Raises:
        InputError: A value is out of range.
    """

    attempts: int = 8
    timeout: float = 30.0
    allow_commands: bool = False
    storage_options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive(**{"remote.attempts": self.attempts})
        if not 0 < self.timeout <= 86400:
            raise InputError(f"remote.timeout {self.timeout}: must be above 0 and at most 86400 seconds")
        for protocol in self.storage_options.keys() - set(STORES):
            raise InputError(f"remote.storage_options {protocol}: no such protocol; there are {', '.join(STORES)}")


def download(url: str, put: Put, options: FetchOptions, size: int | None = None) -> int:
    """Fetch a file whole, in as many tries as it needs.

    Args:
        url: An address of `WEB` or `STORES`; or a command.
        put: Takes the next bytes as `put(at, data, total)`: `at` is their place in the file, which is where the last
            ones ended, or 0 when the file comes from its start again; `total` is the size of the whole in bytes, None
            while it is unknown. What it raises ends the download, but an `OSError` counts as a failed try.
        options: Tries, time limits and credentials.
        size: Bytes by the index; None where that is not known.

    Returns:
        The size of the file in bytes. Bytes put beyond it are left from an earlier try.
    """
    from aiohttp import ClientError
    from fsspec.asyn import get_loop, sync

    transfer = _transfer(url, options)(url, put, options, size)
    failed = farthest = 0
    while True:
        try:
            sync(get_loop(), transfer.run)
            return transfer.position
        except (OSError, ClientError) as error:
            failed = 1 if transfer.position >= farthest + STALL_BYTES else failed + 1
            farthest = max(farthest, transfer.position)
            if failed >= options.attempts:
                raise transfer.failure(error, failed) from error
            if failed == 3:
                warnings.warn(f"{url}: {failed} tries failed ({reason(error)}); trying again", stacklevel=2)
            longest = min(FIRST_PAUSE * 2.0 ** min(failed - 1, 60), LONGEST_PAUSE)
            _pause(max(longest * _chance.uniform(0.5, 1), transfer.advice))


def _transfer(url: str, options: FetchOptions) -> type["Transfer"]:
    from cmd_lightning.data.store import Hub, Store
    from cmd_lightning.data.web import Web

    found = dict.fromkeys(STORES, Store) | dict.fromkeys(WEB, Web) | {"hf": Hub}
    if protocol_of(url) not in found and not options.allow_commands:
        remedy = f"set it to true, or give an address of {', '.join(found)}"
        raise InputError(f"data.remote.allow_commands false: {url} stands for a command; {remedy}")
    return found.get(protocol_of(url), Command)


@dataclass
class Transfer(ABC):
    """The tries of one download."""

    url: str
    put: Put
    options: FetchOptions
    size: int | None
    position: int = 0  # number of bytes put so far
    total: int | None = None  # bytes of the whole, if the other side gives it
    advice: float = 0.0  # seconds that it asks to wait before the next try

    @abstractmethod
    def _pieces(self) -> AsyncGenerator[bytes, None]:
        """Give the bytes from `position`, or from 0 and set it to that; raises `FetchError` if no try can help."""

    async def run(self) -> None:
        """Make one try; returns when the whole file has been put.

        It fails if less than 1 kB comes in the seconds given, time in `put` not counted. The libraries' own time-outs
        never fire on a server that gives a byte each second.
        """
        came, left, self.advice = 0, self.options.timeout, 0.0
        async with aclosing(self._pieces()) as pieces:
            while True:
                began = time.monotonic()
                try:
                    async with asyncio.timeout(left):
                        piece = await anext(pieces, b"")
                except TimeoutError as error:
                    raise OSError(f"stalled: {came} bytes in {self.options.timeout:g} s") from error
                if not piece:
                    break
                came, left = came + len(piece), left - (time.monotonic() - began)
                if came >= STALL_BYTES:
                    came, left = 0, self.options.timeout
                end = self.position + len(piece)
                if self.size is not None and end > self.size:
                    raise self.outdated(f"more than {self.size}")
                self.put(self.position, piece, self.size if self.total is None else self.total)
                self.position = end
        self.expect(self.position)

    def expect(self, total: int) -> None:
        """Note the size of the whole that the other side gives."""
        if self.size not in (None, total):
            raise self.outdated(total)
        self.total = total

    def outdated(self, found: object) -> FetchError:
        return FetchError(
            f"{self.url}: has {found} bytes, {self.size} by its index, which is out of date; "
            "renew index.json with `shards check`"
        )

    def failure(self, why: object, tries: int = 1, kind: type[FetchError] = FetchError) -> FetchError:
        words = reason(why) if isinstance(why, BaseException) else why
        times = f", {tries} tries" if tries > 1 else ""
        return kind(f"{self.url}: cannot be read ({words}{times}); check the address and its server")


class Command(Transfer):
    """The output of a command, from its start in each try, which counts if the command ends with code 0.

    It is started by webdataset, but not read by it: that waits for ever and takes exit code 141 for success.
    """

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        from webdataset.gopen import gopen

        try:
            source = gopen(self.url)
            output, process = source.stream, source.proc
        except (ValueError, AttributeError) as error:
            raise InputError(f"{self.url}: webdataset runs no command for it; write pipe:COMMAND instead") from error
        self.position, reader = 0, asyncio.StreamReader()
        try:
            protocol = asyncio.StreamReaderProtocol(reader)
            pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, output)
            with closing(pipe):
                while piece := await reader.read(2**20):
                    yield piece
            if await asyncio.to_thread(process.wait):
                raise OSError(f"exit code {process.returncode}")
        finally:
            process.kill()
            process.wait()
