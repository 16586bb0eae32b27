"""The sidecar index: how many samples each shard holds and which of them are known to be bad.

`index.json` lies beside the shards: {"shards": {"000000.tar": {"bytes", "samples", "bad": {key: reason}}},
"classes": [names]}. `shards pack` and `shards check` write it, else the first use does from the tar headers.
"""

import json
import os
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from cmd_lightning.errors import InputError
from cmd_lightning.video_io import VIDEO_SUFFIXES, replaced

INDEX_NAME = "index.json"
ASSUMED_SAMPLES = 1000  # what video2dataset puts into a shard, where nothing tells


@dataclass(frozen=True)
class Shard:
    """One tar file of samples.

    Attributes:
        url: path or address.
        samples: number of samples, the bad ones included.
        bad: reasons by the keys of the samples known to be bad.
        exact: False where the number is assumed: a remote shard without an index.
    """

    url: str
    samples: int
    bad: dict[str, str] = field(default_factory=dict)
    exact: bool = True

    @property
    def good(self) -> int:
        """Samples not known to be bad."""
        return self.samples - len(self.bad)


def is_remote(url: str) -> bool:
    """Whether the shard is an address ("https://...") and not a path."""
    return "://" in url


def folder_of(url: str) -> str:
    """The folder, or the address, that a shard and its index lie in."""
    folder, separator, _ = url.rpartition("/")
    return folder or separator or "."


def expand(shards: str | Sequence[str], option: str = "shards") -> list[str]:
    """Resolve paths, globs, brace ranges ("{000000..000099}.tar"), folders of shards and http(s) addresses.

    Args:
        shards: one of these or a list of them.
        option: what the user calls it, for the error.

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
            if ":" in url and not os.path.exists(url) and not url.startswith(("http://", "https://")):
                raise InputError(f"{option} {url}: only paths and http(s) addresses are read; commands are not run")
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


def load_index(urls: Sequence[str], *, write: bool = False) -> list[Shard]:
    """Look shards up in the indexes beside them; scan those that are not there or have changed size.

    Args:
        urls: expanded paths and addresses.
        write: keep what was scanned in the index, where the folder can be written.

    Returns:
        The shards in the same order. Remote ones without an index are assumed to hold 1000 samples each and
        are marked as not exact.

    Raises:
        InputError: a shard is not a readable tar file.
    """
    folders: dict[str, dict[str, Any]] = {}
    scanned: dict[str, list[Shard]] = {}
    shards = []
    for url in urls:
        folder, name = folder_of(url), url.rpartition("/")[2]
        if folder not in folders:
            folders[folder] = read_index(folder)
        entry = folders[folder]["shards"].get(name)
        if entry and (is_remote(url) or entry["bytes"] == os.path.getsize(url)):
            shards.append(Shard(url, entry["samples"], entry["bad"]))
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


def read_index(folder: str) -> dict[str, Any]:
    """The index in a folder or under an address; an empty one where there is none."""
    path = Path(folder, INDEX_NAME)
    data = None
    if is_remote(folder):
        data = _fetch(folder + "/" + INDEX_NAME)
    elif path.is_file():
        data = path.read_bytes()
    try:
        found = json.loads((data or b"{}").decode())
        shards = {
            name: {"bytes": int(entry["bytes"]), "samples": int(entry["samples"]), "bad": dict(entry["bad"])}
            for name, entry in found["shards"].items()
        }
        return {"shards": shards, "classes": list(found.get("classes", []))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"shards": {}, "classes": []}  # nobody's, or damaged: scanning puts it right


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


def scan(path: str) -> Shard:
    """Count the samples of a local shard from its tar headers; nothing is decoded.

    Of a shard that was cut off, which a warning tells, the last sample counts as bad: it may lack members.

    Raises:
        InputError: the file is missing or no tar file.
    """
    bad: dict[str, str] = {}
    samples = 0
    for sample in _groups(path):
        key = sample["__key__"]
        samples += 1
        if not all(sample[suffix] for suffix in sample if not suffix.startswith("__")):
            bad[key] = "truncated shard"
        elif not any(suffix in sample for suffix in VIDEO_SUFFIXES):
            bad[key] = "no video"
    return Shard(path, samples, bad)


def is_member(name: str) -> bool:
    """Whether a tar member belongs to a sample; names like `__meta__/...` are webdataset's own."""
    return re.match(r"__[^/]*__($|/)", name) is None


def _groups(path: str) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import group_by_keys

    try:
        yield from group_by_keys(_headers(path))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: has a member twice ({error.args[0]}); make the shard anew") from error


def _headers(path: str) -> Iterator[dict[str, Any]]:
    size = os.path.getsize(path) if os.path.exists(path) else 0
    name = ""
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := _next(tar)) is not None:
                if member.isreg() and is_member(member.name):
                    name = member.name
                    complete = member.offset_data + member.size <= size
                    yield {"fname": name, "data": complete, "__url__": path}
                tar.members = []  # type: ignore[attr-defined]  # headers of a long shard need not be kept
            if not _ends(tar):
                warnings.warn(
                    f"{path}: cut off before its end, samples are missing; fetch or make it anew", stacklevel=2
                )
                if name:  # one more member, never complete, of the last sample
                    yield {"fname": name + ".cut", "data": False, "__url__": path}
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{path}: not a readable tar file ({error}); make the shard anew") from error


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except tarfile.ReadError:  # cut off: what comes before it is still good
        return None


def _ends(tar: tarfile.TarFile) -> bool:
    """Whether the block after the last member is the empty one that ends an archive."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    return tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def require_reachable(url: str) -> None:
    """Ask for a remote shard and let go again.

    Raises:
        InputError: nothing answers, or not with the file; with the reason.
    """
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        urlopen(url, timeout=30).close()
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(f"{url}: cannot be read ({error}); check the address and that its server runs") from error


def _fetch(url: str) -> bytes | None:
    from http.client import HTTPException
    from urllib.request import urlopen

    if not url.startswith(("http://", "https://")):
        return None
    try:
        with urlopen(url, timeout=30) as reply:
            return reply.read()
    except (OSError, HTTPException, ValueError):
        return None
