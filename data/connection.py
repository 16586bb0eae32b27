"""Connections that end when almost nothing comes through them: those of http(s), and the output of a command.

A socket time-out ends a silent connection. A server that gives a byte each second would keep a reader for ever.
"""

import io
import select
import time
from functools import cache
from http.client import HTTPResponse
from typing import Any
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

STALL_BYTES = 1000  # fewer in the seconds given are a stall


class StallGuard(io.RawIOBase):
    """A stream that must not stall; it closes the raw one with itself.

    Raises `TimeoutError` if less than 1 kB arrives within `seconds` of waiting; time between reads is not counted.
    """

    def __init__(self, raw: io.RawIOBase, seconds: float) -> None:
        self._raw, self._seconds = raw, seconds
        self._waited, self._came = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._waited > self._seconds:
            if self._came < STALL_BYTES:
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


class PipeReader(io.FileIO):
    """Reads a pipe, which stays open, with a time-out like that of a socket: a `TimeoutError` after so many seconds."""

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
    """Applies the stall limit from the status line on; a socket time-out never fires on a dripping server."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(StallGuard(self.fp.detach(), sock.gettimeout()))


class _Handler(HTTPHandler, HTTPSHandler):
    """Opens http and https with `_Reply`."""

    def do_open(self, http_class: Any, req: Request, **http_conn_args: Any) -> HTTPResponse:
        guarded: Any = type(http_class.__name__, (http_class,), {"response_class": _Reply})
        return super().do_open(guarded, req, **http_conn_args)


@cache
def web_opener() -> OpenerDirector:
    """An opener for http(s) and nothing else, also after a redirect: urllib's own would read file:// and ftp://."""
    opener = OpenerDirector()
    opener.add_handler(_Handler())
    for kind in (ProxyHandler, UnknownHandler, HTTPDefaultErrorHandler, HTTPRedirectHandler, HTTPErrorProcessor):
        opener.add_handler(kind())
    return opener
