"""Decode what shards hold, all of it, and note in their index what is bad."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from cmd_lightning.data.clips import BadSample, read_facts, read_label, video_of
from cmd_lightning.data.index import Shard, expand, folder_of, is_remote, require_reachable, scan, update_index
from cmd_lightning.data.stream import read_shard
from cmd_lightning.errors import InputError
from cmd_lightning.video_io import VideoInfo, VideoReader


def check_shards(shards: str | Sequence[str], *, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Decode every sample; the index beside local shards then knows the bad ones, and streams leave them out.

    Args:
        shards: paths, globs, folders, brace ranges or http(s) addresses.
        progress: told a line for each shard.

    Returns:
        {"samples": good ones, "bad": {reason: number}, "frames": of the good ones, "seconds": likewise,
        "sizes": {"WxH": number of clips}}.

    Raises:
        InputError: a shard is missing, cannot be reached, or is no tar file.
    """
    bad: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    frames, seconds, good = 0, 0.0, 0
    for url in expand(shards):
        shard, infos = _check_shard(url)
        bad.update(shard.bad.values())
        sizes.update(f"{info.width}x{info.height}" for info in infos)
        good += len(infos)
        frames += sum(info.frames for info in infos)
        seconds += sum(info.frames / info.fps for info in infos)
        progress(f"{url}: {len(infos)} good, {len(shard.bad)} bad")
        if not is_remote(url) and os.access(folder_of(url), os.W_OK):
            update_index(folder_of(url), [shard])
        else:
            progress(f"{url}: the folder cannot be written, so its index.json stays as it is")
    return {
        "samples": good,
        "bad": dict(bad),
        "frames": frames,
        "seconds": round(seconds, 3),
        "sizes": dict(sorted(sizes.items())),
    }


def _check_shard(url: str) -> tuple[Shard, list[VideoInfo]]:
    if is_remote(url):
        require_reachable(url)
    known = Shard(url, 0) if is_remote(url) else scan(url)
    bad, infos = dict(known.bad), []
    for sample in read_shard(known):
        try:
            infos.append(_check_sample(sample))
        except BadSample as reason:
            bad[sample["__key__"]] = str(reason)
    if is_remote(url) and not infos and not bad:
        raise InputError(f"{url}: no samples in it; check that the address is that of a tar file")
    return Shard(url, max(known.samples, len(infos) + len(bad)), bad), infos


def _check_sample(sample: dict[str, Any]) -> VideoInfo:
    read_label(read_facts(sample))
    try:
        reader = VideoReader(video_of(sample))
        reader.verify()
    except InputError as error:
        raise BadSample("unreadable video") from error
    return reader.info
