"""Decode what shards hold, all of it, and note in their index what is bad."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import LATENT_SUFFIX, BadSample, read_facts, read_label, video_of
from cmd_lightning.data.index import Shard, expand, is_remote, place_of, scan, update_index
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
    """Decode every sample; the index of local shards then lists the bad ones, and streams leave them out.

    The shards are given as for `expand`; `progress` receives a line of text for each.

    Returns:
        {"samples": good ones, "bad": {reason: number}, "frames": of the good videos, "seconds": the same,
        "sizes": {"WxH": number of videos}}; where there are such videos "interlaced", "hdr" and "transparent", their
        numbers; of latents too "latents": {shapes: number of samples}.
    """
    remote = remote or ShardCache()
    bad: Counter[str] = Counter()
    all_videos: list[VideoInfo] = []
    all_latents: list[str] = []
    for url in expand(shards, allow_commands=remote.allow_commands):
        shard, videos, latents = _check_shard(url, remote)
        bad.update(shard.bad.values())
        all_videos += videos
        all_latents += latents
        progress(f"{url}: {len(videos) + len(latents)} good, {len(shard.bad)} bad")
        folder = place_of(url).folder
        if not is_remote(url) and os.access(folder, os.W_OK):
            update_index(folder, [shard])
        else:
            progress(f"{url}: the folder cannot be written, so its index.json stays as it is")
    report = {
        "samples": len(all_videos) + len(all_latents),
        "bad": dict(bad),
        "frames": sum(video.frames for video in all_videos),
        "seconds": round(sum(video.frames / video.fps for video in all_videos), 3),
        "sizes": _counts(f"{video.width}x{video.height}" for video in all_videos),
    }
    for name, number, option in _choices(all_videos):
        report[name] = number
        progress(f"{number} good videos are {name}: consider {option} in training")
    return report | ({"latents": _counts(all_latents)} if all_latents else {})


def _choices(videos: Sequence[VideoInfo]) -> list[tuple[str, int, str]]:
    """Where `Viewing` leaves a choice: what videos are, how many of them, and the option for them."""
    options = {
        "interlaced": "data.viewing.deinterlace",
        "hdr": "data.viewing.tone_map",
        "transparent": "data.viewing.background",
    }
    counts = {name: sum(getattr(video, name) for video in videos) for name in options}
    return [(name, counts[name], option) for name, option in options.items() if counts[name]]


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _check_shard(url: str, remote: ShardCache) -> tuple[Shard, list[VideoInfo], list[str]]:
    """The shard with what is bad in it, its good videos, and the shapes of its good latents."""
    bad: dict[str, str] = {}
    videos: list[VideoInfo] = []
    latents: list[str] = []
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
