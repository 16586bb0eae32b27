"""The sidecar index: how many samples each shard holds and which of them are known to be bad.

`index.json` is in the folder of the shards: {"shards": {"000000.tar": {"bytes", "samples", "bad": {key: reason},
"chosen": {fingerprint of a selection: a bit for each sample, in hexadecimal}}}, "classes": [names], "num_classes": 1 +
the largest label}. `shards pack` and `shards check` write it, else the first use does from the tar headers, without the
classes. What is counted of remote shards is kept in such a file with their copies.
"""

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from glob import glob
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from cmd_lightning.atomic_files import replaced
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import IMAGE_SUFFIXES
from cmd_lightning.data.fetch import STORES, WEB, protocol_of
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.data.selecting import Selection
from cmd_lightning.data.tar import CUT, NO_VIDEO, STILL, Sample, read_samples
from cmd_lightning.errors import InputError

INDEX_NAME = "index.json"
_UNION = re.compile(r"::(?![^\[]*\])")  # webdataset's; "[::1]" is an address
_MOST_SAMPLES = 2**20  # of a shard, by its index: an untrusted one must not make us count to 10 billion


@dataclass(frozen=True)
class Shard:
    """One tar file of samples."""

    url: str  # path or address
    samples: int  # the bad ones included
    bad: dict[str, str] = field(default_factory=dict)  # reasons by the keys of the samples known to be bad
    bytes: int | None = None  # of the file, if known
    chosen: Mapping[str, str] = field(default_factory=dict)  # of each selection, as in the index
    selection: Selection | None = None  # that it is read by

    @property
    def good(self) -> int:
        """Samples that are read: those of the selection, or all that are not known to be bad."""
        return self.samples - len(self.bad) if self.selection is None else sum(self._taken())

    def usable(self, file: BinaryIO) -> Iterator[Sample]:
        if self.selection is not None:
            return compress(read_samples(file, self.url, self.selection.images), self._taken())
        return (sample for sample in read_samples(file, self.url) if sample.key not in self.bad)

    def under(self, selection: Selection, remote: ShardCache) -> "Shard":
        """The shard as it is read by a selection; it is opened if the index does not know which samples these are."""
        if selection.fingerprint in self.chosen:
            return replace(self, selection=selection)
        with self.open(remote) as file:
            bits = np.packbits(selection.choose(file, self.bad)).tobytes().hex()
        return replace(self, selection=selection, chosen={**self.chosen, selection.fingerprint: bits})

    def holds_images_alone(self, remote: ShardCache) -> bool:
        """Whether still images are in the place of all videos; it is opened only if no sample has a video."""
        if len(self.bad) < self.samples or not {NO_VIDEO, STILL}.issuperset(self.bad.values()):
            return False
        with self.open(remote) as file:
            return any(not one.members.keys().isdisjoint(IMAGE_SUFFIXES) for one in read_samples(file, images=True))

    def _taken(self) -> list[int]:
        assert self.selection is not None
        bits = bytes.fromhex(self.chosen[self.selection.fingerprint])
        return np.unpackbits(np.frombuffer(bits, np.uint8)).tolist()

    def open(self, remote: ShardCache) -> BinaryIO:
        """The file, or the local copy of a remote shard; raises `OSError`, or `InputError` if it cannot be fetched."""
        return remote.open(self.url, self.bytes) if is_remote(self.url) else open(self.url, "rb")


def is_remote(url: str) -> bool:
    """Whether the shard is an address ("https://...") or a command ("pipe:...") and not a path."""
    return bool(protocol_of(url))


class Place(NamedTuple):
    """The folder or address that a shard and its index are in, its name there, and the query of a signed address."""

    folder: str
    name: str
    query: str


def place_of(url: str) -> Place:
    """Where a shard is; the query, "?..." or empty, may hold slashes."""
    path = url.partition("?")[0] if is_remote(url) else url
    folder, separator, name = path.rpartition("/")
    return Place(folder or separator or ".", name, url[len(path) :])


def shard_names(urls: Sequence[str]) -> list[str]:
    """A unique name for each shard, with which keys of its samples begin: that of its file, if taken as "000000~2"."""
    times: Counter[str] = Counter()
    names = []
    for name in (place_of(url).name.removesuffix(".tar") for url in urls):
        times[name] += 1
        names.append(name if times[name] == 1 else f"{name}~{times[name]}")
    return names


