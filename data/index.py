"""The sidecar index: how many samples each shard holds and which of them are known to be bad.

`index.json` lies beside the shards: {"shards": {"000000.tar": {"bytes", "samples", "bad": {key: reason}}},
"classes": [names]}. `shards pack` and `shards check` write it, else the first use does from the tar headers.
"""

import json
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from cmd_lightning.atomic_files import replaced
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.tar import CUT, read_samples
from cmd_lightning.errors import InputError

INDEX_NAME = "index.json"
ASSUMED_SAMPLES = 1000  # what video2dataset puts into a shard, where nothing tells
_MOST_SAMPLES = 2**20  # of a shard, by its index: a stranger's must not make us count to 10 billion


@dataclass(frozen=True)
class Shard:
    """One tar file of samples.

    Attributes:
        url: path or address.
        samples: number of samples, the bad ones included.
        bad: reasons by the keys of the samples known to be bad.
        bytes: size of the file; None where it is not known.
        exact: False where the number is assumed: a remote shard without an index.
    """

    url: str
    samples: int
    bad: dict[str, str] = field(default_factory=dict)
    bytes: int | None = None
    exact: bool = True

    @property
    def good(self) -> int:
        """Samples not known to be bad."""
        return self.samples - len(self.bad)

    def open(self, remote: ShardCache) -> BinaryIO:
        """The file, for reading; of a remote shard the local copy.

        Raises:
            OSError: it cannot be opened.
            InputError: it cannot be fetched.
        """
        return remote.open(self.url, self.bytes) if is_remote(self.url) else open(self.url, "rb")


def is_remote(url: str) -> bool:
    """Whether the shard is an address ("https://...") or a command ("pipe:...") and not a path."""
    return "://" in url or url.startswith("pipe:")


def folder_of(url: str) -> str:
    """The folder, or the address, that a shard and its index lie in."""
    folder, separator, _ = _path_of(url).rpartition("/")
    return folder or separator or "."


def name_of(url: str) -> str:
    """The name of a shard in its folder."""
    return _path_of(url).rpartition("/")[2]


def query_of(url: str) -> str:
    """The query of a signed address, "?..." or empty."""
    return url[len(_path_of(url)) :]


def _path_of(url: str) -> str:
    """An address without its query, which may hold slashes; a path as it is."""
    return url.partition("?")[0] if is_remote(url) else url


def expand(shards: str | Sequence[str], option: str = "shards", *, allow_commands: bool = False) -> list[str]:
    """Resolve paths, globs, brace ranges ("{000000..000099}.tar"), folders of shards and http(s) addresses.

    Args:
        shards: one of these or a list of them.
        option: what the user calls it, for the error.
        allow_commands: take "pipe:COMMAND" and addresses of other kinds, for which webdataset runs commands, too.

    Returns:
        The shards in the order given; those of a glob or a folder in the order of their names.

    Raises:
        InputError: a path does not exist, a glob or folder has no shard, or nothing is left.
    """
    import braceexpand

    found: list[str] = []
    for spec in [shards] if isinstance(shards, str) else shards:
        try:
            urls = list(braceexpand.braceexpand(spec))
        except braceexpand.UnbalancedBracesError as error:
            raise InputError(f"{option} {spec}: a brace is left open; write {{000000..000009}}.tar") from error
        for url in urls:
            plain = ":" not in url or os.path.exists(url) or url.startswith(("http://", "https://"))
            if not plain and not (allow_commands and is_remote(url)):
                raise InputError(
                    f"{option} {url}: only paths and http(s) addresses are read; commands and other addresses only "
                    "with data.remote.allow_commands true (`shards check --allow-commands`)"
                )
            if url.startswith(("http://", "https://")) and "@" in urlsplit(url).netloc:
                raise InputError(
                    f"{option}: addresses with user:password@ are not read; sign the address, or use pipe:COMMAND"
                )
            if is_remote(url) or os.path.isfile(url):
                found.append(url)
            else:
                pattern = os.path.join(url, "*.tar") if os.path.isdir(url) else url
                matches = sorted(glob(pattern))
                if not matches:
                    raise InputError(f"{option} {url}: no such shard; check the path or run `shards pack`")
                found.extend(matches)
    if not found:
        raise InputError(f"{option}: no shards given; name .tar files, e.g. 'clips/{{000000..000009}}.tar'")
    return found


