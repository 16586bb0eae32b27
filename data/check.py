"""Decode what shards hold, all of it, and note in their index what is bad."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import LATENT_SUFFIX, BadSample, read_facts, read_label, video_of
from cmd_lightning.data.index import Shard, expand, folder_of, is_remote, scan, update_index
from cmd_lightning.data.latent_clips import check_finite, read_latents
from cmd_lightning.data.tar import read_samples
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VIDEO_SUFFIXES, VideoInfo, VideoReader


def check_shards(
    shards: str | Sequence[str],
    *,
    remote: ShardCache | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Decode every sample; the index beside local shards then knows the bad ones, and streams leave them out.

    Args:
        shards: paths, globs, folders, brace ranges or http(s) addresses.
        remote: fetches remote shards.
        progress: told a line for each shard.

    Returns:
        {"samples": good ones, "bad": {reason: number}, "frames": of the good videos, "seconds": likewise,
        "sizes": {"WxH": number of videos}}; of latents too "latents": {shapes: number of samples}.

    Raises:
        InputError: a shard is missing or cannot be fetched.
    """
    remote = remote or ShardCache()
    bad: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    frames, seconds, good = 0, 0.0, 0
    for url in expand(shards, allow_commands=remote.allow_commands):
        shard, infos, latents = _check_shard(url, remote)
        bad.update(shard.bad.values())
        sizes.update(f"{info.width}x{info.height}" for info in infos)
        shapes.update(latents)
        frames += sum(info.frames for info in infos)
        seconds += sum(info.frames / info.fps for info in infos)
        good += len(infos) + len(latents)
        progress(f"{url}: {len(infos) + len(latents)} good, {len(shard.bad)} bad")
        if not is_remote(url) and os.access(folder_of(url), os.W_OK):
            update_index(folder_of(url), [shard])
        else:
            progress(f"{url}: the folder cannot be written, so its index.json stays as it is")
    report = {
        "samples": good,
        "bad": dict(bad),
        "frames": frames,
        "seconds": round(seconds, 3),
        "sizes": dict(sorted(sizes.items())),
    }
    return report | ({"latents": dict(sorted(shapes.items()))} if shapes else {})


def _check_shard(url: str, remote: ShardCache) -> tuple[Shard, list[VideoInfo], list[str]]:
    """The shard with what is bad in it, its good videos, and the shapes of its good latents."""
    bad, videos, latents = {}, [], []
    with Shard(url, 0).open(remote) as file:
        known = scan(url, file)
        for sample in read_samples(file, url):
            try:
                members = sample.read()
                facts = read_facts(members)
                read_label(facts)
                if LATENT_SUFFIX in members and members.keys().isdisjoint(VIDEO_SUFFIXES):
                    latents.append(_check_latents(members, facts))
                else:
                    videos.append(_check_video(members))
            except BadSample as reason:
                bad[sample.key] = str(reason)
    return replace(known, bad=bad), videos, latents


def _check_video(members: dict[str, Any]) -> VideoInfo:
    try:
        reader = VideoReader(video_of(members))
        reader.verify()
    except VideoError as error:
        raise BadSample(error.reason) from error
    return reader.info


def _check_latents(members: dict[str, Any], facts: dict[str, Any]) -> str:
    """The shapes of latents, as "2 clips of content 4x32x32, motion 8x16x64"."""
    latents = read_latents(members, facts)
    check_finite(latents.clips)
    shapes = ", ".join(f"{name} {'x'.join(map(str, clip.shape[1:]))}" for name, clip in latents.clips.items())
    return f"{latents.number} clips of {shapes}"