def expand(shards: str | Sequence[str], option: str = "shards", remote: ShardCache | None = None) -> list[str]:
    """Resolve paths, globs, brace ranges ("{000000..000099}.tar"), folders, unions ("a::b") and addresses of shards.

    They keep their order; those of a glob or a folder, on a disk or in an object store, come in the order of their
    names. "pipe:COMMAND" and other addresses for which webdataset runs commands need `remote.allow_commands`. Errors
    name the `option`.
    """
    from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]  # its stubs lack the error

    found: list[str] = []
    given = [shards] if isinstance(shards, str) else shards
    for spec in (part for text in given for part in ([text] if os.path.exists(text) else _UNION.split(text))):
        if not spec:
            raise InputError(f"{option} {shards}: a path is empty; write a/train::b/train for the shards of both")
        try:
            urls = list(braceexpand(spec))
        except UnbalancedBracesError as error:
            raise InputError(f"{option} {spec}: a brace is left open; write {{000000..000009}}.tar") from error
        for url in urls:
            found.extend(_resolve(url, option, remote or ShardCache()))
    if not found:
        raise InputError(f"`{option}`: no shards given; name .tar files, e.g. 'clips/{{000000..000009}}.tar'")
    return found


def _resolve(url: str, option: str, remote: ShardCache) -> list[str]:
    protocol = protocol_of(url)
    if protocol in WEB and "@" in urlsplit(url).netloc:
        raise InputError(f"{option}: addresses with user:password@ are not read; sign the address, or use pipe:COMMAND")
    if protocol in STORES:
        from cmd_lightning.data.store import find_shards

        found = find_shards(url, remote)
    elif protocol in WEB or os.path.isfile(url) or (protocol and remote.allow_commands):
        found = [url]
    elif re.match(r"[\w.+-]{2,}:", url) and not os.path.exists(url):  # C: is a drive
        known = ", ".join((*WEB, *STORES))
        remedy = "for commands, set data.remote.allow_commands true (`shards check --allow-commands`)"
        raise InputError(f"{option} {url}: only paths and addresses of {known} are read; {remedy}")
    else:
        found = sorted(glob(os.path.join(url, "*.tar") if os.path.isdir(url) else url))
    if not found:
        raise InputError(f"{option} {url}: {_missing(Path(url))}")
    return found


def _missing(path: Path) -> str:
    """What is wrong with a path without shards, and what there is near it."""
    folder = path.parent if ".tar" in path.name else path
    there = path if folder.is_dir() else folder.parent
    splits = [str(split) for split in sorted({shard.parent for shard in there.glob("*/*.tar")})]
    if splits and folder.is_dir():
        return f"no shards in this folder itself; give one of its splits: {' or '.join(splits)}"
    if splits:
        return f"no such split; there are {' and '.join(splits)}"
    return "no such shard; check the path or run `shards pack`"


def load_index(
    urls: Sequence[str],
    *,
    count: bool = True,
    write: bool = False,
    remote: ShardCache | None = None,
    selection: Selection | None = None,
) -> list[Shard]:
    """Look shards up in the indexes of their folders; scan those that are not there or have changed size.

    Remote ones without an index are fetched for that, with a warning; without `count`, none is scanned, and shards that
    are in no index have 0 samples. With `write`, the result of a scan is kept in the index, if the folder can be
    written; of remote shards, next to their copies. Raises `InputError` if an index or a shard cannot be fetched.
    """
    remote = remote or ShardCache()
    folders: dict[str, dict[str, Any]] = {}
    scanned: dict[str, list[Shard]] = {}
    shards: list[Shard] = []
    fetched = False
    for url in urls:
        folder, name, query = place_of(url)
        own = str(remote.place() / f"index-{stable_hash(folder):016x}") if is_remote(url) else folder
        if folder not in folders:
            folders[folder] = read_index(folder, remote, query)["shards"]
            if own != folder:  # what was counted earlier holds as long as the index says nothing else
                given, counted = folders[folder], read_index(own)["shards"]
                newer = {n: e for n, e in given.items() if {**e, "chosen": 0} != {**counted.get(n, {}), "chosen": 0}}
                folders[folder] = counted | newer
        entry = folders[folder].get(name)
        if entry and (is_remote(url) or entry["bytes"] == os.path.getsize(url)):
            shard = known = Shard(url, entry["samples"], entry["bad"], entry["bytes"], chosen=entry.get("chosen", {}))
        elif not count:
            shard = known = Shard(url, 0)
        else:
            known = None
            if is_remote(url) and not fetched:
                fetched = True
                warnings.warn(
                    f"{url}: no index.json next to it knows this shard, so it and others like it are fetched now to "
                    "count their samples; run `shards check` where they are made",
                    stacklevel=2,
                )
            with Shard(url, 0).open(remote) as file:
                shard = scan(url, file)
        if selection:
            shard = shard.under(selection, remote)
        if known is None or shard.chosen != known.chosen:
            scanned.setdefault(own, []).append(shard)
        shards.append(shard)
    if write:
        for folder, found in scanned.items():
            with suppress(OSError):
                os.makedirs(folder, exist_ok=True)
            if os.access(folder, os.W_OK):
                update_index(folder, found)
    return shards