def load_index(urls: Sequence[str], *, write: bool = False, remote: ShardCache | None = None) -> list[Shard]:
    """Look shards up in the indexes beside them; scan those that are not there or have changed size.

    Args:
        urls: expanded paths and addresses.
        write: keep what was scanned in the index, where the folder can be written.
        remote: fetches the indexes of remote shards.

    Returns:
        The shards in the same order. Remote ones without an index are assumed to hold 1000 samples each and
        are marked as not exact.

    Raises:
        InputError: an index cannot be fetched, though its server does not say that there is none.
    """
    remote = remote or ShardCache()
    folders: dict[str, dict[str, Any]] = {}
    scanned: dict[str, list[Shard]] = {}
    shards = []
    for url in urls:
        folder, name = folder_of(url), name_of(url)
        if folder not in folders:
            folders[folder] = read_index(folder, remote, query_of(url))
        entry = folders[folder]["shards"].get(name)
        if entry and (is_remote(url) or entry["bytes"] == os.path.getsize(url)):
            shards.append(Shard(url, entry["samples"], entry["bad"], entry["bytes"]))
        elif is_remote(url):
            shards.append(Shard(url, ASSUMED_SAMPLES, exact=False))
        else:
            shards.append(scan(url))
            scanned.setdefault(folder, []).append(shards[-1])
    if write:
        for folder, found in scanned.items():
            if os.access(folder, os.W_OK):
                update_index(folder, found)
    return shards


def read_index(folder: str, remote: ShardCache | None = None, query: str = "") -> dict[str, Any]:
    """The index in a folder or under an address; an empty one where there is none, or none that makes sense.

    Args:
        folder: path or address.
        remote: fetches it.
        query: of its address, "?..." or empty.

    Raises:
        InputError: it cannot be fetched, though its server does not say that there is none.
    """
    path = Path(folder, INDEX_NAME)
    data = None
    if folder.startswith(("http://", "https://")):
        data = (remote or ShardCache()).read(f"{folder}/{INDEX_NAME}{query}")
    elif path.is_file():
        data = path.read_bytes()
    try:
        found = json.loads((data or b"{}").decode())
        shards = {name: _entry(**entry) for name, entry in found["shards"].items()}
        return {"shards": shards, "classes": list(found.get("classes", []))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {"shards": {}, "classes": []}  # nobody's, or damaged: scanning puts it right


def _entry(bytes: int, samples: int, bad: dict[str, str], **_: Any) -> dict[str, Any]:
    if not (type(bytes) is type(samples) is int and samples <= _MOST_SAMPLES):
        raise ValueError(f"{samples} samples in {bytes} bytes")
    if not 0 <= len(bad) <= samples <= bytes // 512 + 1:  # a sample has a header of 512 bytes at the least
        raise ValueError(f"{samples} samples in {bytes} bytes, {len(bad)} bad")
    return {"bytes": bytes, "samples": samples, "bad": {key: str(reason) for key, reason in bad.items()}}


def update_index(folder: str | Path, shards: Sequence[Shard], classes: Sequence[str] = ()) -> None:
    """Put shards into the index of their folder; other entries stay as they are."""
    index = read_index(str(folder))
    for shard in shards:
        entry = {"bytes": os.path.getsize(shard.url), "samples": shard.samples, "bad": shard.bad}
        index["shards"][os.path.basename(shard.url)] = entry
    index["shards"] = dict(sorted(index["shards"].items()))
    index["classes"] = list(classes) or index["classes"]
    with replaced(Path(folder, INDEX_NAME)) as temporary:
        temporary.write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def scan(url: str, file: BinaryIO | None = None) -> Shard:
    """Count the samples of a shard from its tar headers; nothing is decoded.

    Of a shard that was cut off, which a warning tells, the last sample counts as bad: it may lack members.

    Args:
        url: path or address.
        file: what it is read from, if that is not the path.

    Raises:
        OSError: the file cannot be opened.
    """
    with open(url, "rb") if file is None else nullcontext(file) as opened:
        faults = {sample.key: sample.fault for sample in read_samples(opened, url)}
        size = os.fstat(opened.fileno()).st_size
    bad = {key: fault for key, fault in faults.items() if fault}
    if CUT in bad.values():
        warnings.warn(f"{url}: cut off or damaged, samples are missing; fetch or make it anew", stacklevel=2)
    return Shard(url, len(faults), bad, size)
