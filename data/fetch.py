"""Downloads that survive bad connections: a file over http(s), or what a command prints, whole or not at all.

A failed try is followed by another after a pause. It resumes where the last one ended if the server can do that. The
result is always one version of the file.
"""

import random
import re
import subprocess
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, InvalidURL
from ssl import SSLCertVerificationError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request

from cmd_lightning import __version__
from cmd_lightning.data.connection import STALL_BYTES, PipeReader, StallGuard, web_opener
from cmd_lightning.errors import InputError, reason

Put = Callable[[int, bytes, int | None], object]  # (at, data, total), see `download`

CHUNK = 2**20  # bytes held in memory at a time
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled from try to try
LONGEST_ADVICE = 300.0  # seconds that a server's Retry-After is followed for

_SILENT = 3  # tries in a row that may fail before a word is said
_FAILED_TRY = (OSError, HTTPException, subprocess.TimeoutExpired)
_chance = random.SystemRandom()  # not the seeded one, and another in each worker
_pause = time.sleep


class FetchError(InputError):
    """A file could not be fetched; the text has its address, the reason and the number of tries."""


class MissingError(FetchError):
    """The server has no such file (404, 410), or does not give it (403, which S3 answers for missing files)."""


def download(
    url: str,
    put: Put,
    *,
    size: int | None = None,
    attempts: int = 8,
    timeout: float = 30.0,
    allow_commands: bool = False,
) -> int:
    """Fetch a file whole, in as many tries as it needs.

    Args:
        url: An http(s) address; or `pipe:COMMAND`, gs://... and what else webdataset runs a command for.
        put: Takes the next bytes as `put(at, data, total)`: `at` is their place in the file, which is where the last
            ones ended, or 0 when the file comes from its start again; `total` is the size of the whole in bytes, None
            while it is unknown. What it raises ends the download, but an `OSError` counts as a failed try.
        size: Bytes that the index says it has; None where nothing is known.
        attempts: Consecutive failures without 1 kB of progress after which it gives up.
        timeout: Seconds of waiting in which a connection or command must give at least 1 kB.
        allow_commands: Run commands.

    Returns:
        The size of the file in bytes. Bytes put beyond it are left from an earlier try.
    """
    if url.partition(":")[0].lower() in ("http", "https"):
        transfer: _Transfer = _Web(url, put, size, timeout)
    elif allow_commands:
        transfer = _Command(url, put, size, timeout)
    else:
        raise InputError(
            f"data.remote.allow_commands false: {url} stands for a command, which runs only where this is true; "
            "else give an http(s) address"
        )
    failed = farthest = 0
    while True:
        try:
            transfer.run()
            return transfer.position
        except _FAILED_TRY as error:
            failed = 1 if transfer.position >= farthest + STALL_BYTES else failed + 1
            farthest = max(farthest, transfer.position)
            if failed >= attempts:
                raise transfer.failure(error, failed) from error
            if failed == _SILENT:
                warnings.warn(f"{url}: {failed} tries failed ({reason(error)}); trying again", stacklevel=2)
            longest = min(FIRST_PAUSE * 2.0 ** min(failed - 1, 60), LONGEST_PAUSE)
            _pause(max(longest * _chance.uniform(0.5, 1), _advice(error)))


@dataclass
class _Transfer(ABC):
    """The tries of one download: `run` is one, `position` the number of bytes put so far."""

    url: str
    put: Put
    size: int | None
    timeout: float
    position: int = 0

    @abstractmethod
    def run(self) -> None:
        """Make one try; returns when the whole file has been put, and raises `FetchError` if no other try can help."""

    def append(self, data: bytes, total: int | None) -> None:
        end = self.position + len(data)
        if self.size is not None and end > self.size:
            raise self.outdated(f"more than {self.size}")
        self.put(self.position, data, total)
        self.position = end

    def failure(self, error: BaseException, tries: int = 1, kind: type[FetchError] = FetchError) -> FetchError:
        cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        why = reason(cause) if isinstance(cause, BaseException) else str(cause)
        times = f", {tries} tries" if tries > 1 else ""
        return kind(f"{self.url}: cannot be read ({why}{times}); check the address and what answers it")

    def outdated(self, found: object) -> FetchError:
        return FetchError(
            f"{self.url}: has {found} bytes, {self.size} by its index, which is out of date; "
            "make index.json anew with `shards check`"
        )