def read_index(folder: str, remote: ShardCache | None = None, query: str = "") -> dict[str, Any]:
    """The index of a `Place`; an empty one if it is missing or damaged.

    Raises:
        InputError: It cannot be fetched.
    """
    path = Path(folder, INDEX_NAME)
    data = None
    if protocol_of(folder) in (*WEB, *STORES):
        data = (remote or ShardCache()).read(f"{folder}/{INDEX_NAME}{query}")
    elif path.is_file():
        data = path.read_bytes()
    try:
        found = json.loads((data or b"{}").decode())
        shards = {name: _entry(**entry) for name, entry in found["shards"].items()}
        classes = list(map(str, found.get("classes", [])))
        number = found.get("num_classes", 0)
        if type(number) is not int:
            raise ValueError(f"{number} classes")
        return {"shards": shards, "classes": classes, "num_classes": max(number, len(classes))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {"shards": {}, "classes": [], "num_classes": 0}  # of another program, or damaged: shards are scanned


def _entry(
    bytes: int, samples: int, bad: dict[str, str], chosen: Mapping[str, str] | None = None, **_: Any
) -> dict[str, Any]:
    whole, most = type(bytes) is type(samples) is int, min(bytes // 512 + 1, _MOST_SAMPLES)  # a header takes 512 bytes
    if not (whole and len(bad) <= samples <= most):
        raise ValueError(f"{samples} samples in {bytes} bytes, {len(bad)} bad")
    entry = {"bytes": bytes, "samples": samples, "bad": {key: str(reason) for key, reason in bad.items()}}
    bits = {
        name: one for name, one in (chosen or {}).items() if re.fullmatch("([0-9a-f]{2})*", one) and len(one) <= most
    }
    return entry | ({"chosen": bits} if bits else {})


def update_index(
    folder: str | Path, shards: Sequence[Shard], classes: Sequence[str] = (), num_classes: int = 0
) -> None:
    """Put shards into the index of their folder; other entries stay, and so do classes that are not given."""
    index = read_index(str(folder))
    for shard in shards:
        size = os.path.getsize(shard.url) if shard.bytes is None else shard.bytes
        entry = {"bytes": size, "samples": shard.samples, "bad": shard.bad}
        index["shards"][place_of(shard.url).name] = entry | ({"chosen": dict(shard.chosen)} if shard.chosen else {})
    index["shards"] = dict(sorted(index["shards"].items()))
    index["classes"] = list(classes) or index["classes"]
    index["num_classes"] = max(num_classes, len(index["classes"]), index["num_classes"])
    with replaced(Path(folder, INDEX_NAME)) as temporary:
        temporary.write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def scan(url: str, file: BinaryIO) -> Shard:
    """Count the samples of a shard by its tar headers and the first bytes of WebP files; nothing is decoded.

    Of a shard that was cut off, with a warning, the last sample counts as bad: it may lack members.
    """
    faults = {one.key: one.fault or (STILL if one.is_still() else "") for one in read_samples(file, url)}
    bad = {key: fault for key, fault in faults.items() if fault}
    if CUT in bad.values():
        warnings.warn(f"{url}: cut off or damaged, samples are missing; fetch or pack it again", stacklevel=2)
    return Shard(url, len(faults), bad, os.fstat(file.fileno()).st_size)
