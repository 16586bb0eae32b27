"""Files of object stores, through the file systems of fsspec, which find credentials by themselves."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.core import url_to_fs

from cmd_lightning.data.fetch import FetchError, FetchOptions, MissingError, Transfer, protocol_of
from cmd_lightning.data.web import Web
from cmd_lightning.errors import InputError, reason

FIRST_RANGE, LARGEST_RANGE = 2**18, 2**24  # bytes asked for at once; each range is twice as long as the one before
_VERSION = ("size", "ETag", "etag", "generation", "LastModified", "last_modified", "mtime")


class Store(Transfer):
    """An object, in ranges: fsspec's streams cannot resume. Each try begins with short ones, for slow connections."""

    _version: Any = None  # of the bytes put so far

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        fs, path = open_store(self.url, self.options)
        with _sorted_errors(self.url):
            facts = await fs._info(path)
            size, version, length = facts["size"], _version(facts), FIRST_RANGE
            self.expect(size)
            if version != self._version:
                self._version, self.position = version, 0
            while self.position < size:
                end = min(self.position + length, size)
                piece = await fs._cat_file(path, start=self.position, end=end)
                if len(piece) != end - self.position:
                    raise OSError(f"ended after {self.position + len(piece)} of {size} bytes")
                yield piece
                length = min(2 * length, LARGEST_RANGE)
            if size > FIRST_RANGE and _version(await fs._info(path)) != version:
                raise OSError("the file changed while it was read")


class Hub(Web):
    """A file of the Hugging Face Hub: a web server that huggingface_hub knows the addresses and the token for."""

    async def _address(self) -> tuple[str, dict[str, str]]:
        from huggingface_hub.utils import build_hf_headers

        fs, path = open_store(self.url, self.options)
        with _sorted_errors(self.url):
            return await asyncio.to_thread(fs.url, path), build_hf_headers(token=fs.token)


def find_shards(url: str, options: FetchOptions) -> list[str]:
    """The shards that match a pattern, or are in a folder, by name; the address of one shard is not looked up.

    Raises:
        FetchError: The store cannot be asked, or does not answer.
    """
    is_shard = url.endswith(".tar")
    if is_shard and not re.search(r"[*?[]", url):
        return [url]
    fs, path = open_store(url, options)
    with _sorted_errors(url, final=True):
        fs.invalidate_cache()
        found = fs.glob(path if is_shard else f"{path.rstrip('/')}/*.tar")
    return [f"{protocol_of(url)}://{name}" for name in sorted(found)]


def open_store(url: str, options: FetchOptions) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        InputError: A package is missing, or the address or an option is wrong.
    """
    try:
        return url_to_fs(url, **options.storage_options.get(protocol_of(url), {}))
    except Exception as error:  # of whatever library takes the options
        missing = 'pip install "cmd-lightning[remote]"' if isinstance(error, ImportError) else ""
        remedy = missing or "check the address and data.remote.storage_options"
        raise InputError(f"{url}: cannot be opened ({reason(error)}); {remedy}") from error


def _version(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in _VERSION if name in facts}


@contextmanager
def _sorted_errors(url: str, *, final: bool = False) -> Iterator[None]:
    """Sorts the errors of all libraries: `OSError` where another try can help, unless `final`; else `FetchError`."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else "no access"
        raise MissingError(f"{url}: {what} ({reason(error)}); check the address and the credentials") from error
    except InputError:
        raise
    except Exception as error:
        code = getattr(getattr(error, "response", None), "status_code", None)
        if code in (401, 403) or re.search("Credential|Auth", type(error).__name__):
            raise FetchError(f"{url}: no access ({reason(error)}); check the credentials") from error
        if isinstance(error, TypeError):  # of an option that a file system passes on to its library
            raise FetchError(f"{url}: cannot be opened ({reason(error)}); check data.remote.storage_options") from error
        if final:
            raise FetchError(f"{url}: cannot be read ({reason(error)}); check the address and its server") from error
        raise OSError(reason(error)) from error