class _Web(_Transfer):
    """Over http(s): each try asks for the bytes that are still missing."""

    version: tuple[str | None, str | None] = (None, None)  # ETag and Last-Modified of the bytes put so far
    total: int | None = None  # bytes of the whole, if the server gives it

    def run(self) -> None:
        with self._ask() as reply:
            self._accept(reply)
            if None not in (self.size, self.total) and self.size != self.total:
                raise self.outdated(self.total)
            known = self.size if self.total is None else self.total
            while self.total is None or self.position < self.total:
                chunk = reply.read1(CHUNK if self.total is None else min(CHUNK, self.total - self.position))
                if not chunk:
                    break
                self.append(chunk, known)
        if self.total is None and (reply.chunked or known is None):
            known = self.position  # a last chunk came, or only the end itself shows that this is all
        if self.position != known:
            raise OSError(f"ended after {self.position} of {known} bytes")
        if self.size not in (None, known):
            raise self.outdated(known)

    def _ask(self) -> Any:
        headers = {"User-Agent": f"cmd-lightning/{__version__}"}
        if self.position:
            headers["Range"] = f"bytes={self.position}-"
            etag, modified = self.version
            condition = modified if etag is None or etag.startswith("W/") else etag  # a weak one is not allowed here
            if condition:
                headers["If-Range"] = condition
        try:
            return web_opener().open(Request(self.url, headers=headers), timeout=self.timeout)
        except HTTPError as error:
            error.close()
            if error.code == 416 and self.position:
                self.position = 0
            elif error.code not in (408, 429) and error.code < 500:
                raise self.failure(error, kind=MissingError if error.code in (403, 404, 410) else FetchError) from error
            raise
        except URLError as error:
            if isinstance(error.reason, str | SSLCertVerificationError):  # words are of an address that cannot be
                raise self.failure(error) from error
            raise
        except (ValueError, InvalidURL) as error:
            raise self.failure(error) from error

    def _accept(self, reply: HTTPResponse) -> None:
        """Take note of what comes: the rest of the file, or the file from its start."""
        version = reply.headers.get("ETag"), reply.headers.get("Last-Modified")
        if reply.status in (200, 203):
            self.position, self.version, self.total = 0, version, reply.length
            return
        if reply.status != 206:
            raise OSError(f"HTTP status {reply.status} instead of a file")
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
        same = all(a == b for a, b in zip(self.version, version, strict=True) if a and b)
        if not (part and same and int(part[1]) == self.position and self.total in (None, int(part[2]))):
            self.position = 0
            raise OSError("the file changed between two tries, or another part came than was asked for")
        self.total = int(part[2])


class _Command(_Transfer):
    """The output of a command, from its start in each try; the try counts if the command ends with code 0."""

    def run(self) -> None:
        self.position = 0
        source = self._start()
        stream, process = getattr(source, "stream", source), getattr(source, "proc", None)
        try:
            output = StallGuard(PipeReader(stream.fileno(), self.timeout), self.timeout)
            while chunk := output.read(CHUNK):
                self.append(chunk, self.size)
            if process is not None and process.wait(self.timeout) != 0:
                raise OSError(f"exit code {process.returncode}")
        finally:
            stream.close()
            if process is not None:
                process.kill()
                process.wait()
        if self.size not in (None, self.position):
            raise self.outdated(self.position)

    def _start(self) -> Any:
        from webdataset.gopen import gopen

        try:
            return gopen(self.url)
        except ValueError as error:
            raise InputError(
                f"{self.url}: webdataset runs no command for it ({reason(error)}); write pipe:COMMAND instead"
            ) from error
        except (FileNotFoundError, ImportError) as error:  # no such program, file or package
            raise self.failure(error) from error
        except Exception as error:  # of whatever library asks for the address of the file
            raise OSError(reason(error)) from error


def _advice(error: BaseException) -> float:
    """Seconds that the server asks to wait, by a number or a date in Retry-After; 0 if it does not ask."""
    value = (isinstance(error, HTTPError) and error.headers.get("Retry-After")) or ""
    try:
        seconds = int(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), LONGEST_ADVICE)
