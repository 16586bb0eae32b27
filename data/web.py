"""Files over http(s): each try asks for the bytes that are still missing, of the same version of the file."""

import os
import re
import time
from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from cmd_lightning import __version__
from cmd_lightning.data.fetch import FetchError, MissingError, Transfer

LONGEST_ADVICE = 300.0  # seconds that a server's Retry-After is followed for


class Web(Transfer):
    """A file of a web server; redirects lead to http(s) only."""

    _version: tuple[str | None, str | None] = (None, None)  # ETag and Last-Modified of the bytes put so far

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        url, headers = await self._address()
        headers |= {"User-Agent": f"cmd-lightning/{__version__}", "Accept-Encoding": "identity"}
        if self.position:
            headers["Range"] = f"bytes={self.position}-"
            etag, modified = self._version
            condition = modified if etag is None or etag.startswith("W/") else etag  # a weak one is not allowed here
            if condition:
                headers["If-Range"] = condition
        no_limit = aiohttp.ClientTimeout()
        async with aiohttp.ClientSession(timeout=no_limit, trust_env=True, auto_decompress=False) as session:
            try:
                if not re.fullmatch(r"[!-~]+", url):
                    raise ValueError("a character in it must be written as %XX")
                reply = await session.get(URL(url, encoded=True), headers=headers)
            except (ValueError, aiohttp.NonHttpUrlClientError, aiohttp.ClientConnectorCertificateError) as error:
                raise self.failure(error) from error
            except aiohttp.ClientConnectorError as error:  # its words leave out the reason
                code = error.errno or 0
                raise OSError(os.strerror(code) if code > 0 else error.strerror) from error
            async with reply:
                self._accept(reply)
                ended = True
                try:
                    async for piece in reply.content.iter_any():
                        yield piece
                except aiohttp.ClientPayloadError:
                    ended = False
        whole = self.total
        if whole is None:  # a chunked body shows its end; else only the size by the index tells whether this is all
            chunked = "chunked" in reply.headers.get("Transfer-Encoding", "").lower()
            whole = self.position if ended and (chunked or self.size is None) else self.size
        if self.position != whole:
            raise OSError(f"ended after {self.position} of {whole or '?'} bytes")

    async def _address(self) -> tuple[str, dict[str, str]]:
        """The address to ask, and headers for it."""
        return self.url, {}

    def _accept(self, reply: aiohttp.ClientResponse) -> None:
        """Note what comes: the rest of the file, or the file from its start; or raise what is wrong."""
        code, problem = reply.status, f"HTTP Error {reply.status}: {reply.reason}"
        version = reply.headers.get("ETag"), reply.headers.get("Last-Modified")
        if code in (200, 203):
            self.position, self._version, self.total = 0, version, None
            if reply.content_length is not None:
                self.expect(reply.content_length)
        elif code == 206:
            part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
            same = all(a == b for a, b in zip(self._version, version, strict=True) if a and b)
            if not (part and same and int(part[1]) == self.position and self.total in (None, int(part[2]))):
                self.position = 0
                raise OSError("the file changed between two tries, or another part came than was asked for")
            self.expect(int(part[2]))
        elif code in (408, 429) or code >= 500:
            self.advice = _advice(reply.headers.get("Retry-After", ""))
            raise OSError(problem)
        elif code == 416 and self.position:
            self.position = 0
            raise OSError(problem)
        elif code >= 400:
            raise self.failure(problem, kind=MissingError if code in (403, 404, 410) else FetchError)
        else:
            raise OSError(f"HTTP status {code} instead of a file")


def _advice(value: str) -> float:
    """Seconds that the server asks to wait, by a number or a date; 0 if it does not ask."""
    try:
        seconds = int(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), LONGEST_ADVICE)
