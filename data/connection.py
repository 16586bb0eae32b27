"""Connections that end when nothing much comes through them: those of http(s), and the output of a command.

The time-out of a socket ends one that is silent. One that gives a byte each second would keep a reader for ever.
"""

import io
import select
import time
import urllib.request
from functools import cache
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any

LEAST = 1000  # bytes: fewer in the seconds given are a stall


class Paced(io.RawIOBase):
    """A stream that must not stall: time spent on what it gave does not count, only that spent on waiting for it.

    Reading raises `TimeoutError` when less than 1 kB came in so many seconds of waiting.

    Args:
        raw: the stream; closed with this one.
        seconds: of waiting.
    """

    def __init__(self, raw: io.RawIOBase, seconds: float) -> None:
        self._raw = raw
        self._seconds = seconds
        self._waited = 0.0
        self._came = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._waited > self._seconds:
            if self._came < LEAST:
                raise TimeoutError(f"stalled: {self._came} bytes in {self._waited:.3g} s")
            self._waited, self._came = 0.0, 0
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self._waited += time.monotonic() - began
        self._came += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class Output(io.FileIO):
    """What a command prints, with the time-out that sockets have.

    Args:
        descriptor: of the pipe; stays open.
        seconds: in which something must come.
    """

    def __init__(self, descriptor: int, seconds: float) -> None:
        super().__init__(descriptor, closefd=False)
        self._milliseconds = seconds * 1000
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def readinto(self, buffer: Any) -> int:
        if not self._poll.poll(self._milliseconds):
            raise TimeoutError("timed out")
        return super().readinto(buffer)


class _Reply(HTTPResponse):
    """Paced from the status line on: a time-out of a socket alone never ends a server that drips."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(Paced(self.fp.detach(), sock.gettimeout()))


class _HTTPConnection(HTTPConnection):
    response_class = _Reply


class _HTTPSConnection(HTTPSConnection):
    response_class = _Reply


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_HTTPConnection, request)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_HTTPSConnection, request)


@cache
def web_opener() -> urllib.request.OpenerDirector:
    """For http(s) and nothing else, also after a redirect: urllib's own one would read file:// and ftp://."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        _HTTPHandler,
        _HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener
